//! What is stored of what a device publishes, and what goes for it.

use super::{
    END, OTHER_SUITE, SUITE, WINDOW, claim, device, last_resort, number, package, publication, publish,
    stock, usable_at,
};
use crate::store::{NewPackage, Publication, PublishOutcome, Store};

pub(super) async fn an_init_key_is_accepted_once(store: &impl Store) {
    const OF: u128 = 500;
    publish(store, OF, vec![package(1), package(2)]).await;
    claim(store, OF).await.unwrap();
    for seen in [1, 2] {
        let again = publication("alice", OF, vec![package(3), package(4), package(seen)]);
        assert_eq!(
            store.publish(again).await.unwrap(),
            PublishOutcome::SeenBefore { index: 2 }
        );
    }
    assert_eq!(
        stock(store, OF).await[0].one_time,
        1,
        "nothing of a refused publication is stored"
    );
    publish(store, OF, vec![package(3)]).await;
    publish(store, OF + 1, vec![package(1)]).await;
    store.delete(device(OF)).await.unwrap();
    let again = publication("alice", OF, vec![package(3)]);
    assert_eq!(
        store.publish(again).await.unwrap(),
        PublishOutcome::SeenBefore { index: 0 }
    );
}

pub(super) async fn capacity_counts_usable_one_time_packages_of_a_suite(store: &impl Store) {
    const OF: u128 = 600;
    let with_capacity = |packages| Publication {
        capacity: 3,
        ..publication("alice", OF, packages)
    };
    let three = vec![
        package(1),
        package(2),
        NewPackage {
            not_after: END - 5,
            ..package(3)
        },
        last_resort(4),
    ];
    assert_eq!(
        store.publish(with_capacity(three)).await.unwrap(),
        PublishOutcome::Stored
    );
    let one_more = || vec![last_resort(5), package(6)];
    assert_eq!(
        store.publish(with_capacity(one_more())).await.unwrap(),
        PublishOutcome::Full
    );
    assert_eq!(stock(store, OF).await[0].one_time, 3);
    assert_eq!(
        store.publish(with_capacity(vec![last_resort(5)])).await.unwrap(),
        PublishOutcome::Stored
    );
    let elsewhere = vec![NewPackage {
        suite: OTHER_SUITE,
        ..package(7)
    }];
    assert_eq!(
        store.publish(with_capacity(elsewhere)).await.unwrap(),
        PublishOutcome::Stored
    );

    let usable = usable_at(END - WINDOW - 1);
    let later = Publication {
        usable,
        ..with_capacity(vec![package(8)])
    };
    assert_eq!(
        store.publish(later).await.unwrap(),
        PublishOutcome::Stored,
        "an unusable one makes room"
    );
    assert_eq!(
        stock(store, OF).await[0].one_time,
        3,
        "the unusable one was deleted"
    );
}

pub(super) async fn another_signature_key_replaces_all(store: &impl Store) {
    const OF: u128 = 700;
    publish(
        store,
        OF,
        vec![
            package(1),
            last_resort(2),
            NewPackage {
                suite: OTHER_SUITE,
                ..package(3)
            },
        ],
    )
    .await;
    let new = |packages| Publication {
        signature_key: b"new".to_vec(),
        ..publication("alice", OF, packages)
    };
    let seen = store.publish(new(vec![package(1)])).await.unwrap();
    assert_eq!(seen, PublishOutcome::SeenBefore { index: 0 });
    assert_eq!(
        stock(store, OF).await.len(),
        2,
        "a refused publication replaces nothing"
    );
    assert_eq!(
        store.publish(new(vec![package(4)])).await.unwrap(),
        PublishOutcome::Stored
    );
    let lines = stock(store, OF).await;
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].one_time, lines[0].last_resort), (1, false));
    assert_eq!(number(&claim(store, OF).await.unwrap()), 4);
    assert_eq!(
        store.publish(new(vec![package(5)])).await.unwrap(),
        PublishOutcome::Stored
    );
    assert_eq!(number(&claim(store, OF).await.unwrap()), 5);
}

pub(super) async fn the_last_of_two_last_resort_packages_stays(store: &impl Store) {
    const OF: u128 = 1_400;
    let elsewhere = NewPackage {
        suite: OTHER_SUITE,
        ..last_resort(3)
    };
    publish(store, OF, vec![last_resort(1), last_resort(2), elsewhere]).await;
    assert_eq!(number(&claim(store, OF).await.unwrap()), 2);
    let seen = store
        .publish(publication("alice", OF, vec![last_resort(1)]))
        .await;
    assert_eq!(seen.unwrap(), PublishOutcome::SeenBefore { index: 0 });
    let lines: Vec<_> = stock(store, OF)
        .await
        .iter()
        .map(|line| (line.suite, line.last_resort))
        .collect();
    assert_eq!(lines, [(SUITE, true), (OTHER_SUITE, true)]);
}
