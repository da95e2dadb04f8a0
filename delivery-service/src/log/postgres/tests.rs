//! The archive on a real PostgreSQL.

mod keys;
mod marks;
mod offers;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use valise_local_stack::Postgres;
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, Uuid};

use super::lease::{Lease, WriteError, fence};
use super::retention::Sweepable;
use super::trim::AgainAt;
use super::write::{Part, Upkeep};
use super::{ArchivedGroup, PostgresArchive, Registration, migrate};
use crate::log::conformance::{device, eventually, key, user};
use crate::log::redis::HotRow;
use crate::log::{Entry, EntryKind, Snapshot, Window};

const LONG: Duration = Duration::from_secs(3600);
const UPKEEP: Upkeep = Upkeep {
    hot_entries: 3,
    trim_at: 0,
    old_at: 88,
    sweep_at: 0,
};

struct Scene {
    _server: Postgres,
    archive: PostgresArchive,
    lease: Lease,
    group: GroupId,
}

impl Scene {
    /// A new database with one group, and a lease on its partition.
    async fn new() -> Self {
        let server = Postgres::start().await;
        let url = server.database("delivery").await.parse().unwrap();
        migrate(&url).await.unwrap();
        let archive = PostgresArchive::open(&url).await.unwrap();
        let held = archive.lease(Uuid::new_v4(), LONG).await.unwrap();
        let group = GroupId::random(&mut rand::rng());
        register(&archive, group).await;
        Self {
            _server: server,
            archive,
            lease: Lease {
                partition: 7,
                token: held[&7].token,
            },
            group,
        }
    }

    async fn known(&self) -> ArchivedGroup {
        self.archive.group(self.group).await.unwrap().unwrap()
    }

    async fn write(&self, rows: Vec<HotRow>) -> Result<(), WriteError> {
        let part = part(self.known().await, rows);
        self.archive.write(self.lease, &[part], None, UPKEEP).await
    }

    async fn positions(&self, after: u64, max_bytes: usize) -> Vec<u64> {
        let read = self
            .archive
            .read(self.group, Position(after), 100, max_bytes)
            .await;
        read.unwrap().iter().map(|entry| entry.position.0).collect()
    }

    async fn handshakes(&self, after: u64) -> Vec<u64> {
        let read = self.archive.handshakes(self.group, Position(after), 100).await;
        read.unwrap().iter().map(|entry| entry.position.0).collect()
    }
}

/// All other replicas count as gone.
async fn forget_archivers(archive: &PostgresArchive) {
    let forget = sqlx::query("DELETE FROM archivers");
    forget.execute(&archive.pool).await.unwrap();
}

async fn register(archive: &PostgresArchive, group: GroupId) {
    let registration = Registration {
        group,
        partition: 7,
        origin: EntryId::from_bytes([9; 8]),
        creation_key: Some(key()),
        creator: Some((user("alice"), device())),
        group_info: Some(Bytes::from_static(b"epoch 0")),
        at: 1000,
    };
    archive.register(&registration).await.unwrap();
    archive.register(&registration).await.unwrap();
}

fn part(group: ArchivedGroup, rows: Vec<HotRow>) -> Part {
    Part {
        group,
        rows,
        windows: Vec::new(),
        group_info: None,
    }
}

/// Ten bytes, accepted at the position's second.
fn row(group: GroupId, position: u64, kind: EntryKind, epoch: u64) -> HotRow {
    HotRow {
        entry: Arc::new(Entry {
            group,
            position: Position(position),
            kind,
            epoch: Epoch(epoch),
            accepted_at: position * 1000,
            id: EntryId::random(&mut rand::rng()),
            sender: Some(device()),
            bytes: Bytes::from(format!("entry {position:04}")),
        }),
        key: key(),
    }
}

fn message(group: GroupId, position: u64, epoch: u64) -> HotRow {
    row(group, position, EntryKind::Application, epoch)
}

fn commit(group: GroupId, position: u64, epoch: u64) -> HotRow {
    row(group, position, EntryKind::Commit, epoch)
}

/// Message, commit, proposal, commit, message.
fn five(group: GroupId) -> Vec<HotRow> {
    vec![
        message(group, 1, 0),
        commit(group, 2, 0),
        row(group, 3, EntryKind::Proposal, 1),
        commit(group, 4, 1),
        message(group, 5, 2),
    ]
}

