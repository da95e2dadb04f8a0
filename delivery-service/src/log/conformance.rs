//! What every backend of [`OrderedLog`] must do. A backend's tests call [`all`] with a way to open an empty log and to open it again.
//!
//! What one group's log hands to others (inboxes, users' lists) and news may come a moment later: it is awaited, with a deadline.

mod members;
mod news;
mod proposals;
mod reports;
mod resets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, UserId, Uuid};

use super::{
    Append, Appended, CommitEffects, Created, EntryKind, InboxItem, NewGroup, OrderedLog, Refused,
    ServiceProposal, Snapshot,
};

/// A backend under test, empty at first.
#[async_trait::async_trait]
pub(crate) trait Backend: Send {
    fn log(&self) -> Arc<dyn OrderedLog>;
    /// Closes and opens again: what was answered is still there.
    async fn reopen(&mut self);
}

pub(crate) async fn all(mut backend: impl Backend) {
    creation(&*backend.log()).await;
    positions_epochs_and_conflicts(&*backend.log()).await;
    repeats(&*backend.log()).await;
    keys_are_each_senders_own(&*backend.log()).await;
    refused_keys_are_free(&*backend.log()).await;
    acceptance_never_goes_back(&*backend.log()).await;
    proposals_must_be_seen(&*backend.log()).await;
    the_service_proposes_on_what_it_has_seen(&*backend.log()).await;
    proposals::proposals_come_with_a_commit(&*backend.log()).await;
    proposals::a_commit_that_is_refused_brings_none(&*backend.log()).await;
    reading_is_bounded_and_ordered(&*backend.log()).await;
    members::windows_and_memberships(&*backend.log()).await;
    members::standings_are_what_is_known_of_each_group(&*backend.log()).await;
    members::memberships_come_in_pages(&*backend.log()).await;
    members::a_device_that_rejoins_has_two_windows(&*backend.log()).await;
    members::welcomes_and_notices(&*backend.log()).await;
    snapshots(&*backend.log()).await;
    resets::a_reset_ends_a_group_and_tells_its_members_once(&*backend.log()).await;
    resets::a_reset_and_appends_have_one_order(backend.log()).await;
    resets::resets_survive_reopening(&mut backend).await;
    reports::reports_are_kept_once_each(&*backend.log()).await;
    news::news_come_after_the_fact(&*backend.log()).await;
    news::large_entries_are_news(&*backend.log()).await;
    concurrent_appends_have_one_order(backend.log()).await;
    concurrent_commits_have_one_winner(backend.log()).await;
    survives_reopening(&mut backend).await;
}

/// How long anything may take that comes a moment later.
const DEADLINE: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What is in an inbox, once there are so many items.
pub(crate) async fn inbox_of(log: &dyn OrderedLog, device: DeviceId, count: usize) -> Vec<InboxItem> {
    eventually("items of an inbox", async || {
        let items = log.read_inbox(device, 0, 10).await.unwrap();
        (items.len() == count).then_some(items)
    })
    .await
}

pub(crate) fn device() -> DeviceId {
    DeviceId::from_uuid(Uuid::new_v4())
}

pub(crate) fn key() -> IdempotencyKey {
    IdempotencyKey::random(&mut rand::rng())
}

pub(crate) fn user(name: &str) -> UserId {
    format!("{name}@interieur.example").parse().unwrap()
}

pub(crate) async fn group(log: &dyn OrderedLog, creator: DeviceId) -> GroupId {
    let group = GroupId::random(&mut rand::rng());
    let new = new_group(group, creator);
    assert_eq!(log.create(new).await.unwrap(), Created::Yes);
    group
}

pub(crate) fn new_group(group: GroupId, creator: DeviceId) -> NewGroup {
    NewGroup {
        group,
        creator: (user("alice"), creator),
        key: key(),
        group_info: Bytes::from_static(b"epoch 0"),
        origin: EntryId::random(&mut rand::rng()),
        at: 1000,
    }
}

pub(crate) fn message(group: GroupId, sender: DeviceId, epoch: u64, text: &str) -> Append {
    Append {
        group,
        key: key(),
        kind: EntryKind::Application,
        epoch: Epoch(epoch),
        id: EntryId::random(&mut rand::rng()),
        sender: Some(sender),
        bytes: Bytes::copy_from_slice(text.as_bytes()),
        at: 2000,
        may_be_repeat: false,
        seen_proposal: None,
        commit: None,
    }
}

