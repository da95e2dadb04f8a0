//! What is answered once more to whoever has used up a code.

use super::{act, actions, at, code, device, enrolled, hash, user};
use crate::store::{Answer, DeviceKind, EnrolOutcome, NewCode, NewDevice, RenewOutcome, Store};

async fn answer<S: Store>(store: &S, n: u8, key: u8, seconds: u64) -> Option<Answer> {
    store.answer(&hash(n), &[key; 32], at(seconds)).await.unwrap()
}

pub(super) async fn an_answer_is_for_one_code_and_key<S: Store>(store: &S) {
    let new = NewCode {
        kind: DeviceKind::Administrator,
        ..code(1, "alice")
    };
    store.create_code(&new, &act(0, "code")).await.unwrap();
    enrolled(store, 2, "alice", 1).await;
    assert_eq!(answer(store, 1, 1, 2).await, None, "not used yet");
    let outcome = store.enrol(&hash(1), &device(1), &act(2, "enrol")).await.unwrap();
    assert_eq!(outcome, EnrolOutcome::Enrolled);

    let found = answer(store, 1, 1, 3).await.unwrap();
    assert_eq!(
        Some(&found.device),
        store.device(device(1).id).await.unwrap().as_ref()
    );
    assert_eq!(found.chain, device(1).chain);
    for (n, key) in [(1, 2), (1, 9), (2, 1), (9, 1)] {
        assert_eq!(answer(store, n, key, 3).await, None, "code {n}, key {key}");
    }
    // A repeat is no second enrolment, whoever it is that repeats.
    for again in [
        device(1),
        NewDevice {
            id: device(3).id,
            ..device(1)
        },
        device(3),
    ] {
        let outcome = store.enrol(&hash(1), &again, &act(4, "enrol")).await.unwrap();
        assert_eq!(outcome, EnrolOutcome::CodeUnusable);
    }
    assert_eq!(answer(store, 1, 1, 5).await.unwrap(), found);
    assert_eq!(answer(store, 1, 3, 5).await, None);
    assert_eq!(store.devices_of(&user("alice")).await.unwrap().unwrap().len(), 2);
    assert_eq!(actions(store).await, ["code", "code", "enrol", "enrol"]);
}

pub(super) async fn an_answer_ends<S: Store>(store: &S) {
    enrolled(store, 1, "alice", 0).await;
    assert!(answer(store, 1, 1, 999).await.is_some());
    assert_eq!(answer(store, 1, 1, 1000).await, None, "with the code");

    store
        .create_code(&code(2, "alice"), &act(0, "code"))
        .await
        .unwrap();
    let short = NewDevice {
        certificate_expires_at: at(500),
        ..device(2)
    };
    store.enrol(&hash(2), &short, &act(0, "enrol")).await.unwrap();
    assert!(answer(store, 2, 2, 499).await.is_some());
    assert_eq!(answer(store, 2, 2, 500).await, None, "with the certificate");

    // Codes that are made later sweep them out.
    let later = NewCode {
        expires_at: at(3000),
        ..code(3, "alice")
    };
    store.create_code(&later, &act(500, "code")).await.unwrap();
    assert_eq!(answer(store, 2, 2, 0).await, None);
    assert!(answer(store, 1, 1, 0).await.is_some());
    let later = NewCode {
        hash: hash(4),
        ..later
    };
    store.create_code(&later, &act(1000, "code")).await.unwrap();
    assert_eq!(answer(store, 1, 1, 0).await, None);
    assert!(store.device(device(1).id).await.unwrap().is_some(), "it stays");
}

pub(super) async fn an_answer_shows_the_device_as_it_is<S: Store>(store: &S) {
    let id = enrolled(store, 1, "alice", 0).await;
    let shown = async || answer(store, 1, 1, 9).await.map(|answer| answer.device);
    store
        .set_suspended(&user("alice"), true, &act(1, "suspend"))
        .await
        .unwrap();
    assert!(shown().await.unwrap().user_suspended);
    store
        .set_suspended(&user("alice"), false, &act(2, "resume"))
        .await
        .unwrap();
    assert!(!shown().await.unwrap().user_suspended);

    let renew = async |key| {
        let renewed = store.renew(id, &[key; 32], at(9000), &act(3, "renew")).await;
        assert_eq!(renewed.unwrap(), RenewOutcome::Renewed);
    };
    renew(5).await;
    for key in [1, 5] {
        assert_eq!(answer(store, 1, key, 9).await, None, "it has another key");
    }
    renew(1).await;
    assert_eq!(shown().await.unwrap().certificate_expires_at, at(9000));

    store.revoke(id, None, &act(4, "revoke")).await.unwrap();
    assert_eq!(shown().await.unwrap().revoked_at, Some(at(4)));
}

pub(super) async fn what_is_refused_leaves_no_answer<S: Store>(store: &S) {
    enrolled(store, 1, "alice", 0).await;
    store.create_code(&code(2, "bob"), &act(0, "code")).await.unwrap();
    let same_key = NewDevice {
        public_key: vec![1; 32],
        ..device(2)
    };
    let outcome = store.enrol(&hash(2), &same_key, &act(1, "enrol")).await.unwrap();
    assert_eq!(outcome, EnrolOutcome::KeyInUse);
    assert_eq!(answer(store, 2, 1, 2).await, None);
}
