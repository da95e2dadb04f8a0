//! What the service knows of a group: a fold of its log.
//!
//! [`GroupStates`] keeps, for each active group, the openmls [`PublicGroup`] of the newest epoch. It is a cache: lost or cold, it is loaded
//! from the newest usable snapshot and the commits and proposals after it. Nothing here is authority; the log is.
//!
//! A message is sent on the strength of an [`EpochView`] (epoch, roster and roles) alone: while that is in memory, no tree is touched, and
//! nothing waits for a commit that is being verified. Where it is not, the group is loaded, ratchet tree and all: that takes longer the
//! larger the group is.

mod fold;
mod group_info;
pub(crate) mod snapshot;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use openmls::prelude::PublicGroup;
use parking_lot::RwLock;
use tokio::sync::{Mutex, OwnedMutexGuard};
use valise_group_rules::{Authority, Roster};
use valise_proto::{Epoch, GroupId, Position, Reason, Refusal};

use crate::log::{Head, OrderedLog, Snapshot, StoreError};

pub(crate) use fold::{MlsCommit, Verified};
pub(crate) use group_info::{judge_group_info, read_group_info, retention_of};

/// Handshakes that are read at once while folding.
const FOLD_BATCH: usize = 64;
/// A snapshot is written after so many commits, even if none adds anybody.
const SNAPSHOT_INTERVAL: u64 = 64;
/// Snapshots that are tried before a group counts as unloadable.
const SNAPSHOT_TRIES: usize = 8;
/// What a group takes in the cache besides its members, in members.
pub(crate) const GROUP_WEIGHT: u32 = 8;

/// What sending needs to know of an epoch.
#[derive(Clone, Debug)]
pub(crate) struct EpochView {
    pub(crate) epoch: Epoch,
    pub(crate) roster: Arc<Roster>,
    pub(crate) authority: Arc<Authority>,
}

/// A proposal that waits for a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingProposal {
    pub(crate) position: Position,
    /// The leaf that it removes.
    pub(crate) removes: openmls::prelude::LeafNodeIndex,
    /// The service's own, and not a member's that leaves: that device is revoked.
    pub(crate) by_service: bool,
}

/// The public state of a group, folded up to and including [`GroupState::position`].
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) group: PublicGroup,
    pub(crate) position: Position,
    pub(crate) roster: Arc<Roster>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) pending: Vec<PendingProposal>,
    /// Commits folded since the newest snapshot.
    commits_since_snapshot: u64,
    adds_since_snapshot: bool,
    /// The tree of this epoch, once somebody has asked for it.
    tree: Option<Bytes>,
}

impl GroupState {
    /// At the beginning of an epoch.
    pub(crate) fn begin(group: PublicGroup, position: Position) -> Result<Self, StateError> {
        let roster = Roster::of(group.members(), None).map_err(|_| StateError::Damaged("roster"))?;
        let authority =
            Authority::of(group.group_context(), &roster).map_err(|_| StateError::Damaged("roles"))?;
        Ok(Self {
            group,
            position,
            roster: Arc::new(roster),
            authority: Arc::new(authority),
            pending: Vec::new(),
            commits_since_snapshot: 0,
            adds_since_snapshot: false,
            tree: None,
        })
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.group.group_context().epoch().as_u64())
    }

    fn view(&self) -> EpochView {
        EpochView {
            epoch: self.epoch(),
            roster: Arc::clone(&self.roster),
            authority: Arc::clone(&self.authority),
        }
    }

    /// The ratchet tree, TLS-encoded.
    pub(crate) fn tree(&mut self) -> Result<Bytes, StateError> {
        if let Some(tree) = &self.tree {
            return Ok(tree.clone());
        }
        let tree = snapshot::encode_tree(&self.group)?;
        self.tree = Some(tree.clone());
        Ok(tree)
    }
}

