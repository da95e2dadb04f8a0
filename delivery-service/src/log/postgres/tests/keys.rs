//! Keys that were used before.

use super::*;
use crate::log::offers::Restoration;

#[tokio::test]
async fn entries_whose_key_is_taken_are_archived_under_others() {
    let scene = Scene::new().await;
    let archive = &scene.archive;
    let first = message(scene.group, 1, 0);
    scene.write(vec![first.clone()]).await.unwrap();
    let number = scene.known().await.number;
    let under = |position, key| {
        let mut row = message(scene.group, position, 0);
        row.key = key;
        Arc::make_mut(&mut row.entry).sender = first.entry.sender;
        row
    };
    // Two under the key of the first, and one under a key of its own.
    let own = key();
    let mut rows = vec![under(2, first.key), under(3, own), under(4, first.key)];
    assert!(archive.free_keys(number, &mut rows).await.unwrap());
    assert_eq!(rows[1].key, own, "nobody had it");
    scene.write(rows.clone()).await.unwrap();
    assert_eq!(scene.positions(0, 1000).await, [1, 2, 3, 4]);
    let found = archive.repeat(scene.group, first.key, first.entry.sender).await;
    assert_eq!(
        found.unwrap().unwrap().position,
        Position(1),
        "the first answer stays"
    );

    // Not even under the key that such an entry got, which its sender could work out. Keys are each sender's own.
    let mut worked_out = vec![under(5, rows[0].key), message(scene.group, 6, 0)];
    worked_out[1].key = first.key;
    assert!(archive.free_keys(number, &mut worked_out).await.unwrap());
    assert_eq!(worked_out[1].key, first.key);
    scene.write(worked_out).await.unwrap();
    assert_eq!(scene.positions(4, 1000).await, [5, 6]);
    let mut fresh = vec![under(7, key())];
    assert!(!archive.free_keys(number, &mut fresh).await.unwrap());
}

#[tokio::test]
async fn proposals_of_the_service_that_are_alike_are_all_restored() {
    let scene = Scene::new().await;
    let known = scene.known().await;
    assert!(scene.archive.mark_regressed(&known).await.unwrap());
    let entries = [1, 2].map(|position| {
        let mut removal = row(scene.group, position, EntryKind::Proposal, 0).entry;
        let entry = Arc::make_mut(&mut removal);
        (entry.sender, entry.bytes) = (None, Bytes::from_static(b"the same"));
        removal
    });
    let restoration = Restoration {
        entries: entries.to_vec(),
        ..Restoration::default()
    };
    scene.archive.restore(&known, &restoration).await.unwrap();
    assert_eq!(scene.handshakes(0).await, [1, 2]);
}
