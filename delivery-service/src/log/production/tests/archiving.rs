//! What the archiver finds, and what it does not pass over.

use std::sync::Arc;

use valise_proto::{EntryId, GroupId, Position};

use super::{Replica, Servers, damage, positions, read_all, settings};
use crate::log::conformance::{accept, device, eventually, group, message, new_group};
use crate::log::redis::partition::Partition;
use crate::log::{Append, Created, NewGroup, OrderedLog};

/// Waits until the archive says that the group's log is another one.
async fn frozen(replica: &Replica, group: GroupId) {
    eventually("a frozen group", async || {
        let known = replica.log.archive.group(group).await.unwrap().unwrap();
        known.head.frozen.then_some(())
    })
    .await;
}

/// Redis loses all groups of that one's partition, and has counted as many changes as before.
async fn lose(servers: &Servers, group: GroupId) {
    let tag = Partition::of_group(&group).tag();
    let script = format!(
        "local seq = redis.call('HGET', '{tag}heads', 'seq')
         redis.call('DEL', '{tag}heads', '{tag}chg')
         return redis.call('HSET', '{tag}heads', 'seq', seq)"
    );
    assert_eq!(servers.redis.command(&["EVAL", &script, "0"]).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_changed_groups_than_are_looked_at_together_are_all_archived() {
    let servers = Servers::start().await;
    let replica = servers.replica(&settings()).await;
    let archiver = replica.archiver(|_, _| false);
    archiver.renew().await.unwrap();
    // At first everything is compared; from then on only what changes is looked at.
    archiver.round().await.unwrap();
    let log = &*replica.log;
    let alice = device();
    let mut groups = Vec::new();
    // 128 of a partition are looked at together.
    while groups.len() < 130 {
        let id = GroupId::random(&mut rand::rng());
        if Partition::of_group(&id).number() == 7 {
            assert_eq!(log.create(new_group(id, alice)).await.unwrap(), Created::Yes);
            accept(log, message(id, alice, 0, "x")).await;
            groups.push(id);
        }
    }
    archiver.round().await.unwrap();
    for (number, id) in groups.into_iter().enumerate() {
        let known = log.archive.group(id).await.unwrap().unwrap();
        assert_eq!(known.head.position, Position(1), "group {number}");
    }
    drop(archiver);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_cannot_be_read_freezes_its_group_alone() {
    let servers = Servers::start().await;
    let replica = servers.replica(&settings()).await;
    let archiver = replica.archiver(|_, _| false);
    archiver.renew().await.unwrap();
    let log = &*replica.log;
    let alice = device();
    let damaged = group(log, alice).await;
    for number in 1..=3 {
        accept(log, message(damaged, alice, 0, &number.to_string())).await;
    }
    damage(&servers, damaged, 3).await;
    let beside = loop {
        let id = GroupId::random(&mut rand::rng());
        if Partition::of_group(&id) == Partition::of_group(&damaged) {
            break id;
        }
    };
    assert_eq!(log.create(new_group(beside, alice)).await.unwrap(), Created::Yes);
    accept(log, message(beside, alice, 0, "x")).await;
    archiver.round().await.unwrap();
    let head = async |group| log.archive.group(group).await.unwrap().unwrap().head;
    let frozen = head(damaged).await;
    assert_eq!(
        (frozen.frozen, frozen.position),
        (true, Position(2)),
        "all before it is kept"
    );
    let other = head(beside).await;
    assert_eq!((other.frozen, other.position), (false, Position(1)));
    // It does not come back, round after round.
    archiver.round().await.unwrap();
    drop(archiver);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_with_the_key_of_an_archived_one_is_archived_too() {
    let servers = Servers::start().await;
    let mut replica = servers.replica(&settings()).await;
    replica.archive();
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    let first = message(group, alice, 0, "first");
    accept(log, first.clone()).await;
    let again = || Append {
        id: EntryId::random(&mut rand::rng()),
        ..first.clone()
    };
    // Once and once more: the same bytes, too.
    for end in [6, 12] {
        let newest = log.head(group).await.unwrap().unwrap().position.0;
        for number in newest + 1..=end {
            accept(log, message(group, alice, 0, &number.to_string())).await;
        }
        replica.archived(group, end).await;
        // Redis has forgotten the key, and nobody says that it may be a repeat.
        assert_eq!(accept(log, again()).await.position, Position(end + 1));
        replica.archived(group, end + 1).await;
    }
    assert!(!log.head(group).await.unwrap().unwrap().frozen);
    let all = read_all(log, group, Position::NONE).await;
    assert_eq!(positions(&all), (1..=13).collect::<Vec<_>>());
    // In the archive the key is the first entry's.
    let known = log.archive.repeat(group, first.key, first.sender).await.unwrap();
    assert_eq!(known.unwrap().id, first.id);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_a_partition_over_compares_all_of_it() {
    let servers = Servers::start().await;
    let mut first = servers.replica(&settings()).await;
    first.archive();
    let alice = device();
    let group = group(&*first.log, alice).await;
    accept(&*first.log, message(group, alice, 0, "x")).await;
    first.archived(group, 1).await;
    first.stop().await;
    lose(&servers, group).await;
    let mut second = servers.replica(&settings()).await;
    second.archive();
    frozen(&second, group).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_compared_again_after_a_server_was_started_again() {
    let mut servers = Servers::start().await;
    let mut replica = servers.replica(&settings()).await;
    replica.archive();
    let log = Arc::clone(&replica.log);
    let alice = device();
    let group = group(&*log, alice).await;
    // The second is archived as a change: what is compared at the beginning, was.
    for position in 1..=2 {
        accept(&*log, message(group, alice, 0, "x")).await;
        replica.archived(group, position).await;
    }
    lose(&servers, group).await;
    servers.redis.restart().await;
    frozen(&replica, group).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_registered_with_the_origin_of_its_first_try() {
    let servers = Servers::start().await;
    let replica = servers.replica(&settings()).await;
    let log = &*replica.log;
    let first = new_group(GroupId::random(&mut rand::rng()), device());
    // As by a replica that ended before PostgreSQL was told.
    assert_eq!(log.hot.create(first.clone()).await.unwrap(), Created::Yes);
    let again = NewGroup {
        origin: EntryId::random(&mut rand::rng()),
        ..first.clone()
    };
    assert_eq!(log.create(again).await.unwrap(), Created::Yes);
    let known = log.archive.group(first.group).await.unwrap().unwrap();
    assert_eq!(known.head.origin, first.origin);
    replica.stop().await;
}
