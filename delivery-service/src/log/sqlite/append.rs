//! Everything that is written, each as one step whose checks come first.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Transaction, params};
use valise_proto::{DeviceId, Epoch, GroupId, Position};

use super::read;
use crate::log::{
    Append, Appended, CommitEffects, Created, Entry, EntryKind, Head, NewGroup, News, Notice, Refused,
    ServiceProposal,
};

/// Heads that the writer has seen; it is the only one that changes them. Bounded.
#[derive(Default)]
pub(super) struct Heads {
    known: HashMap<GroupId, Row>,
    /// Changed by this transaction: each is written once, at its end, however many entries its group got.
    changed: HashMap<i64, Row>,
}

const MAX_HEADS: usize = 100_000;
/// The same notice within a day is dropped.
const NOTICE_MEMORY_MILLIS: i64 = 24 * 60 * 60 * 1000;

#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) number: i64,
    pub(super) head: Head,
    accepted_at: u64,
}

impl Heads {
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.changed.clear();
    }

    /// Writes what this transaction has changed: the last thing before it is committed.
    pub(super) fn write(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        for (_, row) in self.changed.drain() {
            update_head(transaction, &row)?;
        }
        Ok(())
    }

    pub(super) fn get(
        &mut self,
        transaction: &Transaction<'_>,
        group: GroupId,
    ) -> rusqlite::Result<Option<Row>> {
        if let Some(row) = self.known.get(&group) {
            return Ok(Some(*row));
        }
        let row = read::head_row(transaction, group)?.map(|(number, head, accepted_at)| Row {
            number,
            head,
            accepted_at,
        });
        if let Some(row) = row {
            self.put(group, row);
        }
        Ok(row)
    }

    pub(super) fn put(&mut self, group: GroupId, row: Row) {
        // What is changed and not written yet must be found here, not in the table.
        if self.known.len() >= MAX_HEADS && self.changed.is_empty() {
            self.known.clear();
        }
        self.known.insert(group, row);
    }

    fn change(&mut self, group: GroupId, row: Row) {
        self.changed.insert(row.number, row);
        self.put(group, row);
    }
}

pub(super) fn kind_code(kind: EntryKind) -> i64 {
    match kind {
        EntryKind::Commit => 1,
        EntryKind::Proposal => 2,
        EntryKind::Application => 3,
    }
}

pub(super) fn create(
    transaction: &Transaction<'_>,
    heads: &mut Heads,
    group: &NewGroup,
) -> rusqlite::Result<Created> {
    let existing: Option<Vec<u8>> = transaction
        .prepare_cached("SELECT idempotency_key FROM groups WHERE group_id = ?1")?
        .query_row([group.group.as_bytes()], |row| row.get(0))
        .optional()?;
    if let Some(key) = existing {
        return Ok(if key == group.key.as_bytes() {
            Created::Yes
        } else {
            Created::Exists
        });
    }
    transaction.execute(
        "INSERT INTO groups (group_id, idempotency_key, origin, epoch, position, commit_position,
             proposal_position, accepted_at, frozen) VALUES (?1, ?2, ?3, 0, 0, 0, 0, ?4, 0)",
        params![
            group.group.as_bytes(),
            group.key.as_bytes(),
            group.origin.as_bytes(),
            group.at.cast_signed()
        ],
    )?;
    let number = transaction.last_insert_rowid();
    transaction.execute(
        "INSERT INTO group_infos (group_number, epoch, commit_position, group_info) VALUES (?1, 0, 0, ?2)",
        params![number, group.group_info.as_ref()],
    )?;
    join(
        transaction,
        number,
        &group.creator.0,
        group.creator.1,
        Position::NONE,
    )?;
    let head = Head {
        epoch: Epoch(0),
        position: Position::NONE,
        commit_position: Position::NONE,
        proposal_position: Position::NONE,
        origin: group.origin,
        frozen: false,
        reset: false,
    };
    heads.put(
        group.group,
        Row {
            number,
            head,
            accepted_at: group.at,
        },
    );
    Ok(Created::Yes)
}

