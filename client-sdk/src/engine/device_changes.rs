//! New devices of users who are members already: told before anything can reach them (the ghost-device defence).
//!
//! Adding a user to a group is something that people do and see. Another device of somebody who is in the group is not: a service
//! that certified a key of its own in a member's name, and had it added, would read along unnoticed. So each such device is an
//! event of its own, in the transaction that applies the commit. What this device sends to the new epoch is encrypted after that.

use std::collections::HashSet;

use valise_group_rules::CommitSummary;
use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position, UserId};

use super::Engine;
use super::inbox::accepted_at;
use super::live::{self, LiveGroup, peer};
use crate::{Error, EventKind, Peer};

impl Engine {
    /// To be called when a commit was merged and the roster refreshed.
    pub(super) fn tell_device_changes(
        &mut self,
        group: GroupId,
        entry: &wire::Entry,
        summary: &CommitSummary,
    ) -> Result<(), Error> {
        let live = live::get(&mut self.live, &self.db, group)?;
        let epoch = live.epoch();
        let by = peer(&summary.committer_identity);
        for Peer { user, device } in new_devices(live, summary) {
            let kind = EventKind::DeviceAdded {
                user,
                device,
                by: by.clone(),
                epoch,
            };
            let at = accepted_at(entry.accepted_at.as_ref());
            self.emit(group, Position(entry.position), at, &kind)?;
        }
        Ok(())
    }
}

/// The devices that have a key in the roster which they did not have in the one before, and whose users were in that one.
fn new_devices(live: &LiveGroup, summary: &CommitSummary) -> Vec<Peer> {
    let added = summary.added.iter().map(|added| &added.identity);
    // The committer's leaf is new after an external commit, and may have another key after any.
    let mut changed: Vec<Peer> = added
        .chain([&summary.committer_identity])
        .map(peer)
        .filter(|peer| {
            let key = |member: &valise_group_rules::Member| member.signature_key.clone();
            live.roster.device(peer.device).map(key) != live.former.device(peer.device).map(key)
        })
        .collect();
    if !changed.is_empty() {
        let members: HashSet<&UserId> = live
            .former
            .members()
            .map(|member| &member.identity.user)
            .collect();
        changed.retain(|peer| members.contains(&peer.user));
    }
    changed
}
