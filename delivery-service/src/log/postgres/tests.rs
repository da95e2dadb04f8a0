//! The archive on a real PostgreSQL.

mod keys;
mod leases;
mod marks;
mod offers;
mod retention;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use valise_local_stack::Postgres;
use valise_proto::{DeviceId, EntryId, Epoch, GroupId, IdempotencyKey, Position, Uuid};

use super::lease::{Lease, WriteError};
use super::write::{Part, Upkeep};
use super::{ArchivedGroup, PostgresArchive, Registration, migrate};
use crate::log::conformance::{device, key, user};
use crate::log::redis::HotRow;
use crate::log::{Entry, EntryKind, Window};

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