pub(super) fn append(
    transaction: &Transaction<'_>,
    heads: &mut Heads,
    append: Append,
    news: &mut Vec<News>,
) -> rusqlite::Result<Result<Appended, Refused>> {
    let Some(mut row) = heads.get(transaction, append.group)? else {
        return Ok(Err(Refused::GroupNotFound));
    };
    let repeat = || read::repeat(transaction, append.group, append.key, append.sender);
    if let Some(refused) = refuse(transaction, &row, &append)? {
        // The answer to a repeat stays what it was.
        return Ok(repeat()?.ok_or(refused));
    }
    // The index tells a repeat from a new entry as that is inserted; but to it no two entries without a sender are alike.
    if append.sender.is_none()
        && let Some(first) = repeat()?
    {
        return Ok(Ok(first));
    }

    // From here on everything is written.
    let position = row.head.position.next();
    row.head.position = position;
    row.accepted_at = row.accepted_at.max(append.at);
    match append.kind {
        EntryKind::Commit => {
            row.head.epoch = append.epoch.next();
            row.head.commit_position = position;
            row.head.proposal_position = Position::NONE;
        }
        EntryKind::Proposal => row.head.proposal_position = position,
        EntryKind::Application => {}
    }
    if !insert_entry(transaction, &row, &append)? {
        return repeat()?.map(Ok).ok_or(rusqlite::Error::QueryReturnedNoRows);
    }
    if let Some(effects) = &append.commit {
        write_effects(transaction, &row, &append, effects, news)?;
    }
    heads.change(append.group, row);

    let (left, proposals): (Arc<[DeviceId]>, Vec<ServiceProposal>) = append
        .commit
        .map(|effects| (effects.left.into(), effects.proposals))
        .unwrap_or_default();
    let entry = Entry {
        group: append.group,
        position,
        kind: append.kind,
        epoch: append.epoch,
        accepted_at: row.accepted_at,
        id: append.id,
        sender: append.sender,
        bytes: append.bytes,
    };
    news.push(News::Entry {
        entry: Arc::new(entry),
        left,
    });
    let appended = Appended {
        position,
        id: append.id,
        epoch: row.head.epoch,
        at: row.accepted_at,
        repeated: false,
    };
    append_proposals(transaction, heads, append.group, &appended, proposals, news)?;
    Ok(Ok(appended))
}

/// What comes with a commit follows it.
fn append_proposals(
    transaction: &Transaction<'_>,
    heads: &mut Heads,
    group: GroupId,
    commit: &Appended,
    proposals: Vec<ServiceProposal>,
    news: &mut Vec<News>,
) -> rusqlite::Result<()> {
    for proposal in proposals {
        let following = Append {
            group,
            key: proposal.key,
            kind: EntryKind::Proposal,
            epoch: commit.epoch,
            id: proposal.id,
            sender: None,
            bytes: proposal.bytes,
            at: commit.at,
            may_be_repeat: false,
            seen_proposal: None,
            commit: None,
        };
        // An epoch that has just begun takes them. Were one refused, the commit would not be written either.
        append(transaction, heads, following, news)?.map_err(|_| rusqlite::Error::QueryReturnedNoRows)?;
    }
    Ok(())
}

fn refuse(transaction: &Transaction<'_>, row: &Row, append: &Append) -> rusqlite::Result<Option<Refused>> {
    let head = &row.head;
    if head.frozen {
        return Ok(Some(Refused::Frozen));
    }
    if head.reset {
        return Ok(Some(Refused::Reset));
    }
    if append.epoch > head.epoch {
        return Ok(Some(Refused::EpochAhead { current: head.epoch }));
    }
    if append.epoch < head.epoch {
        let winner =
            read::commit_of_epoch(transaction, row.number, append.epoch)?.unwrap_or(head.commit_position);
        return Ok(Some(Refused::EpochEnded {
            current: head.epoch,
            winner,
        }));
    }
    let unseen = append
        .seen_proposal
        .is_some_and(|seen| seen < head.proposal_position);
    Ok(unseen.then_some(Refused::ProposalUnseen {
        position: head.proposal_position,
    }))
}

/// False where the sender has used the key already.
fn insert_entry(transaction: &Transaction<'_>, row: &Row, append: &Append) -> rusqlite::Result<bool> {
    let inserted = transaction
        .prepare_cached(
            "INSERT INTO entries (group_number, position, kind, epoch, accepted_at, entry_id, idempotency_key,
                 sender, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (group_number, idempotency_key, sender) DO NOTHING",
        )?
        .execute(params![
            row.number,
            row.head.position.0.cast_signed(),
            kind_code(append.kind),
            append.epoch.0.cast_signed(),
            row.accepted_at.cast_signed(),
            append.id.as_bytes(),
            append.key.as_bytes(),
            append.sender.as_ref().map(|device| device.as_uuid().as_bytes()),
            append.bytes.as_ref(),
        ])?;
    Ok(inserted == 1)
}

fn update_head(transaction: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "UPDATE groups SET epoch = ?2, position = ?3, commit_position = ?4, proposal_position = ?5,
                 accepted_at = ?6 WHERE number = ?1",
        )?
        .execute(params![
            row.number,
            row.head.epoch.0.cast_signed(),
            row.head.position.0.cast_signed(),
            row.head.commit_position.0.cast_signed(),
            row.head.proposal_position.0.cast_signed(),
            row.accepted_at.cast_signed(),
        ])?;
    Ok(())
}