pub(crate) fn commit(group: GroupId, sender: DeviceId, epoch: u64) -> Append {
    let effects = CommitEffects {
        group_info: Bytes::from(format!("epoch {}", epoch + 1)),
        joined: Vec::new(),
        left: Vec::new(),
        welcome: None,
        proposals: Vec::new(),
    };
    Append {
        kind: EntryKind::Commit,
        seen_proposal: Some(Position::NONE),
        commit: Some(effects),
        ..message(group, sender, epoch, "commit")
    }
}

/// So many of the service's, to come with a commit.
pub(crate) fn service_proposals(count: usize) -> Vec<ServiceProposal> {
    let proposal = |number| ServiceProposal {
        key: key(),
        id: EntryId::random(&mut rand::rng()),
        bytes: Bytes::from(format!("proposal {number}")),
    };
    (0..count).map(proposal).collect()
}

pub(crate) fn effects(append: &mut Append) -> &mut CommitEffects {
    append.commit.as_mut().unwrap()
}

pub(crate) async fn accept(log: &dyn OrderedLog, append: Append) -> Appended {
    log.append(append).await.unwrap().unwrap()
}

pub(crate) async fn refuse(log: &dyn OrderedLog, append: Append) -> Refused {
    log.append(append).await.unwrap().unwrap_err()
}

async fn creation(log: &dyn OrderedLog) {
    let new = new_group(GroupId::random(&mut rand::rng()), device());
    assert_eq!(log.head(new.group).await.unwrap(), None);
    assert_eq!(
        refuse(log, message(new.group, device(), 0, "x")).await,
        Refused::GroupNotFound
    );
    assert_eq!(log.create(new.clone()).await.unwrap(), Created::Yes);
    assert_eq!(log.create(new.clone()).await.unwrap(), Created::Yes, "a repeat");
    let other = NewGroup {
        key: key(),
        ..new.clone()
    };
    assert_eq!(log.create(other).await.unwrap(), Created::Exists);
    let head = log.head(new.group).await.unwrap().unwrap();
    assert_eq!(
        (head.epoch, head.position, head.origin),
        (Epoch(0), Position::NONE, new.origin)
    );
    let info = log.group_info(new.group).await.unwrap().unwrap();
    assert_eq!(info, (new.group_info, Epoch(0), Position::NONE));
}

async fn positions_epochs_and_conflicts(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    assert_eq!(
        accept(log, message(group, alice, 0, "a")).await.position,
        Position(1)
    );
    let first = accept(log, commit(group, alice, 0)).await;
    assert_eq!((first.position, first.epoch), (Position(2), Epoch(1)));
    let ended = Refused::EpochEnded {
        current: Epoch(1),
        winner: Position(2),
    };
    assert_eq!(refuse(log, commit(group, alice, 0)).await, ended);
    assert_eq!(refuse(log, message(group, alice, 0, "late")).await, ended);
    assert_eq!(
        refuse(log, message(group, alice, 2, "early")).await,
        Refused::EpochAhead { current: Epoch(1) }
    );
    accept(log, commit(group, alice, 1)).await;
    let ended = Refused::EpochEnded {
        current: Epoch(2),
        winner: Position(2),
    };
    assert_eq!(
        refuse(log, commit(group, alice, 0)).await,
        ended,
        "the winner is the one of that epoch"
    );
    assert_eq!(log.winner(group, Epoch(1)).await.unwrap(), Some(Position(3)));
    assert_eq!(log.winner(group, Epoch(2)).await.unwrap(), None);
    let head = log.head(group).await.unwrap().unwrap();
    assert_eq!(
        (head.position, head.epoch, head.commit_position),
        (Position(3), Epoch(2), Position(3))
    );
    let info = log.group_info(group).await.unwrap().unwrap();
    assert_eq!(info, (Bytes::from_static(b"epoch 2"), Epoch(2), Position(3)));
}

