//! What every backend of [`OrderedLog`] must do. A backend's tests call [`all`] with a way to open an empty log and to open it again.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast::error::TryRecvError;
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, UserId, Uuid};

use super::{
    Append, Appended, CommitEffects, Created, EntryKind, InboxContent, NewGroup, News, Notice, OrderedLog,
    Refused, Snapshot, Window,
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
    proposals_must_be_seen(&*backend.log()).await;
    reading_is_bounded_and_ordered(&*backend.log()).await;
    windows_and_memberships(&*backend.log()).await;
    welcomes_and_notices(&*backend.log()).await;
    snapshots(&*backend.log()).await;
    news_come_after_the_fact(&*backend.log()).await;
    concurrent_appends_have_one_order(backend.log()).await;
    concurrent_commits_have_one_winner(backend.log()).await;
    survives_reopening(&mut backend).await;
}

fn device() -> DeviceId {
    DeviceId::from_uuid(Uuid::new_v4())
}

fn key() -> IdempotencyKey {
    IdempotencyKey::random(&mut rand::rng())
}

fn user(name: &str) -> UserId {
    format!("{name}@interieur.example").parse().unwrap()
}

async fn group(log: &dyn OrderedLog, creator: DeviceId) -> GroupId {
    let group = GroupId::random(&mut rand::rng());
    let new = new_group(group, creator);
    assert_eq!(log.create(new).await.unwrap(), Created::Yes);
    group
}

fn new_group(group: GroupId, creator: DeviceId) -> NewGroup {
    NewGroup {
        group,
        creator: (user("alice"), creator),
        key: key(),
        group_info: Bytes::from_static(b"epoch 0"),
        origin: EntryId::random(&mut rand::rng()),
        at: 1000,
    }
}

fn message(group: GroupId, sender: DeviceId, epoch: u64, text: &str) -> Append {
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
        commit: None,
    }
}

fn commit(group: GroupId, sender: DeviceId, epoch: u64) -> Append {
    let effects = CommitEffects {
        seen_proposal: Position::NONE,
        group_info: Bytes::from(format!("epoch {}", epoch + 1)),
        joined: Vec::new(),
        left: Vec::new(),
        welcome: None,
    };
    Append {
        kind: EntryKind::Commit,
        commit: Some(effects),
        ..message(group, sender, epoch, "commit")
    }
}

fn effects(append: &mut Append) -> &mut CommitEffects {
    append.commit.as_mut().unwrap()
}

async fn accept(log: &dyn OrderedLog, append: Append) -> Appended {
    log.append(append).await.unwrap().unwrap()
}