/// Why a group's state cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log and the snapshots do not fit together: an operator must look.
    #[error("group state: {0}")]
    Damaged(&'static str),
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Store(error) => error.into(),
            StateError::Damaged(what) => {
                tracing::error!(what, "a group's state cannot be rebuilt from its log");
                Reason::Internal.into()
            }
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "the log store did not answer");
        Reason::StoreUnavailable.into()
    }
}

/// One group's place in the cache.
#[derive(Default)]
pub(crate) struct Slot {
    state: Arc<Mutex<Option<GroupState>>>,
    view: RwLock<Option<EpochView>>,
    /// How many members the state has.
    members: AtomicU32,
    /// What is known here is of another log: it must not come back into the cache.
    forgotten: AtomicBool,
}

type Slots = Cache<GroupId, Arc<Slot>>;

/// The state of one group, held while a commit or proposal is verified and appended: those of one group go one after the other.
pub(crate) struct Held {
    pub(crate) guard: OwnedMutexGuard<Option<GroupState>>,
    slot: Arc<Slot>,
    group: GroupId,
    slots: Slots,
}

impl Held {
    /// The state, which is there from [`GroupStates::hold`] on until something fails half-way.
    pub(crate) fn state(&mut self) -> Result<&mut GroupState, StateError> {
        self.guard.as_mut().ok_or(StateError::Damaged("no state"))
    }

    /// Lets senders see the epoch reached.
    pub(crate) fn show(&self) {
        let view = self.guard.as_ref().map(GroupState::view);
        let members = view.as_ref().map_or(0, |view| view.roster.len());
        *self.slot.view.write() = view;
        weigh(&self.slots, self.group, &self.slot, members);
    }
}

/// Tells the cache how many members a group has now.
fn weigh(slots: &Slots, group: GroupId, slot: &Arc<Slot>, members: usize) {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    if slot.members.swap(members, Ordering::Relaxed) == members {
        return;
    }
    // The cache weighs what is put into it. A place that was lost to other groups is not taken back.
    if slots.get(&group).is_some_and(|kept| Arc::ptr_eq(&kept, slot)) {
        slots.insert(group, Arc::clone(slot));
        // Forgotten since it was looked up: then it goes again.
        if slot.forgotten.load(Ordering::SeqCst) {
            slots.invalidate(&group);
        }
    }
}

/// The states of all active groups.
pub(crate) struct GroupStates {
    log: Arc<dyn OrderedLog>,
    slots: Slots,
}

impl GroupStates {
    /// Keeps groups with so many members in all, each of them counted as [`GROUP_WEIGHT`] more.
    pub(crate) fn new(log: Arc<dyn OrderedLog>, cached_members: u64) -> Self {
        let weight = |_: &GroupId, slot: &Arc<Slot>| {
            let members = slot.members.load(Ordering::Relaxed);
            members.saturating_add(GROUP_WEIGHT)
        };
        let slots = Cache::builder()
            .max_capacity(cached_members)
            .weigher(weight)
            .time_to_idle(Duration::from_secs(3600))
            .build();
        Self { log, slots }
    }

    /// The epoch that is known here, loaded if none is. It may be behind the log where another replica appends; whoever appends learns it
    /// then, and asks for [`Self::refresh`].
    pub(crate) async fn view(&self, group: GroupId) -> Result<EpochView, Refusal> {
        let known = self.slots.get(&group).and_then(|slot| slot.view.read().clone());
        match known {
            Some(view) => Ok(view),
            None => self.refresh(group).await,
        }
    }

    /// The epoch that the log has now.
    pub(crate) async fn refresh(&self, group: GroupId) -> Result<EpochView, Refusal> {
        let mut held = self.hold(group).await?;
        Ok(held.state()?.view())
    }

    /// The group's state, folded up to the log's newest handshake.
    pub(crate) async fn hold(&self, group: GroupId) -> Result<Held, Refusal> {
        let mut held = self.lock(group).await?;
        self.catch_up(group, &mut held).await?;
        Ok(held)
    }