async fn repeats(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    let append = message(group, alice, 0, "once");
    let first = accept(log, append.clone()).await;
    accept(log, commit(group, alice, 0)).await;
    let again = Append {
        id: EntryId::random(&mut rand::rng()),
        at: 9000,
        ..append.clone()
    };
    let second = accept(log, again).await;
    assert_eq!(
        (second.position, second.id, second.at),
        (first.position, first.id, first.at)
    );
    assert!(second.repeated && !first.repeated);
    assert_eq!(
        log.repeat(group, append.key, Some(alice))
            .await
            .unwrap()
            .unwrap()
            .position,
        first.position
    );
    assert_eq!(
        log.repeat(group, append.key, Some(device())).await.unwrap(),
        None,
        "another's key"
    );
    assert_eq!(log.repeat(group, key(), Some(alice)).await.unwrap(), None);
    assert_eq!(log.head(group).await.unwrap().unwrap().position, Position(2));
}

async fn keys_are_each_senders_own(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    let first = message(group, alice, 0, "hers");
    let others = Append {
        key: first.key,
        ..message(group, device(), 0, "his")
    };
    let service = Append {
        key: first.key,
        sender: None,
        ..message(group, alice, 0, "the service's")
    };
    for (append, position) in [(first, 1), (others, 2), (service, 3)] {
        let accepted = accept(log, append.clone()).await;
        let again = accept(log, append).await;
        assert_eq!(
            (accepted.position, again.position),
            (Position(position), Position(position))
        );
        assert!(again.repeated && !accepted.repeated);
    }
    assert_eq!(log.head(group).await.unwrap().unwrap().position, Position(3));
}

async fn refused_keys_are_free(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    let early = message(group, alice, 1, "early");
    assert_eq!(
        refuse(log, early.clone()).await,
        Refused::EpochAhead { current: Epoch(0) }
    );
    accept(log, commit(group, alice, 0)).await;
    let accepted = accept(log, early).await;
    assert!(!accepted.repeated);
    assert_eq!((accepted.position, accepted.epoch), (Position(2), Epoch(1)));
}

async fn acceptance_never_goes_back(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    for (at, accepted_at) in [(5000, 5000), (4000, 5000), (6000, 6000)] {
        let append = Append {
            at,
            ..message(group, alice, 0, "now")
        };
        assert_eq!(accept(log, append).await.at, accepted_at);
    }
    let entries = log.read(group, Position::NONE, 10, 1000).await.unwrap();
    let times: Vec<_> = entries.iter().map(|entry| entry.accepted_at).collect();
    assert_eq!(times, [5000, 5000, 6000]);
}

async fn the_service_proposes_on_what_it_has_seen(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    let by = |sender, seen_proposal| Append {
        kind: EntryKind::Proposal,
        sender,
        seen_proposal,
        ..message(group, alice, 0, "proposal")
    };
    let seen = |position| by(None, Some(Position(position)));
    let first = seen(0);
    accept(log, first.clone()).await;
    let position = Position(1);
    assert_eq!(refuse(log, seen(0)).await, Refused::ProposalUnseen { position });
    assert_eq!(accept(log, first).await.position, position, "a repeat is one");
    // A member's needs to know of no other.
    accept(log, by(Some(alice), None)).await;
    let position = Position(2);
    assert_eq!(refuse(log, seen(1)).await, Refused::ProposalUnseen { position });
    assert_eq!(accept(log, seen(2)).await.position, Position(3));
    accept(log, message(group, alice, 0, "messages go on")).await;
}

async fn proposals_must_be_seen(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    let proposal = Append {
        kind: EntryKind::Proposal,
        ..message(group, alice, 0, "proposal")
    };
    let proposal = accept(log, proposal).await;
    assert_eq!(proposal.epoch, Epoch(0));
    let unseen = Refused::ProposalUnseen {
        position: Position(1),
    };
    assert_eq!(refuse(log, commit(group, alice, 0)).await, unseen);
    let mut seen = commit(group, alice, 0);
    seen.seen_proposal = Some(Position(1));
    accept(log, seen).await;
    accept(log, commit(group, alice, 1)).await;
    let handshakes = log.handshakes(group, Position::NONE, 10).await.unwrap();
    let kinds: Vec<_> = handshakes
        .iter()
        .map(|entry| (entry.position.0, entry.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            (1, EntryKind::Proposal),
            (2, EntryKind::Commit),
            (3, EntryKind::Commit)
        ]
    );
    assert_eq!(
        log.handshakes(group, Position(1), 1).await.unwrap()[0].position,
        Position(2)
    );
}