async fn refuse(log: &dyn OrderedLog, append: Append) -> Refused {
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
    effects(&mut seen).seen_proposal = Position(1);
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

async fn windows_and_memberships(log: &dyn OrderedLog) {
    let (alice, bob, other) = (device(), device(), device());
    let group = group(log, alice).await;
    let name = format!("bob-{}", bob.as_uuid().simple());
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = vec![(user(&name), bob)];
    accept(log, add).await;
    accept(log, message(group, alice, 1, "x")).await;
    let mut remove = commit(group, alice, 1);
    effects(&mut remove).left = vec![bob];
    let before = log.memberships(&user(&name), bob, None, 10).await.unwrap();
    assert!(before.len() == 1 && before[0].device_is_member && before[0].group == group);
    let of_other = log.memberships(&user(&name), other, None, 10).await.unwrap();
    assert!(of_other.len() == 1 && !of_other[0].device_is_member);
    accept(log, remove).await;
    assert!(
        log.memberships(&user(&name), bob, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    let first = Window {
        after: Position(1),
        until: Some(Position(3)),
    };
    assert_eq!(log.windows(group, bob).await.unwrap(), [first]);
    let mut again = commit(group, alice, 2);
    effects(&mut again).joined = vec![(user(&name), bob)];
    accept(log, again).await;
    let second = Window {
        after: Position(4),
        until: None,
    };
    assert_eq!(log.windows(group, bob).await.unwrap(), [first, second]);
    assert_eq!(log.windows(group, other).await.unwrap(), []);
    assert_eq!(
        log.windows(group, alice).await.unwrap(),
        [Window {
            after: Position(0),
            until: None
        }]
    );
    let last = log.memberships(&user(&name), bob, Some(group), 10).await.unwrap();
    assert!(last.is_empty(), "pages go on after a group");
}

async fn welcomes_and_notices(log: &dyn OrderedLog) {
    let (alice, bob, carol) = (device(), device(), device());
    let group = group(log, alice).await;
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = vec![(user("bob"), bob), (user("carol"), carol)];
    effects(&mut add).welcome = Some(Bytes::from_static(b"welcome"));
    let added = accept(log, add.clone()).await;
    accept(log, add).await;
    for joiner in [bob, carol] {
        let items = log.read_inbox(joiner, 0, 10).await.unwrap();
        assert_eq!(items.len(), 1, "a repeat hands over nothing");
        let expected = InboxContent::Welcome {
            welcome: Bytes::from_static(b"welcome"),
            group,
            epoch: Epoch(1),
            commit: (added.position, added.id),
        };
        assert_eq!((items[0].number, &items[0].content), (1, &expected));
    }
    let day = 24 * 3600 * 1000;
    let notice = |at| Notice {
        device: bob,
        deduplication_key: "low".to_owned(),
        cipher_suite: 1,
        one_time: 3,
        at,
    };
    log.notify(vec![notice(day), notice(day + 1)]).await.unwrap();
    assert_eq!(log.newest_inbox(bob).await.unwrap(), 2);
    assert_eq!(log.newest_inbox(alice).await.unwrap(), 0);
    log.acknowledge(bob, vec![(group, added.position)], 1)
        .await
        .unwrap();
    let items = log.read_inbox(bob, 0, 10).await.unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(
        items[0].content,
        InboxContent::LowStock {
            cipher_suite: 1,
            one_time: 3
        }
    );
    assert_eq!(
        log.read_inbox(carol, 0, 10).await.unwrap().len(),
        1,
        "the Welcome is kept for others"
    );
    log.acknowledge(bob, Vec::new(), 2).await.unwrap();
    log.notify(vec![notice(day + 2)]).await.unwrap();
    assert!(
        log.read_inbox(bob, 0, 10).await.unwrap().is_empty(),
        "known for a day, applied or not"
    );
    log.notify(vec![notice(3 * day)]).await.unwrap();
    assert_eq!(
        log.read_inbox(bob, 0, 10).await.unwrap()[0].number,
        3,
        "numbers are never used twice"
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
    assert_eq!(log.snapshots(group, Epoch(4), 1).await.unwrap(), [snapshot(3, 3)]);
    let all = log.snapshots(group, Epoch(9), 9).await.unwrap();
    let epochs: Vec<_> = all.iter().map(|snapshot| snapshot.epoch.0).collect();
    assert_eq!(
        epochs,
        [5, 3, 0, 0],
        "creations of one id are told apart by their anchor"
    );
}

async fn news_come_after_the_fact(log: &dyn OrderedLog) {
    let (alice, bob) = (device(), device());
    let group = group(log, alice).await;
    let mut news = log.news();
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = vec![(user("bob"), bob)];
    effects(&mut add).left = vec![alice];
    effects(&mut add).welcome = Some(Bytes::from_static(b"welcome"));
    accept(log, add.clone()).await;
    refuse(log, message(group, alice, 0, "refused")).await;
    accept(log, add).await;
    log.publish_ephemeral(group, Epoch(1), bob, Bytes::from_static(b"typing"));
    let mut seen = Vec::new();
    loop {
        match news.recv().await.unwrap() {
            News::Entry { entry, left } => {
                assert_eq!(&*left, [alice]);
                assert_eq!(*entry, *log.read(group, Position(0), 1, 100).await.unwrap()[0]);
                seen.push("entry");
            }
            News::Behind(behind) => assert_eq!(behind, group),
            News::Inbox(device) => {
                assert_eq!(device, bob);
                seen.push("inbox");
            }
            News::Ephemeral { .. } => break,
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["entry", "inbox"], "no news of refusals and repeats");
    assert_eq!(news.try_recv().unwrap_err(), TryRecvError::Empty);
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