#[tokio::test]
async fn what_was_archived_is_read() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    let rows = five(group);
    scene.write(rows.clone()).await.unwrap();

    let read = archive.read(group, Position(0), 9, 1000).await.unwrap();
    assert_eq!(
        read,
        rows.iter().map(|row| Arc::clone(&row.entry)).collect::<Vec<_>>()
    );
    assert_eq!(archive.read(group, Position(0), 2, 1000).await.unwrap().len(), 2);
    assert_eq!(scene.positions(1, 25).await, [2, 3], "10 bytes each");
    assert_eq!(scene.positions(4, 0).await, [5], "at least one");
    assert_eq!(scene.handshakes(0).await, [2, 3, 4]);
    assert_eq!(scene.handshakes(3).await, [4]);
    assert_eq!(archive.winner(group, Epoch(1)).await.unwrap(), Some(Position(4)));
    assert_eq!(archive.winner(group, Epoch(2)).await.unwrap(), None);

    for (row, epoch) in [(&rows[0], 0), (&rows[3], 2)] {
        let (key, sender) = (row.key, row.entry.sender);
        let first = archive.repeat(group, key, sender).await.unwrap().unwrap();
        assert_eq!((first.position, first.id), (row.entry.position, row.entry.id));
        assert_eq!((first.epoch, first.at), (Epoch(epoch), row.entry.accepted_at));
        assert!(first.repeated);
        assert_eq!(archive.repeat(group, key, None).await.unwrap(), None);
    }
    let known = scene.known().await;
    assert_eq!(known.head.position, Position(5));
    assert_eq!(known.head.epoch, Epoch(2));
    assert_eq!(known.head.commit_position, Position(4));
    assert_eq!(
        known.head.proposal_position,
        Position::NONE,
        "it died with its epoch"
    );
    assert_eq!((known.entry_id, known.accepted_at), (rows[4].entry.id, 5000));

    let elsewhere = GroupId::random(&mut rand::rng());
    assert_eq!(archive.group(elsewhere).await.unwrap(), None);
    assert!(
        archive
            .read(elsewhere, Position(0), 9, 9)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn nothing_is_archived_twice_or_out_of_order() {
    let scene = Scene::new().await;
    let group = scene.group;
    let before = scene.known().await;
    scene.write(five(group)).await.unwrap();
    // The same again, as of what is known no longer.
    let again = part(before, five(group));
    let outcome = scene.archive.write(scene.lease, &[again], Some(1), UPKEEP).await;
    assert!(matches!(outcome, Err(WriteError::Conflict)), "{outcome:?}");
    let elsewhere = part(before, vec![message(group, 9, 2)]);
    let outcome = scene
        .archive
        .write(scene.lease, &[elsewhere], Some(1), UPKEEP)
        .await;
    assert!(matches!(outcome, Err(WriteError::Stale)), "{outcome:?}");
    // A key, or an epoch, that was used.
    let used = scene.archive.read(group, Position(0), 1, 0).await.unwrap();
    let first = message(group, 6, 2);
    let mut second = message(group, 7, 2);
    second.key = first.key;
    Arc::make_mut(&mut second.entry).sender = first.entry.sender;
    for rows in [vec![first, second], vec![commit(group, 6, 1)]] {
        let outcome = scene.write(rows).await;
        assert!(matches!(outcome, Err(WriteError::Conflict)), "{outcome:?}");
    }
    assert_eq!(scene.positions(0, 1000).await, [1, 2, 3, 4, 5]);
    assert_eq!(scene.archive.read(group, Position(0), 1, 0).await.unwrap(), used);
    assert_eq!(scene.archive.archived_changes().await.unwrap()[7], 0);
}

#[tokio::test]
async fn keys_of_the_service_are_known_too() {
    let scene = Scene::new().await;
    let mut removal = row(scene.group, 1, EntryKind::Proposal, 0);
    Arc::make_mut(&mut removal.entry).sender = None;
    let key = removal.key;
    scene.write(vec![removal.clone()]).await.unwrap();
    let read = scene.archive.read(scene.group, Position(0), 1, 0).await.unwrap();
    assert_eq!(read, [Arc::clone(&removal.entry)]);
    let first = scene.archive.repeat(scene.group, key, None).await.unwrap();
    assert_eq!(first.unwrap().position, Position(1));
    assert_eq!(scene.known().await.head.proposal_position, Position(1));
}

#[tokio::test]
async fn a_stale_token_is_refused() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    // Another replica comes, and then says nothing more until it counts as gone.
    let (slow, quick) = (Uuid::new_v4(), Uuid::new_v4());
    forget_archivers(archive).await;
    let forgotten = archive.lease(slow, Duration::from_millis(1)).await.unwrap();
    assert!(!forgotten.is_empty(), "nobody else is there");
    let mine = async || archive.lease(quick, LONG).await.unwrap();
    let stale = *forgotten.keys().next().unwrap();
    let taken = eventually("a take-over", async || mine().await.get(&stale).copied()).await;
    assert!(taken.token > forgotten[&stale].token);

    let known = scene.known().await;
    let old = Lease {
        partition: stale,
        token: forgotten[&stale].token,
    };
    let rows = part(known, five(group));
    for change in [None, Some(3)] {
        let outcome = archive
            .write(old, std::slice::from_ref(&rows), change, UPKEEP)
            .await;
        assert!(matches!(outcome, Err(WriteError::Stale)), "{outcome:?}");
    }
    assert!(scene.positions(0, 1000).await.is_empty());
    assert_eq!(archive.archived_changes().await.unwrap()[usize::from(stale)], 0);
    let current = Lease {
        token: taken.token,
        ..old
    };
    archive.write(current, &[rows], Some(3), UPKEEP).await.unwrap();
    assert_eq!(scene.positions(0, 1000).await, [1, 2, 3, 4, 5]);
    assert_eq!(archive.archived_changes().await.unwrap()[usize::from(stale)], 3);
}

