//! A Redis that came back with less than it had.

use std::path::Path;
use std::sync::Arc;

use valise_proto::{Epoch, Position};

use super::{Servers, positions, read_all, settings};
use crate::log::conformance::{
    accept, commit, device, eventually, group, key, message, new_group, refuse, user,
};
use crate::log::offers::{OfferedEntry, Restoration};
use crate::log::{Append, Created, NewGroup, OrderedLog, Refused};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

const FILES: &str = "appendonlydir";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_went_back_and_has_grown_again_is_frozen() {
    let mut servers = Servers::start().await;
    let mut replica = servers.replica(&settings()).await;
    replica.archive();
    let alice = device();
    let (other, changed) = (
        group(&*replica.log, alice).await,
        group(&*replica.log, alice).await,
    );
    for group in [other, changed] {
        for number in 1..=10 {
            accept(&*replica.log, message(group, alice, 0, &number.to_string())).await;
        }
        replica.archived(group, 10).await;
    }
    replica.stop().await;

    // A copy is made, more is written and archived, and the copy comes back.
    servers.redis.kill().await;
    let copies = tempfile::tempdir().unwrap();
    let files = servers.redis.folder().join(FILES);
    copy(&files, copies.path());
    servers.redis.restart().await;
    let mut replica = servers.replica(&settings()).await;
    replica.archive();
    let lost = message(changed, alice, 0, "lost");
    accept(&*replica.log, lost.clone()).await;
    accept(&*replica.log, commit(changed, alice, 0)).await;
    replica.archived(changed, 12).await;
    replica.stop().await;
    servers.redis.kill().await;
    std::fs::remove_dir_all(&files).unwrap();
    copy(copies.path(), &files);
    servers.redis.restart().await;

    // Nobody has noticed: it grows until its head is higher than it ever was.
    let mut replica = servers.replica(&settings()).await;
    for number in 11..=20 {
        let text = format!("other {number}");
        let accepted = accept(&*replica.log, message(changed, alice, 0, &text)).await;
        assert_eq!(accepted.position, Position(number));
    }
    replica.archive();
    let log = &*replica.log;
    eventually("a frozen group", async || {
        let outcome = log.append(message(changed, alice, 0, "more")).await.unwrap();
        (outcome == Err(Refused::Frozen)).then_some(())
    })
    .await;
    // The mark is in Redis, too.
    eventually("a mark in Redis", async || {
        log.hot.head(changed).await.unwrap().unwrap().frozen.then_some(())
    })
    .await;
    eventually("what the archive has", async || {
        (log.head(changed).await.unwrap().unwrap().position == Position(12)).then_some(())
    })
    .await;
    assert!(log.head(changed).await.unwrap().unwrap().frozen);
    let read = read_all(log, changed, Position::NONE).await;
    assert_eq!(positions(&read), (1..=12).collect::<Vec<_>>());
    assert_eq!(read[10].id, lost.id);
    assert_eq!(log.windows(changed, alice).await.unwrap().len(), 1);
    let repeated = Append {
        may_be_repeat: true,
        ..lost
    };
    assert_eq!(
        accept(log, repeated).await.position,
        Position(11),
        "its answer stays"
    );

    // Others have lost nothing, and go on.
    assert_eq!(
        accept(log, message(other, alice, 0, "on")).await.position,
        Position(11)
    );
    replica.archived(other, 11).await;

    // Put back, it goes on where the archive ends; what is not frozen is left alone.
    assert!(log.repair(other, Restoration::default()).await.unwrap().is_none());
    let head = log
        .repair(changed, Restoration::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((head.position, head.epoch.0), (Position(12), 1));
    // Who looks at it while a repair is between its last two steps does not close it again.
    log.hot.set_frozen(changed, true).await.unwrap();
    assert!(log.frozen(changed).await.unwrap().is_some());
    assert!(!log.archive.group(changed).await.unwrap().unwrap().head.frozen);
    log.hot.set_frozen(changed, false).await.unwrap();
    // Nothing of it is in Redis, and all of it is read.
    let read = read_all(log, changed, Position::NONE).await;
    assert_eq!(positions(&read), (1..=12).collect::<Vec<_>>());
    let next = accept(log, message(changed, alice, 1, "next")).await;
    assert_eq!(next.position, Position(13));
    replica.archived(changed, 13).await;
    let read = read_all(log, changed, Position::NONE).await;
    assert_eq!(positions(&read), (1..=13).collect::<Vec<_>>());
    assert!(!log.head(changed).await.unwrap().unwrap().frozen);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_group_never_begins_anew() {
    let servers = Servers::start().await;
    let mut replica = servers.replica(&settings()).await;
    let log = &*replica.log;
    let alice = device();
    let new = new_group(valise_proto::GroupId::random(&mut rand::rng()), alice);
    assert_eq!(log.create(new.clone()).await.unwrap(), Created::Yes);
    let silent = group(log, alice).await;
    servers.redis.command(&["FLUSHALL"]).await;

    for again in [
        new.clone(),
        NewGroup {
            key: key(),
            ..new.clone()
        },
    ] {
        assert_eq!(log.create(again).await.unwrap(), Created::Exists);
    }
    assert_eq!(
        refuse(log, message(new.group, alice, 0, "x")).await,
        Refused::Frozen
    );
    assert_eq!(refuse(log, message(silent, alice, 0, "x")).await, Refused::Frozen);
    assert!(log.head(silent).await.unwrap().unwrap().frozen);
    // One that never was is another matter.
    let unknown = valise_proto::GroupId::random(&mut rand::rng());
    assert_eq!(
        refuse(log, message(unknown, alice, 0, "x")).await,
        Refused::GroupNotFound
    );
    assert_eq!(log.head(unknown).await.unwrap(), None);

    // A group that nobody asks for is found by the archiver.
    let third = group(log, alice).await;
    accept(log, message(third, alice, 0, "kept")).await;
    replica.archive();
    replica.archived(third, 1).await;
    replica.stop().await;
    servers.redis.command(&["FLUSHALL"]).await;
    let mut replica = servers.replica(&settings()).await;
    replica.archive();
    eventually("a group that is missed", async || {
        let known = replica.log.archive.group(third).await.unwrap().unwrap();
        known.head.frozen.then_some(())
    })
    .await;
    let read = read_all(&replica.log, third, Position::NONE).await;
    assert_eq!(positions(&read), [1]);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_from_devices_is_where_it_was() {
    let servers = Servers::start().await;
    let mut replica = servers.replica(&settings()).await;
    replica.archive();
    let alice = device();
    let group = group(&*replica.log, alice).await;
    for number in 1..=3 {
        accept(&*replica.log, message(group, alice, 0, &number.to_string())).await;
    }
    replica.archived(group, 3).await;
    replica.stop().await;

    // Answered, applied by a device, and never archived.
    let mut replica = servers.replica(&settings()).await;
    let log = Arc::clone(&replica.log);
    let fourth = message(group, alice, 0, "fourth");
    accept(&*log, fourth.clone()).await;
    accept(&*log, commit(group, alice, 0)).await;
    let known = read_all(&log, group, Position(3)).await;
    assert_eq!(positions(&known), [4, 5]);
    servers.redis.command(&["FLUSHALL"]).await;
    assert_eq!(
        refuse(&*log, message(group, alice, 1, "x")).await,
        Refused::Frozen
    );

    let frozen = log.frozen(group).await.unwrap().unwrap();
    assert_eq!(
        (frozen.head.position, frozen.offered),
        (Position(3), Position::NONE)
    );
    assert_eq!(frozen.abandoned, Position::NONE, "nothing took its place");
    let offered = known.iter().map(|entry| OfferedEntry {
        entry: (**entry).clone(),
        group_info: None,
    });
    let by = (&user("alice"), alice);
    let newest = log.offer(group, by, offered.collect()).await.unwrap();
    assert_eq!(newest, Ok(Position(5)));
    let restoration = Restoration {
        entries: known.clone(),
        ..Restoration::default()
    };
    let head = log.repair(group, restoration).await.unwrap().unwrap();
    assert_eq!((head.position, head.epoch.0), (Position(5), 1));
    assert_eq!(head.commit_position, Position(5));
    replica.archive();
    eventually("the mark gone", async || {
        (!log.watch.is_regressed(group)).then_some(())
    })
    .await;
    let read = read_all(&log, group, Position::NONE).await;
    assert_eq!(positions(&read), [1, 2, 3, 4, 5]);
    assert_eq!(read[3..], known[..], "in every part");
    assert_eq!(log.head(group).await.unwrap(), Some(head));

    // Whoever sent one of them, and has not heard the answer, gets it now; others do not.
    let repeated = Append {
        may_be_repeat: true,
        epoch: Epoch(1),
        ..fourth
    };
    let answer = accept(&*log, repeated.clone()).await;
    assert_eq!((answer.position, answer.repeated), (Position(4), true));
    let others = Append {
        sender: Some(device()),
        ..repeated
    };
    assert_eq!(accept(&*log, others).await.position, Position(6));
    replica.archived(group, 6).await;
    replica.stop().await;
}
