//! How far a frozen group can be brought back.
//!
//! At each position there is what devices have offered. An entry that breaks a rule is passed over: whoever made it up is not believed.
//! One that is left is taken; it is certain as a commit or a proposal, which are signed, and as a message as far as all devices that
//! offered the position offered the same. With two that could be right the log ends: nobody here can tell which of them was.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use valise_group_rules::Committer;
use valise_proto::{DeviceId, EntryId, IdempotencyKey, Position, UserId};

use super::judge::{Rules, Step};
use crate::group_state::{GroupState, StateError, Verified};
use crate::log::offers::{Candidate, Frozen, Restoration, restored_key};
use crate::log::{Entry, EntryKind, Snapshot, Window};

/// Positions that are looked at together: each may have several entries of 2 MiB.
const POSITIONS: u64 = 16;

/// Why a plan goes no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Everything that was offered is in it.
    Complete,
    /// Nobody whose word counts has offered the next position.
    Missing,
    /// More than one entry could be right.
    Conflict,
    /// None can be.
    Refused,
    /// The administrator wants no more.
    Limit,
}

/// An entry that was offered where the plan ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Judged {
    pub(crate) id: EntryId,
    pub(crate) devices: Vec<DeviceId>,
    /// The rule that it breaks.
    pub(crate) rule: Option<&'static str>,
}

/// A group, folded so far.
pub(crate) struct Folded {
    pub(crate) group: GroupState,
    /// Unlike the state's own it counts messages.
    pub(crate) position_of_log: Position,
    accepted_at: u64,
}

/// What a repair will restore.
pub(crate) struct Plan {
    pub(crate) state: Folded,
    pub(crate) restoration: Restoration,
    /// Of the newest commit that adds somebody.
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) offering: HashSet<DeviceId>,
    pub(crate) least_agreeing: usize,
    pub(crate) end: Option<End>,
    pub(crate) candidates: Vec<Judged>,
    pub(crate) group_info_missing: bool,
    rules: Rules,
    windows: BTreeMap<DeviceId, (UserId, Vec<Window>)>,
    changed: HashSet<DeviceId>,
    /// Of all that is restored, now or earlier: the same message is not restored twice.
    messages: HashSet<[u8; 16]>,
}

impl Plan {
    /// At the archive's end.
    pub(super) fn begin(state: GroupState, frozen: &Frozen, rules: Rules) -> Self {
        let mut windows: BTreeMap<DeviceId, (UserId, Vec<Window>)> = BTreeMap::new();
        for (user, device, window) in &frozen.windows {
            let of = windows
                .entry(*device)
                .or_insert_with(|| (user.clone(), Vec::new()));
            of.1.push(*window);
        }
        Self {
            state: Folded {
                group: state,
                position_of_log: frozen.head.position,
                accepted_at: frozen.accepted_at,
            },
            restoration: Restoration::default(),
            snapshot: None,
            offering: HashSet::new(),
            least_agreeing: usize::MAX,
            end: None,
            candidates: Vec::new(),
            group_info_missing: false,
            rules,
            windows,
            changed: HashSet::new(),
            messages: HashSet::new(),
        }
    }

    /// The archive has what is kept under that key.
    pub(super) fn has(&mut self, restored: IdempotencyKey) {
        self.messages.insert(*restored.as_bytes());
    }

    /// The positions to look at next: after the first (exclusive), up to the second (inclusive). None where the plan is made.
    pub(super) fn wants(&mut self, frozen: &Frozen, up_to: Position) -> Option<(Position, Position)> {
        if self.end.is_none() {
            let at = self.state.position_of_log;
            if at >= frozen.offered {
                self.end = Some(End::Complete);
            } else if at >= up_to {
                self.end = Some(End::Limit);
            } else {
                let last = at.0.saturating_add(POSITIONS);
                return Some((at, Position(last).min(up_to).min(frozen.offered)));
            }
        }
        self.restoration.windows = self
            .changed
            .iter()
            .filter_map(|device| {
                let (user, windows) = self.windows.get(device)?;
                Some((user.clone(), *device, windows.clone()))
            })
            .collect();
        None
    }

    /// Goes on with what was offered, up to that position (inclusive).
    pub(super) fn go_on(mut self, candidates: &[Candidate], last: Position) -> Result<Self, StateError> {
        while self.end.is_none() && self.state.position_of_log < last {
            let next = self.state.position_of_log.next();
            let offered: Vec<Candidate> = candidates
                .iter()
                .filter(|candidate| candidate.entry.position == next)
                .map(|candidate| self.of_members(candidate))
                .filter(|candidate| !candidate.by.is_empty())
                .collect();
            self.decide(&offered)?;
        }
        Ok(self)
    }

