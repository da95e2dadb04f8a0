//! Lines that are typed are sent, what others say is shown. Works with pipes as well.

use std::io::{IsTerminal, Write};

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::io::{AsyncBufReadExt, BufReader};
use valise_client_sdk::{Client, Error, Event, EventKind, Group, Position, Sent};
use valise_service_runtime::termination;

use crate::error::CliError;
use crate::feed::Feed;
use crate::out::Out;
use crate::profile::{Profile, offline_for_good};
use crate::show;

pub(super) async fn run(group: &str, profile: &Profile) -> Result<(), CliError> {
    let termination = termination().map_err(CliError::io("cannot wait for signals"))?;
    let client = profile.open_synced().await?;
    let outcome = tokio::select! {
        outcome = chat(group, &client, profile) => outcome,
        error = offline_for_good(&client) => Err(error),
        () = termination.cancelled() => Ok(()),
    };
    client.close().await;
    outcome
}

async fn chat(group: &str, client: &Client, profile: &Profile) -> Result<(), CliError> {
    let group = crate::group::find(client, group).await?;
    let mut feed = Feed::new(client, Some(group.id()), &profile.shown_file())?;
    let mut out = Out::stdout();
    if std::io::stdin().is_terminal() {
        out.line("Lines that you type are sent. /who shows the members, /quit ends.")?;
    }
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut sending = FuturesOrdered::new();
    let mut talk = Talk::default();
    while !talk.is_over(sending.is_empty()) {
        tokio::select! {
            line = input.next_line(), if !talk.input_ended => {
                match command(line.map_err(CliError::io("cannot read standard input"))?) {
                    Line::Nothing => {}
                    Line::End => talk.input_ended = true,
                    Line::Members => members(&group, &mut out).await?,
                    Line::Unknown(command) => complain(&format!("there is no {command}; /quit ends")),
                    Line::Say(text) => sending.push_back(group.send(text)),
                }
            }
            Some(sent) = sending.next() => talk.sent(&sent),
            events = feed.next() => {
                let Some(events) = events else { break };
                for event in &events {
                    if is_for_others(event, client) {
                        out.write(format!("{}\n", show::body(event)).as_bytes())?;
                    }
                    talk.seen = talk.seen.max(event.position);
                }
                out.flush()?;
                if let Some(last) = events.last() {
                    feed.confirm(last).await?;
                }
            }
        }
    }
    match talk.failed {
        0 => Ok(()),
        failed => Err(CliError::failed(format!("messages not sent: {failed}"))),
    }
}

/// How far a conversation has come.
#[derive(Default)]
struct Talk {
    input_ended: bool,
    /// The last own message.
    spoken: Position,
    /// The last entry that was shown.
    seen: Position,
    failed: u64,
}

impl Talk {
    /// Nothing more will be said, and everything up to the last own message was shown.
    fn is_over(&self, nothing_on_its_way: bool) -> bool {
        self.input_ended && nothing_on_its_way && self.seen >= self.spoken
    }

    fn sent(&mut self, sent: &Result<Sent, Error>) {
        match sent {
            Ok(sent) => self.spoken = self.spoken.max(sent.position),
            Err(error) => {
                self.failed += 1;
                complain(&format!("not sent: {error}"));
            }
        }
    }
}

fn is_for_others(event: &Event, client: &Client) -> bool {
    !matches!(&event.kind, EventKind::Message { sender, .. } if sender.device == client.device())
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Nothing,
    Say(String),
    Members,
    End,
    Unknown(String),
}

/// `//` at the beginning of a line says `/`.
fn command(line: Option<String>) -> Line {
    let Some(line) = line else { return Line::End };
    match line.trim_end() {
        "" => Line::Nothing,
        "/quit" => Line::End,
        "/who" => Line::Members,
        text if text.starts_with("//") => Line::Say(text[1..].to_owned()),
        text if text.starts_with('/') => Line::Unknown(text.to_owned()),
        text => Line::Say(text.to_owned()),
    }
}

async fn members(group: &Group, out: &mut Out) -> Result<(), CliError> {
    let mut names: Vec<String> = group
        .members()
        .await?
        .into_iter()
        .map(|member| member.user.to_string())
        .collect();
    names.sort();
    names.dedup();
    out.line(&format!("* {}", names.join(", ")))
}

/// A line on standard error; the conversation goes on.
fn complain(what: &str) {
    let _ = writeln!(std::io::stderr(), "valise: {}", crate::out::printable(what));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let read = |line: &str| command(Some(line.to_owned()));
        assert_eq!(read("hello "), Line::Say("hello".into()));
        assert_eq!(read("  "), Line::Nothing);
        assert_eq!(read("/quit"), Line::End);
        assert_eq!(read("/who"), Line::Members);
        assert_eq!(read("/quid"), Line::Unknown("/quid".into()));
        assert_eq!(read("//quit"), Line::Say("/quit".into()));
        assert_eq!(command(None), Line::End);
    }

    #[test]
    fn a_talk_is_over_when_all_was_said_and_shown() {
        let mut talk = Talk::default();
        assert!(!talk.is_over(true));
        talk.input_ended = true;
        assert!(talk.is_over(true));
        assert!(!talk.is_over(false));
        talk.spoken = Position(5);
        assert!(!talk.is_over(true));
        talk.seen = Position(5);
        assert!(talk.is_over(true));
    }
}
