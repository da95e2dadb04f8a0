//! How an event is shown: a line for people, or a JSON object.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use valise_client_sdk::{Client, Content, Event, EventKind, GroupId, Kind, MessageId, Peer, UserId};

use crate::error::CliError;
use crate::out::{json_line, printable};
use crate::when::timestamp;

/// What an event says beyond its group, position and time.
struct Told {
    kind: &'static str,
    /// Who did it.
    sender: Option<Peer>,
    fields: Vec<(&'static str, Value)>,
    text: String,
}

/// The event as one line of JSON. `sender` is `null` where nobody is known to have done it.
pub(crate) fn json(event: &Event) -> Result<String, CliError> {
    let Told {
        kind, sender, fields, ..
    } = told(&event.kind);
    let mut object = Map::new();
    object.insert("group".into(), event.group.to_string().into());
    object.insert("position".into(), event.position.0.into());
    object.insert("at".into(), timestamp(event.at).into());
    object.insert("kind".into(), kind.into());
    object.insert("sender".into(), sender.as_ref().map_or(Value::Null, peer));
    object.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
    json_line(&object)
}

pub(crate) fn peer(peer: &Peer) -> Value {
    json!({ "user": peer.user, "device": peer.device })
}

fn peers(list: &[Peer]) -> Value {
    list.iter().map(peer).collect()
}

fn told(kind: &EventKind) -> Told {
    let told = |kind, sender: Option<&Peer>, fields, text: String| Told {
        kind,
        sender: sender.cloned(),
        fields,
        text,
    };
    match kind {
        EventKind::Message { sender, content } => {
            let (kind, mut fields, text) = message(content);
            fields.extend(content.id().map(|id| ("id", name(id))));
            told(kind, Some(sender), fields, text)
        }
        EventKind::ReplacementRefused { sender, of } => told(
            "replacement_refused",
            Some(sender),
            vec![("of", name(*of))],
            "tried to change what another has said: ignored".into(),
        ),
        EventKind::Ephemeral { sender, content } => {
            let (fields, text) = content_of(content);
            told("ephemeral", Some(sender), fields, format!("(passing) {text}"))
        }
        EventKind::Joined { by } => told("joined", Some(by), vec![], "added this device".into()),
        EventKind::DeviceAdded {
            user,
            device,
            by,
            epoch,
        } => {
            let fields = vec![
                ("epoch", epoch.0.into()),
                ("user", json!(user)),
                ("device", json!(device)),
            ];
            let text =
                format!("added a device or key of the member {user} that was not there before: {device}");
            told("device_added", Some(by), fields, text)
        }
        EventKind::MembersChanged {
            added,
            removed,
            by,
            epoch,
        } => {
            let fields = vec![
                ("epoch", epoch.0.into()),
                ("added", peers(added)),
                ("removed", peers(removed)),
            ];
            told("members_changed", Some(by), fields, changes(added, removed))
        }
        EventKind::CameBack { peer, epoch } => told(
            "came_back",
            Some(peer),
            vec![("epoch", epoch.0.into())],
            "came back with new keys".into(),
        ),
        EventKind::RolesChanged {
            users,
            policy,
            by,
            epoch,
        } => {
            let listed = users
                .iter()
                .map(|(user, role)| json!({ "user": user, "role": role }));
            let fields = vec![
                ("epoch", epoch.0.into()),
                ("users", listed.collect()),
                ("policy", json!(policy)),
            ];
            told(
                "roles_changed",
                Some(by),
                fields,
                crate::roles::changes(users, policy.as_ref()),
            )
        }
        EventKind::GroupNamed { name, by } => told(
            "group_named",
            Some(by),
            vec![("name", name.as_str().into())],
            format!("named the group {name}"),
        ),
        EventKind::Removed { by } => told("removed", Some(by), vec![], "removed this device".into()),
        EventKind::Unreadable { sender, evidence } => told(
            "unreadable",
            sender.as_ref(),
            vec![("evidence_hex", hex::encode(evidence).into())],
            "a message that cannot be read".into(),
        ),
        other => trouble(other),
    }
}

/// What should not happen.
fn trouble(kind: &EventKind) -> Told {
    let told = |kind, fields, text: String| Told {
        kind,
        sender: None,
        fields,
        text,
    };
    let because = |cause: &str| vec![("cause", cause.into())];
    let alarm = |cause: &str, evidence: &[u8]| {
        vec![
            ("cause", cause.into()),
            ("evidence_hex", hex::encode(evidence).into()),
        ]
    };
    match kind {
        EventKind::WelcomeUnusable { cause } => told(
            "welcome_unusable",
            because(cause),
            format!("an invitation could not be used ({cause}): this device has to be added again"),
        ),
        EventKind::HeldByBadCommit { cause, evidence } => told(
            "held_by_bad_commit",
            alarm(cause, evidence),
            format!("a commit cannot be processed: {cause}"),
        ),
        EventKind::RuleBreach { by, rule, evidence } => Told {
            sender: by.clone(),
            ..told(
                "rule_breach",
                vec![
                    ("rule", rule.as_str().into()),
                    ("evidence_hex", hex::encode(evidence).into()),
                ],
                format!("broke the rule {rule}: it was not applied here"),
            )
        },
        EventKind::DeliveryForked { sender, .. } => Told {
            sender: Some(sender.clone()),
            ..told("delivery_forked", fork(kind), FORKED.to_owned())
        },
        EventKind::WrongGroupInfo { epoch, evidence } => told(
            "wrong_group_info",
            vec![
                ("epoch", epoch.0.into()),
                ("evidence_hex", hex::encode(evidence).into()),
            ],
            "the service gives devices that come back a state that is not this group's: they cannot come in until the next change of the group"
                .into(),
        ),
        EventKind::Quarantined { rule, evidence } => told(
            "quarantined",
            alarm(rule, evidence),
            format!("nothing more is sent here but removals: rule {rule} was broken"),
        ),
        EventKind::QuarantineEnded => told(
            "quarantine_ended",
            vec![],
            "all members' certificates are valid again: the group goes on".into(),
        ),
        EventKind::LogRegressed { entry_id, evidence } => told(
            "log_regressed",
            vec![
                ("entry_id", hex::encode(entry_id).into()),
                ("evidence_hex", hex::encode(evidence).into()),
            ],
            "the service's log went back in time: the group stands still until it is repaired".into(),
        ),
        EventKind::LogRestored => told(
            "log_restored",
            vec![],
            "the service's log is as it was: the group goes on".into(),
        ),
        EventKind::Lost => told(
            "lost",
            vec![],
            "away for too long: the service no longer keeps what came next".into(),
        ),
        EventKind::GroupReset { successor } => told(
            "group_reset",
            vec![("successor", successor.to_string().into())],
            format!("an administrator ended this group: it goes on as {successor}"),
        ),
        EventKind::Rejoining => told("rejoining", vec![], "this device is on its way back".into()),
        EventKind::Rejoined { missed } => {
            let (fields, text) = match missed {
                Some((first, last)) => (
                    vec![("missed_first", first.0.into()), ("missed_last", last.0.into())],
                    format!("this device is back; it missed positions {first} to {last}"),
                ),
                None => (vec![], "this device is back".into()),
            };
            told("rejoined", fields, text)
        }
        EventKind::RejoinFailed { cause } => told(
            "rejoin_failed",
            because(cause),
            format!("this device could not come back: {cause}"),
        ),
        EventKind::OperationFailed {
            operation,
            cause,
            message,
            users,
            ..
        } => {
            let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
            let whom = users.join(", ");
            let of = if whom.is_empty() { "" } else { " of " };
            let mut fields: Vec<(&'static str, Value)> = vec![
                ("operation", operation.as_str().into()),
                ("cause", cause.as_str().into()),
                ("users", users.into()),
            ];
            fields.extend(message.map(|message| ("id", name(message))));
            told("operation_failed", fields, format!("{operation}{of}{whom} failed: {cause}"))
        }
        _ => told(
            "other",
            vec![],
            "something that this version does not know".into(),
        ),
    }
}

const FORKED: &str = "was shown another history of this group than this device: the service left out, added or reordered something, \
                      or lost it. Compare what you see, and ask its operator";

/// Where the histories differ, with the evidence.
fn fork(kind: &EventKind) -> Vec<(&'static str, Value)> {
    let EventKind::DeliveryForked {
        position,
        theirs,
        ours,
        evidence,
        ..
    } = kind
    else {
        return Vec::new();
    };
    vec![
        ("read_up_to", position.0.into()),
        ("their_chain", theirs.to_string().into()),
        ("our_chain", ours.map(|ours| ours.to_string()).into()),
        ("evidence_hex", hex::encode(evidence).into()),
    ]
}

fn name(id: MessageId) -> Value {
    id.to_string().into()
}

/// What kind of message it is, what it says, and how that is told.
fn message(content: &Content) -> (&'static str, Vec<(&'static str, Value)>, String) {
    match content.kind() {
        Kind::Reply { to, text } => (
            "message",
            vec![("text", text.into()), ("in_reply_to", name(to))],
            format!("(reply) {text}"),
        ),
        Kind::Reaction { to, emojis } => (
            "reaction",
            vec![("to", name(to)), ("emojis", emojis.iter().copied().collect())],
            format!("reacted {}", emojis.join(" ")),
        ),
        Kind::Edit { of, text } => (
            "edit",
            vec![("text", text.into()), ("of", name(of))],
            format!("(edited) {text}"),
        ),
        Kind::Delete { of } => ("delete", vec![("of", name(of))], "deleted a message".into()),
        Kind::Receipt(report) => {
            let messages: Vec<_> = report
                .iter()
                .map(|(message, status)| json!({ "id": message.to_string(), "status": status.0 }))
                .collect();
            let text = format!("told of {} messages whether they were read", messages.len());
            ("receipt", vec![("messages", messages.into())], text)
        }
        _ => {
            let (fields, text) = content_of(content);
            ("message", fields, text)
        }
    }
}

