//! Copies of the newest entries, as they came: should the service lose them before they are archived, they come back from its devices.
//!
//! An entry's copy is kept in the transaction of its cursor: what a device has applied it can give back. The service says for how long
//! that may be needed; beyond a bound in bytes the oldest ones go, of whatever group.

use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position};

use super::Engine;
use super::inbox::accepted_at;
use super::live::digest;
use crate::Error;
use crate::store::IntentRow;

/// What all copies may have together.
pub(super) const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of new copies after which the old ones are looked at.
const LOOK_AFTER: usize = 1024 * 1024;
/// A request with copies has no more than that, unless it has one alone.
const OFFER_BYTES: usize = 3 * 1024 * 1024;
/// And no more copies than that.
const OFFER_ENTRIES: usize = 200;

impl Engine {
    /// The GroupInfo that this device has submitted with a commit of its own; asked before the commit is applied.
    pub(super) fn own_group_info(
        &self,
        group: GroupId,
        entry: &wire::Entry,
    ) -> Result<Option<Vec<u8>>, Error> {
        let own =
            entry.kind() == wire::EntryKind::Commit && entry.sender_device_id == self.device.id.to_string();
        if !own {
            return Ok(None);
        }
        let intent = self
            .db
            .intent_by_digest(group, &digest(&self.crypto, &entry.mls_message)?)?;
        Ok(intent.and_then(|intent| intent.prepared?.group_info))
    }

    /// Keeps an entry that was applied.
    pub(super) fn keep_copy(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        group_info: Option<Vec<u8>>,
    ) -> Result<(), Error> {
        let at = accepted_at(entry.accepted_at.as_ref());
        if at < self.copies_since() {
            return Ok(());
        }
        let offer = wire::OfferedEntry {
            entry: Some(entry.clone()),
            group_info: group_info.unwrap_or_default().into(),
        };
        let position = Position(entry.position);
        self.copied += self.db.put_copy(group, position, at, &offer)?;
        if self.copied >= LOOK_AFTER {
            self.copied = 0;
            self.trim_copies()?;
        }
        Ok(())
    }

    /// Keeps the external commit by which this device came (back) in. It is not applied like other entries.
    pub(super) fn keep_own_way_in(
        &mut self,
        intent: &IntentRow,
        accepted: &wire::Accepted,
    ) -> Result<(), Error> {
        // Those of before are of a log that this device has left.
        self.db.delete_copies(intent.group)?;
        let Some(prepared) = &intent.prepared else {
            return Ok(());
        };
        let entry = wire::Entry {
            group_id: intent.group.to_vec().into(),
            position: accepted.position,
            kind: wire::EntryKind::Commit.into(),
            epoch: prepared.epoch.0,
            accepted_at: accepted.accepted_at,
            entry_id: accepted.entry_id.clone(),
            mls_message: prepared.message.clone().into(),
            sender_device_id: self.device.id.to_string(),
        };
        self.keep_copy(intent.group, &entry, prepared.group_info.clone())
    }

    /// Lets go of what is too old, or too much.
    pub(super) fn trim_copies(&self) -> Result<(), Error> {
        self.db.trim_copies(self.copies_since(), MAX_BYTES)
    }

    /// Entries that were accepted before that need no copy; in milliseconds since 1970-01-01 UTC.
    fn copies_since(&self) -> u64 {
        match self.device.entry_copies {
            0 => u64::MAX,
            seconds => self
                .options
                .clock
                .unix_millis()
                .saturating_sub(seconds.saturating_mul(1000)),
        }
    }

    /// What can be given back of a group after that position, as much as goes into one request.
    pub(crate) fn offer_after(
        &mut self,
        group: GroupId,
        after: Position,
    ) -> Result<Vec<wire::OfferedEntry>, Error> {
        self.db.copies_after(group, after, OFFER_ENTRIES, OFFER_BYTES)
    }
}
