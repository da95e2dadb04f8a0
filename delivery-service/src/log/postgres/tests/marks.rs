//! Groups that are marked as gone back in time, and repaired.

use super::*;

#[tokio::test]
async fn who_looked_at_a_group_before_its_repair_does_not_freeze_it_again() {
    let scene = Scene::new().await;
    let before = scene.known().await;
    assert!(scene.archive.mark_regressed(&before).await.unwrap());
    scene.archive.mark_repaired(&before).await.unwrap();
    assert!(!scene.archive.mark_regressed(&before).await.unwrap());
    assert!(!scene.known().await.head.frozen);
    // Whoever looks at it now may.
    let repaired = scene.known().await;
    assert!(scene.archive.mark_regressed(&repaired).await.unwrap());
}
