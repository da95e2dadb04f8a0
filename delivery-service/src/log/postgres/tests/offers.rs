//! What devices offer of frozen groups, and what a repair adds to the archive.

use super::*;
use crate::log::offers::{
    MAX_POSITIONS, MAX_VARIANTS, OfferRefused, OfferedEntry, Restoration, restored_key,
};

fn offered(row: &HotRow) -> OfferedEntry {
    OfferedEntry {
        entry: (*row.entry).clone(),
        group_info: None,
    }
}

impl Scene {
    async fn frozen() -> Self {
        let scene = Self::new().await;
        scene.write(five(scene.group)).await.unwrap();
        let known = scene.known().await;
        assert!(scene.archive.mark_regressed(&known).await.unwrap());
        scene
    }

    async fn offer(&self, by: DeviceId, offered: &[OfferedEntry]) -> Result<Position, OfferRefused> {
        let by = (&user("alice"), by);
        self.archive.offer(self.group, by, offered).await.unwrap()
    }

    async fn offered(&self) -> Vec<(u64, usize)> {
        let end = Position(u64::MAX >> 1);
        let candidates = self
            .archive
            .candidates(self.group, Position::NONE, end)
            .await
            .unwrap();
        let count =
            |candidate: &crate::log::offers::Candidate| (candidate.entry.position.0, candidate.by.len());
        candidates.iter().map(count).collect()
    }
}

#[tokio::test]
async fn offers_are_kept_once_with_all_who_make_them() {
    let scene = Scene::frozen().await;
    let (alice, bob) = (device(), device());
    let rows = [6, 7].map(|position| offered(&message(scene.group, position, 2)));
    assert_eq!(scene.offer(alice, &rows).await, Ok(Position(7)));
    assert_eq!(
        scene.offer(alice, &rows).await,
        Ok(Position(7)),
        "the same again changes nothing"
    );
    assert_eq!(scene.offer(bob, &rows[..1]).await, Ok(Position(6)));
    assert_eq!(scene.offered().await, [(6, 2), (7, 1)]);
    let newest = |device| scene.archive.newest_offer(scene.group, device);
    assert_eq!(newest(Some(bob)).await.unwrap(), Position(6));
    assert_eq!(newest(Some(device())).await.unwrap(), Position::NONE);
    assert_eq!(newest(None).await.unwrap(), Position(7));
    let candidates = scene
        .archive
        .candidates(scene.group, Position(5), Position(6))
        .await
        .unwrap();
    assert_eq!(*candidates[0].entry, rows[0].entry);

    // A committer's GroupInfo comes to what others have offered before.
    let commit = offered(&commit(scene.group, 8, 2));
    scene.offer(bob, std::slice::from_ref(&commit)).await.unwrap();
    let with_info = OfferedEntry {
        group_info: Some(Bytes::from_static(b"info")),
        ..commit
    };
    scene.offer(alice, &[with_info]).await.unwrap();
    let candidates = scene
        .archive
        .candidates(scene.group, Position(7), Position(8))
        .await
        .unwrap();
    assert_eq!(candidates.len(), 1);
    assert_eq!(candidates[0].group_info.as_deref(), Some(b"info".as_slice()));
    assert_eq!(candidates[0].by.len(), 2);
}

#[tokio::test]
async fn offers_that_are_not_wanted_leave_nothing_behind() {
    let scene = Scene::frozen().await;
    let alice = device();
    let good = offered(&message(scene.group, 6, 2));
    let archived = offered(&message(scene.group, 5, 2));
    let far = offered(&message(scene.group, 5 + MAX_POSITIONS + 1, 2));
    assert_eq!(
        scene.offer(alice, &[archived, good.clone()]).await,
        Err(OfferRefused::Archived)
    );
    assert_eq!(
        scene.offer(alice, &[good.clone(), far]).await,
        Err(OfferRefused::TooFar)
    );
    assert!(scene.offered().await.is_empty());

    scene.offer(alice, std::slice::from_ref(&good)).await.unwrap();
    let other = offered(&message(scene.group, 6, 2));
    assert_eq!(
        scene.offer(alice, std::slice::from_ref(&other)).await,
        Err(OfferRefused::Otherwise)
    );
    // Others may say otherwise, up to a bound.
    for _ in 1..MAX_VARIANTS {
        let other = offered(&message(scene.group, 6, 2));
        scene.offer(device(), &[other]).await.unwrap();
    }
    assert_eq!(scene.offer(device(), &[other]).await, Err(OfferRefused::TooMany));
    assert_eq!(scene.offered().await, [(6, 1); MAX_VARIANTS]);
    scene.offer(device(), &[good]).await.unwrap();

    // Nothing of a group that is not frozen, or is not there.
    let known = scene.known().await;
    scene.archive.mark_repaired(&known).await.unwrap();
    assert!(scene.offered().await.is_empty(), "a repaired group has none");
    let late = offered(&message(scene.group, 6, 2));
    assert_eq!(scene.offer(alice, &[late]).await, Err(OfferRefused::NotFrozen));
    let unknown = offered(&message(GroupId::random(&mut rand::rng()), 1, 0));
    let nowhere = scene
        .archive
        .offer(unknown.entry.group, (&user("alice"), alice), &[unknown])
        .await;
    assert_eq!(nowhere.unwrap(), Err(OfferRefused::NotFrozen));
}

