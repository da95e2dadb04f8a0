//! What every backend must do. A backend's tests call [`run`] with what makes an empty store, and [`run_on_replicas`] with
//! what opens an empty one twice.

mod answers;
mod replicas;

pub(crate) use replicas::run_on_replicas;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use uuid::Uuid;
use valise_access_token::RevocationSubject;
use valise_proto::{DeviceId, UserId};

use super::{
    Act, CodeHash, CodeOutcome, DeviceKind, EnrolOutcome, MAX_DEVICES, NewCode, NewDevice, RenewOutcome,
    ServiceCertificate, Store,
};

/// Runs everything, each part on an empty store.
pub(crate) async fn run<S: Store>(mut empty: impl AsyncFnMut() -> S) {
    secrets_stay(&empty().await).await;
    a_code_enrols_one_device(&empty().await).await;
    a_code_ends(&empty().await).await;
    answers::an_answer_is_for_one_code_and_key(&empty().await).await;
    answers::an_answer_ends(&empty().await).await;
    answers::an_answer_shows_the_device_as_it_is(&empty().await).await;
    answers::what_is_refused_leaves_no_answer(&empty().await).await;
    a_refused_enrolment_changes_nothing(&empty().await).await;
    one_of_many_wins(Arc::new(empty().await)).await;
    bootstrap_codes_replace_each_other(&empty().await).await;
    keys_belong_to_one_holder(&empty().await).await;
    devices_are_listed_renamed_and_renewed(&empty().await).await;
    a_revocation_happens_once(&empty().await).await;
    users_are_suspended_and_resumed(&empty().await).await;
    users_are_listed_in_pages(&empty().await).await;
    services_have_keys_until_they_end(&empty().await).await;
    assertions_are_used_once(&empty().await).await;
    acts_elsewhere_are_written_down(&empty().await).await;
    logs_have_no_gaps(Arc::new(empty().await)).await;
    a_user_has_so_many_devices(Arc::new(empty().await)).await;
}

pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_900_000_000 + seconds)
}

pub(crate) fn user(name: &str) -> UserId {
    format!("{name}@interieur.example").parse().unwrap()
}

pub(crate) fn act(seconds: u64, action: &'static str) -> Act {
    Act {
        at: at(seconds),
        actor: "actor".into(),
        action,
        subject: "subject".into(),
    }
}

pub(crate) fn hash(n: u8) -> CodeHash {
    [n; 32]
}

pub(crate) fn code(n: u8, name: &str) -> NewCode {
    NewCode {
        hash: hash(n),
        user: user(name),
        kind: DeviceKind::Device,
        bootstrap: false,
        expires_at: at(1000),
    }
}

pub(crate) fn device(n: u8) -> NewDevice {
    NewDevice {
        id: DeviceId::from_uuid(Uuid::from_u128(n.into())),
        name: format!("device {n}"),
        public_key: vec![n; 32],
        // Two values in DER, one of them empty.
        chain: vec![vec![0x04, 2, n, n], vec![0x30, 0]],
        certificate_expires_at: at(5000),
    }
}

/// A device of that user, by way of a code; its key, code and id are all made of `n`.
pub(crate) async fn enrolled<S: Store>(store: &S, n: u8, name: &str, seconds: u64) -> DeviceId {
    let made = store
        .create_code(&code(n, name), &act(seconds, "code"))
        .await
        .unwrap();
    assert_eq!(made, CodeOutcome::Created);
    let enrolled = store
        .enrol(&hash(n), &device(n), &act(seconds, "enrol"))
        .await
        .unwrap();
    assert_eq!(enrolled, EnrolOutcome::Enrolled);
    device(n).id
}

async fn actions<S: Store>(store: &S) -> Vec<String> {
    let events = store.audit_events(0, 1000).await.unwrap();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.number, index as u64 + 1, "no gap");
    }
    events.into_iter().map(|event| event.action).collect()
}

async fn secrets_stay<S: Store>(store: &S) {
    assert_eq!(store.find_secret("a").await.unwrap(), None);
    assert_eq!(store.keep_secret("a", b"first").await.unwrap(), b"first");
    assert_eq!(store.keep_secret("a", b"second").await.unwrap(), b"first");
    assert_eq!(store.find_secret("a").await.unwrap().unwrap(), b"first");
    assert_eq!(store.keep_secret("b", b"other").await.unwrap(), b"other");
}

