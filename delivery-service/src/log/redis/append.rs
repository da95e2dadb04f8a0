//! Appends in batches: what queues up for a partition while others are under way is the next one.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use valise_proto::{Epoch, GroupId, Position};

use super::keys::{Keys, answer_field};
use super::partition::Partition;
use super::relay::Relay;
use super::scripts::{APPEND, CREATE, Store, text, unknown};
use super::value::{StreamId, damaged, decimal, string};
use super::wire::{HandOff, Reader, Record, kind_code, pack_group_info, pack_joined};
use crate::log::{
    Append, Appended, CommitEffects, Created, EntryKind, NewGroup, Refused, ServiceProposal, StoreError,
};

/// Entries after which no other one joins a batch. Those that come with a commit count.
const BATCH: usize = 64;
/// Bytes of entries after which no other one joins a batch.
const BATCH_BYTES: usize = 512 * 1024;
/// Batches of a partition that are under way: while the server writes one to its disk, the next one's entries are on their way.
const UNDER_WAY: usize = 2;

type Outcome = Result<Appended, Refused>;

struct Waiting {
    append: Append,
    answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Tasks that take from it.
    servers: usize,
    /// Appends that they have sent and that are not answered.
    under_way: usize,
}

impl Queue {
    /// Is what waits worth a batch? Beside another one, only if it is as large: many small ones cost more.
    fn is_worth_a_batch(&self) -> bool {
        !self.waiting.is_empty() && self.waiting.len() >= self.under_way
    }

    /// What callers have given up on was never sent: it takes no room, and holds up nobody. They repeat it if they need to.
    fn drop_abandoned(&mut self) {
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
    }

    /// Does what waits need one more task? The first one takes all that is there when it comes to it.
    fn needs_server(&self) -> bool {
        self.servers == 0 || (self.servers < UNDER_WAY && self.under_way > 0 && self.is_worth_a_batch())
    }

    /// The next batch: what waits longest, and is under way now.
    fn take_batch(&mut self) -> Vec<Waiting> {
        let mut batch = Vec::new();
        let (mut entries, mut size) = (0, 0);
        while entries < BATCH
            && size < BATCH_BYTES
            && let Some(waiting) = self.waiting.pop_front()
        {
            let proposals = proposals(&waiting.append);
            entries += 1 + proposals.len();
            size += waiting.append.bytes.len();
            size += proposals
                .iter()
                .map(|proposal| proposal.bytes.len())
                .sum::<usize>();
            batch.push(waiting);
        }
        self.under_way += batch.len();
        batch
    }
}

/// What comes with a commit.
fn proposals(append: &Append) -> &[ServiceProposal] {
    append
        .commit
        .as_ref()
        .map_or(&[], |effects| effects.proposals.as_slice())
}

