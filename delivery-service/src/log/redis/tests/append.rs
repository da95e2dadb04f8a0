//! Batches, and what a group's keys must be to be appended to.

use super::*;
use crate::log::conformance::{
    accept, commit, device, effects, group, key, message, new_group, refuse, service_proposals,
};
use crate::log::redis::append::append_batch;
use crate::log::redis::keys::Keys;
use crate::log::redis::partition::Partition;
use crate::log::{EntryKind, Refused};

/// Two groups of one partition, and its keys.
async fn two_groups(log: &Hot, alice: DeviceId) -> (GroupId, GroupId, Partition, Keys) {
    let first = group(log, alice).await;
    let partition = Partition::of_group(&first);
    loop {
        let second = GroupId::random(&mut rand::rng());
        if Partition::of_group(&second) == partition {
            log.create(new_group(second, alice)).await.unwrap();
            return (first, second, partition, Keys::of(partition));
        }
    }
}

async fn send(log: &Hot, partition: Partition, batch: &[Append]) -> Vec<Result<Appended, Refused>> {
    let batch: Vec<&Append> = batch.iter().collect();
    let outcomes = append_batch(&log.log.store, partition, &batch, SETTINGS.inbox_kept).await;
    outcomes
        .unwrap()
        .into_iter()
        .map(|(outcome, _)| outcome)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_decided_item_by_item_and_may_be_sent_twice() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let (alice, bob) = (device(), device());
    let (first, second, partition, _) = two_groups(&log, alice).await;
    let once = message(first, alice, 0, "once");
    let mut add = commit(first, alice, 0);
    effects(&mut add).joined = vec![("bob@interieur.example".parse().unwrap(), bob)];
    effects(&mut add).welcome = Some(Bytes::from_static(b"welcome"));
    let proposal = Append {
        kind: EntryKind::Proposal,
        ..message(second, alice, 0, "proposal")
    };
    let stranger = loop {
        let group = GroupId::random(&mut rand::rng());
        if Partition::of_group(&group) == partition {
            break group;
        }
    };
    let batch = [
        once.clone(),
        add,
        message(first, alice, 0, "late"),
        once,
        commit(first, alice, 0),
        message(first, bob, 1, "next"),
        message(stranger, alice, 0, "nobody's"),
        proposal,
        commit(second, alice, 0),
        message(second, alice, u64::MAX, "far"),
    ];
    let ended = Err(Refused::EpochEnded {
        current: Epoch(1),
        winner: Position(2),
    });
    let outcomes = send(&log, partition, &batch).await;
    let position = |number: usize| outcomes[number].unwrap().position;
    assert_eq!(
        (position(0), position(1), position(5)),
        (Position(1), Position(2), Position(3))
    );
    assert_eq!(position(7), Position(1));
    let repeated = outcomes[3].unwrap();
    assert!(repeated.repeated && repeated.position == Position(1));
    assert_eq!((outcomes[2], outcomes[4]), (ended, ended));
    assert_eq!(outcomes[6], Err(Refused::GroupNotFound));
    let position = Position(1);
    assert_eq!(outcomes[8], Err(Refused::ProposalUnseen { position }));
    assert_eq!(outcomes[9], Err(Refused::EpochAhead { current: Epoch(0) }));

    let heads = [log.head(first).await.unwrap(), log.head(second).await.unwrap()];
    let again = send(&log, partition, &batch).await;
    for (one, two) in outcomes.iter().zip(&again) {
        match (one, two) {
            (Ok(one), Ok(two)) => {
                let expected = Appended {
                    repeated: true,
                    ..*one
                };
                assert_eq!(*two, expected, "the first answer again");
            }
            (one, two) => assert_eq!(one, two),
        }
    }
    let after = [log.head(first).await.unwrap(), log.head(second).await.unwrap()];
    assert_eq!(after, heads, "nothing was written twice");
    assert_eq!(log.read(first, Position::NONE, 10, 1000).await.unwrap().len(), 3);
    assert_eq!(
        server
            .command(&["XLEN", &format!("{}out", partition.tag())])
            .await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_with_a_commit_is_no_item_of_its_batch() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let (first, second, partition, _) = two_groups(&log, alice).await;
    let mut back = commit(first, alice, 0);
    effects(&mut back).proposals = service_proposals(2);
    let batch = [
        back.clone(),
        commit(first, alice, 1),
        message(first, alice, 1, "next"),
        back,
        message(second, alice, 0, "other"),
    ];
    let unseen = Refused::ProposalUnseen {
        position: Position(3),
    };
    for sent in 1..=2 {
        let mut outcomes = send(&log, partition, &batch).await;
        assert_eq!(outcomes.remove(1), Err(unseen));
        let positions: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap().position.0)
            .collect();
        assert_eq!(positions, [1, 4, 1, 1], "sent {sent} times");
    }
    let read = log.read(first, Position::NONE, 9, 999).await.unwrap();
    assert_eq!(read.len(), 4, "nothing was written twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_may_come_with_thousands_of_proposals() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    // More than a script can pass to one command.
    let count = 5000;
    let mut back = commit(group, alice, 0);
    effects(&mut back).proposals = service_proposals(count);
    accept(&*log, back.clone()).await;
    let newest = Position(1 + count as u64);
    let head = log.head(group).await.unwrap().unwrap();
    assert_eq!(
        (head.position, head.proposal_position, head.commit_position),
        (newest, newest, Position(1))
    );
    let handshakes = log.handshakes(group, Position(1), count).await.unwrap();
    assert_eq!(handshakes.len(), count);
    let brought = effects(&mut back).proposals.clone();
    for (proposal, position) in brought.iter().zip(2..).step_by(499) {
        let kept = log.repeat(group, proposal.key, None).await.unwrap().unwrap();
        assert_eq!((kept.position, kept.id), (Position(position), proposal.id));
    }
    assert!(accept(&*log, back).await.repeated);
    assert_eq!(log.head(group).await.unwrap().unwrap().position, newest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_group_of_a_batch_is_in_the_index_of_changes() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let (first, second, partition, _) = two_groups(&log, alice).await;
    let before = log.log.sequence(partition).await.unwrap();
    let batch = [message(first, alice, 0, "x"), message(second, alice, 0, "y")];
    let outcomes = send(&log, partition, &batch).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let changed = log.log.changed(partition, before, 9).await.unwrap();
    assert_eq!(changed, [(first, before + 1), (second, before + 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_scripts_are_sent_again() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    for position in 1..=3 {
        assert_eq!(server.command(&["SCRIPT", "FLUSH"]).await, "OK");
        let appended = accept(&*log, message(group, alice, 0, "x")).await;
        assert_eq!(appended.position, Position(position));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_head_is_never_a_new_group() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let (lost, other, partition, keys) = two_groups(&log, alice).await;
    let append = message(lost, alice, 0, "before");
    accept(&*log, append.clone()).await;
    let command = redis::cmd("HDEL").arg(keys.heads()).arg(lost.as_bytes()).take();
    log.log.store.ask(partition, command).await.unwrap();

    assert_eq!(
        refuse(&*log, message(lost, alice, 0, "after")).await,
        Refused::Frozen
    );
    assert_eq!(refuse(&*log, append).await, Refused::Frozen);
    assert_eq!(log.create(new_group(lost, alice)).await.unwrap(), Created::Exists);
    assert_eq!(log.head(lost).await.unwrap(), None);
    assert_eq!(log.read(lost, Position::NONE, 9, 999).await.unwrap().len(), 1);
    accept(&*log, message(other, alice, 0, "goes on")).await;

    // The group that has no entry yet is known by its windows.
    let command = redis::cmd("DEL").arg(keys.heads()).take();
    log.log.store.ask(partition, command).await.unwrap();
    assert_eq!(
        refuse(&*log, message(lost, alice, 0, "after")).await,
        Refused::Frozen
    );
    let sequence = log.log.sequence(partition).await.unwrap();
    assert_eq!(sequence, 0);
    let new = loop {
        let group = GroupId::random(&mut rand::rng());
        if Partition::of_group(&group) == partition {
            break group;
        }
    };
    log.create(new_group(new, alice)).await.unwrap();
    let sequence = log.log.sequence(partition).await.unwrap();
    assert_eq!(sequence, 5, "after two creations and two appends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_cannot_be_are_refused_before_anything_is_written() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let (bad, good, partition, keys) = two_groups(&log, alice).await;
    let damages = [
        redis::cmd("SET").arg(keys.windows(&bad)).arg("x").take(),
        redis::cmd("SET").arg(keys.commits(&bad)).arg("x").take(),
        redis::cmd("SET").arg(keys.handshakes(&bad)).arg("x").take(),
        redis::cmd("SET").arg(keys.answers(&bad)).arg("x").take(),
        redis::cmd("XADD")
            .arg(keys.stream(&bad))
            .arg("7-0")
            .arg("m")
            .arg("x")
            .take(),
        redis::cmd("SET").arg(keys.stream(&bad)).arg("x").take(),
    ];
    let mends = [
        keys.windows(&bad),
        keys.commits(&bad),
        keys.handshakes(&bad),
        keys.answers(&bad),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        log.log.store.ask(partition, damage).await.unwrap();
        let batch = [
            message(good, alice, 0, "before"),
            commit(bad, alice, 0),
            message(good, alice, 0, "after"),
        ];
        let outcomes = send(&log, partition, &batch).await;
        assert_eq!(outcomes[1], Err(Refused::Frozen), "damage {number}");
        if let Some(mend) = mends.get(number) {
            let mend = redis::cmd("DEL").arg(mend).take();
            log.log.store.ask(partition, mend).await.unwrap();
        }
        assert_eq!(outcomes[2].unwrap().position, Position(number as u64 * 2 + 2));
        assert_eq!(log.head(bad).await.unwrap().unwrap().position, Position::NONE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_of_what_cannot_be_read_spoils_no_batch() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let (bad, good, partition, _) = two_groups(&log, alice).await;
    let first = message(bad, alice, 0, "first");
    accept(&*log, first.clone()).await;
    replace(&log, bad, 1, &["m", "x", "b", "x"]).await;
    let batch = [first, message(good, alice, 0, "beside it")];
    let outcomes = send(&log, partition, &batch).await;
    assert_eq!(outcomes[0], Err(Refused::Frozen));
    assert_eq!(outcomes[1].unwrap().position, Position(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_group_answers_repeats_and_refuses_the_rest() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    let append = message(group, alice, 0, "before");
    accept(&*log, append.clone()).await;
    assert!(log.log.set_frozen(group, true).await.unwrap());
    assert!(log.head(group).await.unwrap().unwrap().frozen);
    assert!(accept(&*log, append).await.repeated);
    assert_eq!(
        refuse(&*log, message(group, alice, 0, "x")).await,
        Refused::Frozen
    );
    assert_eq!(refuse(&*log, commit(group, alice, 7)).await, Refused::Frozen);
    log.log.set_frozen(group, false).await.unwrap();
    accept(&*log, message(group, alice, 0, "y")).await;
    let nobody = GroupId::random(&mut rand::rng());
    assert!(!log.log.set_frozen(nobody, true).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_log_says_that_nobody_knows() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    log.log.close().await;
    let error = log.append(message(group, alice, 0, "x")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("outcome unknown, repeat with the same key"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_takes_little_more_than_its_bytes() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    let memory = async || -> u64 {
        let info = server.command(&["INFO", "memory"]).await;
        let used = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory_dataset:"));
        used.unwrap().trim().parse().unwrap()
    };
    let before = memory().await;
    let entries = 4000;
    for _ in 0..entries / 40 {
        let appends = (0..40).map(|_| {
            let bytes = Bytes::from(vec![7; 1024]);
            let append = Append {
                bytes,
                key: key(),
                ..message(group, alice, 0, "")
            };
            accept(&*log, append)
        });
        futures::future::join_all(appends).await;
    }
    let each = (memory().await - before) / entries;
    assert!(each <= 1280, "{each} bytes an entry of 1 KiB");
}

/// Waits until a partition's queue is so.
async fn loaded(log: &Hot, partition: Partition, load: (usize, usize, usize)) {
    let reached = async {
        while log.log.appender.load(partition) != load {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    assert!(reached.is_ok(), "{:?}", log.log.appender.load(partition));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_batch_that_is_under_way_goes_another_one_as_large_and_no_third() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    let partition = Partition::of_group(&group);
    let mut sending = tokio::task::JoinSet::new();
    let mut send = |text: &str| {
        let (log, message) = (Arc::clone(&log), message(group, alice, 0, text));
        sending.spawn(async move { log.append(message).await.unwrap().unwrap().position.0 });
    };
    // It answers nothing, so what is sent stays under way.
    server.pause();
    send("first");
    loaded(&log, partition, (1, 1, 0)).await;
    send("second");
    loaded(&log, partition, (2, 2, 0)).await;
    for number in 1..=5 {
        send("waits");
        loaded(&log, partition, (2, 2, number)).await;
    }
    server.resume();
    let mut positions = sending.join_all().await;
    positions.sort_unstable();
    assert_eq!(positions, [1, 2, 3, 4, 5, 6, 7]);
    loaded(&log, partition, (0, 0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_any_more_is_not_appended() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    let partition = Partition::of_group(&group);
    let send = |text: &str| {
        let (log, message) = (Arc::clone(&log), message(group, alice, 0, text));
        tokio::spawn(async move { log.append(message).await.unwrap().unwrap().position.0 })
    };
    // It answers nothing, so what is sent stays under way.
    server.pause();
    let first = send("first");
    loaded(&log, partition, (1, 1, 0)).await;
    let second = send("second");
    loaded(&log, partition, (2, 2, 0)).await;
    let gone = send("its caller goes");
    loaded(&log, partition, (2, 2, 1)).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let last = send("last");
    loaded(&log, partition, (2, 2, 2)).await;
    server.resume();
    let mut positions = [first.await.unwrap(), second.await.unwrap(), last.await.unwrap()];
    positions.sort_unstable();
    assert_eq!(positions, [1, 2, 3]);
    loaded(&log, partition, (0, 0, 0)).await;
    let head = log.head(group).await.unwrap().unwrap();
    assert_eq!(head.position, Position(3));
}