fn write_effects(
    transaction: &Transaction<'_>,
    row: &Row,
    append: &Append,
    effects: &CommitEffects,
    news: &mut Vec<News>,
) -> rusqlite::Result<()> {
    let position = row.head.position;
    transaction
        .prepare_cached(
            "UPDATE group_infos SET epoch = ?2, commit_position = ?3, group_info = ?4 WHERE group_number = ?1",
        )?
        .execute(params![
            row.number,
            row.head.epoch.0.cast_signed(),
            position.0.cast_signed(),
            effects.group_info.as_ref()
        ])?;
    for device in &effects.left {
        transaction
            .prepare_cached(
                "UPDATE windows SET left_at = ?3 WHERE group_number = ?1 AND device = ?2 AND left_at IS NULL",
            )?
            .execute(params![
                row.number,
                device.as_uuid().as_bytes(),
                position.0.cast_signed()
            ])?;
    }
    for (user, device) in &effects.joined {
        join(transaction, row.number, user, *device, position)?;
    }
    let Some(welcome) = &effects.welcome else {
        return Ok(());
    };
    transaction.execute(
        "INSERT INTO welcomes (group_id, epoch, position, entry_id, welcome) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            append.group.as_bytes(),
            row.head.epoch.0.cast_signed(),
            position.0.cast_signed(),
            append.id.as_bytes(),
            welcome.as_ref()
        ],
    )?;
    let welcome = transaction.last_insert_rowid();
    for (_, device) in &effects.joined {
        let item = [Value::Integer(welcome), Value::Null, Value::Null, Value::Null];
        put_into_inbox(transaction, *device, row.accepted_at, item)?;
        news.push(News::Inbox(*device));
    }
    Ok(())
}

fn join(
    transaction: &Transaction<'_>,
    group: i64,
    user: &valise_proto::UserId,
    device: DeviceId,
    at: Position,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO windows (group_number, device, user_id, joined_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            group,
            device.as_uuid().as_bytes(),
            user.as_str(),
            at.0.cast_signed()
        ])?;
    Ok(())
}

/// `item`: number of the Welcome, cipher suite, one-time packages, number of the group that was reset.
pub(super) fn put_into_inbox(
    transaction: &Transaction<'_>,
    device: DeviceId,
    at: u64,
    item: [Value; 4],
) -> rusqlite::Result<()> {
    let device = device.as_uuid().as_bytes();
    let number: i64 = transaction
        .prepare_cached(
            "INSERT INTO inbox_heads (device, newest) VALUES (?1, CAST(unixepoch('subsec') * 1000 AS INTEGER))
             ON CONFLICT (device) DO UPDATE SET newest = max(newest + 1, excluded.newest) RETURNING newest",
        )?
        .query_row([device], |row| row.get(0))?;
    let [welcome, suite, one_time, reset_group] = item;
    transaction
        .prepare_cached(
            "INSERT INTO inbox_items (device, number, accepted_at, welcome_number, cipher_suite, one_time, reset_group)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            device,
            number,
            at.cast_signed(),
            welcome,
            suite,
            one_time,
            reset_group
        ])?;
    Ok(())
}

pub(super) fn notify(
    transaction: &Transaction<'_>,
    notices: &[Notice],
    news: &mut Vec<News>,
) -> rusqlite::Result<()> {
    for notice in notices {
        let at = notice.at.cast_signed();
        transaction
            .prepare_cached("DELETE FROM notice_keys WHERE at < ?1")?
            .execute([at.saturating_sub(NOTICE_MEMORY_MILLIS)])?;
        let new = transaction
            .prepare_cached(
                "INSERT INTO notice_keys (device, deduplication_key, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            )?
            .execute(params![notice.device.as_uuid().as_bytes(), notice.deduplication_key, at])?;
        if new == 0 {
            continue;
        }
        let item = [
            Value::Null,
            Value::Integer(i64::from(notice.cipher_suite)),
            Value::Integer(i64::from(notice.one_time)),
            Value::Null,
        ];
        put_into_inbox(transaction, notice.device, notice.at, item)?;
        news.push(News::Inbox(notice.device));
    }
    Ok(())
}

pub(super) fn acknowledge(
    transaction: &Transaction<'_>,
    device: DeviceId,
    groups: &[(GroupId, Position)],
    inbox: u64,
) -> rusqlite::Result<()> {
    let device = device.as_uuid().as_bytes();
    for (group, position) in groups {
        transaction
            .prepare_cached(
                "INSERT INTO acknowledgements (device, group_number, position)
                 SELECT ?1, number, min(?3, position) FROM groups WHERE group_id = ?2
                 ON CONFLICT (device, group_number) DO UPDATE SET position = max(position, excluded.position)",
            )?
            .execute(params![device, group.as_bytes(), position.0.cast_signed()])?;
    }
    if inbox > 0 {
        let welcomes: Vec<i64> = transaction
            .prepare_cached(
                "DELETE FROM inbox_items WHERE device = ?1 AND number <= ?2 RETURNING welcome_number",
            )?
            .query_map(params![device, inbox.cast_signed()], |row| {
                row.get::<_, Option<i64>>(0)
            })?
            .filter_map(Result::transpose)
            .collect::<rusqlite::Result<_>>()?;
        for welcome in welcomes {
            transaction
                .prepare_cached(
                    "DELETE FROM welcomes WHERE number = ?1
                     AND NOT EXISTS (SELECT 1 FROM inbox_items WHERE welcome_number = ?1)",
                )?
                .execute([welcome])?;
        }
    }
    Ok(())
}
