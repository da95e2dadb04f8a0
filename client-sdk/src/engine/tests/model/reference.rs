//! What must be true: a group as one log, and what each device may read of it. It knows nothing of MLS, outboxes or streams.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use valise_proto::{IdempotencyKey, Reason};

use crate::Role;

/// A device, by its number.
pub(super) type Device = usize;
/// A user, by their number.
pub(super) type User = usize;

/// Whose each device is: the first user has two.
pub(super) const OWNERS: [User; 5] = [0, 0, 1, 2, 3];

/// Who adds a device that comes in by itself.
const NOBODY: Device = usize::MAX;

/// What a device submits.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// A text, or (`None`) what is about the group's name.
    Message(Option<String>, Option<Naming>),
    Leave,
    Commit(Change),
    External,
}

/// A message about the group's name.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub(super) name: String,
    /// A new name; else it is only told, for those who do not know it.
    pub(super) new: bool,
}

/// What a commit was asked to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub(super) add: Vec<Device>,
    pub(super) remove: Vec<Device>,
    pub(super) role: Option<(User, Role)>,
}

#[derive(Debug)]
enum Entry {
    Message {
        by: Device,
        text: Option<String>,
        naming: Option<Naming>,
        may_rename: bool,
    },
    Removal(Device),
    Commit {
        removed: Vec<Device>,
    },
}

/// What a device has seen of the group.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The last entry that it has read, or that brought it in.
    pub(super) cursor: u64,
    /// As far as it has read, it is a member.
    pub(super) inside: bool,
    /// What it would have to read next is not kept.
    pub(super) lost: bool,
    /// It has read its own wish to leave.
    pub(super) leaving: bool,
    pub(super) seen: Vec<(u64, String)>,
    pub(super) name: String,
    /// Who added it, until somebody has told it the name.
    told_by: Option<Device>,
}

#[derive(Debug)]
pub(super) struct Model {
    log: Vec<Entry>,
    pub(super) epoch: u64,
    pub(super) roster: BTreeSet<Device>,
    listed: BTreeMap<User, Role>,
    /// Removals that wait for a commit.
    pending: Vec<Device>,
    pub(super) revoked: BTreeSet<Device>,
    keys: HashMap<IdempotencyKey, u64>,
    pub(super) views: Vec<View>,
    /// Invitations that were not taken up yet: for whom, by whom, at which position.
    pub(super) welcomes: Vec<(Device, Device, u64)>,
    /// The first entry that is kept.
    pub(super) first: u64,
    /// The last commit that added somebody.
    pub(super) last_add: u64,
}

