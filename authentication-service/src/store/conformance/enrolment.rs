//! Codes, and the devices that enrol with them.

use std::sync::Arc;

use futures::future::join_all;
use uuid::Uuid;
use valise_proto::DeviceId;

use super::{act, actions, at, code, device, enrolled, hash, user};
use crate::store::{CodeOutcome, DeviceKind, EnrolOutcome, MAX_DEVICES, NewCode, NewDevice, Store};

pub(super) async fn a_code_enrols_one_device<S: Store>(store: &S) {
    let new = NewCode {
        kind: DeviceKind::Administrator,
        ..code(1, "alice")
    };
    store.create_code(&new, &act(0, "code")).await.unwrap();
    let found = store.code(&hash(1), at(1)).await.unwrap().unwrap();
    assert_eq!(
        (found.user, found.kind, found.user_suspended),
        (user("alice"), DeviceKind::Administrator, false)
    );
    assert_eq!(
        store.enrol(&hash(1), &device(1), &act(2, "enrol")).await.unwrap(),
        EnrolOutcome::Enrolled
    );

    let made = store.device(device(1).id).await.unwrap().unwrap();
    assert_eq!(
        (made.user, made.kind, made.name),
        (user("alice"), DeviceKind::Administrator, "device 1".into())
    );
    assert_eq!((made.public_key, made.enrolled_at), (vec![1; 32], at(2)));
    assert_eq!(
        (made.certificate_expires_at, made.revoked_at, made.user_suspended),
        (at(5000), None, false)
    );

    assert_eq!(store.code(&hash(1), at(3)).await.unwrap(), None);
    assert_eq!(
        store.enrol(&hash(1), &device(2), &act(3, "enrol")).await.unwrap(),
        EnrolOutcome::CodeUnusable
    );
    assert_eq!(
        store.enrol(&hash(9), &device(2), &act(3, "enrol")).await.unwrap(),
        EnrolOutcome::CodeUnusable
    );
    assert_eq!(store.device(device(2).id).await.unwrap(), None);
    assert_eq!(actions(store).await, ["code", "enrol"]);
}

pub(super) async fn a_code_ends<S: Store>(store: &S) {
    store
        .create_code(&code(1, "alice"), &act(0, "code"))
        .await
        .unwrap();
    assert!(store.code(&hash(1), at(999)).await.unwrap().is_some());
    assert_eq!(store.code(&hash(1), at(1000)).await.unwrap(), None);
    assert_eq!(
        store
            .enrol(&hash(1), &device(1), &act(1000, "enrol"))
            .await
            .unwrap(),
        EnrolOutcome::CodeUnusable
    );
    // Another code made later does not bring it back.
    store
        .create_code(
            &NewCode {
                expires_at: at(3000),
                ..code(2, "alice")
            },
            &act(2000, "code"),
        )
        .await
        .unwrap();
    assert_eq!(store.code(&hash(1), at(2000)).await.unwrap(), None);
    assert!(store.code(&hash(2), at(2000)).await.unwrap().is_some());
}

pub(super) async fn a_refused_enrolment_changes_nothing<S: Store>(store: &S) {
    enrolled(store, 1, "alice", 0).await;
    store.create_code(&code(2, "bob"), &act(0, "code")).await.unwrap();
    let before = actions(store).await;
    let same_key = NewDevice {
        public_key: vec![1; 32],
        ..device(2)
    };
    assert_eq!(
        store.enrol(&hash(2), &same_key, &act(1, "enrol")).await.unwrap(),
        EnrolOutcome::KeyInUse
    );
    store
        .set_suspended(&user("bob"), true, &act(1, "suspend"))
        .await
        .unwrap();
    assert_eq!(
        store.enrol(&hash(2), &device(2), &act(1, "enrol")).await.unwrap(),
        EnrolOutcome::UserSuspended
    );
    assert!(store.code(&hash(2), at(1)).await.unwrap().unwrap().user_suspended);
    let refused = store.create_code(&code(3, "bob"), &act(1, "code")).await.unwrap();
    assert_eq!(refused, CodeOutcome::UserSuspended);
    assert_eq!(store.code(&hash(3), at(1)).await.unwrap(), None);
    store
        .set_suspended(&user("bob"), false, &act(2, "resume"))
        .await
        .unwrap();
    assert_eq!(
        actions(store).await,
        [&before[..], &["suspend".into(), "resume".into()]].concat()
    );
    // The code was not used up by what was refused.
    assert_eq!(
        store.enrol(&hash(2), &device(2), &act(3, "enrol")).await.unwrap(),
        EnrolOutcome::Enrolled
    );
}

