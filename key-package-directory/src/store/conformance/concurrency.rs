//! Claims at the same time, from several replicas, and after a restart (checklist K1).

use std::collections::HashSet;
use std::sync::Arc;

use super::{claim, last_resort, number, package, publication, publish, stock};
use crate::store::{PublishOutcome, Store};

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

/// Two replicas on one store.
pub(crate) async fn claims_across_replicas<S: Store>(one: &Arc<S>, other: &Arc<S>) {
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