async fn reading_is_bounded_and_ordered(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    for number in 1..=10 {
        accept(log, message(group, alice, 0, &format!("message {number:02}"))).await;
    }
    let positions = |entries: Vec<Arc<super::Entry>>| -> Vec<u64> {
        entries.iter().map(|entry| entry.position.0).collect()
    };
    let read = |after, entries, bytes| log.read(group, Position(after), entries, bytes);
    assert_eq!(positions(read(0, 3, 1000).await.unwrap()), [1, 2, 3]);
    assert_eq!(positions(read(8, 9, 1000).await.unwrap()), [9, 10]);
    assert_eq!(positions(read(0, 9, 25).await.unwrap()), [1, 2], "10 bytes each");
    assert_eq!(positions(read(0, 9, 0).await.unwrap()), [1], "at least one");
    assert!(read(10, 9, 1000).await.unwrap().is_empty());
    let entry = &read(4, 1, 1000).await.unwrap()[0];
    assert_eq!(
        (entry.bytes.as_ref(), entry.sender, entry.group),
        (b"message 05".as_ref(), Some(alice), group)
    );
    assert!(
        log.read(GroupId::random(&mut rand::rng()), Position(0), 1, 1)
            .await
            .unwrap()
            .is_empty()
    );
}

async fn snapshots(log: &dyn OrderedLog) {
    let group = GroupId::random(&mut rand::rng());
    let snapshot = |epoch: u64, anchor: u8| Snapshot {
        epoch: Epoch(epoch),
        position: Position(epoch * 2),
        anchor: EntryId::from_bytes([anchor; 8]),
        state: Bytes::from(format!("state {epoch}")),
    };
    for (epoch, anchor) in [(0, 1), (0, 2), (3, 3), (5, 5)] {
        log.put_snapshot(group, snapshot(epoch, anchor)).await.unwrap();
        log.put_snapshot(group, snapshot(epoch, anchor)).await.unwrap();
    }
    let up_to = async |epoch, max| {
        let origin = EntryId::from_bytes([1; 8]);
        log.snapshots(group, origin, Epoch(epoch), max).await.unwrap()
    };
    assert_eq!(up_to(4, 1).await, [snapshot(3, 3)]);
    assert_eq!(
        up_to(9, 9).await,
        [snapshot(5, 5), snapshot(3, 3), snapshot(0, 1)],
        "creations of one id are told apart by their origin"
    );
    assert_eq!(up_to(0, 1).await, [snapshot(0, 1)], "whichever was tried first");
}

async fn concurrent_appends_have_one_order(log: Arc<dyn OrderedLog>) {
    let alice = device();
    let group = group(&*log, alice).await;
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                accept(&*log, message(group, alice, 0, &number.to_string()))
                    .await
                    .position
                    .0
            })
        })
        .collect();
    let mut positions = Vec::new();
    for task in tasks {
        positions.push(task.await.unwrap());
    }
    positions.sort_unstable();
    assert_eq!(positions, (1..=200).collect::<Vec<_>>());
    assert_eq!(
        log.read(group, Position::NONE, 1000, 1 << 20)
            .await
            .unwrap()
            .len(),
        200
    );
}

async fn concurrent_commits_have_one_winner(log: Arc<dyn OrderedLog>) {
    let alice = device();
    let group = group(&*log, alice).await;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.append(commit(group, alice, 0)).await.unwrap() })
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => winners += 1,
            Err(refused) => assert_eq!(
                refused,
                Refused::EpochEnded {
                    current: Epoch(1),
                    winner: Position(1)
                }
            ),
        }
    }
    assert_eq!(winners, 1);
}

async fn survives_reopening(backend: &mut impl Backend) {
    let alice = device();
    let log = backend.log();
    let group = group(&*log, alice).await;
    let append = message(group, alice, 0, "kept");
    let first = accept(&*log, append.clone()).await;
    drop(log);
    backend.reopen().await;
    let log = backend.log();
    let again = accept(&*log, append).await;
    assert_eq!((again.position, again.id), (first.position, first.id));
    assert_eq!(
        accept(&*log, message(group, alice, 0, "next")).await.position,
        Position(2)
    );
}
