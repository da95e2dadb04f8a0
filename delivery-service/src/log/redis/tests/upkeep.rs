//! What the archiver works with.

use super::*;
use crate::log::conformance::{
    accept, commit, device, effects, eventually, group, key, message, refuse, user,
};
use crate::log::redis::partition::Partition;
use crate::log::redis::{HeadRow, Restored, is_damaged};
use crate::log::{EntryKind, Refused};

async fn positions(log: &Hot, group: GroupId, after: u64) -> Vec<u64> {
    let entries = log.read(group, Position(after), 1000, 1 << 20).await.unwrap();
    entries.iter().map(|entry| entry.position.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_in_order() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let first = group(&*log, alice).await;
    let partition = Partition::of_group(&first);
    let second = loop {
        let group = GroupId::random(&mut rand::rng());
        if Partition::of_group(&group) == partition {
            let new = crate::log::conformance::new_group(group, alice);
            log.create(new).await.unwrap();
            break group;
        }
    };
    let changed = async |after, max| log.log.changed(partition, after, max).await.unwrap();
    assert_eq!(changed(0, 9).await, [(first, 1), (second, 2)]);
    accept(&*log, message(first, alice, 0, "x")).await;
    assert_eq!(changed(0, 9).await, [(second, 2), (first, 3)]);
    assert_eq!(changed(0, 1).await, [(second, 2)]);
    assert_eq!(changed(2, 9).await, [(first, 3)]);
    assert_eq!(changed(3, 9).await, []);
    assert_eq!(log.log.sequence(partition).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimming_takes_entries_with_all_that_is_theirs_and_no_more() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    let proposal = Append {
        kind: EntryKind::Proposal,
        ..message(group, alice, 0, "proposal")
    };
    accept(&*log, proposal.clone()).await;
    let mut first = commit(group, alice, 0);
    first.seen_proposal = Some(Position(1));
    accept(&*log, first.clone()).await;
    let mut messages = Vec::new();
    for _ in 3..=150 {
        let append = message(group, alice, 1, "message");
        accept(&*log, append.clone()).await;
        messages.push(append);
    }
    let second = commit(group, alice, 1);
    accept(&*log, second.clone()).await;
    let head = log.head(group).await.unwrap();
    assert_eq!(log.log.floor(group).await.unwrap(), Some(Position(1)));
    let rows = log.log.hot_rows(group, Position(149), 9, 999).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.key).collect::<Vec<_>>(),
        [messages[147].key, second.key]
    );

    log.log.trim(group, Position(100)).await.unwrap();
    assert_eq!(log.log.floor(group).await.unwrap(), Some(Position(101)));
    assert_eq!(positions(&log, group, 0).await, (101..=151).collect::<Vec<_>>());
    let handshakes = log.handshakes(group, Position::NONE, 9).await.unwrap();
    assert_eq!(handshakes.len(), 1);
    assert_eq!(handshakes[0].position, Position(151));
    assert_eq!(log.winner(group, Epoch(0)).await.unwrap(), None);
    assert_eq!(log.winner(group, Epoch(1)).await.unwrap(), Some(Position(151)));
    for (gone, append) in [
        (true, &proposal),
        (true, &first),
        (true, &messages[97]),
        (false, &messages[98]),
    ] {
        let repeat = log.repeat(group, append.key, Some(alice)).await.unwrap();
        assert_eq!(repeat.is_none(), gone);
    }
    assert_eq!(log.head(group).await.unwrap(), head);
    assert_eq!(log.windows(group, alice).await.unwrap().len(), 1);
    let ended = Refused::EpochEnded {
        current: Epoch(2),
        winner: Position(151),
    };
    assert_eq!(refuse(&*log, message(group, alice, 0, "late")).await, ended);

    // Beyond the end: all that is there, and the log goes on.
    log.log.trim(group, Position(1000)).await.unwrap();
    assert_eq!(log.log.floor(group).await.unwrap(), None);
    assert_eq!(log.head(group).await.unwrap(), head);
    assert_eq!(
        accept(&*log, message(group, alice, 2, "next")).await.position,
        Position(152)
    );
    assert_eq!(positions(&log, group, 0).await, [152]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_young_is_not_trimmed_for_its_age() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    let mut appends = Vec::new();
    for number in 1..=200 {
        let append = Append {
            at: number * 10,
            ..message(group, alice, 0, "x")
        };
        accept(&*log, append.clone()).await;
        appends.push(append);
    }
    let trim = async |up_to, accepted_until| {
        log.log
            .trim_old(group, Position(up_to), accepted_until)
            .await
            .unwrap()
    };
    assert_eq!(trim(199, 1205).await, Some((Position(121), 1210)));
    assert_eq!(positions(&log, group, 0).await, (121..=200).collect::<Vec<_>>());
    for (gone, append) in [(true, &appends[119]), (false, &appends[120])] {
        let repeat = log.repeat(group, append.key, Some(alice)).await.unwrap();
        assert_eq!(repeat.is_none(), gone);
    }
    assert_eq!(trim(199, 1205).await, Some((Position(121), 1210)), "again");
    assert_eq!(trim(199, 9000).await, Some((Position(200), 2000)));
    assert_eq!(trim(200, 9000).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_an_entry_is_damaged_nothing_is_trimmed_and_it_is_said_where() {
    let (redis, valkey) = tokio::join!(Redis::start(), Redis::start_with(RedisProgram::Valkey, &[]));
    let (wrong_kind, good) = ("\t".repeat(41), "\u{3}".repeat(57));
    let damages: [&[&str]; 4] = [
        &["m", "x", "b", "x"],
        &["m", wrong_kind.as_str(), "b", "x"],
        &["m", good.as_str()],
        &[],
    ];
    for server in [redis, valkey] {
        let log = Hot::new(open(&server).await);
        let alice = device();
        for values in damages {
            let group = group(&*log, alice).await;
            for _ in 1..=5 {
                accept(&*log, message(group, alice, 0, "x")).await;
            }
            replace(&log, group, 3, values).await;
            // One of those that are to go, and the one that would be the oldest then.
            for up_to in [4, 2] {
                let error = log.log.trim(group, Position(up_to)).await.unwrap_err();
                assert_eq!(
                    error.0, "Redis answers DAMAGED entry 3 cannot be read",
                    "{values:?}"
                );
                assert!(is_damaged(&error));
                assert_eq!(log.log.floor(group).await.unwrap(), Some(Position(1)));
            }
            log.log.trim(group, Position(1)).await.unwrap();
            assert_eq!(log.log.floor(group).await.unwrap(), Some(Position(2)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_group_goes_on_from_what_the_archive_knows() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let (alice, bob) = (device(), device());
    let bobs = user(&format!("bob-{}", bob.as_uuid().simple()));
    let group = group(&*log, alice).await;
    accept(&*log, message(group, alice, 0, "of a history that is lost")).await;
    let before = log.log.head_row(group).await.unwrap().unwrap();
    let row = HeadRow {
        head: Head {
            epoch: Epoch(4),
            position: Position(70),
            commit_position: Position(60),
            proposal_position: Position(65),
            frozen: false,
            ..before.head
        },
        accepted_at: 9_000,
        key: before.key,
    };
    let closed = Window {
        after: Position(2),
        until: Some(Position(5)),
    };
    let open_window = Window {
        after: Position(7),
        until: None,
    };
    let mut news = log.news();
    let restored = Restored {
        group,
        row,
        group_info: Bytes::from_static(b"epoch 4"),
        windows: vec![
            (user("alice"), alice, vec![closed]),
            (bobs.clone(), bob, vec![closed, open_window]),
        ],
    };
    // Somebody has repaired it since it was looked at, or it had no head then: what was answered stays.
    let other = HeadRow {
        accepted_at: 1,
        ..before
    };
    for seen in [None, Some(&other)] {
        assert!(!log.log.restore(restored.clone(), seen).await.unwrap());
        assert_eq!(log.log.head_row(group).await.unwrap(), Some(before));
    }
    // Closing it for writes is no other head.
    log.log.set_frozen(group, true).await.unwrap();
    assert!(log.log.restore(restored, Some(&before)).await.unwrap());
    assert_eq!(log.log.head_row(group).await.unwrap(), Some(row));
    let info = (Bytes::from_static(b"epoch 4"), Epoch(4), Position(60));
    assert_eq!(log.group_info(group).await.unwrap(), Some(info));
    assert_eq!(log.windows(group, alice).await.unwrap(), [closed]);
    assert_eq!(log.windows(group, bob).await.unwrap(), [closed, open_window]);
    assert_eq!(log.log.floor(group).await.unwrap(), None);
    let groups = eventually("the group on the list", async || {
        let groups = log.memberships(&bobs, bob, None, 9).await.unwrap();
        (!groups.is_empty()).then_some(groups)
    });
    assert!(groups.await[0].device_is_member);
    while !matches!(news.recv().await.unwrap(), News::Behind(behind) if behind == group) {}

    let unseen = Refused::ProposalUnseen {
        position: Position(65),
    };
    assert_eq!(refuse(&*log, commit(group, bob, 4)).await, unseen);
    let mut remove = commit(group, bob, 4);
    remove.seen_proposal = Some(Position(65));
    effects(&mut remove).left = vec![bob];
    let removed = accept(&*log, Append { key: key(), ..remove }).await;
    assert_eq!((removed.position, removed.at), (Position(71), 9_000));
    assert!(log.memberships(&bobs, bob, None, 9).await.unwrap().is_empty());
    assert_eq!(positions(&log, group, 0).await, [71]);
}