#[tokio::test]
async fn what_one_device_may_bring_is_bounded() {
    let scene = Scene::frozen().await;
    let (alice, bob) = (device(), device());
    let large = |position| {
        let mut large = offered(&message(scene.group, position, 2));
        large.entry.bytes = Bytes::from(vec![0; 16 * 1024 * 1024]);
        large
    };
    scene.offer(alice, &[large(6)]).await.unwrap();
    scene.offer(alice, &[large(7)]).await.unwrap();
    assert_eq!(scene.offer(alice, &[large(8)]).await, Err(OfferRefused::TooMany));
    // That is no reason to send others away.
    scene.offer(bob, &[large(8)]).await.unwrap();
    assert_eq!(scene.offered().await, [(6, 1), (7, 1), (8, 1)]);
}

#[tokio::test]
async fn what_is_restored_is_archived_like_all_else() {
    let scene = Scene::frozen().await;
    let known = scene.known().await;
    let rows = [
        message(scene.group, 6, 2),
        commit(scene.group, 7, 2),
        row(scene.group, 8, EntryKind::Proposal, 3),
    ];
    let newcomer = device();
    let restoration = Restoration {
        entries: rows.iter().map(|row| Arc::clone(&row.entry)).collect(),
        windows: vec![(
            user("bob"),
            newcomer,
            vec![Window {
                after: Position(7),
                until: None,
            }],
        )],
        group_info: Some((Bytes::from_static(b"epoch 3"), Position(7))),
    };
    scene.archive.restore(&known, &restoration).await.unwrap();
    let now = scene.known().await;
    assert_eq!((now.head.position, now.head.epoch), (Position(8), Epoch(3)));
    assert_eq!(
        (now.head.commit_position, now.head.proposal_position),
        (Position(7), Position(8))
    );
    assert_eq!((now.entry_id, now.accepted_at), (rows[2].entry.id, 8000));
    assert!(now.head.frozen, "it is not open yet");
    assert_eq!(scene.positions(4, 1000).await, [5, 6, 7, 8]);
    assert_eq!(scene.handshakes(4).await, [7, 8]);
    let windows = scene.archive.windows(scene.group, newcomer).await.unwrap();
    assert_eq!(windows[0].after, Position(7));
    let info = scene.archive.group_info(scene.group).await.unwrap().unwrap();
    assert_eq!(info, (Bytes::from_static(b"epoch 3"), Epoch(3), Position(7)));
    // Its sender gets the first answer for the same bytes.
    let first = &rows[0].entry;
    let key = restored_key(&first.bytes);
    let answer = scene
        .archive
        .repeat(scene.group, key, first.sender)
        .await
        .unwrap();
    assert_eq!(answer.unwrap().position, Position(6));

    // Whoever thinks that the archive ends where it did is too late.
    let again = scene.archive.restore(&known, &restoration).await;
    assert!(matches!(again, Err(WriteError::Stale)), "{again:?}");
    let beyond = Restoration {
        entries: vec![Arc::clone(&message(scene.group, 10, 3).entry)],
        ..Restoration::default()
    };
    let gap = scene.archive.restore(&now, &beyond).await;
    assert!(matches!(gap, Err(WriteError::Stale)), "{gap:?}");
    assert_eq!(scene.positions(4, 1000).await, [5, 6, 7, 8]);
}
