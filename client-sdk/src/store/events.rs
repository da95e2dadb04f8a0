//! Events that the app has not confirmed.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::params;
use serde::{Deserialize, Serialize};
use valise_group_rules::{Policy, Role};
use valise_proto::{DeviceId, Epoch, GroupId, Position, UserId};

use super::Database;
use super::history::StoredWhatNow;
use crate::content::STORED;
use crate::{ChainValue, Content, Error, Event, EventId, EventKind, MessageId, Peer, WhatNow};

/// [`EventKind`] as it is stored. A change of it is a migration.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum StoredEvent {
    Message {
        sender: StoredPeer,
        content_type: String,
        /// The message's id; without one, the body is of that type itself (written by version 1 of the schema).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    ReplacementRefused {
        sender: StoredPeer,
        of: String,
    },
    Joined {
        by: StoredPeer,
    },
    DeviceAdded {
        user: UserId,
        device: DeviceId,
        by: StoredPeer,
        epoch: u64,
    },
    MembersChanged {
        added: Vec<StoredPeer>,
        removed: Vec<StoredPeer>,
        by: StoredPeer,
        epoch: u64,
    },
    RolesChanged {
        users: Vec<(UserId, Role)>,
        policy: Option<Policy>,
        by: StoredPeer,
        epoch: u64,
    },
    RuleBreach {
        by: Option<StoredPeer>,
        rule: String,
    },
    DeliveryForked {
        sender: StoredPeer,
        position: u64,
        theirs: [u8; 32],
        ours: Option<[u8; 32]>,
    },
    WrongGroupInfo {
        epoch: u64,
    },
    GroupNamed {
        name: String,
        by: StoredPeer,
    },
    Removed {
        by: StoredPeer,
    },
    WelcomeUnusable {
        cause: String,
    },
    HeldByBadCommit {
        cause: String,
    },
    Quarantined {
        rule: String,
    },
    QuarantineEnded,
    LogRegressed {
        #[serde(default)]
        entry_id: Vec<u8>,
    },
    LogRestored,
    Lost,
    GroupReset {
        successor: String,
    },
    Rejoining,
    Rejoined {
        missed: Option<(u64, u64)>,
    },
    RejoinFailed {
        cause: String,
    },
    CameBack {
        peer: StoredPeer,
        epoch: u64,
    },
    Unreadable {
        sender: Option<StoredPeer>,
    },
    OperationFailed {
        operation: String,
        cause: String,
        // Version 9 of the schema did not have these.
        #[serde(default)]
        what_now: Option<StoredWhatNow>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        #[serde(default)]
        users: Vec<UserId>,
    },
}

#[derive(Serialize, Deserialize)]
pub(crate) struct StoredPeer {
    user: UserId,
    device: DeviceId,
}

impl From<&Peer> for StoredPeer {
    fn from(peer: &Peer) -> Self {
        Self {
            user: peer.user.clone(),
            device: peer.device,
        }
    }
}

impl From<StoredPeer> for Peer {
    fn from(peer: StoredPeer) -> Self {
        Self {
            user: peer.user,
            device: peer.device,
        }
    }
}

