//! What the app and the other tasks ask.

use std::collections::BTreeSet;

use openmls::prelude::Ciphersuite;
use valise_proto::delivery::v1 as wire;
use valise_proto::{Epoch, GroupId, Position};

use super::Engine;
use super::live::{self, LiveGroup};
use crate::kill_point::{self, Step};
use crate::store::GroupRow;
use crate::{CipherSuite, Error, Event, EventId, GroupState, GroupStatus, Member};

/// Where the device stands in all its logs.
pub(crate) struct Cursors {
    /// Of the groups that go onto the stream.
    pub(crate) groups: Vec<wire::GroupCursor>,
    /// The other groups, for which there is no room on it.
    pub(crate) others: BTreeSet<GroupId>,
    /// Most groups that the service takes on the stream.
    pub(crate) most: usize,
    pub(crate) inbox: u64,
}

/// A cursor as it is sent.
pub(super) fn cursor(group: GroupId, position: Position, entry_id: &[u8]) -> wire::GroupCursor {
    wire::GroupCursor {
        group_id: group.to_vec().into(),
        cursor: Some(wire::Cursor {
            position: position.0,
            entry_id: entry_id.to_vec().into(),
        }),
    }
}

impl Engine {
    pub(crate) fn group_ids(&mut self) -> Result<Vec<GroupId>, Error> {
        Ok(self.db.groups()?.into_iter().map(|group| group.id).collect())
    }

    pub(crate) fn knows_group(&mut self, id: GroupId) -> Result<bool, Error> {
        Ok(self.db.group(id)?.is_some())
    }

    pub(crate) fn suite(&mut self, id: GroupId) -> Result<Ciphersuite, Error> {
        let row = self.db.group(id)?.ok_or(Error::UnknownGroup(id))?;
        // Whom to add is decided by looking at the members, which a device on its way back cannot.
        if !row.status.is_usable() || row.status == GroupStatus::Rejoining {
            return Err(Error::GroupNotActive(row.status));
        }
        Ciphersuite::try_from(row.suite).map_err(|_| Error::InvalidInput("the store's cipher suite"))
    }

    pub(crate) fn group_state(&mut self, id: GroupId) -> Result<GroupState, Error> {
        let row = self.db.group(id)?.ok_or(Error::UnknownGroup(id))?;
        let mut state = GroupState {
            name: row.name.clone(),
            status: row.status,
            epoch: Epoch(0),
            position: row.position,
            cipher_suite: CipherSuite::from_number(row.suite.into()),
            members: 0,
            epoch_authenticator: Vec::new(),
            forked_at: self.db.newest_fork(id)?,
            successor: self
                .db
                .reset(id)?
                .filter(|_| row.status == GroupStatus::Reset)
                .map(|reset| reset.successor),
        };
        if let Some(live) = self.current_keys(&row)? {
            state.epoch = live.epoch();
            state.members = live.roster.len();
            state.epoch_authenticator = live.mls.epoch_authenticator().as_slice().to_vec();
        }
        Ok(state)
    }

    /// A group that could not be rejoined has no keys, whatever its status was before.
    fn current_keys(&mut self, row: &GroupRow) -> Result<Option<&mut LiveGroup>, Error> {
        if !row.status.has_keys() {
            return Ok(None);
        }
        match live::get(&mut self.live, &self.db, row.id) {
            Ok(live) => Ok(Some(live)),
            Err(Error::UnknownGroup(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn members(&mut self, id: GroupId) -> Result<Vec<Member>, Error> {
        let row = self.db.group(id)?.ok_or(Error::UnknownGroup(id))?;
        let Some(live) = self.current_keys(&row)? else {
            return Ok(Vec::new());
        };
        let mut members: Vec<_> = live
            .roster
            .members()
            .map(|member| Member {
                user: member.identity.user.clone(),
                device: member.identity.device,
                role: live.authority.role(&member.identity.user),
                leaf_index: member.leaf.u32(),
            })
            .collect();
        members.sort_unstable_by_key(|member| member.leaf_index);
        Ok(members)
    }

    pub(crate) fn confirm(&mut self, event: EventId) -> Result<(), Error> {
        kill_point::reached("confirm", Step::BeforeApplied);
        self.db.delete_events_up_to(event)?;
        kill_point::reached("confirm", Step::Applied);
        Ok(())
    }

    pub(crate) fn events_after(&mut self, after: EventId, limit: usize) -> Result<Vec<Event>, Error> {
        self.db.events_after(after, limit)
    }

    pub(crate) fn cursors(&mut self) -> Result<Cursors, Error> {
        let most = self.db.group_limit()?.unwrap_or(usize::MAX);
        let mut rows = self.db.groups_by_activity()?;
        rows.retain(|group| group.status.is_followed());
        let others = rows.split_off(most.min(rows.len()));
        let groups = rows
            .into_iter()
            .map(|group| cursor(group.id, group.position, &group.entry_id))
            .collect();
        Ok(Cursors {
            groups,
            others: others.into_iter().map(|group| group.id).collect(),
            most,
            inbox: self.db.inbox_cursor()?,
        })
    }

    /// Where the device stands in a group, and in what state it is there.
    pub(crate) fn standing(&mut self, id: GroupId) -> Result<Option<(GroupStatus, Position)>, Error> {
        Ok(self.db.group(id)?.map(|group| (group.status, group.position)))
    }

    pub(crate) fn outbox_is_empty(&mut self) -> Result<bool, Error> {
        self.db.outbox_is_empty()
    }
}
