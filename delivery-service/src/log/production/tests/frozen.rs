//! What a frozen group shows and takes, and what a repair leaves out.

use valise_proto::{Epoch, GroupId, Position};

use super::{Replica, Servers, positions, read_all, settings};
use crate::log::conformance::{accept, commit, device, eventually, group, message, refuse};
use crate::log::offers::Restoration;
use crate::log::{OrderedLog, Refused};

/// As by a replica that ended before it set the mark in Redis. This one has heard of it.
async fn freeze_in_the_archive_alone(replica: &Replica, group: GroupId) {
    let log = &*replica.log;
    let archived = log.archive.group(group).await.unwrap().unwrap();
    assert!(log.archive.mark_regressed(&archived).await.unwrap());
    eventually("the mark is known here", async || {
        log.watch.is_regressed(group).then_some(())
    })
    .await;
    assert!(!log.hot.head(group).await.unwrap().unwrap().frozen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_frozen_in_the_archive_alone_takes_nothing() {
    let servers = Servers::start().await;
    let replica = servers.replica(&settings()).await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    freeze_in_the_archive_alone(&replica, group).await;
    assert_eq!(refuse(log, message(group, alice, 0, "x")).await, Refused::Frozen);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_info_of_a_frozen_group_is_the_archived_one() {
    let servers = Servers::start().await;
    let replica = servers.replica(&settings()).await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    // Nobody archives it.
    accept(log, commit(group, alice, 0)).await;
    freeze_in_the_archive_alone(&replica, group).await;
    let (info, epoch, commit) = log.group_info(group).await.unwrap().unwrap();
    assert_eq!(
        (info.as_ref(), epoch, commit),
        (b"epoch 0".as_ref(), Epoch(0), Position::NONE)
    );
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_leaves_out_the_group_info_of_an_older_epoch() {
    let servers = Servers::start().await;
    let replica = servers.replica(&settings()).await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    accept(log, commit(group, alice, 0)).await;
    let known = read_all(log, group, Position::NONE).await;
    assert_eq!(positions(&known), [1]);
    servers.redis.command(&["FLUSHALL"]).await;
    assert_eq!(refuse(log, message(group, alice, 1, "x")).await, Refused::Frozen);

    // The commit comes back; its committer, who alone has its GroupInfo, does not.
    let restoration = Restoration {
        entries: known,
        ..Restoration::default()
    };
    let head = log.repair(group, restoration).await.unwrap().unwrap();
    assert_eq!((head.position, head.epoch), (Position(1), Epoch(1)));
    let (info, epoch, commit) = log.hot.group_info(group).await.unwrap().unwrap();
    assert_eq!(
        (info.as_ref(), epoch, commit),
        (b"".as_ref(), Epoch(1), Position(1))
    );
    replica.stop().await;
}
