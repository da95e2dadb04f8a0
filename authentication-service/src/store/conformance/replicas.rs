//! What must hold when several replicas write to one store at the same time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;

use super::{act, at, certificate, code, device, enrolled, hash, user};
use crate::store::{DeviceKind, EnrolOutcome, NewCode, NewDevice, RenewOutcome, Store};

/// Runs everything, each part on an empty store that was opened twice.
pub(crate) async fn run_on_replicas<S: Store>(mut empty: impl AsyncFnMut() -> [S; 2]) {
    let mut next = async || empty().await.map(Arc::new);
    all_get_the_same_secret(next().await).await;
    a_code_enrols_one_of_fifty(next().await).await;
    repeats_get_one_device_and_one_answer(next().await).await;
    a_key_goes_to_one_of_many(next().await).await;
    an_assertion_is_used_by_one(next().await).await;
    one_bootstrap_code_is_left(next().await).await;
    a_user_is_suspended_once(next().await).await;
    readers_see_no_number_before_those_below_it(next().await).await;
}

/// At both replicas in turn, all at the same time.
async fn at_both<S: Store, T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    stores: &[Arc<S>; 2],
    numbers: impl IntoIterator<Item = u8>,
    work: impl Fn(Arc<S>, u8) -> F,
) -> Vec<T> {
    let tasks = numbers.into_iter().map(|n| {
        let store = Arc::clone(&stores[usize::from(n % 2)]);
        tokio::spawn(work(store, n))
    });
    let done = join_all(tasks.collect::<Vec<_>>()).await;
    done.into_iter().map(Result::unwrap).collect()
}

fn count<T: PartialEq>(outcomes: &[T], wanted: &T) -> usize {
    outcomes.iter().filter(|outcome| *outcome == wanted).count()
}

async fn all_get_the_same_secret<S: Store>(stores: [Arc<S>; 2]) {
    let kept = at_both(&stores, 0..20, |store, n| async move {
        store.keep_secret("a", &[n; 32]).await.unwrap()
    })
    .await;
    assert_eq!(kept.into_iter().collect::<BTreeSet<_>>().len(), 1);
}

async fn a_code_enrols_one_of_fifty<S: Store>(stores: [Arc<S>; 2]) {
    let [first, second] = &stores;
    let new = code(0, "alice");
    first.create_code(&new, &act(0, "code")).await.unwrap();
    let outcomes = at_both(&stores, 1..=50, |store, n| async move {
        store.enrol(&hash(0), &device(n), &act(1, "enrol")).await.unwrap()
    })
    .await;
    assert_eq!(count(&outcomes, &EnrolOutcome::Enrolled), 1);
    assert_eq!(count(&outcomes, &EnrolOutcome::CodeUnusable), 49);
    let devices = second.devices_of(&user("alice")).await.unwrap().unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(second.audit_events(0, 10).await.unwrap().len(), 2);
}

async fn repeats_get_one_device_and_one_answer<S: Store>(stores: [Arc<S>; 2]) {
    let [first, second] = &stores;
    let new = code(0, "alice");
    first.create_code(&new, &act(0, "code")).await.unwrap();
    // One device that asks twenty times; each request would have made it another id.
    let answers = at_both(&stores, 1..=20, |store, n| async move {
        let new = NewDevice {
            public_key: vec![0; 32],
            ..device(n)
        };
        let outcome = store.enrol(&hash(0), &new, &act(1, "enrol")).await.unwrap();
        let answer = store.answer(&hash(0), &[0; 32], at(1)).await.unwrap().unwrap();
        (outcome, answer)
    })
    .await;
    let (outcomes, answers): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    assert_eq!(count(&outcomes, &EnrolOutcome::Enrolled), 1);
    assert_eq!(count(&outcomes, &EnrolOutcome::CodeUnusable), 19);
    assert_eq!(count(&answers, &answers[0]), 20);
    let devices = second.devices_of(&user("alice")).await.unwrap().unwrap();
    assert_eq!(devices, [answers[0].device.clone()]);
    assert_eq!(second.audit_events(0, 10).await.unwrap().len(), 2);
}

async fn a_key_goes_to_one_of_many<S: Store>(stores: [Arc<S>; 2]) {
    let [first, _] = &stores;
    // Each user has a code and each of the other users a device, and a service comes too: all want key 0.
    for n in 1..=10 {
        let new = code(n, &format!("user{n}"));
        first.create_code(&new, &act(0, "code")).await.unwrap();
        enrolled(first.as_ref(), n + 10, &format!("user{}", n + 10), 0).await;
    }
    let got = at_both(&stores, 1..=21, |store, n| async move {
        match n {
            1..=10 => {
                let new = NewDevice {
                    public_key: vec![0; 32],
                    ..device(n)
                };
                match store.enrol(&hash(n), &new, &act(1, "enrol")).await.unwrap() {
                    EnrolOutcome::Enrolled => true,
                    EnrolOutcome::KeyInUse => false,
                    other => panic!("{other:?}"),
                }
            }
            11..=20 => {
                let act = act(1, "renew");
                let renewed = store.renew(device(n).id, &[0; 32], at(9000), &act);
                match renewed.await.unwrap() {
                    RenewOutcome::Renewed => true,
                    RenewOutcome::KeyInUse => false,
                    RenewOutcome::NoSuchDevice => panic!("no such device"),
                }
            }
            _ => {
                let wanted = certificate(0, "s", at(9000));
                store
                    .add_service_certificate(&wanted, &act(1, "service"))
                    .await
                    .unwrap()
            }
        }
    })
    .await;
    assert_eq!(count(&got, &true), 1);
}

