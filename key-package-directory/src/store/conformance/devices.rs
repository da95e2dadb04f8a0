//! Whose packages are there, and when they have gone.

use std::collections::HashMap;

use valise_proto::{DeviceId, UserId};

use super::{
    END, NOW, WINDOW, claim, device, last_resort, package, publication, publish, stock, usable_at, user,
};
use crate::store::{NewPackage, Publication, PublishOutcome, Store, Swept};

pub(super) async fn devices_are_found_by_user_and_by_id(store: &impl Store) {
    for of in [800, 801] {
        assert_eq!(
            store
                .publish(publication("bob", of, vec![package(1)]))
                .await
                .unwrap(),
            PublishOutcome::Stored
        );
    }
    assert_eq!(
        store
            .publish(publication("carol", 802, vec![package(1)]))
            .await
            .unwrap(),
        PublishOutcome::Stored
    );
    let found = async |users: &[UserId], devices: &[DeviceId]| {
        let found = store.find_devices(users, devices, 100).await.unwrap();
        let mut found: Vec<_> = found
            .into_iter()
            .map(|known| (known.user.to_string(), known.device))
            .collect();
        found.sort();
        found
    };
    let bob = |of| (user("bob").to_string(), device(of));
    assert_eq!(
        found(&[user("bob"), user("nobody")], &[]).await,
        [bob(800), bob(801)]
    );
    assert_eq!(
        found(&[user("bob")], &[device(801)]).await,
        [bob(800), bob(801)],
        "each once"
    );
    let carol = (user("carol").to_string(), device(802));
    assert_eq!(found(&[], &[device(802), device(899)]).await, [carol]);
    assert_eq!(found(&[], &[]).await, []);
    assert_eq!(store.find_devices(&[user("bob")], &[], 1).await.unwrap().len(), 1);
}

pub(super) async fn a_purged_device_is_gone_for_good(store: &impl Store) {
    const OF: u128 = 900;
    publish(store, OF, vec![package(1), last_resort(2)]).await;
    publish(store, OF + 1, vec![package(1)]).await;
    assert_eq!(store.purge(vec![device(OF), device(OF + 99)]).await.unwrap(), 2);
    assert_eq!(
        store.purge(vec![device(OF)]).await.unwrap(),
        0,
        "again changes nothing"
    );
    assert_eq!(claim(store, OF).await, None);
    assert_eq!(stock(store, OF).await, []);
    let late = publication("alice", OF, vec![package(3)]);
    assert_eq!(store.publish(late).await.unwrap(), PublishOutcome::Revoked);
    let known = store
        .find_devices(&[], &[device(OF), device(OF + 1)], 10)
        .await
        .unwrap();
    let revoked: HashMap<_, _> = known
        .into_iter()
        .map(|known| (known.device, known.revoked))
        .collect();
    assert_eq!(
        revoked,
        HashMap::from([(device(OF), true), (device(OF + 1), false)])
    );
    assert!(claim(store, OF + 1).await.is_some());
}

pub(super) async fn a_sweep_deletes_what_has_ended_and_nothing_else(store: &impl Store) {
    const OF: u128 = 1_000;
    // Earlier than everything of the other stories.
    let base = NOW - 100 * WINDOW;
    let at = |number, not_after, certificate_not_after| NewPackage {
        not_after,
        certificate_not_after,
        ..package(number)
    };
    let packages = vec![
        at(1, base + WINDOW, END),
        NewPackage {
            last_resort: true,
            ..at(2, base + WINDOW + 1, END)
        },
        at(3, END, base),
        at(4, END, base + 1),
    ];
    let early = Publication {
        usable: usable_at(base),
        ..publication("alice", OF, packages)
    };
    assert_eq!(store.publish(early).await.unwrap(), PublishOutcome::Stored);

    let sweep = async |now| store.sweep(now, usable_at(now), 10).await.unwrap();
    assert_eq!(sweep(base).await, Swept::default());
    assert_eq!(
        sweep(base + 1).await,
        Swept {
            packages: 2,
            init_keys: 0
        }
    );
    let seen = Publication {
        usable: usable_at(base),
        ..publication("alice", OF, vec![at(1, END, END)])
    };
    assert_eq!(
        store.publish(seen).await.unwrap(),
        PublishOutcome::SeenBefore { index: 0 }
    );
    assert_eq!(
        sweep(base + WINDOW + 1).await,
        Swept {
            packages: 2,
            init_keys: 1
        }
    );
    assert_eq!(
        sweep(base + WINDOW + 2).await,
        Swept {
            packages: 0,
            init_keys: 1
        }
    );
    let forgotten = Publication {
        usable: usable_at(base),
        ..publication("alice", OF, vec![at(1, END, END)])
    };
    assert_eq!(store.publish(forgotten).await.unwrap(), PublishOutcome::Stored);
}