impl Model {
    /// A group of one device.
    pub(super) fn new(founder: Device, name: &str) -> Self {
        let mut views: Vec<View> = OWNERS.iter().map(|_| View::default()).collect();
        views[founder].inside = true;
        views[founder].name = name.to_owned();
        Self {
            log: Vec::new(),
            epoch: 0,
            roster: BTreeSet::from([founder]),
            listed: BTreeMap::from([(OWNERS[founder], Role::Owner)]),
            pending: Vec::new(),
            revoked: BTreeSet::new(),
            keys: HashMap::new(),
            views,
            welcomes: Vec::new(),
            first: 1,
            last_add: 0,
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.log.len() as u64
    }

    fn listed(&self, user: User) -> Role {
        self.listed.get(&user).copied().unwrap_or(Role::Member)
    }

    /// Where nobody is listed as owner, the highest that are there count as owners.
    pub(super) fn role(&self, user: User) -> Role {
        let highest = self
            .roster
            .iter()
            .map(|&device| self.listed(OWNERS[device]))
            .max();
        if highest == Some(self.listed(user)) {
            Role::Owner
        } else {
            self.listed(user)
        }
    }

    /// Is it there, and not on its way out already?
    fn can_be_chosen(&self, device: Device) -> bool {
        self.roster.contains(&device) && !self.pending.contains(&device)
    }

    /// May it come in by itself? Devices of users who are members may, also one that was removed while it was away.
    fn lets_in(&self, device: Device) -> bool {
        self.roster.iter().any(|&member| OWNERS[member] == OWNERS[device])
    }

    /// May the service accept that?
    fn acceptable(&self, by: Device, epoch: u64, request: &Request) -> bool {
        let role = self.role(OWNERS[by]);
        let here = self.roster.contains(&by) && epoch == self.epoch;
        match request {
            // A removal that waits stops nobody who has not read it yet.
            Request::Message(..) => here && role >= Role::Member,
            Request::Leave => here && !self.pending.contains(&by),
            Request::External => epoch == self.epoch && self.lets_in(by),
            Request::Commit(change) => {
                let mut add = change.add.iter().filter(|device| !self.roster.contains(device));
                let mut remove = change.remove.iter().filter(|device| self.can_be_chosen(**device));
                let other = |device: &Device| OWNERS[*device] != OWNERS[by];
                here && !add.clone().any(|device| self.revoked.contains(device))
                    && (role >= Role::Moderator || !(add.any(other) || remove.any(other)))
                    && (role == Role::Owner || change.role.is_none())
            }
        }
    }

    /// Is what the service answered what it had to? Then the log goes on.
    pub(super) fn submit(
        &mut self,
        by: Device,
        epoch: u64,
        key: IdempotencyKey,
        request: &Request,
        answer: Result<u64, Reason>,
    ) -> Result<(), String> {
        if let Some(&first) = self.keys.get(&key)
            && first >= self.first
        {
            return expect("the first answer again", &answer, &Ok(first));
        }
        if !self.acceptable(by, epoch, request) {
            return answer
                .err()
                .map(drop)
                .ok_or(format!("{request:?} of {by} must be refused"));
        }
        if matches!(request, Request::Commit(_))
            && !self.pending.is_empty()
            && answer == Err(Reason::ProposalsMissing)
        {
            // It was built before the removal came.
            return Ok(());
        }
        let position = self.end() + 1;
        expect("accepted", &answer, &Ok(position))?;
        self.keys.insert(key, position);
        self.append(by, request);
        Ok(())
    }

    fn append(&mut self, by: Device, request: &Request) {
        let position = self.end() + 1;
        let entry = match request {
            Request::Message(text, naming) => Entry::Message {
                by,
                text: text.clone(),
                naming: naming.clone(),
                may_rename: self.role(OWNERS[by]) >= Role::Moderator,
            },
            Request::Leave => {
                self.pending.push(by);
                Entry::Removal(by)
            }
            Request::External => {
                // What was proposed dies with its epoch.
                self.pending.clear();
                self.roster.insert(by);
                self.epoch += 1;
                Entry::Commit { removed: Vec::new() }
            }
            Request::Commit(change) => self.commit(by, change, position),
        };
        self.log.push(entry);
    }

    fn commit(&mut self, by: Device, change: &Change, position: u64) -> Entry {
        let chosen: Vec<Device> = change
            .remove
            .iter()
            .copied()
            .filter(|&device| self.can_be_chosen(device))
            .collect();
        let pending = std::mem::take(&mut self.pending);
        let own = self.role(OWNERS[by]);
        let mut left = self.roster.clone();
        left.retain(|device| !pending.contains(device) && !chosen.contains(device));
        if own == Role::Owner {
            // Removed by somebody who may change roles: added again they begin anew.
            for user in chosen.iter().map(|&device| OWNERS[device]) {
                if !left.iter().any(|&device| OWNERS[device] == user) {
                    self.listed.remove(&user);
                }
            }
            if let Some((user, role)) = change.role {
                self.listed.insert(user, role);
            }
        }
        for &device in &change.add {
            if left.insert(device) && !self.roster.contains(&device) {
                self.welcomes.push((device, by, position));
                self.last_add = position;
            }
        }
        self.roster = left;
        self.epoch += 1;
        let removed = pending.into_iter().chain(chosen).collect();
        Entry::Commit { removed }
    }

    /// The service proposes the removal of a revoked device that is in the group, unless that waits already. Says whether it does.
    pub(super) fn propose_removals(&mut self) -> bool {
        let due: Vec<_> = self.roster.intersection(&self.revoked).copied().collect();
        let due: Vec<_> = due
            .into_iter()
            .filter(|device| !self.pending.contains(device))
            .collect();
        for &device in &due {
            self.pending.push(device);
            self.log.push(Entry::Removal(device));
        }
        !due.is_empty()
    }

    /// A device reads on, by at most so many entries.
    pub(super) fn read(&mut self, device: Device, count: u64) {
        let view = &mut self.views[device];
        if !view.inside || view.lost {
            return;
        }
        let end = self.log.len() as u64;
        if view.cursor < end && view.cursor + 1 < self.first {
            view.lost = true;
            return;
        }
        for position in view.cursor + 1..=end.min(view.cursor + count) {
            view.cursor = position;
            match &self.log[usize::try_from(position - 1).expect("a small log")] {
                Entry::Message {
                    by,
                    text,
                    naming,
                    may_rename,
                } => {
                    // What was sent once more, because nobody could say whether it had been accepted, is told once.
                    let new = text.clone().filter(|text| !view.has_seen(text));
                    view.seen.extend(new.map(|text| (position, text)));
                    if let Some(naming) = naming {
                        view.hear_name(naming, *by, *may_rename);
                    }
                }
                Entry::Removal(whom) => view.leaving |= *whom == device,
                Entry::Commit { removed } => {
                    // A wish that was not carried out is made again.
                    view.leaving = false;
                    if removed.contains(&device) {
                        view.inside = false;
                        return;
                    }
                }
            }
        }
    }

    /// A device takes its invitation up; one that is older than what it has read says nothing.
    pub(super) fn join(&mut self, device: Device, position: u64) {
        let found = self
            .welcomes
            .iter()
            .position(|welcome| welcome.0 == device && welcome.2 == position);
        let Some((_, by, _)) = found.map(|index| self.welcomes.remove(index)) else {
            return;
        };
        let view = &mut self.views[device];
        if view.inside && view.cursor >= position {
            return;
        }
        view.cursor = position;
        view.inside = true;
        view.lost = false;
        view.leaving = false;
        view.told_by = Some(by);
    }

    /// A device learns that its request was accepted.
    pub(super) fn answered(&mut self, device: Device, request: &Request, position: u64) {
        let view = &mut self.views[device];
        match request {
            Request::External => {
                view.cursor = position;
                view.inside = true;
                view.lost = false;
                // The name may be another one by now.
                view.told_by = Some(NOBODY);
            }
            // It will not read it.
            Request::Message(Some(text), _) if view.lost => view.sees_once(position, text),
            Request::Message(_, Some(naming)) if view.lost && naming.new => {
                view.name.clone_from(&naming.name);
            }
            _ => {}
        }
    }

    /// A device is told that it is no member any more.
    pub(super) fn denied(&mut self, device: Device) -> Result<(), String> {
        if self.lets_in(device) {
            return Err(format!("{device} may come in, and was told that it may not"));
        }
        self.views[device].inside = false;
        self.views[device].lost = false;
        Ok(())
    }

    /// Is a member in touch who should have committed a removal, and has not?
    pub(super) fn is_stalled(&self) -> bool {
        let can_commit = |device: &Device| {
            let view = &self.views[*device];
            view.inside && !view.lost && !self.revoked.contains(device) && !self.pending.contains(device)
        };
        !self.pending.is_empty() && self.roster.iter().any(can_commit)
    }

    /// Where a text stands in the log.
    pub(super) fn places(&self, text: &str) -> Vec<u64> {
        let has = |entry: &Entry| matches!(entry, Entry::Message { text: Some(it), .. } if it == text);
        (1..)
            .zip(&self.log)
            .filter(|(_, entry)| has(entry))
            .map(|(position, _)| position)
            .collect()
    }
}

impl View {
    fn has_seen(&self, text: &str) -> bool {
        self.seen.iter().any(|(_, seen)| seen == text)
    }

    fn sees_once(&mut self, position: u64, text: &str) {
        if !self.has_seen(text) {
            self.seen.push((position, text.to_owned()));
        }
    }

    fn hear_name(&mut self, naming: &Naming, by: Device, may_rename: bool) {
        let unknown = self.told_by.is_some() || self.name.is_empty();
        if naming.new || (unknown && (may_rename || self.told_by == Some(by))) {
            self.name.clone_from(&naming.name);
            self.told_by = None;
        }
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?} instead of {expected:?}"))
    }
}
