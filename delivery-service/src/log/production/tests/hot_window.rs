//! Across the edge between Redis and the archive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use valise_clock::Clock;
use valise_proto::{GroupId, Position};

use super::{Servers, positions, read_all, settings};
use crate::config::ArchiveConfig;
use crate::log::conformance::{accept, commit, device, effects, eventually, group, message, refuse, user};
use crate::log::{Append, OrderedLog, Refused};

/// What the group takes of Redis: entries, keys, handshakes, commits.
async fn taken(servers: &Servers, group: GroupId) -> Vec<u64> {
    let tag = crate::log::redis::partition::Partition::of_group(&group).tag();
    let mut counts = Vec::new();
    for (command, kind) in [("XLEN", "s"), ("HLEN", "i"), ("ZCARD", "k"), ("HLEN", "c")] {
        let script = format!(
            "local n = 0 for _, k in ipairs(redis.call('KEYS', '{tag}{kind}:*')) do n = n + redis.call('{command}', k) end return n"
        );
        let count = servers.redis.command(&["EVAL", &script, "0"]).await;
        counts.push(
            count
                .trim()
                .trim_start_matches("(integer)")
                .trim()
                .parse()
                .unwrap(),
        );
    }
    counts
}

async fn memory(servers: &Servers) -> u64 {
    let info = servers.redis.command(&["INFO", "memory"]).await;
    let line = info
        .lines()
        .find_map(|line| line.trim().strip_prefix("used_memory:"));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_by_the_hot_window() {
    const WINDOW: u64 = 50;
    let servers = Servers::start().await;
    let config = ArchiveConfig {
        hot_entries: WINDOW,
        ..settings()
    };
    let mut replica = servers.replica(&config).await;
    replica.archive();
    let alice = device();
    let group = group(&*replica.log, alice).await;
    let mut after_two_windows = 0;
    for number in 1..=20 * WINDOW {
        let text = format!("{number:01024}");
        accept(&*replica.log, message(group, alice, 0, &text)).await;
        if number == 2 * WINDOW {
            replica.archived(group, number).await;
            after_two_windows = memory(&servers).await;
        }
    }
    replica.archived(group, 20 * WINDOW).await;
    assert_eq!(taken(&servers, group).await, [WINDOW, WINDOW, 0, 0]);
    let grown = memory(&servers).await.saturating_sub(after_two_windows);
    assert!(grown < 4 * WINDOW * 1024, "{grown} bytes more for 18 windows");

    let all = read_all(&replica.log, group, Position::NONE).await;
    assert_eq!(positions(&all), (1..=20 * WINDOW).collect::<Vec<_>>());
    let texts = all.iter().map(|entry| std::str::from_utf8(&entry.bytes).unwrap());
    assert!(
        texts
            .zip(1..)
            .all(|(text, number)| text.trim_start_matches('0') == number.to_string())
    );
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_young_stays_however_much_there_is() {
    let servers = Servers::start().await;
    let config = ArchiveConfig {
        hot_seconds: 3600,
        ..settings()
    };
    let replica = servers.replica(&config).await;
    let (clock, hand) = Clock::movable();
    let archiver = replica.archiver_by(&clock).await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    for ten in 0..2 {
        for _ in 0..10 {
            let at = clock.unix_millis();
            let append = Append {
                at,
                ..message(group, alice, 0, "x")
            };
            accept(log, append).await;
        }
        archiver.round().await.unwrap();
        let known = log.archive.group(group).await.unwrap().unwrap();
        assert_eq!(
            (known.head.position, known.trimmed),
            (Position(10 + ten * 10), Position::NONE)
        );
        hand.advance(Duration::from_secs(1850));
    }
    // The first ten are more than an hour old, and three are to stay anyway.
    for (trimmed, floor) in [(10, 11), (17, 18)] {
        archiver.round().await.unwrap();
        let known = log.archive.group(group).await.unwrap().unwrap();
        assert_eq!(known.trimmed, Position(trimmed));
        assert_eq!(log.hot.floor(group).await.unwrap(), Some(Position(floor)));
        hand.advance(Duration::from_secs(1850));
    }
    let all = read_all(log, group, Position::NONE).await;
    assert_eq!(positions(&all), (1..=20).collect::<Vec<_>>());
    drop(archiver);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_groups_in_which_nothing_happens_one_entry_stays() {
    let servers = Servers::start().await;
    let config = ArchiveConfig {
        hot_entries: 1000,
        hot_seconds: 3600,
        max_hot_seconds: 86_400,
        ..settings()
    };
    let replica = servers.replica(&config).await;
    let (clock, hand) = Clock::movable();
    let archiver = replica.archiver_by(&clock).await;
    let log = &*replica.log;
    let alice = device();
    let at = |append: Append| Append {
        at: clock.unix_millis(),
        ..append
    };
    let mut groups = Vec::new();
    for _ in 0..5 {
        let group = group(log, alice).await;
        accept(log, at(commit(group, alice, 0))).await;
        for _ in 2..=20 {
            accept(log, at(message(group, alice, 1, "x"))).await;
        }
        groups.push(group);
    }
    let floors = async || {
        let mut floors = Vec::new();
        for group in &groups {
            floors.push(log.hot.floor(*group).await.unwrap().unwrap().0);
        }
        floors
    };
    archiver.round().await.unwrap();
    hand.advance(Duration::from_hours(23));
    // In one of them something happens.
    accept(log, at(message(groups[0], alice, 1, "x"))).await;
    archiver.round().await.unwrap();
    assert_eq!(floors().await, [1; 5]);

    hand.advance(Duration::from_mins(61));
    archiver.round().await.unwrap();
    assert_eq!(floors().await, [21, 20, 20, 20, 20]);
    for (group, last) in groups.iter().zip([21, 20, 20, 20, 20]) {
        let all = read_all(log, *group, Position::NONE).await;
        assert_eq!(positions(&all), (1..=last).collect::<Vec<_>>());
        let next = accept(log, at(message(*group, alice, 1, "next"))).await;
        assert_eq!(next.position, Position(last + 1));
    }
    let winner = log.winner(groups[1], valise_proto::Epoch(0)).await.unwrap();
    assert_eq!(winner, Some(Position(1)));

    // They count as any others: again, a day later.
    archiver.round().await.unwrap();
    hand.advance(Duration::from_hours(25));
    archiver.round().await.unwrap();
    assert_eq!(floors().await, [22, 21, 21, 21, 21]);
    drop(archiver);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_is_no_seam_while_entries_move() {
    let servers = Servers::start().await;
    let mut replica = servers.replica(&settings()).await;
    replica.archive_restlessly();
    let alice = device();
    let group = group(&*replica.log, alice).await;
    let commits = 600;
    let log = Arc::clone(&replica.log);
    let writer = tokio::spawn(async move {
        for epoch in 0..commits {
            accept(&*log, commit(group, alice, epoch)).await;
        }
    });
    let mut readers = Vec::new();
    for number in 0..4_u64 {
        let log = Arc::clone(&replica.log);
        readers.push(tokio::spawn(async move {
            let mut newest = 0;
            while newest < commits {
                // From the beginning, and from where the edge is.
                for after in [0, newest.saturating_sub(number * 2)] {
                    let handshakes = log.handshakes(group, Position(after), 10_000).await.unwrap();
                    let expected: Vec<u64> = (after + 1..).take(handshakes.len()).collect();
                    assert_eq!(positions(&handshakes), expected);
                    assert!(after + handshakes.len() as u64 >= newest, "nothing vanishes");
                    let entries = log.read(group, Position(after), 10_000, 1 << 20).await.unwrap();
                    let expected: Vec<u64> = (after + 1..).take(entries.len()).collect();
                    assert_eq!(positions(&entries), expected);
                    assert!(!entries.is_empty() || newest == after);
                    newest = newest.max(after + entries.len() as u64);
                }
            }
        }));
    }
    writer.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_and_winners_are_known_after_they_left_redis() {
    let (_servers, replica) = Servers::archiving().await;
    let log = &*replica.log;
    let alice = device();
    let group = group(log, alice).await;
    let once = message(group, alice, 0, "once");
    let first = accept(log, once.clone()).await;
    for epoch in 0..5 {
        accept(log, commit(group, alice, epoch)).await;
    }
    replica.archived(group, 6).await;

    let again = Append {
        may_be_repeat: true,
        at: 9000,
        ..once.clone()
    };
    let second = accept(log, again).await;
    assert_eq!(
        (second.position, second.id, second.at),
        (first.position, first.id, first.at)
    );
    assert!(second.repeated);
    let answered = log.repeat(group, once.key, Some(alice)).await.unwrap();
    assert_eq!(answered.unwrap().position, first.position);
    // One that may be a repeat and is none.
    let new = Append {
        may_be_repeat: true,
        ..message(group, alice, 5, "new")
    };
    assert_eq!(accept(log, new).await.position, Position(7));

    assert_eq!(
        log.winner(group, valise_proto::Epoch(0)).await.unwrap(),
        Some(Position(2))
    );
    let ended = Refused::EpochEnded {
        current: valise_proto::Epoch(5),
        winner: Position(2),
    };
    assert_eq!(refuse(log, commit(group, alice, 0)).await, ended);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_members_have_acknowledged_goes() {
    let (_servers, replica) = Servers::archiving().await;
    let log = &*replica.log;
    let (alice, bob) = (device(), device());
    let group = group(log, alice).await;
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = vec![(user("bob"), bob)];
    effects(&mut add).group_info = Bytes::from_static(b"epoch 1");
    accept(log, add).await;
    for number in 2..=20 {
        accept(log, message(group, alice, 1, &number.to_string())).await;
    }
    replica.archived(group, 20).await;
    assert_eq!(read_all(log, group, Position::NONE).await.len(), 20);

    log.acknowledge(alice, vec![(group, Position(20))], 0)
        .await
        .unwrap();
    log.acknowledge(bob, vec![(group, Position(9))], 0).await.unwrap();
    let first = eventually("entries deleted", async || {
        let read = log.read(group, Position::NONE, 1, 0).await.unwrap();
        (read[0].position > Position(1)).then(|| read[0].position)
    })
    .await;
    assert_eq!(first, Position(10), "bob needs it");
    let kept = read_all(log, group, Position::NONE).await;
    assert_eq!(positions(&kept), (10..=20).collect::<Vec<_>>());
    let handshakes = log.handshakes(group, Position::NONE, 9).await.unwrap();
    assert_eq!(positions(&handshakes), [1], "no snapshot stands for it");
    replica.stop().await;
}