/// Takes appends; of each partition so many batches are under way at once as [`UNDER_WAY`] says.
pub(super) struct Appender {
    store: Store,
    relay: Arc<Relay>,
    queues: Vec<Mutex<Queue>>,
    welcome_kept: Duration,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Appender {
    pub(super) fn new(
        store: Store,
        relay: Arc<Relay>,
        welcome_kept: Duration,
        stopping: CancellationToken,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            relay,
            queues: Partition::all().map(|_| Mutex::default()).collect(),
            welcome_kept,
            stopping,
            tasks,
        })
    }

    pub(super) async fn append(self: &Arc<Self>, append: Append) -> Result<Outcome, StoreError> {
        let stopped = || unknown(StoreError("the log is closed".to_owned()));
        effects(&append)?;
        let partition = Partition::of_group(&append.group);
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.queues[partition.index()].lock();
            if self.stopping.is_cancelled() {
                return Err(stopped());
            }
            queue.waiting.push_back(Waiting { append, answer });
            if queue.needs_server() {
                queue.servers += 1;
                let appender = Arc::clone(self);
                self.tasks.spawn(async move { appender.serve(partition).await });
            }
        }
        answered.await.map_err(|_| stopped())?
    }

    /// Tasks that serve a partition, entries that they have sent, and entries that wait.
    #[cfg(test)]
    pub(super) fn load(&self, partition: Partition) -> (usize, usize, usize) {
        let queue = self.queues[partition.index()].lock();
        (queue.servers, queue.under_way, queue.waiting.len())
    }

    /// Until nothing is left in a partition's queue, or what is left is another task's.
    async fn serve(&self, partition: Partition) {
        loop {
            // Requests that are here already come along: the larger a batch, the less each costs. Where there are none, this
            // takes no time.
            tokio::task::yield_now().await;
            let Some(batch) = self.next_batch(partition) else {
                return;
            };
            let sent = tokio::select! {
                () = self.stopping.cancelled() => {
                    // Whoever waits learns that nobody knows.
                    self.queues[partition.index()].lock().waiting.clear();
                    return;
                }
                sent = self.send(partition, &batch) => sent,
            };
            self.queues[partition.index()].lock().under_way -= batch.len();
            match sent {
                Ok(outcomes) => self.answer(partition, batch, outcomes),
                Err(error) => {
                    let StoreError(reason) = unknown(error);
                    for waiting in batch {
                        // The caller may have gone.
                        let _ = waiting.answer.send(Err(StoreError(reason.clone())));
                    }
                }
            }
        }
    }

    fn next_batch(&self, partition: Partition) -> Option<Vec<Waiting>> {
        let mut queue = self.queues[partition.index()].lock();
        queue.drop_abandoned();
        if !queue.is_worth_a_batch() {
            queue.servers -= 1;
            return None;
        }
        Some(queue.take_batch())
    }

    async fn send(
        &self,
        partition: Partition,
        batch: &[Waiting],
    ) -> Result<Vec<(Outcome, StreamId)>, StoreError> {
        let appends: Vec<&Append> = batch.iter().map(|waiting| &waiting.append).collect();
        append_batch(&self.store, partition, &appends, self.welcome_kept).await
    }

    fn answer(&self, partition: Partition, batch: Vec<Waiting>, outcomes: Vec<(Outcome, StreamId)>) {
        let mut unsure = false;
        for (waiting, (outcome, handed)) in batch.into_iter().zip(outcomes) {
            let append = waiting.append;
            if let (Ok(appended), Some(effects)) = (&outcome, append.commit)
                && !effects.joined.is_empty()
            {
                if appended.repeated {
                    unsure = true;
                } else {
                    let hand_off = HandOff {
                        group: append.group,
                        position: appended.position,
                        epoch: appended.epoch,
                        id: appended.id,
                        accepted_at: appended.at,
                        welcome: effects.welcome.is_some(),
                        joined: effects.joined,
                    };
                    self.relay.hand_over(partition, handed, Record::Joined(hand_off));
                }
            }
            // The caller may have gone.
            let _ = waiting.answer.send(Ok(outcome));
        }
        if unsure {
            // Perhaps it was this program that was not answered the first time.
            self.relay.look_at_once(partition);
        }
    }

    pub(super) async fn create(&self, new: NewGroup) -> Result<Created, StoreError> {
        let partition = Partition::of_group(&new.group);
        let keys = Keys::of(partition);
        let mut names = keys.numbering();
        names.extend([keys.out(), keys.channel()]);
        names.extend(keys.group(&new.group));
        let hand_off = HandOff {
            group: new.group,
            position: Position::NONE,
            epoch: Epoch(0),
            id: new.origin,
            accepted_at: new.at,
            welcome: false,
            joined: vec![new.creator],
        };
        let arguments = vec![
            new.group.to_vec(),
            new.key.to_vec(),
            new.origin.to_vec(),
            text(new.at),
            pack_group_info(hand_off.epoch, hand_off.position, &new.group_info),
            pack_joined(&hand_off.joined),
        ];
        let answer = self
            .store
            .run(partition, &CREATE, names, arguments)
            .await
            .map_err(unknown)?;
        let answer = string(answer)?;
        match answer.split_first() {
            Some((b'y', handed)) => {
                let handed = stream_id(handed)?;
                self.relay.hand_over(partition, handed, Record::Joined(hand_off));
                Ok(Created::Yes)
            }
            Some((b'r', _)) => {
                self.relay.look_at_once(partition);
                Ok(Created::Yes)
            }
            Some((b'e', _)) => Ok(Created::Exists),
            _ => Err(damaged("creation")),
        }
    }
}

pub(super) fn stream_id(bytes: &[u8]) -> Result<StreamId, StoreError> {
    let hyphen = bytes
        .iter()
        .position(|byte| *byte == b'-')
        .ok_or_else(|| damaged("id"))?;
    Ok((decimal(&bytes[..hyphen])?, decimal(&bytes[hyphen + 1..])?))
}