pub(super) async fn one_of_many_wins<S: Store>(store: Arc<S>) {
    store
        .create_code(&code(0, "alice"), &act(0, "code"))
        .await
        .unwrap();
    let tries = (1..=50).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.enrol(&hash(0), &device(n), &act(1, "enrol")).await.unwrap() })
    });
    let outcomes: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
    let won = outcomes
        .iter()
        .filter(|outcome| **outcome == EnrolOutcome::Enrolled)
        .count();
    let lost = outcomes
        .iter()
        .filter(|outcome| **outcome == EnrolOutcome::CodeUnusable)
        .count();
    assert_eq!((won, lost), (1, 49));
    assert_eq!(store.devices_of(&user("alice")).await.unwrap().unwrap().len(), 1);
    assert_eq!(actions(store.as_ref()).await, ["code", "enrol"]);
}

pub(super) async fn bootstrap_codes_replace_each_other<S: Store>(store: &S) {
    let bootstrap = |n| NewCode {
        kind: DeviceKind::Administrator,
        bootstrap: true,
        ..code(n, "root")
    };
    assert!(
        store
            .create_bootstrap_code(&bootstrap(1), &act(0, "bootstrap"))
            .await
            .unwrap()
    );
    store
        .create_code(&code(2, "alice"), &act(0, "code"))
        .await
        .unwrap();
    assert!(
        store
            .create_bootstrap_code(&bootstrap(3), &act(1, "bootstrap"))
            .await
            .unwrap()
    );
    assert_eq!(store.code(&hash(1), at(2)).await.unwrap(), None, "void");
    assert!(
        store.code(&hash(2), at(2)).await.unwrap().is_some(),
        "not one of them"
    );
    assert_eq!(
        store.enrol(&hash(2), &device(2), &act(2, "enrol")).await.unwrap(),
        EnrolOutcome::Enrolled
    );
    assert!(
        store
            .create_bootstrap_code(&bootstrap(4), &act(3, "bootstrap"))
            .await
            .unwrap(),
        "no administrator yet"
    );
    assert_eq!(
        store.enrol(&hash(4), &device(4), &act(4, "enrol")).await.unwrap(),
        EnrolOutcome::Enrolled
    );
    assert!(
        !store
            .create_bootstrap_code(&bootstrap(5), &act(5, "bootstrap"))
            .await
            .unwrap()
    );
    assert_eq!(store.code(&hash(5), at(5)).await.unwrap(), None);
    store.revoke(device(4).id, None, &act(6, "revoke")).await.unwrap();
    assert!(
        !store
            .create_bootstrap_code(&bootstrap(6), &act(7, "bootstrap"))
            .await
            .unwrap(),
        "there was one"
    );
    assert_eq!(
        actions(store).await,
        [
            "bootstrap",
            "code",
            "bootstrap",
            "enrol",
            "bootstrap",
            "enrol",
            "revoke"
        ]
    );
}

pub(super) async fn a_user_has_so_many_devices<S: Store>(store: Arc<S>) {
    let numbered = |n: u32| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        let new = NewDevice {
            id: DeviceId::from_uuid(Uuid::from_u128(n.into())),
            name: String::new(),
            public_key: key.to_vec(),
            chain: Vec::new(),
            certificate_expires_at: at(5000),
        };
        (key, new)
    };
    let enrol = async |store: Arc<S>, n| {
        let (hash, new) = numbered(n);
        let code = NewCode {
            hash,
            ..code(1, "alice")
        };
        store.create_code(&code, &act(0, "code")).await.unwrap();
        store.enrol(&hash, &new, &act(0, "enrol")).await.unwrap()
    };
    for n in 1..MAX_DEVICES {
        assert_eq!(enrol(Arc::clone(&store), n).await, EnrolOutcome::Enrolled, "{n}");
    }
    // For the last place there are ten.
    let tries = (MAX_DEVICES..MAX_DEVICES + 10).map(|n| enrol(Arc::clone(&store), n));
    let outcomes = join_all(tries).await;
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    assert_eq!(
        (count(EnrolOutcome::Enrolled), count(EnrolOutcome::TooManyDevices)),
        (1, 9)
    );
    assert_eq!(
        store.devices_of(&user("alice")).await.unwrap().unwrap().len(),
        MAX_DEVICES as usize
    );
    let mut unused = 0;
    for n in MAX_DEVICES..MAX_DEVICES + 10 {
        let code = store.code(&numbered(n).0, at(1)).await.unwrap();
        unused += usize::from(code.is_some());
    }
    assert_eq!(unused, 9, "not used up");
}