#[tokio::test]
async fn a_lease_stays_where_it_is_while_something_is_written_under_it() {
    let scene = Scene::new().await;
    let archive = &scene.archive;
    let mut writing = archive.pool.begin().await.unwrap();
    fence(&mut writing, scene.lease).await.unwrap();
    forget_archivers(archive).await;
    let other = Uuid::new_v4();
    let held = archive.lease(other, LONG).await.unwrap();
    assert_eq!((held.len(), held.contains_key(&7)), (1023, false), "all others");
    writing.commit().await.unwrap();
    let held = archive.lease(other, LONG).await.unwrap();
    assert!(held[&7].token > scene.lease.token);
    let outcome = scene.write(five(scene.group)).await;
    assert!(matches!(outcome, Err(WriteError::Stale)), "{outcome:?}");
}

#[tokio::test]
async fn partitions_are_shared_fairly_and_taken_over() {
    let scene = Scene::new().await;
    let archive = &scene.archive;
    let replicas = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    let none = archive.lease(replicas[0], LONG).await.unwrap();
    assert!(
        none.is_empty(),
        "the scene's replica has them all, and has not given any away"
    );
    let shares = async |replicas: &[Uuid]| {
        let mut shares = Vec::new();
        for replica in replicas {
            shares.push(archive.lease(*replica, LONG).await.unwrap());
        }
        shares
    };
    forget_archivers(archive).await;
    let held = eventually("fair shares", async || {
        let held = shares(&replicas).await;
        let counts: Vec<_> = held.iter().map(std::collections::BTreeMap::len).collect();
        (counts.iter().sum::<usize>() == 1024 && counts.iter().all(|count| (340..=342).contains(count)))
            .then_some(held)
    })
    .await;
    assert!(held[0].keys().all(|partition| !held[1].contains_key(partition)));
    // Leases stay where they are.
    assert_eq!(shares(&replicas).await, held);

    archive.release(replicas[2]).await.unwrap();
    let held = shares(&replicas[..2]).await;
    assert_eq!(
        held.iter().map(std::collections::BTreeMap::len).sum::<usize>(),
        1024
    );
}

#[tokio::test]
async fn windows_are_those_of_the_newest_archived_entry() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    let (bob, carol) = (device(), device());
    let window = |after: u64, until: Option<u64>| Window {
        after: Position(after),
        until: until.map(Position),
    };
    // What Redis says is newer than the rows.
    let windows = vec![
        (user("bob"), bob, vec![window(2, Some(4)), window(9, None)]),
        (user("carol"), carol, vec![window(8, None)]),
    ];
    let mut first = part(scene.known().await, five(group)[..3].to_vec());
    first.windows.clone_from(&windows);
    first.group_info = Some((Bytes::from_static(b"epoch 1"), Epoch(1), Position(2)));
    archive.write(scene.lease, &[first], None, UPKEEP).await.unwrap();
    assert_eq!(archive.windows(group, bob).await.unwrap(), [window(2, None)]);
    assert_eq!(archive.windows(group, carol).await.unwrap(), []);

    let mut second = part(scene.known().await, five(group)[3..].to_vec());
    second.windows = windows;
    archive.write(scene.lease, &[second], None, UPKEEP).await.unwrap();
    assert_eq!(archive.windows(group, bob).await.unwrap(), [window(2, Some(4))]);
    let all = archive.all_windows(group).await.unwrap();
    assert_eq!(all.len(), 2, "the creator's and bob's");
    assert_eq!(all[1], (user("bob"), bob, window(2, Some(4))));
    let info = archive.group_info(group).await.unwrap().unwrap();
    assert_eq!(info, (Bytes::from_static(b"epoch 1"), Epoch(1), Position(2)));
}

