//! Groups that were reset, where a crash or a loss comes in between.

use valise_proto::{GroupId, Position};

use super::Servers;
use crate::log::conformance::{accept, device, eventually, group, inbox_of, message, refuse};
use crate::log::offers::Restoration;
use crate::log::postgres::reset::KeptReset;
use crate::log::postgres::trim::AgainAt;
use crate::log::redis::Restored;
use crate::log::{InboxContent, OrderedLog, Refused, Reset, Window};

fn id() -> GroupId {
    GroupId::random(&mut rand::rng())
}

/// PostgreSQL knows it, and the replica ended before Redis was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_began_another_completes() {
    let (_servers, replica) = Servers::archiving().await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    accept(log, message(group, alice, 0, "x")).await;
    let begun = KeptReset {
        group,
        successor: id(),
        at: 5_000,
    };
    log.archive.keep_reset(begun).await.unwrap().unwrap();
    let items = inbox_of(log, alice, 1).await;
    let reset = Reset {
        group,
        successor: begun.successor,
        last: Position(1),
    };
    assert_eq!(items[0].content, InboxContent::GroupReset(reset));
    assert_eq!(
        refuse(log, message(group, alice, 0, "late")).await,
        Refused::Reset
    );
    // An administrator who asks again hears of the same one.
    assert_eq!(log.reset(group, id(), 6_000).await.unwrap(), Ok(reset));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_forgot_is_done_again_and_nobody_is_told_twice() {
    let (_servers, replica) = Servers::archiving().await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    accept(log, message(group, alice, 0, "x")).await;
    replica.archived(group, 1).await;
    let before = log.hot.head_row(group).await.unwrap().unwrap();
    log.reset(group, id(), 5_000).await.unwrap().unwrap();
    inbox_of(log, alice, 1).await;

    let window = Window {
        after: Position::NONE,
        until: None,
    };
    let forgotten = Restored {
        group,
        row: before,
        group_info: bytes::Bytes::from_static(b"epoch 0"),
        windows: vec![(crate::log::conformance::user("alice"), alice, vec![window])],
    };
    // Its entry is no longer looked for in Redis.
    let number = log.archive.group(group).await.unwrap().unwrap().number;
    let never = AgainAt { too_many: 0, old: 0 };
    log.archive.trimmed(number, Position(1), 0, never).await.unwrap();
    assert!(log.hot.restore(forgotten, Some(&before)).await.unwrap());
    eventually("it is closed again", async || {
        log.head(group).await.unwrap().unwrap().reset.then_some(())
    })
    .await;
    assert_eq!(
        refuse(log, message(group, alice, 0, "late")).await,
        Refused::Reset
    );
    assert_eq!(inbox_of(log, alice, 1).await.len(), 1);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_leaves_a_reset_group_closed() {
    let (_servers, replica) = Servers::archiving().await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    accept(log, message(group, alice, 0, "x")).await;
    replica.archived(group, 1).await;
    log.reset(group, id(), 5_000).await.unwrap().unwrap();
    let archived = log.archive.group(group).await.unwrap().unwrap();
    assert!(log.archive.mark_regressed(&archived).await.unwrap());
    log.repair(group, Restoration::default()).await.unwrap().unwrap();
    // At once, before anybody has looked.
    assert_eq!(
        refuse(log, message(group, alice, 0, "late")).await,
        Refused::Reset
    );
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_that_was_refused_is_not_done_later() {
    let (_servers, replica) = Servers::archiving().await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    accept(log, message(group, alice, 0, "x")).await;
    replica.archived(group, 1).await;
    // Closed there, and this replica has not heard why.
    log.hot.set_frozen(group, true).await.unwrap();
    assert_eq!(log.reset(group, id(), 5_000).await.unwrap(), Err(Refused::Frozen));
    assert_eq!(log.successor(group).await.unwrap(), None);
    log.hot.set_frozen(group, false).await.unwrap();
    let successor = id();
    let reset = log.reset(group, successor, 6_000).await.unwrap().unwrap();
    assert_eq!(reset.successor, successor);
    replica.stop().await;
}