    /// With the devices alone that could read that position: nobody else can have had it.
    fn of_members(&self, candidate: &Candidate) -> Candidate {
        let entry = &candidate.entry;
        let read = |device: &DeviceId| {
            let own_way_in = entry.kind == EntryKind::Commit && entry.sender == Some(*device);
            let mut windows = self
                .windows
                .get(device)
                .into_iter()
                .flat_map(|(_, windows)| windows);
            own_way_in || windows.any(|window| window.contains(entry.position))
        };
        let mut of_members = candidate.clone();
        of_members.by.retain(|(_, device)| read(device));
        of_members
    }

    /// One position.
    fn decide(&mut self, offered: &[Candidate]) -> Result<(), StateError> {
        let mut right = Vec::new();
        let mut judged = Vec::new();
        for candidate in offered {
            let state = &self.state;
            // The service's own Remove is the same each time that it is proposed.
            let of_member = candidate.entry.sender.is_some();
            let restored = restored_key(&candidate.entry.bytes);
            let verdict = if of_member && self.messages.contains(restored.as_bytes()) {
                Err(valise_group_rules::RuleViolation("repeated"))
            } else {
                self.rules.judge(&state.group, state.accepted_at, candidate)
            };
            judged.push(Judged {
                id: candidate.entry.id,
                devices: candidate.by.iter().map(|(_, device)| *device).collect(),
                rule: verdict.as_ref().err().map(|violation| violation.0),
            });
            if let Ok(step) = verdict {
                right.push((candidate, step));
            }
        }
        match (right.pop(), right.is_empty()) {
            (Some((candidate, step)), true) => self.take(candidate, step),
            (one, _) => {
                self.end = Some(match one {
                    Some(_) => End::Conflict,
                    None if judged.is_empty() => End::Missing,
                    None => End::Refused,
                });
                self.candidates = judged;
                Ok(())
            }
        }
    }

    fn take(&mut self, candidate: &Candidate, step: Step) -> Result<(), StateError> {
        let entry = &candidate.entry;
        let position = entry.position;
        match step {
            Step::Message => {}
            Step::Proposal(queued, removes) => self.state.group.queue(*queued, removes, position)?,
            Step::Commit { verified, group_info } => self.commit(entry, *verified, group_info)?,
        }
        self.messages.insert(*restored_key(&entry.bytes).as_bytes());
        self.state.position_of_log = position;
        self.state.accepted_at = entry.accepted_at;
        self.offering
            .extend(candidate.by.iter().map(|(_, device)| *device));
        self.least_agreeing = self.least_agreeing.min(candidate.by.len());
        self.restoration.entries.push(Arc::clone(entry));
        Ok(())
    }

    fn commit(
        &mut self,
        entry: &Entry,
        verified: Verified,
        group_info: Option<Bytes>,
    ) -> Result<(), StateError> {
        let position = entry.position;
        let Verified { staged, summary } = verified;
        for (_, identity) in &summary.removed {
            if let Some((_, windows)) = self.windows.get_mut(&identity.device) {
                for window in windows.iter_mut().filter(|window| window.until.is_none()) {
                    window.until = Some(position);
                }
                self.changed.insert(identity.device);
            }
        }
        let mut joined: Vec<_> = summary.added.iter().map(|added| &added.identity).collect();
        if let Committer::External(_) = summary.committer {
            joined.push(&summary.committer_identity);
        }
        for identity in joined {
            let of = self
                .windows
                .entry(identity.device)
                .or_insert_with(|| (identity.user.clone(), Vec::new()));
            of.1.push(Window {
                after: position,
                until: None,
            });
            self.changed.insert(identity.device);
        }
        self.state.group.merge(staged, position)?;
        if !summary.added.is_empty() {
            self.snapshot = self.state.group.due_snapshot(entry.id)?;
        }
        self.group_info_missing = group_info.is_none();
        self.restoration.group_info = group_info.map(|info| (info, position));
        Ok(())
    }

    /// May that device read beyond the archive, as far as the plan goes?
    pub(crate) fn lets_in(&self, device: DeviceId) -> bool {
        let windows = self.windows.get(&device);
        windows.is_some_and(|(_, windows)| windows.iter().any(|window| window.until.is_none()))
    }
}
