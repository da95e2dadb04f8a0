//! Who may archive a partition.

use super::*;
use crate::log::conformance::eventually;
use crate::log::postgres::lease::fence;

/// All other replicas count as gone.
async fn forget_archivers(archive: &PostgresArchive) {
    let forget = sqlx::query("DELETE FROM archivers");
    forget.execute(&archive.pool).await.unwrap();
}

#[tokio::test]
async fn a_stale_token_is_refused() {
    let scene = Scene::new().await;
    let (archive, group) = (&scene.archive, scene.group);
    // Another replica comes, and then says nothing more until it counts as gone.
    let (slow, quick) = (Uuid::new_v4(), Uuid::new_v4());
    forget_archivers(archive).await;
    let forgotten = archive.lease(slow, Duration::from_millis(1)).await.unwrap();
    assert!(!forgotten.is_empty(), "nobody else is there");
    let mine = async || archive.lease(quick, LONG).await.unwrap();
    let stale = *forgotten.keys().next().unwrap();
    let taken = eventually("a take-over", async || mine().await.get(&stale).copied()).await;
    assert!(taken.token > forgotten[&stale].token);

    let known = scene.known().await;
    let old = Lease {
        partition: stale,
        token: forgotten[&stale].token,
    };
    let rows = part(known, five(group));
    for change in [None, Some(3)] {
        let outcome = archive
            .write(old, std::slice::from_ref(&rows), change, UPKEEP)
            .await;
        assert!(matches!(outcome, Err(WriteError::Stale)), "{outcome:?}");
    }
    assert!(scene.positions(0, 1000).await.is_empty());
    assert_eq!(archive.archived_changes().await.unwrap()[usize::from(stale)], 0);
    let current = Lease {
        token: taken.token,
        ..old
    };
    archive.write(current, &[rows], Some(3), UPKEEP).await.unwrap();
    assert_eq!(scene.positions(0, 1000).await, [1, 2, 3, 4, 5]);
    assert_eq!(archive.archived_changes().await.unwrap()[usize::from(stale)], 3);
}

#[tokio::test]
async fn a_lease_stays_where_it_is_while_something_is_written_under_it() {
    let scene = Scene::new().await;
    let archive = &scene.archive;
    let mut writing = archive.pool.begin().await.unwrap();
    fence(&mut writing, scene.lease).await.unwrap();
    forget_archivers(archive).await;
    let other = Uuid::new_v4();
    let held = archive.lease(other, LONG).await.unwrap();
    assert_eq!((held.len(), held.contains_key(&7)), (1023, false), "all others");
    writing.commit().await.unwrap();
    let held = archive.lease(other, LONG).await.unwrap();
    assert!(held[&7].token > scene.lease.token);
    let outcome = scene.write(five(scene.group)).await;
    assert!(matches!(outcome, Err(WriteError::Stale)), "{outcome:?}");
}

#[tokio::test]
async fn partitions_are_shared_fairly_and_taken_over() {
    let scene = Scene::new().await;
    let archive = &scene.archive;
    let replicas = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    let none = archive.lease(replicas[0], LONG).await.unwrap();
    assert!(
        none.is_empty(),
        "the scene's replica has them all, and has not given any away"
    );
    let shares = async |replicas: &[Uuid]| {
        let mut shares = Vec::new();
        for replica in replicas {
            shares.push(archive.lease(*replica, LONG).await.unwrap());
        }
        shares
    };
    forget_archivers(archive).await;
    let held = eventually("fair shares", async || {
        let held = shares(&replicas).await;
        let counts: Vec<_> = held.iter().map(std::collections::BTreeMap::len).collect();
        (counts.iter().sum::<usize>() == 1024 && counts.iter().all(|count| (340..=342).contains(count)))
            .then_some(held)
    })
    .await;
    assert!(held[0].keys().all(|partition| !held[1].contains_key(partition)));
    // Leases stay where they are.
    assert_eq!(shares(&replicas).await, held);

    archive.release(replicas[2]).await.unwrap();
    let held = shares(&replicas[..2]).await;
    assert_eq!(
        held.iter().map(std::collections::BTreeMap::len).sum::<usize>(),
        1024
    );
}
