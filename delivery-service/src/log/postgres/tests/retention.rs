//! What leaves the archive and Redis, and when.

use super::*;
use crate::log::Snapshot;
use crate::log::postgres::retention::Sweepable;
use crate::log::postgres::trim::AgainAt;

#[tokio::test]
async fn acknowledgements_never_go_back() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    let number = scene.known().await.number;
    let alice = archive.readers(number).await.unwrap()[0].device;
    let unknown = GroupId::random(&mut rand::rng());
    for (position, done) in [(3, 3), (2, 3), (5, 5)] {
        let acknowledged = [
            (group, alice, Position(position)),
            (unknown, alice, Position(9)),
            (group, device(), Position(9)),
        ];
        archive.acknowledge(&acknowledged).await.unwrap();
        let readers = archive.readers(number).await.unwrap();
        assert_eq!(readers.len(), 1, "only members count");
        assert_eq!(readers[0].done, Position(done));
    }
}

#[tokio::test]
async fn entries_are_kept_for_members_and_commits_for_their_epochs() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    scene.write(five(group)).await.unwrap();
    let commits: Vec<EntryId> = {
        let read = archive.handshakes(group, Position(0), 9).await.unwrap();
        read.iter().map(|entry| entry.id).collect()
    };
    let snapshot = |epoch: u64, position: u64, anchor: EntryId| Snapshot {
        epoch: Epoch(epoch),
        position: Position(position),
        anchor,
        state: Bytes::from_static(b"state"),
    };
    let lost = EntryId::from_bytes([1; 8]);
    for (epoch, position, anchor) in [
        (0, 0, EntryId::from_bytes([9; 8])),
        (1, 2, commits[0]),
        // Of a history that was lost.
        (2, 4, lost),
    ] {
        archive
            .put_snapshot(group, &snapshot(epoch, position, anchor))
            .await
            .unwrap();
    }
    let number = scene.known().await.number;
    assert_eq!(
        archive.usable_snapshot(number, Position(1)).await.unwrap(),
        Some(Position(0))
    );
    assert_eq!(
        archive.usable_snapshot(number, Position(5)).await.unwrap(),
        Some(Position(2))
    );

    let due = archive.sweepable(&[6, 7], 1, 9).await.unwrap();
    assert_eq!(
        (due.len(), due[0].group, due[0].archived),
        (1, group, Position(5))
    );
    let interval = Duration::from_secs(1);
    // All members have everything up to 4.
    let deletion = due[0].judge(Position(4), Some(Position(1)), Some(Position(2)), 100, interval);
    assert_eq!(
        (deletion.messages, deletion.handshakes),
        (Position(4), Position(2))
    );
    assert_eq!(archive.delete(scene.lease, &due[0], deletion).await.unwrap(), 1);
    assert_eq!(
        scene.positions(0, 1000).await,
        [5],
        "reading begins with the first that is kept"
    );
    assert_eq!(
        scene.handshakes(0).await,
        [2, 3, 4],
        "the snapshot's commit is kept"
    );
    assert_eq!(
        archive
            .snapshots(group, EntryId::from_bytes([9; 8]), Epoch(9), 9)
            .await
            .unwrap()
            .len(),
        2,
        "the oldest has gone"
    );
    assert!(
        archive.sweepable(&[7], 1000, 9).await.unwrap().is_empty(),
        "but for the newest entry"
    );

    let stale = Lease {
        token: scene.lease.token - 1,
        ..scene.lease
    };
    let outcome = archive.delete(stale, &due[0], deletion).await;
    assert!(matches!(outcome, Err(WriteError::Stale)), "{outcome:?}");
}

#[test]
fn what_may_go_is_the_least_that_is_needed() {
    let interval = Duration::from_secs(10);
    let group = Sweepable {
        group: GroupId::from_bytes([1; 16]),
        number: 1,
        partition: 7,
        archived: Position(100),
        deleted: Position(20),
    };
    let judge = |group: &Sweepable, floor, kept_from: Option<u64>, snapshot: Option<u64>| {
        let kept_from = kept_from.map(Position);
        let deletion = group.judge(Position(floor), kept_from, snapshot.map(Position), 5, interval);
        (deletion.messages.0, deletion.handshakes.0, deletion.again_at)
    };
    // Acknowledged up to 50; from 31 on younger than the retention time.
    assert_eq!(judge(&group, 50, Some(31), Some(40)), (50, 40, 10_005));
    // Old, whoever has not acknowledged it.
    assert_eq!(judge(&group, 25, Some(61), Some(22)), (60, 22, 10_005));
    // Everything is old: the newest stays.
    assert_eq!(judge(&group, 0, None, Some(0)), (99, 0, 10_005));
    assert_eq!(judge(&group, 500, None, None), (99, 0, 10_005));
    // Nothing more.
    assert_eq!(judge(&group, 10, Some(1), Some(0)), (20, 0, 10_005));
    // A part at a time, and the rest at once.
    let long = Sweepable {
        archived: Position(50_000),
        ..group
    };
    assert_eq!(judge(&long, 40_000, None, Some(39_000)), (10_020, 10_021, 5));
}

#[tokio::test]
async fn groups_are_trimmed_when_their_time_has_come() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    scene.write(five(group)[..3].to_vec()).await.unwrap();
    assert!(
        archive.trimmable(&[7], 87, 9).await.unwrap().is_empty(),
        "no more than stay"
    );
    assert_eq!(
        archive.trimmable(&[7], 88, 9).await.unwrap().len(),
        1,
        "until they are old"
    );
    scene.write(five(group)[3..].to_vec()).await.unwrap();
    let due = archive.trimmable(&[7], 9, 9).await.unwrap();
    assert_eq!(
        (due[0].group, due[0].archived, due[0].trimmed),
        (group, Position(5), Position(0))
    );
    let number = due[0].number;
    let younger = async |after, than| {
        archive
            .first_younger(number, Position(after), than)
            .await
            .unwrap()
    };
    assert_eq!(younger(0, 2000).await, Some((Position(3), 3000)));
    assert_eq!(younger(4, 0).await, Some((Position(5), 5000)));
    assert_eq!(younger(0, 5000).await, None);
    let again_at = AgainAt {
        too_many: 77,
        old: 99,
    };
    archive.trimmed(number, Position(1), 3, again_at).await.unwrap();
    assert!(archive.trimmable(&[7], 76, 9).await.unwrap().is_empty());
    assert_eq!(
        archive.trimmable(&[7], 77, 9).await.unwrap()[0].trimmed,
        Position(1)
    );
    archive.trimmed(number, Position(2), 3, again_at).await.unwrap();
    assert!(
        archive.trimmable(&[7], 98, 9).await.unwrap().is_empty(),
        "3 are left"
    );
    assert_eq!(
        archive.trimmable(&[7], 99, 9).await.unwrap().len(),
        1,
        "and old by now"
    );
    archive.trimmed(number, Position(4), 3, again_at).await.unwrap();
    assert!(
        archive
            .trimmable(&[7], u64::MAX >> 1, 9)
            .await
            .unwrap()
            .is_empty(),
        "one is left"
    );
}
