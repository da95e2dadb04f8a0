//! What members do when a device comes in, or back, by itself.

use openmls::prelude::LeafNodeIndex;
use valise_group_rules::Act;
use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position};

use super::inbox::{Fault, accepted_at};
use super::{Engine, live};
use crate::{Error, EventKind, GroupStatus, Peer};

/// How many members tell a joiner the group's name, should the first of them be away.
const GREETERS: usize = 2;

impl Engine {
    /// Another device is back.
    pub(super) fn came_back(&mut self, group: GroupId, entry: &wire::Entry, peer: Peer) -> Result<(), Error> {
        let epoch = live::get(&mut self.live, &self.db, group)?.epoch();
        let at = accepted_at(entry.accepted_at.as_ref());
        let kind = EventKind::CameBack { peer, epoch };
        self.emit(group, Position(entry.position), at, &kind)
    }

    /// Nobody has told the group's name to a device that came in by itself: the first members who may do.
    pub(super) fn greet(&mut self, group: GroupId, joiner: LeafNodeIndex) -> Result<(), Fault> {
        let live = live::get(&mut self.live, &self.db, group)?;
        // Others are not heard.
        let may_tell = |user| {
            [Act::Send, Act::Rename]
                .iter()
                .all(|&act| live.authority.may(user, act).is_ok())
        };
        let mut greeters: Vec<LeafNodeIndex> = live
            .roster
            .members()
            .filter(|member| member.leaf != joiner && may_tell(&member.identity.user))
            .map(|member| member.leaf)
            .collect();
        greeters.sort_unstable();
        greeters.truncate(GREETERS);
        let own = live.mls.own_leaf_index();
        let active = self
            .db
            .group(group)?
            .is_some_and(|row| row.status == GroupStatus::Active);
        if active && greeters.contains(&own) {
            self.tell_name(group)?;
        }
        Ok(())
    }
}
