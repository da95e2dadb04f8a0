//! Groups that are marked as gone back in time, and repaired.

use super::*;

#[tokio::test]
async fn a_regression_is_said_once_and_only_of_what_is_current() {
    let scene = Scene::new().await;
    let old = scene.known().await;
    scene.write(five(scene.group)).await.unwrap();
    let archive = &scene.archive;
    assert!(
        !archive.mark_regressed(&old).await.unwrap(),
        "it was archived further"
    );
    let current = scene.known().await;
    assert!(archive.mark_regressed(&current).await.unwrap());
    assert!(!archive.mark_regressed(&current).await.unwrap());
    assert!(scene.known().await.head.frozen);
    let marks = archive.marks().await.unwrap();
    assert!(marks.len() == 1 && marks[0].0 == scene.group && marks[0].1.regressed);
    // Nothing is archived of it.
    let outcome = scene.write(vec![message(scene.group, 6, 2)]).await;
    assert!(matches!(outcome, Err(WriteError::Stale)), "{outcome:?}");
    archive.mark_repaired(&current).await.unwrap();
    let marks = archive.marks().await.unwrap();
    assert_eq!((marks[0].1.regressed, marks[0].1.repairs), (false, 1));
    assert_eq!(scene.known().await.trimmed, Position(5));
}

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

#[tokio::test]
async fn a_repair_forgets_what_was_read_of_the_log_that_was_lost() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    scene.write(five(group)).await.unwrap();
    let known = scene.known().await;
    let alice = archive.readers(known.number).await.unwrap()[0].device;
    let acknowledge = async |position| {
        let read = [(group, alice, Position(position))];
        archive.acknowledge(&read).await.unwrap();
        archive.readers(known.number).await.unwrap()[0].done
    };
    // Of entries that were never archived.
    assert_eq!(acknowledge(9).await, Position(9));
    assert!(archive.mark_regressed(&known).await.unwrap());
    assert_eq!(
        acknowledge(12).await,
        Position(9),
        "it was on its way when the group was frozen"
    );
    archive.mark_repaired(&known).await.unwrap();
    assert_eq!(acknowledge(4).await, Position(5), "what was kept is read");
    assert_eq!(acknowledge(6).await, Position(6));
}