/// Appends a batch in one step. For each what became of it, and the number of its hand-off.
pub(super) async fn append_batch(
    store: &Store,
    partition: Partition,
    batch: &[&Append],
    welcome_kept: Duration,
) -> Result<Vec<(Outcome, StreamId)>, StoreError> {
    let keys = Keys::of(partition);
    let mut groups: Vec<GroupId> = Vec::new();
    let mut numbers: HashMap<GroupId, u16> = HashMap::new();
    for append in batch {
        numbers.entry(append.group).or_insert_with(|| {
            groups.push(append.group);
            groups.len() as u16
        });
    }
    let mut names = keys.numbering();
    names.extend([keys.out(), keys.channel()]);
    names.extend(groups.iter().flat_map(|group| keys.group(group)));
    let millis = u64::try_from(welcome_kept.as_millis()).unwrap_or(u64::MAX);
    let mut arguments = vec![text(millis), text(groups.len() as u64)];
    arguments.extend(groups.iter().map(GroupId::to_vec));

    let mut welcomes = 0;
    for append in batch {
        let effects = effects(append)?;
        let welcome = if effects.is_some_and(|effects| effects.welcome.is_some()) {
            welcomes += 1;
            names.push(keys.welcome(&append.group, append.id));
            welcomes
        } else {
            0
        };
        arguments.push(header(append, numbers[&append.group], welcome));
        arguments.push(append.bytes.to_vec());
        if let Some(effects) = effects {
            arguments.push(effects.group_info.to_vec());
            arguments.push(effects.welcome.as_deref().unwrap_or_default().to_vec());
            arguments.push(pack_joined(&effects.joined));
            let left = effects
                .left
                .iter()
                .flat_map(|device| *device.as_uuid().as_bytes());
            arguments.push(left.collect());
            arguments.push(pack_proposals(&effects.proposals));
        }
    }
    let reply = string(store.run(partition, &APPEND, names, arguments).await?)?;
    let mut reader = Reader(&reply);
    let outcomes = batch
        .iter()
        .map(|_| read_outcome(&mut reader))
        .collect::<Result<_, _>>()?;
    if reader.is_empty() {
        Ok(outcomes)
    } else {
        Err(damaged("answers"))
    }
}

/// A commit has effects, nothing else has.
fn effects(append: &Append) -> Result<Option<&CommitEffects>, StoreError> {
    match (append.kind, &append.commit) {
        (EntryKind::Commit, Some(effects)) => Ok(Some(effects)),
        (EntryKind::Proposal | EntryKind::Application, None) => Ok(None),
        _ => Err(StoreError(
            "an entry whose effects are not of its kind".to_owned(),
        )),
    }
}

fn header(append: &Append, group: u16, welcome: u16) -> Vec<u8> {
    // No position is newer than the greatest number.
    let seen = append.seen_proposal.map_or(u64::MAX, |seen| seen.0);
    let mut header = Vec::with_capacity(72);
    header.extend_from_slice(&group.to_be_bytes());
    header.extend_from_slice(&welcome.to_be_bytes());
    header.push(kind_code(append.kind));
    for number in [append.epoch.0, append.at, seen] {
        header.extend_from_slice(&number.to_be_bytes());
    }
    header.extend_from_slice(append.id.as_bytes());
    header.extend_from_slice(&answer_field(&append.key, append.sender));
    header
}

/// Of each its id, its key as a field among the group's answers, and its bytes.
fn pack_proposals(proposals: &[ServiceProposal]) -> Vec<u8> {
    let mut packed = Vec::new();
    for proposal in proposals {
        packed.extend_from_slice(proposal.id.as_bytes());
        packed.extend_from_slice(&answer_field(&proposal.key, None));
        packed.extend_from_slice(&(proposal.bytes.len() as u32).to_be_bytes());
        packed.extend_from_slice(&proposal.bytes);
    }
    packed
}

fn read_outcome(reader: &mut Reader<'_>) -> Result<(Outcome, StreamId), StoreError> {
    let status = reader.byte()?;
    let (first, second, at) = (reader.long()?, reader.long()?, reader.long()?);
    let id = reader.entry_id()?;
    let handed = (reader.long()?, reader.long()?);
    let outcome = match status {
        0 | 1 => Ok(Appended {
            position: Position(first),
            epoch: Epoch(second),
            at,
            id,
            repeated: status == 1,
        }),
        2 => Err(Refused::GroupNotFound),
        3 => Err(Refused::Frozen),
        4 => Err(Refused::EpochEnded {
            current: Epoch(first),
            winner: Position(second),
        }),
        5 => Err(Refused::EpochAhead {
            current: Epoch(first),
        }),
        6 => Err(Refused::ProposalUnseen {
            position: Position(first),
        }),
        7 => Err(Refused::Reset),
        _ => return Err(damaged("answer")),
    };
    Ok((outcome, handed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::conformance::{commit, device, effects, message, service_proposals};

    #[test]
    fn what_comes_with_a_commit_counts_for_its_batch() {
        let (group, alice) = (GroupId::from_bytes([7; 16]), device());
        let with = |count| {
            let mut back = commit(group, alice, 0);
            effects(&mut back).proposals = service_proposals(count);
            back
        };
        let mut large = with(1);
        effects(&mut large).proposals[0].bytes = vec![0; BATCH_BYTES].into();
        let small = message(group, alice, 0, "small");
        let mut queue = Queue::default();
        for append in [with(BATCH - 2), small.clone(), small.clone(), large, small] {
            let (answer, _) = oneshot::channel();
            queue.waiting.push_back(Waiting { append, answer });
        }
        let batches: Vec<_> = (0..3).map(|_| queue.take_batch().len()).collect();
        assert_eq!(batches, [2, 2, 1], "full of entries, full of bytes, the rest");
        assert_eq!(queue.under_way, 5);
    }
}
