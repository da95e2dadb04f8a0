//! `valise history`: what was said in a group, or where certain words were said, as this device remembers it.

use serde_json::{Map, Value, json};
use valise_client_sdk::{Client, Content, HistoryMessage, MessageId, Position, SendStatus, WhatNow};

use crate::args::HistoryArgs;
use crate::error::CliError;
use crate::out::{Out, json_line, printable};
use crate::profile::Profile;
use crate::show;
use crate::when::{maybe_timestamp, timestamp};

/// Messages that are read at once.
const PAGE: usize = 200;

pub(crate) async fn run(arguments: HistoryArgs, profile: &Profile) -> Result<(), CliError> {
    // What is remembered is here: no connection is needed.
    let client = profile.open().await?;
    let outcome = history(&arguments, &client).await;
    client.close().await;
    outcome
}

async fn history(arguments: &HistoryArgs, client: &Client) -> Result<(), CliError> {
    let group = crate::group::find(client, &arguments.group).await?;
    let history = group.history();
    let messages = match &arguments.search {
        Some(words) => {
            let mut found = history.search(words, arguments.limit).await?;
            found.reverse();
            found
        }
        None => last(&history, arguments.limit).await?,
    };
    let mut out = Out::stdout();
    for message in &messages {
        let line = if arguments.json {
            json_line(&json(message))?
        } else {
            format!("{}\n", line(message))
        };
        out.write(line.as_bytes())?;
    }
    out.flush()
}

/// The last messages, oldest first.
async fn last(history: &valise_client_sdk::History, limit: usize) -> Result<Vec<HistoryMessage>, CliError> {
    let mut messages: Vec<HistoryMessage> = Vec::new();
    let mut before: Option<Position> = None;
    while messages.len() < limit {
        let mut page = history.page(before, PAGE.min(limit - messages.len())).await?;
        let Some(first) = page.iter().find_map(HistoryMessage::position) else {
            messages.splice(0..0, page);
            break;
        };
        before = Some(first);
        page.append(&mut messages);
        messages = page;
    }
    Ok(messages.split_off(messages.len().saturating_sub(limit)))
}

fn json(message: &HistoryMessage) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("id", message.id.to_string().into());
    put("group", message.group.to_string().into());
    put("position", message.position().map(|position| position.0).into());
    put("at", timestamp(message.at).into());
    put("sender", show::peer(&message.sender));
    put("status", status(&message.status).into());
    if let SendStatus::Failed { cause, what_now } = &message.status {
        put("cause", cause.as_str().into());
        put("what_now", advice(*what_now).into());
    }
    match &message.content {
        Some(content) => {
            for (name, value) in show::content_of(content).0 {
                put(name, value);
            }
            put(
                "in_reply_to",
                content.in_reply_to().map(|id| id.to_string()).into(),
            );
        }
        None => put("text", Value::Null),
    }
    put("edited", message.edited.into());
    put("deleted", message.content.is_none().into());
    put("expires_at", maybe_timestamp(message.expires_at).into());
    let reactions = message.reactions.iter();
    put(
        "reactions",
        reactions
            .map(|reaction| json!({ "user": reaction.user, "emoji": reaction.emoji }))
            .collect(),
    );
    put(
        "read_by",
        message.read_by.iter().map(|user| json!(user)).collect(),
    );
    object
}

fn line(message: &HistoryMessage) -> String {
    let said = match &message.content {
        Some(content) => show::content_of(content).1,
        None => "(deleted)".to_owned(),
    };
    let reply = message.content.as_ref().and_then(Content::in_reply_to);
    printable(&format!(
        "{}  {}  {}: {}{said}{}",
        timestamp(message.at),
        short(message.id),
        message.sender.user,
        reply.map(|to| format!("(to {}) ", short(to))).unwrap_or_default(),
        notes(message),
    ))
}

/// What became of a message, to stand after what it says: as it came, not fit for a terminal.
pub(crate) fn notes(message: &HistoryMessage) -> String {
    let mut notes = Vec::new();
    if message.edited {
        notes.push("edited".to_owned());
    }
    match &message.status {
        SendStatus::Accepted { .. } => {}
        SendStatus::Queued => notes.push("queued".to_owned()),
        SendStatus::Failed { cause, what_now } => {
            notes.push(format!("not sent: {cause}: {}", advice(*what_now)));
        }
    }
    if !message.reactions.is_empty() {
        let emojis = message.reactions.iter().map(|reaction| reaction.emoji.as_str());
        notes.push(emojis.collect::<Vec<_>>().join(" "));
    }
    notes
        .iter()
        .flat_map(|note| ["  [", note, "]"])
        .collect::<String>()
}

/// Enough of an id to tell it from others on a screen: the first byte is the same in all.
pub(crate) fn short(id: MessageId) -> String {
    id.to_string().chars().skip(2).take(8).collect()
}

fn status(status: &SendStatus) -> &'static str {
    match status {
        SendStatus::Queued => "queued",
        SendStatus::Accepted { .. } => "accepted",
        SendStatus::Failed { .. } => "failed",
    }
}

fn advice(what: WhatNow) -> &'static str {
    match what {
        WhatNow::Retry => "try again later",
        WhatNow::CatchUp => "try again when this device has caught up",
        WhatNow::Rejoin => "this device has to be added again",
        WhatNow::Denied => "it is not allowed",
        WhatNow::Bug => "something is wrong with the software",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use valise_client_sdk::{Content, GroupId, Peer, Reaction};

    use super::*;

    fn id(byte: u8) -> MessageId {
        let mut bytes = [byte; 32];
        bytes[0] = 1;
        MessageId::from_bytes(bytes).unwrap()
    }

    fn message(status: SendStatus, content: Option<Content>) -> HistoryMessage {
        HistoryMessage {
            id: id(0xAB),
            group: GroupId::from_bytes([7; 16]),
            sender: Peer {
                user: "bob@valise.example".parse().unwrap(),
                device: "0b000000-0000-4000-8000-000000000002".parse().unwrap(),
            },
            status,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            content,
            edited: false,
            expires_at: None,
            reactions: Vec::new(),
            read_by: Vec::new(),
        }
    }

    #[test]
    fn a_line_says_what_became_of_a_message() {
        let position = Position(3);
        let mut replied = message(
            SendStatus::Accepted { position },
            Some(Content::reply(id(0xCD), "zwei\nZeilen")),
        );
        replied.edited = true;
        replied.reactions.push(Reaction {
            id: id(1),
            user: "alice@valise.example".parse().unwrap(),
            emoji: "❤".to_owned(),
        });
        assert_eq!(
            line(&replied),
            "2023-11-14T22:13:20Z  abababab  bob@valise.example: (to cdcdcdcd) zwei\u{fffd}Zeilen  [edited]  [❤]"
        );
        let failed = SendStatus::Failed {
            cause: "POLICY_DENIED".to_owned(),
            what_now: WhatNow::Denied,
        };
        assert!(
            line(&message(failed, Some("x".into())))
                .ends_with("x  [not sent: POLICY_DENIED: it is not allowed]")
        );
        assert!(line(&message(SendStatus::Queued, None)).ends_with(": (deleted)  [queued]"));
    }

    #[test]
    fn json_has_all_of_it() {
        let value = Value::Object(json(&message(SendStatus::Queued, Some("x".into()))));
        assert_eq!(
            (&value["status"], &value["text"]),
            (&json!("queued"), &json!("x"))
        );
        assert_eq!(
            (&value["position"], &value["deleted"]),
            (&Value::Null, &json!(false))
        );
    }
}