#[tokio::test]
async fn acknowledgements_never_go_back() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    let number = scene.known().await.number;
    let alice = archive.readers(number).await.unwrap()[0].device;
    let unknown = GroupId::random(&mut rand::rng());
    for (position, done) in [(3, 3), (2, 3), (5, 5)] {
        let acknowledged = [
            (group, alice, Position(position)),
            (unknown, alice, Position(9)),
            (group, device(), Position(9)),
        ];
        archive.acknowledge(&acknowledged).await.unwrap();
        let readers = archive.readers(number).await.unwrap();
        assert_eq!(readers.len(), 1, "only members count");
        assert_eq!(readers[0].done, Position(done));
    }
}

#[tokio::test]
async fn entries_are_kept_for_members_and_commits_for_their_epochs() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    scene.write(five(group)).await.unwrap();
    let commits: Vec<EntryId> = {
        let read = archive.handshakes(group, Position(0), 9).await.unwrap();
        read.iter().map(|entry| entry.id).collect()
    };
    let snapshot = |epoch: u64, position: u64, anchor: EntryId| Snapshot {
        epoch: Epoch(epoch),
        position: Position(position),
        anchor,
        state: Bytes::from_static(b"state"),
    };
    let lost = EntryId::from_bytes([1; 8]);
    for (epoch, position, anchor) in [
        (0, 0, EntryId::from_bytes([9; 8])),
        (1, 2, commits[0]),
        // Of a history that was lost.
        (2, 4, lost),
    ] {
        archive
            .put_snapshot(group, &snapshot(epoch, position, anchor))
            .await
            .unwrap();
    }
    let number = scene.known().await.number;
    assert_eq!(
        archive.usable_snapshot(number, Position(1)).await.unwrap(),
        Some(Position(0))
    );
    assert_eq!(
        archive.usable_snapshot(number, Position(5)).await.unwrap(),
        Some(Position(2))
    );

    let due = archive.sweepable(&[6, 7], 1, 9).await.unwrap();
    assert_eq!(
        (due.len(), due[0].group, due[0].archived),
        (1, group, Position(5))
    );
    let interval = Duration::from_secs(1);
    // All members have everything up to 4.
    let deletion = due[0].judge(Position(4), Some(Position(1)), Some(Position(2)), 100, interval);
    assert_eq!(
        (deletion.messages, deletion.handshakes),
        (Position(4), Position(2))
    );
    assert_eq!(archive.delete(scene.lease, &due[0], deletion).await.unwrap(), 1);
    assert_eq!(
        scene.positions(0, 1000).await,
        [5],
        "reading begins with the first that is kept"
    );
    assert_eq!(
        scene.handshakes(0).await,
        [2, 3, 4],
        "the snapshot's commit is kept"
    );
    assert_eq!(
        archive
            .snapshots(group, EntryId::from_bytes([9; 8]), Epoch(9), 9)
            .await
            .unwrap()
            .len(),
        2,
        "the oldest has gone"
    );
    assert!(
        archive.sweepable(&[7], 1000, 9).await.unwrap().is_empty(),
        "but for the newest entry"
    );

    let stale = Lease {
        token: scene.lease.token - 1,
        ..scene.lease
    };
    let outcome = archive.delete(stale, &due[0], deletion).await;
    assert!(matches!(outcome, Err(WriteError::Stale)), "{outcome:?}");
}

#[test]
fn what_may_go_is_the_least_that_is_needed() {
    let interval = Duration::from_secs(10);
    let group = Sweepable {
        group: GroupId::from_bytes([1; 16]),
        number: 1,
        partition: 7,
        archived: Position(100),
        deleted: Position(20),
    };
    let judge = |group: &Sweepable, floor, kept_from: Option<u64>, snapshot: Option<u64>| {
        let kept_from = kept_from.map(Position);
        let deletion = group.judge(Position(floor), kept_from, snapshot.map(Position), 5, interval);
        (deletion.messages.0, deletion.handshakes.0, deletion.again_at)
    };
    // Acknowledged up to 50; from 31 on younger than the retention time.
    assert_eq!(judge(&group, 50, Some(31), Some(40)), (50, 40, 10_005));
    // Old, whoever has not acknowledged it.
    assert_eq!(judge(&group, 25, Some(61), Some(22)), (60, 22, 10_005));
    // Everything is old: the newest stays.
    assert_eq!(judge(&group, 0, None, Some(0)), (99, 0, 10_005));
    assert_eq!(judge(&group, 500, None, None), (99, 0, 10_005));
    // Nothing more.
    assert_eq!(judge(&group, 10, Some(1), Some(0)), (20, 0, 10_005));
    // A part at a time, and the rest at once.
    let long = Sweepable {
        archived: Position(50_000),
        ..group
    };
    assert_eq!(judge(&long, 40_000, None, Some(39_000)), (10_020, 10_021, 5));
}

