//! Devices and their keys.

use valise_access_token::RevocationSubject;

use super::{act, actions, at, certificate, code, device, enrolled, hash, user};
use crate::store::{EnrolOutcome, NewDevice, RenewOutcome, Store};

pub(super) async fn keys_belong_to_one_holder<S: Store>(store: &S) {
    let (first, second) = (
        enrolled(store, 1, "alice", 0).await,
        enrolled(store, 2, "alice", 1).await,
    );
    let renew = async |id, n| {
        store
            .renew(id, &[n; 32], at(9000), &act(2, "renew"))
            .await
            .unwrap()
    };
    assert_eq!(renew(first, 2).await, RenewOutcome::KeyInUse);
    assert_eq!(renew(first, 3).await, RenewOutcome::Renewed);
    // A key that was once its own stays its own.
    assert_eq!(renew(second, 1).await, RenewOutcome::KeyInUse);
    assert_eq!(renew(first, 1).await, RenewOutcome::Renewed);
    assert!(
        !store
            .add_service_certificate(&certificate(1, "s", at(9000)), &act(3, "service"))
            .await
            .unwrap()
    );
    assert!(
        store
            .add_service_certificate(&certificate(7, "s", at(9000)), &act(3, "service"))
            .await
            .unwrap()
    );
    assert!(
        store
            .add_service_certificate(&certificate(7, "s", at(9500)), &act(3, "service"))
            .await
            .unwrap()
    );
    assert!(
        !store
            .add_service_certificate(&certificate(7, "t", at(9000)), &act(3, "service"))
            .await
            .unwrap()
    );
    assert_eq!(renew(first, 7).await, RenewOutcome::KeyInUse);
    store.create_code(&code(8, "bob"), &act(4, "code")).await.unwrap();
    for taken in [2, 3, 7] {
        let new = NewDevice {
            public_key: vec![taken; 32],
            ..device(8)
        };
        assert_eq!(
            store.enrol(&hash(8), &new, &act(5, "enrol")).await.unwrap(),
            EnrolOutcome::KeyInUse
        );
    }
    let expected = [
        "code", "enrol", "code", "enrol", "renew", "renew", "service", "service", "code",
    ];
    assert_eq!(actions(store).await, expected);
}

pub(super) async fn devices_are_listed_renamed_and_renewed<S: Store>(store: &S) {
    assert_eq!(store.devices_of(&user("alice")).await.unwrap(), None);
    // Oldest first, whatever their ids.
    for (n, seconds) in [(3, 10), (1, 20), (2, 30)] {
        enrolled(store, n, "alice", seconds).await;
    }
    let bobs = enrolled(store, 4, "bob", 5).await;
    let ids: Vec<_> = store
        .devices_of(&user("alice"))
        .await
        .unwrap()
        .unwrap()
        .into_iter()
        .map(|d| d.id)
        .collect();
    assert_eq!(ids, [device(3).id, device(1).id, device(2).id]);

    let renamed = store
        .rename(device(1).id, &user("alice"), "new name")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((renamed.name.as_str(), renamed.id), ("new name", device(1).id));
    assert_eq!(store.rename(bobs, &user("alice"), "mine").await.unwrap(), None);
    assert_eq!(store.device(bobs).await.unwrap().unwrap().name, "device 4");

    let renewed = store
        .renew(device(1).id, &[9; 32], at(7000), &act(40, "renew"))
        .await
        .unwrap();
    assert_eq!(renewed, RenewOutcome::Renewed);
    let found = store.device(device(1).id).await.unwrap().unwrap();
    assert_eq!(
        (found.public_key, found.certificate_expires_at),
        (vec![9; 32], at(7000))
    );
    assert_eq!(found.enrolled_at, at(20));
    let unknown = store
        .renew(device(99).id, &[10; 32], at(7000), &act(41, "renew"))
        .await
        .unwrap();
    assert_eq!(unknown, RenewOutcome::NoSuchDevice);
}

pub(super) async fn a_revocation_happens_once<S: Store>(store: &S) {
    let id = enrolled(store, 1, "alice", 0).await;
    let revoke = async |only_of: Option<&str>, seconds| {
        let only_of = only_of.map(user);
        store
            .revoke(id, only_of.as_ref(), &act(seconds, "revoke"))
            .await
            .unwrap()
    };
    assert_eq!(revoke(Some("bob"), 1).await, None, "not bob's");
    assert_eq!(
        store.revoke(device(9).id, None, &act(1, "revoke")).await.unwrap(),
        None
    );
    assert_eq!(revoke(Some("alice"), 2).await.unwrap().revoked_at, Some(at(2)));
    assert_eq!(
        revoke(None, 3).await.unwrap().revoked_at,
        Some(at(2)),
        "as it was"
    );
    assert_eq!(actions(store).await, ["code", "enrol", "revoke"]);

    let page = store.revocations(0, 10).await.unwrap();
    assert_eq!((page.newest, page.lines.len()), (1, 1));
    assert_eq!(
        page.lines[0].subject,
        RevocationSubject::Device {
            user: user("alice"),
            device: id
        }
    );
    assert_eq!((page.lines[0].number, page.lines[0].at), (1, at(2)));
    let renewed = store
        .renew(id, &[9; 32], at(7000), &act(4, "renew"))
        .await
        .unwrap();
    assert_eq!(renewed, RenewOutcome::NoSuchDevice);
    assert_eq!(store.users("", 10).await.unwrap()[0].active_devices, 0);
}