pub(crate) fn content_of(content: &Content) -> (Vec<(&'static str, Value)>, String) {
    match content.as_text() {
        Some(text) => (vec![("text", text.into())], text.to_owned()),
        None => (
            vec![
                ("text", Value::Null),
                ("content_type", content.content_type().into()),
                ("body_hex", hex::encode(content.body()).into()),
            ],
            format!("({}, {} bytes)", content.content_type(), content.body().len()),
        ),
    }
}

fn changes(added: &[Peer], removed: &[Peer]) -> String {
    let names = |peers: &[Peer]| {
        let mut names: Vec<String> = peers.iter().map(|peer| peer.user.to_string()).collect();
        names.dedup();
        names.join(", ")
    };
    match (added.is_empty(), removed.is_empty()) {
        (false, true) => format!("added {}", names(added)),
        (true, false) => format!("removed {}", names(removed)),
        _ => format!("added {}; removed {}", names(added), names(removed)),
    }
}

/// Lines for people. Remembers the groups' names.
#[derive(Default)]
pub(crate) struct Lines {
    names: HashMap<GroupId, String>,
}

impl Lines {
    /// The event as a line, with the name of its group.
    pub(crate) async fn line(&mut self, client: &Client, event: &Event) -> Result<String, CliError> {
        if let EventKind::GroupNamed { name, .. } = &event.kind {
            self.names.insert(event.group, name.clone());
        }
        let name = match self.names.get(&event.group) {
            Some(name) => name.clone(),
            None => self.name(client, event.group).await?,
        };
        Ok(format!(
            "{}  {}  {}\n",
            timestamp(event.at),
            printable(&name),
            body(event)
        ))
    }

    async fn name(&mut self, client: &Client, id: GroupId) -> Result<String, CliError> {
        let name = match client.group(id).await? {
            Some(group) => group.name().await,
            None => String::new(),
        };
        if name.is_empty() {
            return Ok(id.to_string());
        }
        self.names.insert(id, name.clone());
        Ok(name)
    }
}

/// Who did it and what it says, as it came: not fit for a terminal.
pub(crate) fn who_and_what(event: &Event) -> (Option<Peer>, String) {
    let Told { sender, text, .. } = told(&event.kind);
    (sender, text)
}

/// Who and what, on one line.
pub(crate) fn body(event: &Event) -> String {
    let Told {
        kind, sender, text, ..
    } = told(&event.kind);
    let text = printable(&text);
    match sender {
        Some(sender) if matches!(kind, "message" | "edit" | "ephemeral") => {
            format!("{}: {text}", sender.user)
        }
        Some(sender) => format!("* {} {text}", sender.user),
        None => format!("* {text}"),
    }
}

#[cfg(test)]
mod tests;
