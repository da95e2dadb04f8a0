//! `valise listen`: shows what happens, in order. What was shown is not shown again.

use valise_client_sdk::{Client, EventKind};
use valise_service_runtime::termination;

use crate::args::ListenArgs;
use crate::error::CliError;
use crate::feed::Feed;
use crate::out::Out;
use crate::profile::{Profile, offline_for_good};
use crate::show::{self, Lines};

pub(crate) async fn run(arguments: ListenArgs, profile: &Profile) -> Result<(), CliError> {
    let termination = termination().map_err(CliError::io("cannot wait for signals"))?;
    // A group is looked up among all that the service knows; without one there is nothing to wait for.
    let client = match &arguments.group {
        Some(_) => profile.open_synced().await?,
        None => profile.open().await?,
    };
    let outcome = tokio::select! {
        outcome = listen(arguments, &client, profile) => outcome,
        error = offline_for_good(&client) => Err(error),
        () = termination.cancelled() => Ok(()),
    };
    client.close().await;
    outcome
}

async fn listen(arguments: ListenArgs, client: &Client, profile: &Profile) -> Result<(), CliError> {
    let group = match &arguments.group {
        Some(group) => Some(crate::group::find(client, group).await?.id()),
        None => None,
    };
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut feed = Feed::new(client, group, &profile.shown_file())?;
    let mut out = Out::stdout();
    let mut lines = Lines::default();
    while left > 0 {
        let Some(mut events) = feed.next().await else {
            return Ok(());
        };
        let mut taken = 0;
        while taken < events.len() && left > 0 {
            let event = &events[taken];
            let line = if arguments.json {
                show::json(event)?
            } else {
                lines.line(client, event).await?
            };
            out.write(line.as_bytes())?;
            left -= u64::from(matches!(event.kind, EventKind::Message { .. }));
            taken += 1;
        }
        // Those after the last that was asked for stay for the next time.
        events.truncate(taken);
        out.flush()?;
        if let Some(last) = events.last() {
            feed.confirm(last).await?;
        }
    }
    Ok(())
}