async fn a_code_enrols_one_device<S: Store>(store: &S) {
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

async fn a_code_ends<S: Store>(store: &S) {
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

async fn a_refused_enrolment_changes_nothing<S: Store>(store: &S) {
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

async fn one_of_many_wins<S: Store>(store: Arc<S>) {
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

async fn bootstrap_codes_replace_each_other<S: Store>(store: &S) {
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

fn certificate(n: u8, name: &str, expires_at: SystemTime) -> ServiceCertificate {
    ServiceCertificate {
        name: name.into(),
        public_key: vec![n; 32],
        certificate: vec![n; 300],
        expires_at,
    }
}

async fn keys_belong_to_one_holder<S: Store>(store: &S) {
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

async fn devices_are_listed_renamed_and_renewed<S: Store>(store: &S) {
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

async fn a_revocation_happens_once<S: Store>(store: &S) {
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

async fn users_are_suspended_and_resumed<S: Store>(store: &S) {
    let id = enrolled(store, 1, "alice", 0).await;
    let set = async |suspended, seconds| {
        store
            .set_suspended(&user("alice"), suspended, &act(seconds, "set"))
            .await
            .unwrap()
            .unwrap()
            .suspended
    };
    assert_eq!(
        store
            .set_suspended(&user("nobody"), true, &act(1, "set"))
            .await
            .unwrap(),
        None
    );
    assert!(!set(false, 2).await);
    assert!(set(true, 3).await);
    assert!(set(true, 4).await);
    assert!(store.device(id).await.unwrap().unwrap().user_suspended);
    assert!(!set(false, 5).await);
    assert!(!store.device(id).await.unwrap().unwrap().user_suspended);
    let page = store.revocations(0, 10).await.unwrap();
    let subjects: Vec<_> = page
        .lines
        .into_iter()
        .map(|line| (line.number, line.at, line.subject))
        .collect();
    let user = user("alice");
    let expected = [
        (1, at(3), RevocationSubject::Suspended { user: user.clone() }),
        (2, at(5), RevocationSubject::Resumed { user }),
    ];
    assert_eq!(subjects, expected);
    assert_eq!(actions(store).await, ["code", "enrol", "set", "set"]);
}

async fn users_are_listed_in_pages<S: Store>(store: &S) {
    for (n, name) in [(1, "carol"), (2, "alice"), (3, "bob")] {
        enrolled(store, n, name, n.into()).await;
    }
    enrolled(store, 4, "alice", 9).await;
    let users = store.users("", 2).await.unwrap();
    let shown: Vec<_> = users
        .iter()
        .map(|user| (user.id.name(), user.active_devices, user.created_at))
        .collect();
    assert_eq!(shown, [("alice", 2, at(2)), ("bob", 1, at(3))]);
    let users = store.users(user("bob").as_str(), 2).await.unwrap();
    assert_eq!(
        users.iter().map(|user| user.id.name()).collect::<Vec<_>>(),
        ["carol"]
    );
    assert!(store.users(user("carol").as_str(), 2).await.unwrap().is_empty());
}

async fn services_have_keys_until_they_end<S: Store>(store: &S) {
    for (n, name, end) in [(1, "s", 100), (2, "s", 200), (3, "t", 300), (1, "s", 150)] {
        assert!(
            store
                .add_service_certificate(&certificate(n, name, at(end)), &act(0, "service"))
                .await
                .unwrap()
        );
    }
    assert_eq!(
        store.service_keys("s", at(99)).await.unwrap(),
        [vec![2; 32], vec![1; 32]]
    );
    assert_eq!(
        store.service_keys("s", at(149)).await.unwrap(),
        [vec![2; 32], vec![1; 32]],
        "renewed"
    );
    assert_eq!(store.service_keys("s", at(150)).await.unwrap(), [vec![2; 32]]);
    assert!(store.service_keys("s", at(200)).await.unwrap().is_empty());
    assert!(store.service_keys("u", at(0)).await.unwrap().is_empty());
}

async fn assertions_are_used_once<S: Store>(store: &S) {
    let use_it = async |subject, jti, until, now| {
        store
            .use_assertion(subject, jti, at(until), at(now))
            .await
            .unwrap()
    };
    assert!(use_it("a", "one", 100, 0).await);
    assert!(!use_it("a", "one", 100, 1).await);
    assert!(!use_it("a", "one", 100, 99).await);
    assert!(use_it("b", "one", 100, 1).await, "of another subject");
    assert!(use_it("a", "two", 100, 1).await);
    assert!(use_it("a", "one", 200, 100).await, "forgotten: it has expired");
}

async fn logs_have_no_gaps<S: Store>(store: Arc<S>) {
    for n in 1..=20 {
        enrolled(store.as_ref(), n, "alice", 0).await;
    }
    let revoked = (1..=20).map(|n| {
        let store = Arc::clone(&store);
        // Twice each: one of the two changes nothing and is not written down.
        tokio::spawn(async move {
            for _ in 0..2 {
                store
                    .revoke(device(n).id, None, &act(1, "revoke"))
                    .await
                    .unwrap()
                    .unwrap();
            }
        })
    });
    for done in join_all(revoked).await {
        done.unwrap();
    }
    assert_eq!(actions(store.as_ref()).await.len(), 60);
    let (mut after, mut devices) = (0, Vec::new());
    loop {
        let page = store.revocations(after, 7).await.unwrap();
        assert_eq!(page.newest, 20);
        let Some(last) = page.lines.last() else { break };
        assert_eq!(page.lines[0].number, after + 1);
        after = last.number;
        devices.extend(page.lines);
    }
    assert_eq!(devices.len(), 20);
    assert!(store.revocations(u64::MAX, 7).await.unwrap().lines.is_empty());
    let page = store.audit_events(58, 10).await.unwrap();
    assert_eq!(
        page.iter().map(|event| event.number).collect::<Vec<_>>(),
        [59, 60]
    );
    assert!(store.audit_events(u64::MAX, 10).await.unwrap().is_empty());
}

async fn acts_elsewhere_are_written_down(store: &impl Store) {
    store.record(&act(1, "elsewhere")).await.unwrap();
    store.record(&act(2, "elsewhere again")).await.unwrap();
    let events = store.audit_events(0, 10).await.unwrap();
    let shown: Vec<_> = events
        .iter()
        .map(|event| (event.number, event.action.as_str(), event.at))
        .collect();
    assert_eq!(shown, [(1, "elsewhere", at(1)), (2, "elsewhere again", at(2))]);
}

async fn a_user_has_so_many_devices<S: Store>(store: Arc<S>) {
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
