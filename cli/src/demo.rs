//! `valise demo`: the services on a real socket, people with devices, a group that changes; told as a story, and checked.

mod checks;
mod people;
mod report;
mod search;
mod stored;
mod story;

use serde::Serialize;
use valise_client_sdk::UserId;
use valise_service_runtime::termination;

use crate::args::DemoArgs;
use crate::error::CliError;
use crate::out::Out;
use crate::up::{Embedded, Options};
use checks::Check;
use report::Report;
use stored::Stored;
use story::Story;

/// Where it plays.
const DOMAIN: &str = "valise.example";

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome {
    ok: bool,
    address: String,
    #[serde(flatten)]
    report: Report,
    service: Stored,
    checks: Vec<Check>,
}

pub(crate) async fn run(arguments: DemoArgs) -> Result<(), CliError> {
    let termination = termination().map_err(CliError::io("cannot wait for signals"))?;
    let directory =
        tempfile::tempdir().map_err(CliError::io("cannot make a directory for temporary files"))?;
    let embedded = Embedded::start(Options::new(directory.path().join("services"))?).await?;
    let address = embedded.url();
    let story = Story::new(arguments.json, directory.path(), &embedded);
    // The directory is to be deleted then too.
    let played = tokio::select! {
        played = play(&arguments, story) => played,
        () = termination.cancelled() => Err(CliError::failed("the demo was interrupted")),
    };
    // Also after a failure: the services end in order.
    let searched = played.and_then(|report| {
        let running = search::services(directory.path(), &report.secrets, "while they run")?;
        Ok((report, running))
    });
    // After a failure as well.
    embedded.stop().await;
    let (report, running) = searched?;
    let service = Stored::read(&directory.path().join("services/delivery.db"), &report).await?;
    let mut checks = report.checks.clone();
    checks.push(service.check(&report));
    checks.push(running);
    checks.push(search::services(
        directory.path(),
        &report.secrets,
        "after their end",
    )?);
    checks.push(search::devices(directory.path(), &report.secrets)?);
    checks.push(search::control(directory.path())?);
    let wrong: Vec<&str> = checks
        .iter()
        .filter(|check| !check.ok)
        .map(|check| check.name)
        .collect();
    let verdict = match wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(CliError::failed(format!(
            "the demo found something wrong: {}",
            wrong.join("; ")
        ))),
    };
    if arguments.json {
        Out::stdout().json(&Outcome {
            ok: verdict.is_ok(),
            address,
            report,
            service,
            checks,
        })?;
    } else {
        Out::stdout().text(&report::ending(&report, &service, &checks))?;
    }
    verdict
}

/// The story from the first enrolment to the last message.
async fn play(arguments: &DemoArgs, mut story: Story<'_>) -> Result<Report, CliError> {
    let members = usize::from(arguments.members);
    let messages = arguments.messages as usize;
    let later = messages.div_ceil(4).max(4);
    story.opening()?;
    let mut people = story.enrol(&names(members)?).await?;
    let mut talk = story.found_group(&mut people).await?;
    story.converse(&mut talk, &mut people, messages).await?;

    // Two phones are switched off. One of them is of the person who is about to be removed: it keeps all its keys.
    let removed = members - 1;
    let off = members - 2;
    story.switch_off(&mut people, &[removed, off]).await?;
    story.remove(&mut talk, &mut people, removed).await?;
    story.converse(&mut talk, &mut people, later).await?;
    story.switch_on(&mut people, &[removed, off]).await?;
    story.catch_up(&talk, &mut people).await?;

    let newcomer = story.enrol(&[user("nadia")?]).await?;
    people.extend(newcomer);
    story.add_newcomer(&mut talk, &mut people).await?;
    story.converse(&mut talk, &mut people, later).await?;
    story.end(talk, people).await
}

fn user(name: &str) -> Result<UserId, CliError> {
    format!("{name}@{DOMAIN}")
        .parse()
        .map_err(|_| CliError::failed("not a user id"))
}

/// So many people.
fn names(count: usize) -> Result<Vec<UserId>, CliError> {
    const NAMES: [&str; 8] = [
        "alice", "bruno", "chloe", "dario", "elena", "felix", "greta", "hugo",
    ];
    let name = |index: usize| {
        NAMES
            .get(index)
            .map_or_else(|| format!("person{}", index + 1), |name| (*name).to_owned())
    };
    (0..count).map(|index| user(&name(index))).collect()
}