    /// The group's state as it is known here: the log may have more. Whoever appends on its strength learns that then.
    pub(crate) async fn hold_as_known(&self, group: GroupId) -> Result<Held, Refusal> {
        let mut held = self.lock(group).await?;
        if held.guard.is_none() {
            self.catch_up(group, &mut held).await?;
        }
        Ok(held)
    }

    async fn lock(&self, group: GroupId) -> Result<Held, Refusal> {
        let slot = match self.slots.get(&group) {
            Some(slot) => slot,
            // An unknown id must not take a place in the cache.
            None if self.log.head(group).await?.is_none() => return Err(Reason::GroupNotFound.into()),
            None => self.slots.get_with(group, Arc::default),
        };
        let guard = Arc::clone(&slot.state).lock_owned().await;
        Ok(Held {
            guard,
            slot,
            group,
            slots: self.slots.clone(),
        })
    }

    /// Folds what the log has more than the state, and says whether that was anything.
    pub(crate) async fn catch_up(&self, group: GroupId, held: &mut Held) -> Result<bool, Refusal> {
        let before = held.guard.as_ref().map(|state| state.position);
        // Taken out while it changes: a cancelled or failed fold leaves nothing half-done behind.
        let state = match held.guard.take() {
            Some(state) => state,
            None => {
                let head = self.log.head(group).await?.ok_or(Reason::GroupNotFound)?;
                self.load(group, &head, head.epoch).await?
            }
        };
        let state = self.fold_forward(group, state, None).await?;
        let moved = before != Some(state.position);
        *held.guard = Some(state);
        held.show();
        Ok(moved)
    }

    /// What is known of a group is of a log that was lost, or is no more: it is read anew.
    pub(crate) fn forget(&self, group: GroupId) {
        if let Some(slot) = self.slots.get(&group) {
            slot.forgotten.store(true, Ordering::SeqCst);
        }
        self.slots.invalidate(&group);
    }

    /// The state at a past or current epoch, apart from the cache.
    pub(crate) async fn at_epoch(&self, group: GroupId, epoch: Epoch) -> Result<GroupState, Refusal> {
        let head = self.log.head(group).await?.ok_or(Reason::GroupNotFound)?;
        let folded = async {
            let state = self.load(group, &head, epoch).await?;
            self.fold_forward(group, state, Some(epoch)).await
        };
        match folded.await {
            // Its snapshot may be gone, and an Add since the one before it cannot be replayed once the added key package has expired.
            Err(StateError::Damaged(what)) if epoch < head.epoch => {
                tracing::info!(%group, %epoch, what, "the state at a past epoch cannot be computed any more");
                Err(Refusal::new(Reason::EpochTooOld).with("current_epoch", head.epoch))
            }
            folded => Ok(folded?),
        }
    }

    /// The state at the log's end, apart from the cache: for what is tried out on it.
    pub(crate) async fn apart(&self, group: GroupId) -> Result<GroupState, Refusal> {
        let head = self.log.head(group).await?.ok_or(Reason::GroupNotFound)?;
        let state = self.load(group, &head, head.epoch).await?;
        Ok(self.fold_forward(group, state, None).await?)
    }

    async fn load(&self, group: GroupId, head: &Head, up_to: Epoch) -> Result<GroupState, StateError> {
        for snapshot in self
            .log
            .snapshots(group, head.origin, up_to, SNAPSHOT_TRIES)
            .await?
        {
            if self.belongs(group, &snapshot).await? {
                let position = snapshot.position;
                let public_group =
                    tokio::task::spawn_blocking(move || snapshot::decode(group, &snapshot.state))
                        .await
                        .map_err(|_| StateError::Damaged("snapshot"))??;
                return GroupState::begin(public_group, position);
            }
        }
        Err(StateError::Damaged("no snapshot"))
    }