async fn an_assertion_is_used_by_one<S: Store>(stores: [Arc<S>; 2]) {
    // Before them there are some to forget, which all want to.
    for n in 0..50 {
        let jti = format!("old {n}");
        assert!(stores[0].use_assertion("a", &jti, at(1), at(0)).await.unwrap());
    }
    for round in 0..5 {
        let used = at_both(&stores, 0..20, |store, _| async move {
            let jti = format!("round {round}");
            store.use_assertion("a", &jti, at(100), at(10)).await.unwrap()
        })
        .await;
        assert_eq!(count(&used, &true), 1);
    }
}

async fn one_bootstrap_code_is_left<S: Store>(stores: [Arc<S>; 2]) {
    let bootstrap = |n| NewCode {
        kind: DeviceKind::Administrator,
        bootstrap: true,
        ..code(n, "root")
    };
    let made = at_both(&stores, 1..=20, |store, n| async move {
        store
            .create_bootstrap_code(&bootstrap(n), &act(0, "bootstrap"))
            .await
            .unwrap()
    })
    .await;
    assert_eq!(count(&made, &true), 20);
    let mut left = Vec::new();
    for n in 1..=20 {
        if stores[0].code(&hash(n), at(1)).await.unwrap().is_some() {
            left.push(n);
        }
    }
    let [left] = left[..] else { panic!("{left:?}") };
    // Either the code is used first, or it is void first.
    let outcomes = at_both(&stores, [left, 40, 41, 42, 43], |store, n| async move {
        if n == left {
            let enrolled = store.enrol(&hash(n), &device(n), &act(1, "enrol")).await;
            enrolled.unwrap() == EnrolOutcome::Enrolled
        } else {
            let made = store
                .create_bootstrap_code(&bootstrap(n), &act(1, "bootstrap"))
                .await;
            made.unwrap()
        }
    })
    .await;
    let usable = {
        let mut usable = 0;
        for n in [left, 40, 41, 42, 43] {
            usable += usize::from(stores[1].code(&hash(n), at(1)).await.unwrap().is_some());
        }
        usable
    };
    let enrolled = outcomes[0];
    assert_eq!(usable, usize::from(!enrolled), "{outcomes:?}");
    assert!(enrolled || outcomes[1..].iter().all(|made| *made), "{outcomes:?}");
}

async fn a_user_is_suspended_once<S: Store>(stores: [Arc<S>; 2]) {
    enrolled(stores[0].as_ref(), 1, "alice", 0).await;
    at_both(&stores, 0..20, |store, _| async move {
        let set = store
            .set_suspended(&user("alice"), true, &act(1, "suspend"))
            .await;
        assert!(set.unwrap().unwrap().suspended);
    })
    .await;
    at_both(&stores, 0..20, |store, _| async move {
        let revoked = store.revoke(device(1).id, None, &act(2, "revoke")).await;
        assert_eq!(revoked.unwrap().unwrap().revoked_at, Some(at(2)));
    })
    .await;
    assert_eq!(stores[1].revocations(0, 100).await.unwrap().newest, 2);
    assert_eq!(stores[1].audit_events(0, 100).await.unwrap().len(), 4);
}

async fn readers_see_no_number_before_those_below_it<S: Store>(stores: [Arc<S>; 2]) {
    const DEVICES: u8 = 60;
    for n in 1..=DEVICES {
        enrolled(stores[0].as_ref(), n, &format!("user{n}"), 0).await;
    }
    let before = 2 * u64::from(DEVICES);
    let done = Arc::new(AtomicBool::new(false));
    let readers = [0, 1].map(|index| {
        let (store, done) = (Arc::clone(&stores[index]), Arc::clone(&done));
        tokio::spawn(async move {
            let (mut revocations, mut events) = (0, before);
            loop {
                // Asked for first: after the last one has been written, both are read once more.
                let last = done.load(Ordering::SeqCst);
                let page = store.revocations(revocations, 1000).await.unwrap();
                for line in page.lines {
                    assert_eq!(line.number, revocations + 1, "no gap");
                    revocations = line.number;
                }
                assert_eq!(page.newest, revocations, "of the same moment");
                for event in store.audit_events(events, 1000).await.unwrap() {
                    assert_eq!(event.number, events + 1, "no gap");
                    events = event.number;
                }
                if last {
                    return (revocations, events);
                }
            }
        })
    });
    at_both(&stores, 1..=DEVICES, |store, n| async move {
        store
            .revoke(device(n).id, None, &act(1, "revoke"))
            .await
            .unwrap()
            .unwrap();
    })
    .await;
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        let expected = (DEVICES.into(), before + u64::from(DEVICES));
        assert_eq!(reader.await.unwrap(), expected);
    }
}
