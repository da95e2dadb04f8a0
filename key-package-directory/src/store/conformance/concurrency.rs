//! Claims at the same time, from several replicas, and after a restart (checklist K1).

use std::collections::HashSet;
use std::sync::Arc;

use super::{
    NOW, WINDOW, claim, device, last_resort, number, package, publication, publish, stock, usable_at,
};
use crate::store::{NewPackage, Publication, PublishOutcome, Store};

pub(super) async fn a_thousand_claims_at_once<S: Store>(store: &Arc<S>) {
    const OF: u128 = 1_100;
    publish(
        &**store,
        OF,
        (0..200).map(package).chain([last_resort(200)]).collect(),
    )
    .await;
    claim_a_thousand_times(OF, [store, store]).await;
}

async fn claims_across_replicas<S: Store>(one: &Arc<S>, other: &Arc<S>) {
    const OF: u128 = 1_200;
    publish(
        &**one,
        OF,
        (0..200).map(package).chain([last_resort(200)]).collect(),
    )
    .await;
    claim_a_thousand_times(OF, [one, other]).await;
}

async fn claim_a_thousand_times<S: Store>(of: u128, replicas: [&Arc<S>; 2]) {
    let claims: Vec<_> = (0..1_000)
        .map(|turn| {
            let store = Arc::clone(replicas[turn % 2]);
            tokio::spawn(async move { claim(&*store, of).await.expect("there is always one") })
        })
        .collect();
    let mut one_time = HashSet::new();
    let mut last_resort = 0;
    for handed in claims {
        let handed = handed.await.unwrap();
        if handed.last_resort {
            last_resort += 1;
        } else {
            assert!(one_time.insert(number(&handed)), "handed out twice");
        }
    }
    assert_eq!((one_time.len(), last_resort), (200, 800));
}

/// Before a restart. Returns what was handed out.
pub(crate) async fn publish_and_claim_half(store: &impl Store) -> HashSet<u64> {
    publish(store, 1_300, (0..10).map(package).collect()).await;
    let mut handed = HashSet::new();
    for _ in 0..5 {
        handed.insert(number(&claim(store, 1_300).await.unwrap()));
    }
    handed
}

/// After it.
pub(crate) async fn claim_the_other_half(store: &impl Store, before: &HashSet<u64>) {
    let mut all = before.clone();
    assert_eq!(stock(store, 1_300).await[0].one_time, 5);
    for _ in 0..5 {
        all.insert(number(&claim(store, 1_300).await.unwrap()));
    }
    assert_eq!(all.len(), 10);
    assert_eq!(claim(store, 1_300).await, None);
    let again = publication("alice", 1_300, vec![package(0)]);
    assert_eq!(
        store.publish(again).await.unwrap(),
        PublishOutcome::SeenBefore { index: 0 }
    );
}

/// Two replicas on one store, at the same time.
pub(crate) async fn replicas<S: Store>(one: &Arc<S>, other: &Arc<S>) {
    claims_across_replicas(one, other).await;
    a_package_is_published_once(one, other).await;
    nothing_is_published_past_a_purge(one, other).await;
    both_sweep(one, other).await;
}

/// Also where nothing of the device is stored yet that a replica could wait for.
async fn a_package_is_published_once<S: Store>(one: &Arc<S>, other: &Arc<S>) {
    for of in 2_000..2_050 {
        let publish = |store: &Arc<S>, own| {
            let store = Arc::clone(store);
            let publication = publication("alice", of, vec![package(own), package(7), last_resort(8)]);
            tokio::spawn(async move { store.publish(publication).await.unwrap() })
        };
        let both = [publish(one, 1), publish(other, 2)];
        let mut outcomes = Vec::new();
        for publishing in both {
            outcomes.push(publishing.await.unwrap());
        }
        outcomes.sort_by_key(|outcome| *outcome != PublishOutcome::Stored);
        let expected = [PublishOutcome::Stored, PublishOutcome::SeenBefore { index: 1 }];
        assert_eq!(outcomes, expected);
        let line = stock(&**one, of).await[0];
        assert_eq!((line.one_time, line.last_resort), (2, true));
    }
}

async fn nothing_is_published_past_a_purge<S: Store>(one: &Arc<S>, other: &Arc<S>) {
    for of in 2_100..2_150 {
        publish(&**one, of, vec![package(1)]).await;
        let publishing = {
            let (store, late) = (Arc::clone(one), publication("alice", of, vec![package(2)]));
            tokio::spawn(async move { store.publish(late).await.unwrap() })
        };
        // In another order than the other replica's.
        let purges = [
            (one, vec![device(of), device(of - 1)]),
            (other, vec![device(of - 1), device(of)]),
        ]
        .map(|(store, devices)| {
            let store = Arc::clone(store);
            tokio::spawn(async move { store.purge(devices).await.unwrap() })
        });
        let published = publishing.await.unwrap() == PublishOutcome::Stored;
        let mut purged = 0;
        for purge in purges {
            purged += purge.await.unwrap();
        }
        assert_eq!(purged, 1 + u64::from(published), "each is purged once");
        assert_eq!(claim(&**one, of).await, None);
        assert_eq!(stock(&**one, of).await, []);
    }
}

async fn both_sweep<S: Store>(one: &Arc<S>, other: &Arc<S>) {
    const OF: u128 = 2_200;
    const COUNT: u64 = 200;
    // Earlier than everything else.
    let base = NOW - 200 * WINDOW;
    let ends = |number| NewPackage {
        not_after: base + WINDOW,
        ..package(number)
    };
    let early = Publication {
        usable: usable_at(base),
        ..publication("alice", OF, (0..COUNT).map(ends).collect())
    };
    assert_eq!(one.publish(early).await.unwrap(), PublishOutcome::Stored);
    let now = base + WINDOW + 1;
    let sweeps = [one, other].map(|store| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let (mut packages, mut init_keys) = (0, 0);
            loop {
                let swept = store.sweep(now, usable_at(now), 10).await.unwrap();
                packages += swept.packages;
                init_keys += swept.init_keys;
                if swept.packages.max(swept.init_keys) < 10 {
                    return (packages, init_keys);
                }
            }
        })
    });
    let mut swept = (0, 0);
    for sweep in sweeps {
        let (packages, init_keys) = sweep.await.unwrap();
        swept = (swept.0 + packages, swept.1 + init_keys);
    }
    // What one skipped because the other had it, the other deleted; at the very end both may have stopped early.
    let rest = one.sweep(now, usable_at(now), 1_000).await.unwrap();
    assert_eq!(
        (swept.0 + rest.packages, swept.1 + rest.init_keys),
        (COUNT, COUNT)
    );
}
