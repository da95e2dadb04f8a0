//! `valise send`: one message from the command line, or one for each line of standard input.

use futures::{Stream, StreamExt, stream};
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use valise_client_sdk::{Client, Group, Sent};

use crate::args::SendArgs;
use crate::error::CliError;
use crate::out::Out;
use crate::profile::{Profile, offline_for_good};

/// Messages that are on their way at the same time: stored together, sent in order.
const WINDOW: usize = 512;

pub(crate) async fn run(arguments: SendArgs, profile: &Profile) -> Result<(), CliError> {
    let client = profile.open_synced().await?;
    let outcome = tokio::select! {
        outcome = send(arguments, &client) => outcome,
        error = offline_for_good(&client) => Err(error),
    };
    client.close().await;
    outcome
}

async fn send(arguments: SendArgs, client: &Client) -> Result<(), CliError> {
    let group = crate::group::find(client, &arguments.group).await?;
    let mut out = Out::stdout();
    if let Some(text) = arguments.text {
        let sent = group.send(text).await?;
        return if arguments.json {
            tell(&mut out, sent)
        } else {
            Ok(())
        };
    }
    let lines = lines(BufReader::new(tokio::io::stdin()));
    let sending = lines.map(|line| send_line(&group, line));
    let mut sending = std::pin::pin!(sending.buffered(WINDOW));
    let mut accepted: u64 = 0;
    let mut failures = Failures::default();
    while let Some(outcome) = sending.next().await {
        match outcome {
            Ok(sent) => {
                accepted += 1;
                if arguments.json {
                    tell(&mut out, sent)?;
                }
            }
            Err(error) => failures.add(accepted, error),
        }
    }
    failures.judge(accepted)
}

async fn send_line(group: &Group, line: std::io::Result<String>) -> Result<Sent, CliError> {
    let line = line.map_err(CliError::io("cannot read standard input"))?;
    Ok(group.send(line).await?)
}

fn tell(out: &mut Out, sent: Sent) -> Result<(), CliError> {
    out.json(&json!({
        "id": sent.id.to_string(),
        "position": sent.position.0,
        "epoch": sent.epoch.0,
    }))
}

/// One message a line, up to the end or the first that cannot be read.
fn lines(input: impl AsyncBufRead + Unpin) -> impl Stream<Item = std::io::Result<String>> {
    stream::unfold(Some(input.lines()), |lines| async {
        let mut lines = lines?;
        match lines.next_line().await {
            Ok(Some(line)) => Some((Ok(line), Some(lines))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// The messages that were not accepted.
#[derive(Default)]
struct Failures {
    count: u64,
    first: Option<(u64, CliError)>,
}

impl Failures {
    fn add(&mut self, accepted: u64, error: CliError) {
        self.count += 1;
        self.first.get_or_insert((accepted + self.count, error));
    }

    fn judge(self, accepted: u64) -> Result<(), CliError> {
        let Some((line, error)) = self.first else {
            return Ok(());
        };
        let count = self.count;
        Err(CliError::failed(format!(
            "line {line}: {error} ({accepted} accepted, {count} not)"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_a_message() {
        let texts = |bytes: &'static [u8]| async move {
            let lines: Vec<_> = lines(bytes)
                .map(|line| line.map_err(|error| error.kind()))
                .collect()
                .await;
            lines
        };
        assert_eq!(
            texts(b"a\n\nb\r\nc").await,
            [Ok("a".into()), Ok(String::new()), Ok("b".into()), Ok("c".into())]
        );
        assert_eq!(texts(b"").await, []);
        assert_eq!(
            texts(b"a\n\xff\nb\n").await,
            [Ok("a".into()), Err(std::io::ErrorKind::InvalidData)]
        );
    }

    #[test]
    fn the_first_failure_is_told() {
        Failures::default().judge(3).unwrap();
        let mut failures = Failures::default();
        failures.add(2, CliError::failed("bad"));
        failures.add(2, CliError::failed("worse"));
        assert_eq!(
            failures.judge(4).unwrap_err().line(),
            "line 3: bad (4 accepted, 2 not)"
        );
    }
}