#[tokio::test]
async fn groups_are_trimmed_when_their_time_has_come() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    scene.write(five(group)[..3].to_vec()).await.unwrap();
    assert!(
        archive.trimmable(&[7], 87, 9).await.unwrap().is_empty(),
        "no more than stay"
    );
    assert_eq!(
        archive.trimmable(&[7], 88, 9).await.unwrap().len(),
        1,
        "until they are old"
    );
    scene.write(five(group)[3..].to_vec()).await.unwrap();
    let due = archive.trimmable(&[7], 9, 9).await.unwrap();
    assert_eq!(
        (due[0].group, due[0].archived, due[0].trimmed),
        (group, Position(5), Position(0))
    );
    let number = due[0].number;
    let younger = async |after, than| {
        archive
            .first_younger(number, Position(after), than)
            .await
            .unwrap()
    };
    assert_eq!(younger(0, 2000).await, Some((Position(3), 3000)));
    assert_eq!(younger(4, 0).await, Some((Position(5), 5000)));
    assert_eq!(younger(0, 5000).await, None);
    let again_at = AgainAt {
        too_many: 77,
        old: 99,
    };
    archive.trimmed(number, Position(1), 3, again_at).await.unwrap();
    assert!(archive.trimmable(&[7], 76, 9).await.unwrap().is_empty());
    assert_eq!(
        archive.trimmable(&[7], 77, 9).await.unwrap()[0].trimmed,
        Position(1)
    );
    archive.trimmed(number, Position(2), 3, again_at).await.unwrap();
    assert!(
        archive.trimmable(&[7], 98, 9).await.unwrap().is_empty(),
        "3 are left"
    );
    assert_eq!(
        archive.trimmable(&[7], 99, 9).await.unwrap().len(),
        1,
        "and old by now"
    );
    archive.trimmed(number, Position(4), 3, again_at).await.unwrap();
    assert!(
        archive
            .trimmable(&[7], u64::MAX >> 1, 9)
            .await
            .unwrap()
            .is_empty(),
        "one is left"
    );
}

#[tokio::test]
async fn a_regression_is_said_once_and_only_of_what_is_current() {
    let scene = Scene::new().await;
    let old = scene.known().await;
    scene.write(five(scene.group)).await.unwrap();
    let archive = &scene.archive;
    assert!(
        !archive.mark_regressed(&old).await.unwrap(),
        "it was archived further"
    );
    let current = scene.known().await;
    assert!(archive.mark_regressed(&current).await.unwrap());
    assert!(!archive.mark_regressed(&current).await.unwrap());
    assert!(scene.known().await.head.frozen);
    let marks = archive.marks().await.unwrap();
    assert!(marks.len() == 1 && marks[0].0 == scene.group && marks[0].1.regressed);
    // Nothing is archived of it.
    let outcome = scene.write(vec![message(scene.group, 6, 2)]).await;
    assert!(matches!(outcome, Err(WriteError::Stale)), "{outcome:?}");
    archive.mark_repaired(&current).await.unwrap();
    let marks = archive.marks().await.unwrap();
    assert_eq!((marks[0].1.regressed, marks[0].1.repairs), (false, 1));
    assert_eq!(scene.known().await.trimmed, Position(5));
}

#[tokio::test]
async fn another_groups_registration_does_not_take_its_place() {
    let scene = Scene::new().await;
    let before = scene.known().await;
    let registration = Registration {
        group: scene.group,
        partition: 7,
        origin: EntryId::from_bytes([5; 8]),
        creation_key: Some(IdempotencyKey::from_bytes([5; 16])),
        creator: Some((user("mallory"), DeviceId::from_uuid(Uuid::new_v4()))),
        group_info: None,
        at: 1,
    };
    scene.archive.register(&registration).await.unwrap();
    assert_eq!(scene.known().await, before);
    assert_eq!(scene.archive.readers(before.number).await.unwrap().len(), 1);
}