    /// Is a snapshot of this history, and not of one that was lost? (Of epoch 0 the log gives only that of the group's creation.)
    async fn belongs(&self, group: GroupId, snapshot: &Snapshot) -> Result<bool, StateError> {
        if snapshot.position == Position::NONE {
            return Ok(true);
        }
        let before = Position(snapshot.position.0 - 1);
        let commit = self.log.handshakes(group, before, 1).await?;
        Ok(commit
            .first()
            .is_some_and(|entry| entry.position == snapshot.position && entry.id == snapshot.anchor))
    }

    /// Applies what the log has after the state, up to the beginning of an epoch or to the end.
    async fn fold_forward(
        &self,
        group: GroupId,
        mut state: GroupState,
        until: Option<Epoch>,
    ) -> Result<GroupState, StateError> {
        loop {
            if until.is_some_and(|until| state.epoch() >= until) {
                return Ok(state);
            }
            let entries = self.log.handshakes(group, state.position, FOLD_BATCH).await?;
            let all = entries.len() < FOLD_BATCH;
            if entries.is_empty() {
                return Ok(state);
            }
            state = tokio::task::spawn_blocking(move || {
                for entry in &entries {
                    if until.is_some_and(|until| state.epoch() >= until) {
                        break;
                    }
                    state.replay(entry)?;
                }
                Ok::<_, StateError>(state)
            })
            .await
            .map_err(|_| StateError::Damaged("fold"))??;
            if all {
                return Ok(state);
            }
        }
    }

    /// Writes a snapshot of a group that does not exist yet.
    pub(crate) async fn put_genesis(
        &self,
        group: GroupId,
        origin: valise_proto::EntryId,
        public_group: &PublicGroup,
    ) -> Result<(), Refusal> {
        let state = snapshot::encode(public_group)?;
        let snapshot = Snapshot {
            epoch: Epoch(0),
            position: Position::NONE,
            anchor: origin,
            state,
        };
        Ok(self.log.put_snapshot(group, snapshot).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::SqliteLog;

    fn states(folder: &tempfile::TempDir, cached_members: u64) -> GroupStates {
        let log = SqliteLog::open(&folder.path().join("delivery.db")).unwrap();
        GroupStates::new(Arc::new(log), cached_members)
    }

    /// Takes a place, as a group that is loaded does.
    fn load(states: &GroupStates, members: usize) -> (GroupId, Arc<Slot>) {
        let group = GroupId::random(&mut rand::rng());
        let slot = states.slots.get_with(group, Arc::default);
        weigh(&states.slots, group, &slot, members);
        (group, slot)
    }

    fn cached(states: &GroupStates) -> (u64, u64) {
        states.slots.run_pending_tasks();
        (states.slots.entry_count(), states.slots.weighted_size())
    }

    #[test]
    fn the_cache_is_bounded_by_the_members_of_its_groups() {
        let folder = tempfile::tempdir().unwrap();
        let states = states(&folder, 1000);
        let (first, slot) = load(&states, 92);
        for _ in 1..10 {
            load(&states, 92);
        }
        assert_eq!(cached(&states), (10, 1000));
        // It grows: others make room.
        assert!(states.slots.contains_key(&first));
        weigh(&states.slots, first, &slot, 492);
        let (groups, members) = cached(&states);
        assert!(groups < 10 && members <= 1000, "{groups} groups, {members}");
        // And shrinks.
        assert!(states.slots.contains_key(&first));
        weigh(&states.slots, first, &slot, 0);
        assert_eq!(cached(&states), (groups, members - 492));
    }

    #[test]
    fn what_was_forgotten_or_replaced_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let states = states(&folder, 1000);
        let (group, slot) = load(&states, 2);
        states.forget(group);
        weigh(&states.slots, group, &slot, 3);
        assert!(!states.slots.contains_key(&group));

        let other = states.slots.get_with(group, Arc::default);
        weigh(&states.slots, group, &slot, 4);
        let kept = states.slots.get(&group).unwrap();
        assert!(Arc::ptr_eq(&kept, &other));
    }
}
