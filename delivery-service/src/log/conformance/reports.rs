//! What members report of commits.

use valise_proto::{DeviceId, Epoch, GroupId, Position};

use super::device;
use crate::log::{CommitReport, MAX_REPORTS, OrderedLog, ReportedCommit};

fn report(group: GroupId, position: u64, reporter: DeviceId, fault: i32) -> CommitReport {
    CommitReport {
        group,
        position: Position(position),
        epoch: Epoch(position - 1),
        sender: None,
        reporter,
        fault,
        at: 1_000 * position,
    }
}

async fn of_group(log: &dyn OrderedLog, group: GroupId) -> Vec<ReportedCommit> {
    log.reports(Some(group), None, 100).await.unwrap()
}

pub(super) async fn reports_are_kept_once_each(log: &dyn OrderedLog) {
    let (alice, bob, carol) = (device(), device(), device());
    // Between them in the order of ids there is nobody else's group.
    let mut ids: Vec<GroupId> = (0..2).map(|_| GroupId::random(&mut rand::rng())).collect();
    ids.sort_unstable();
    let (group, other) = (ids[0], ids[1]);
    assert_eq!(of_group(log, group).await, []);
    let by_alice = CommitReport {
        sender: Some(carol),
        ..report(group, 7, alice, 1)
    };
    assert!(log.report(by_alice).await.unwrap());
    // The same device says nothing more of the same commit.
    let again = CommitReport {
        fault: 2,
        at: 99_000,
        ..by_alice
    };
    assert!(!log.report(again).await.unwrap());
    let by_bob = CommitReport {
        reporter: bob,
        at: 8_000,
        ..by_alice
    };
    assert!(log.report(by_bob).await.unwrap());
    let by_carol = CommitReport {
        reporter: carol,
        fault: 4,
        at: 9_000,
        ..by_alice
    };
    assert!(log.report(by_carol).await.unwrap());
    assert!(log.report(report(other, 3, alice, 5)).await.unwrap());
    assert!(log.report(report(group, 9, bob, 2)).await.unwrap());

    let first = ReportedCommit {
        group,
        position: Position(7),
        epoch: Epoch(6),
        sender: Some(carol),
        faults: vec![(1, 2), (4, 1)],
        first_at: 7_000,
        last_at: 9_000,
    };
    let second = ReportedCommit {
        position: Position(9),
        epoch: Epoch(8),
        sender: None,
        faults: vec![(2, 1)],
        first_at: 9_000,
        ..first.clone()
    };
    assert_eq!(of_group(log, group).await, [first.clone(), second.clone()]);
    // Pages go on after a commit.
    let page = log.reports(Some(group), None, 1).await.unwrap();
    assert_eq!(page, [first]);
    let after = Some((group, Position(7)));
    assert_eq!(log.reports(Some(group), after, 9).await.unwrap(), [second]);
    let all = log.reports(None, Some((group, Position(9))), 9).await.unwrap();
    assert!(all.iter().any(|commit| commit.group == other) && all.iter().all(|commit| commit.group != group));

    // A device cannot fill the store.
    for position in 20..40 {
        assert!(log.report(report(group, position, alice, 1)).await.unwrap());
    }
    let kept = of_group(log, group).await;
    let of_alice: Vec<u64> = kept
        .iter()
        .map(|commit| commit.position.0)
        .filter(|at| *at >= 20)
        .collect();
    assert_eq!(of_alice, (40 - MAX_REPORTS as u64..40).collect::<Vec<_>>());
    assert_eq!(kept[0].faults, [(1, 1), (4, 1)], "others' reports stay");
    // And is told nothing new with what is older than all that is kept.
    for _ in 0..2 {
        assert!(!log.report(report(group, 19, alice, 1)).await.unwrap());
    }
}