fn to_stored(kind: &EventKind) -> Option<(StoredEvent, Option<Cow<'_, [u8]>>)> {
    let peers = |peers: &[Peer]| peers.iter().map(StoredPeer::from).collect();
    let stored = match kind {
        EventKind::Message { sender, content } => {
            let sender = sender.into();
            let (id, content_type, body) = match content.to_stored() {
                Some((id, bytes)) => (Some(id.to_string()), STORED, Cow::Owned(bytes)),
                None => (None, content.content_type(), Cow::Borrowed(content.body())),
            };
            let stored = StoredEvent::Message {
                sender,
                content_type: content_type.to_owned(),
                id,
            };
            return Some((stored, Some(body)));
        }
        EventKind::ReplacementRefused { sender, of } => StoredEvent::ReplacementRefused {
            sender: sender.into(),
            of: of.to_string(),
        },
        EventKind::Ephemeral { .. } => return None,
        EventKind::Joined { by } => StoredEvent::Joined { by: by.into() },
        EventKind::DeviceAdded {
            user,
            device,
            by,
            epoch,
        } => StoredEvent::DeviceAdded {
            user: user.clone(),
            device: *device,
            by: by.into(),
            epoch: epoch.0,
        },
        EventKind::MembersChanged {
            added,
            removed,
            by,
            epoch,
        } => StoredEvent::MembersChanged {
            added: peers(added),
            removed: peers(removed),
            by: by.into(),
            epoch: epoch.0,
        },
        EventKind::RolesChanged {
            users,
            policy,
            by,
            epoch,
        } => StoredEvent::RolesChanged {
            users: users.clone(),
            policy: *policy,
            by: by.into(),
            epoch: epoch.0,
        },
        EventKind::RuleBreach { by, rule, evidence } => {
            let stored = StoredEvent::RuleBreach {
                by: by.as_ref().map(StoredPeer::from),
                rule: rule.clone(),
            };
            return Some((stored, Some(Cow::Borrowed(evidence))));
        }
        EventKind::DeliveryForked {
            sender,
            position,
            theirs,
            ours,
            evidence,
        } => {
            let stored = StoredEvent::DeliveryForked {
                sender: sender.into(),
                position: position.0,
                theirs: *theirs.as_bytes(),
                ours: ours.as_ref().map(|ours| *ours.as_bytes()),
            };
            return Some((stored, Some(Cow::Borrowed(evidence))));
        }
        EventKind::WrongGroupInfo { epoch, evidence } => {
            let stored = StoredEvent::WrongGroupInfo { epoch: epoch.0 };
            return Some((stored, Some(Cow::Borrowed(evidence))));
        }
        EventKind::GroupNamed { name, by } => StoredEvent::GroupNamed {
            name: name.clone(),
            by: by.into(),
        },
        EventKind::Removed { by } => StoredEvent::Removed { by: by.into() },
        EventKind::WelcomeUnusable { cause } => StoredEvent::WelcomeUnusable { cause: cause.clone() },
        EventKind::HeldByBadCommit { cause, evidence } => {
            let stored = StoredEvent::HeldByBadCommit { cause: cause.clone() };
            return Some((stored, Some(Cow::Borrowed(evidence))));
        }
        EventKind::Quarantined { rule, evidence } => {
            let stored = StoredEvent::Quarantined { rule: rule.clone() };
            return Some((stored, Some(Cow::Borrowed(evidence))));
        }
        EventKind::LogRegressed { entry_id, evidence } => {
            let stored = StoredEvent::LogRegressed {
                entry_id: entry_id.clone(),
            };
            return Some((stored, Some(Cow::Borrowed(evidence))));
        }
        EventKind::QuarantineEnded => StoredEvent::QuarantineEnded,
        EventKind::LogRestored => StoredEvent::LogRestored,
        EventKind::Lost => StoredEvent::Lost,
        EventKind::GroupReset { successor } => StoredEvent::GroupReset {
            successor: successor.to_string(),
        },
        EventKind::Rejoining => StoredEvent::Rejoining,
        EventKind::Rejoined { missed } => StoredEvent::Rejoined {
            missed: missed.map(|(first, last)| (first.0, last.0)),
        },
        EventKind::RejoinFailed { cause } => StoredEvent::RejoinFailed { cause: cause.clone() },
        EventKind::CameBack { peer, epoch } => StoredEvent::CameBack {
            peer: peer.into(),
            epoch: epoch.0,
        },
        EventKind::Unreadable { sender, evidence } => {
            let stored = StoredEvent::Unreadable {
                sender: sender.as_ref().map(StoredPeer::from),
            };
            return Some((stored, Some(Cow::Borrowed(evidence))));
        }
        EventKind::OperationFailed {
            operation,
            cause,
            what_now,
            message,
            users,
        } => StoredEvent::OperationFailed {
            operation: operation.clone(),
            cause: cause.clone(),
            what_now: Some((*what_now).into()),
            message: message.map(|message| message.to_string()),
            users: users.clone(),
        },
    };
    Some((stored, None))
}

