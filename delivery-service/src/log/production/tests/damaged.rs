//! An archived entry that is damaged in Redis.

use valise_proto::{Epoch, GroupId, Position};

use super::{Replica, Servers, damage, positions, read_all, settings};
use crate::log::archiver::Archiver;
use crate::log::conformance::{accept, commit, device, group, message, refuse};
use crate::log::offers::Restoration;
use crate::log::postgres::trim::AgainAt;
use crate::log::redis::partition::Partition;
use crate::log::{Append, OrderedLog, Refused};

/// An archiver that has all partitions and goes round when it is told to.
async fn archiver(replica: &Replica) -> Archiver {
    let archiver = replica.archiver(|_, _| false);
    archiver.renew().await.unwrap();
    archiver
}

/// Is it frozen, and up to where is it archived?
async fn archived(replica: &Replica, group: GroupId) -> (bool, Position) {
    let head = replica.log.archive.group(group).await.unwrap().unwrap().head;
    (head.frozen, head.position)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_group_is_read_from_the_archive_and_is_frozen_until_it_is_repaired() {
    let servers = Servers::start().await;
    let replica = servers.replica(&settings()).await;
    let archiver = archiver(&replica).await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    for number in 1..=4 {
        accept(log, message(group, alice, 0, &number.to_string())).await;
    }
    let fifth = commit(group, alice, 0);
    accept(log, fifth.clone()).await;
    accept(log, message(group, alice, 1, "6")).await;
    archiver.round().await.unwrap();
    assert_eq!(log.hot.floor(group).await.unwrap(), Some(Position(4)));
    damage(&servers, group, 5).await;
    // These are not archived yet.
    accept(log, message(group, alice, 1, "7")).await;
    accept(log, commit(group, alice, 1)).await;
    accept(log, message(group, alice, 2, "9")).await;

    // As long as nobody has noticed, nothing is missing.
    let read = read_all(log, group, Position::NONE).await;
    assert_eq!(positions(&read), (1..=9).collect::<Vec<_>>());
    assert_eq!(read[4].id, fifth.id);
    let handshakes = log.handshakes(group, Position::NONE, 9).await.unwrap();
    assert_eq!(positions(&handshakes), [5, 8]);
    let first = log.repeat(group, fifth.key, Some(alice)).await.unwrap();
    assert_eq!(first.unwrap().position, Position(5));
    let repeated = Append {
        may_be_repeat: true,
        ..fifth
    };
    assert_eq!(accept(log, repeated).await.position, Position(5));

    // It is found when its turn to be trimmed has come.
    archiver.round().await.unwrap();
    assert_eq!(archived(&replica, group).await, (true, Position(9)));
    assert_eq!(refuse(log, message(group, alice, 2, "x")).await, Refused::Frozen);
    // From then on it holds nothing up.
    archiver.round().await.unwrap();

    let frozen = log.frozen(group).await.unwrap().unwrap();
    assert_eq!(
        (frozen.head.position, frozen.abandoned),
        (Position(9), Position(9)),
        "nothing of it is lost"
    );
    let head = log.repair(group, Restoration::default()).await.unwrap().unwrap();
    assert_eq!((head.position, head.epoch), (Position(9), Epoch(2)));
    for number in 10..=15 {
        let appended = accept(log, message(group, alice, 2, &number.to_string())).await;
        assert_eq!(appended.position, Position(number));
    }
    archiver.round().await.unwrap();
    assert_eq!(archived(&replica, group).await, (false, Position(15)));
    assert_eq!(
        log.hot.floor(group).await.unwrap(),
        Some(Position(13)),
        "trimming goes on"
    );
    let read = read_all(log, group, Position::NONE).await;
    assert_eq!(positions(&read), (1..=15).collect::<Vec<_>>());
    drop(archiver);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_before_its_group_was_frozen_is_archived() {
    let servers = Servers::start().await;
    let replica = servers.replica(&settings()).await;
    let archiver = archiver(&replica).await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    for number in 1..=6 {
        accept(log, message(group, alice, 0, &number.to_string())).await;
    }
    archiver.round().await.unwrap();
    damage(&servers, group, 4).await;
    accept(log, message(group, alice, 0, "7")).await;
    // The archiver does not see it: as if it had come after the copying, and before the trimming.
    let tag = Partition::of_group(&group).tag();
    let script = format!(
        "redis.call('DEL', '{tag}chg')
         redis.call('HINCRBY', '{tag}heads', 'seq', -1)
         return 1"
    );
    assert_eq!(servers.redis.command(&["EVAL", &script, "0"]).await, "1");
    let known = log.archive.group(group).await.unwrap().unwrap();
    assert_eq!((known.head.position, known.trimmed), (Position(6), Position(3)));
    let now = AgainAt { too_many: 0, old: 0 };
    log.archive
        .trimmed(known.number, known.trimmed, settings().hot_entries, now)
        .await
        .unwrap();
    archiver.round().await.unwrap();
    assert_eq!(archived(&replica, group).await, (true, Position(7)));
    drop(archiver);
    replica.stop().await;
}