fn from_stored(stored: StoredEvent, body: Option<Vec<u8>>) -> Result<EventKind, Error> {
    let peers = |peers: Vec<StoredPeer>| peers.into_iter().map(Peer::from).collect();
    Ok(match stored {
        StoredEvent::Message {
            sender,
            content_type,
            id,
        } => EventKind::Message {
            sender: sender.into(),
            content: match id {
                Some(id) => Content::from_stored(id.parse()?, &body.unwrap_or_default())?,
                None => Content::new(content_type, body.unwrap_or_default()),
            },
        },
        StoredEvent::ReplacementRefused { sender, of } => EventKind::ReplacementRefused {
            sender: sender.into(),
            of: of.parse::<MessageId>()?,
        },
        StoredEvent::Joined { by } => EventKind::Joined { by: by.into() },
        StoredEvent::DeviceAdded {
            user,
            device,
            by,
            epoch,
        } => EventKind::DeviceAdded {
            user,
            device,
            by: by.into(),
            epoch: Epoch(epoch),
        },
        StoredEvent::MembersChanged {
            added,
            removed,
            by,
            epoch,
        } => EventKind::MembersChanged {
            added: peers(added),
            removed: peers(removed),
            by: by.into(),
            epoch: Epoch(epoch),
        },
        StoredEvent::RolesChanged {
            users,
            policy,
            by,
            epoch,
        } => EventKind::RolesChanged {
            users,
            policy,
            by: by.into(),
            epoch: Epoch(epoch),
        },
        StoredEvent::RuleBreach { by, rule } => EventKind::RuleBreach {
            by: by.map(Peer::from),
            rule,
            evidence: body.unwrap_or_default(),
        },
        StoredEvent::DeliveryForked {
            sender,
            position,
            theirs,
            ours,
        } => EventKind::DeliveryForked {
            sender: sender.into(),
            position: Position(position),
            theirs: ChainValue::from_bytes(theirs),
            ours: ours.map(ChainValue::from_bytes),
            evidence: body.unwrap_or_default(),
        },
        StoredEvent::WrongGroupInfo { epoch } => EventKind::WrongGroupInfo {
            epoch: Epoch(epoch),
            evidence: body.unwrap_or_default(),
        },
        StoredEvent::GroupNamed { name, by } => EventKind::GroupNamed { name, by: by.into() },
        StoredEvent::Removed { by } => EventKind::Removed { by: by.into() },
        StoredEvent::WelcomeUnusable { cause } => EventKind::WelcomeUnusable { cause },
        StoredEvent::HeldByBadCommit { cause } => EventKind::HeldByBadCommit {
            cause,
            evidence: body.unwrap_or_default(),
        },
        StoredEvent::Quarantined { rule } => EventKind::Quarantined {
            rule,
            evidence: body.unwrap_or_default(),
        },
        StoredEvent::LogRegressed { entry_id } => EventKind::LogRegressed {
            entry_id,
            evidence: body.unwrap_or_default(),
        },
        StoredEvent::QuarantineEnded => EventKind::QuarantineEnded,
        StoredEvent::LogRestored => EventKind::LogRestored,
        StoredEvent::Lost => EventKind::Lost,
        StoredEvent::GroupReset { successor } => EventKind::GroupReset {
            successor: successor
                .parse()
                .map_err(|_| Error::InvalidInput("the store's group id"))?,
        },
        StoredEvent::Rejoining => EventKind::Rejoining,
        StoredEvent::Rejoined { missed } => EventKind::Rejoined {
            missed: missed.map(|(first, last)| (Position(first), Position(last))),
        },
        StoredEvent::RejoinFailed { cause } => EventKind::RejoinFailed { cause },
        StoredEvent::CameBack { peer, epoch } => EventKind::CameBack {
            peer: peer.into(),
            epoch: Epoch(epoch),
        },
        StoredEvent::Unreadable { sender } => EventKind::Unreadable {
            sender: sender.map(Peer::from),
            evidence: body.unwrap_or_default(),
        },
        StoredEvent::OperationFailed {
            operation,
            cause,
            what_now,
            message,
            users,
        } => EventKind::OperationFailed {
            operation,
            cause,
            what_now: what_now.map_or(WhatNow::Denied, WhatNow::from),
            message: message.map(|message| message.parse()).transpose()?,
            users,
        },
    })
}

impl Database {
    /// Stores an event; says its number. `at` is in milliseconds since 1970-01-01 UTC.
    pub(crate) fn put_event(
        &self,
        group: GroupId,
        position: Position,
        at: u64,
        kind: &EventKind,
    ) -> Result<Option<EventId>, Error> {
        let Some((stored, body)) = to_stored(kind) else {
            return Ok(None);
        };
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO events (group_id, position, at, detail, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let id = statement.insert(params![
            group.as_bytes().as_slice(),
            position.0.cast_signed(),
            at.cast_signed(),
            serde_json::to_string(&stored)?,
            body,
        ])?;
        Ok(Some(EventId(id.cast_unsigned())))
    }

    /// Events after that one, in order.
    pub(crate) fn events_after(&self, after: EventId, limit: usize) -> Result<Vec<Event>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, group_id, position, at, detail, body FROM events WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let mut rows = statement.query(params![
            after.0.cast_signed(),
            i64::try_from(limit).unwrap_or(i64::MAX)
        ])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let group: Vec<u8> = row.get(1)?;
            let detail: String = row.get(4)?;
            events.push(Event {
                id: EventId(row.get::<_, i64>(0)?.cast_unsigned()),
                group: GroupId::try_from(group.as_slice())
                    .map_err(|_| Error::InvalidInput("the store's group id"))?,
                position: Position(row.get::<_, i64>(2)?.cast_unsigned()),
                at: UNIX_EPOCH + Duration::from_millis(row.get::<_, i64>(3)?.cast_unsigned()),
                kind: from_stored(serde_json::from_str(&detail)?, row.get(5)?)?,
            });
        }
        Ok(events)
    }

    pub(crate) fn delete_events_up_to(&self, last: EventId) -> Result<(), Error> {
        self.connection
            .execute("DELETE FROM events WHERE id <= ?1", [last.0.cast_signed()])?;
        Ok(())
    }
}
