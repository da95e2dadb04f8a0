//! What every [`Store`] must do. Each backend's tests call these with an empty store.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;
use valise_proto::{DeviceId, UserId};

use super::{
    Handed, LowStock, NewPackage, Publication, PublishOutcome, StockLine, Store, Swept, Usable, Wanted,
};

pub(crate) mod concurrency;

const SUITE: u16 = 1;
const OTHER_SUITE: u16 = 3;
/// Everything below is in seconds, around this now.
const NOW: u64 = 1_000_000;
const WINDOW: u64 = 1_000;
const END: u64 = NOW + 10 * WINDOW;

pub(crate) fn device(number: u128) -> DeviceId {
    DeviceId::from_uuid(Uuid::from_u128(number))
}

fn user(name: &str) -> UserId {
    format!("{name}@interieur.example").parse().unwrap()
}

fn usable_at(now: u64) -> Usable {
    Usable {
        not_after_from: now + WINDOW,
        certificate_not_after_from: now,
    }
}

/// A package whose content is its number.
fn package(number: u64) -> NewPackage {
    let mut init_key_digest = [0; 32];
    init_key_digest[..8].copy_from_slice(&number.to_be_bytes());
    NewPackage {
        suite: SUITE,
        last_resort: false,
        not_after: END,
        certificate_not_after: END,
        init_key_digest,
        message: number.to_be_bytes().to_vec(),
    }
}

fn last_resort(number: u64) -> NewPackage {
    NewPackage {
        last_resort: true,
        ..package(number)
    }
}

pub(crate) fn number(handed: &Handed) -> u64 {
    u64::from_be_bytes(handed.message.as_slice().try_into().unwrap())
}

fn publication(name: &str, of: u128, packages: Vec<NewPackage>) -> Publication {
    Publication {
        user: user(name),
        device: device(of),
        signature_key: b"key".to_vec(),
        packages,
        usable: usable_at(NOW),
        capacity: 200,
    }
}

async fn publish(store: &impl Store, of: u128, packages: Vec<NewPackage>) {
    let outcome = store.publish(publication("alice", of, packages)).await.unwrap();
    assert_eq!(outcome, PublishOutcome::Stored);
}

/// So many one-time packages, with their number for content, and a last-resort package.
pub(crate) async fn publish_numbered(store: &impl Store, of: u128, one_time: u64, last: u64) {
    let packages = (0..one_time).map(package).chain([last_resort(last)]).collect();
    publish(store, of, packages).await;
}

pub(crate) fn wanted(devices: &[u128], now: u64) -> Wanted {
    let devices = devices.iter().copied().map(device).collect();
    Wanted {
        suite: SUITE,
        devices,
        usable: usable_at(now),
    }
}

pub(crate) async fn claim(store: &impl Store, of: u128) -> Option<Handed> {
    let mut handed = store.claim(wanted(&[of], NOW)).await.unwrap();
    assert!(handed.len() <= 1);
    handed.pop()
}

async fn stock(store: &impl Store, of: u128) -> Vec<StockLine> {
    store.stock(device(of), usable_at(NOW)).await.unwrap()
}

/// All of it, on one store. Each story has devices of its own.
pub(crate) async fn run<S: Store>(store: &Arc<S>) {
    one_time_then_last_resort(&**store).await;
    those_that_end_first_go_first_and_unusable_ones_never(&**store).await;
    a_claim_serves_many_devices_and_leaves_out_those_without(&**store).await;
    suites_are_apart(&**store).await;
    suites_are_named_while_something_is_left(&**store).await;
    an_init_key_is_accepted_once(&**store).await;
    capacity_counts_usable_one_time_packages_of_a_suite(&**store).await;
    another_signature_key_replaces_all(&**store).await;
    devices_are_found_by_user_and_by_id(&**store).await;
    the_last_of_two_last_resort_packages_stays(&**store).await;
    few_packages_are_counted(&**store).await;
    a_purged_device_is_gone_for_good(&**store).await;
    a_sweep_deletes_what_has_ended_and_nothing_else(&**store).await;
    concurrency::a_thousand_claims_at_once(store).await;
}

async fn one_time_then_last_resort(store: &impl Store) {
    const OF: u128 = 100;
    assert_eq!(claim(store, OF).await, None);
    publish(store, OF, vec![package(1), package(2), last_resort(3)]).await;
    let expected = StockLine {
        suite: SUITE,
        one_time: 2,
        last_resort: true,
        first_not_after: Some(END),
        first_certificate_not_after: Some(END),
    };
    assert_eq!(stock(store, OF).await, [expected]);

    let first = claim(store, OF).await.unwrap();
    assert!(!first.last_resort);
    assert_eq!(stock(store, OF).await[0].one_time, 1);
    let second = claim(store, OF).await.unwrap();
    assert!(!second.last_resort);
    assert_ne!(number(&first), number(&second));
    for _ in 0..3 {
        let again = claim(store, OF).await.unwrap();
        assert_eq!((number(&again), again.last_resort), (3, true));
    }

    publish(store, OF, vec![last_resort(4)]).await;
    assert_eq!(
        number(&claim(store, OF).await.unwrap()),
        4,
        "a last-resort package replaces the one before"
    );
    assert_eq!(store.delete(device(OF)).await.unwrap(), 1);
    assert_eq!(claim(store, OF).await, None);
    let line = stock(store, OF).await[0];
    assert_eq!(
        (line.one_time, line.last_resort, line.first_not_after),
        (0, false, None)
    );
}

async fn those_that_end_first_go_first_and_unusable_ones_never(store: &impl Store) {
    const OF: u128 = 200;
    let ends = |number, not_after| NewPackage {
        not_after,
        ..package(number)
    };
    let certificate_ends = NewPackage {
        certificate_not_after: NOW + WINDOW,
        ..package(13)
    };
    let packages = vec![
        ends(10, END),
        ends(11, END - 2),
        ends(12, END - 1),
        certificate_ends,
    ];
    publish(store, OF, packages).await;

    assert_eq!(number(&claim(store, OF).await.unwrap()), 11);
    // The window is inclusive: a package with exactly that much left is still handed out.
    let at = END - 1 - WINDOW;
    let handed = store.claim(wanted(&[OF], at)).await.unwrap();
    assert_eq!(number(&handed[0]), 12);
    let left = store.stock(device(OF), usable_at(at)).await.unwrap();
    assert_eq!(
        left[0].one_time, 1,
        "one of the two that are left has no certificate by then"
    );
    let handed = store.claim(wanted(&[OF], END - WINDOW + 1)).await.unwrap();
    assert_eq!(
        handed,
        [],
        "the window has begun, and the other's certificate has ended"
    );
    let late = store
        .stock(device(OF), usable_at(END - WINDOW + 1))
        .await
        .unwrap();
    assert_eq!((late[0].one_time, late[0].first_not_after), (0, None));
    let line = stock(store, OF).await[0];
    assert_eq!(
        (line.one_time, line.first_certificate_not_after),
        (2, Some(NOW + WINDOW))
    );
}

async fn a_claim_serves_many_devices_and_leaves_out_those_without(store: &impl Store) {
    let devices: Vec<u128> = (300..350).collect();
    for &of in &devices[..40] {
        publish(store, of, vec![package(1), package(2)]).await;
    }
    publish(store, 340, vec![last_resort(1)]).await;
    let handed = store.claim(wanted(&devices, NOW)).await.unwrap();
    let by_device: HashMap<_, _> = handed.iter().map(|handed| (handed.device, handed)).collect();
    assert_eq!(handed.len(), 41);
    assert_eq!(by_device.len(), 41);
    for &of in &devices[..40] {
        assert!(!by_device[&device(of)].last_resort);
    }
    let suspects: Vec<_> = devices.iter().map(|&of| (device(of), SUITE)).collect();
    assert_eq!(store.low(&suspects, usable_at(NOW), 1).await.unwrap().len(), 10);
    assert_eq!(store.low(&suspects, usable_at(NOW), 2).await.unwrap().len(), 50);
    assert!(by_device[&device(340)].last_resort);
}

async fn suites_are_apart(store: &impl Store) {
    const OF: u128 = 400;
    publish(
        store,
        OF,
        vec![
            package(1),
            NewPackage {
                suite: OTHER_SUITE,
                ..package(2)
            },
        ],
    )
    .await;
    let lines: Vec<_> = stock(store, OF)
        .await
        .iter()
        .map(|line| (line.suite, line.one_time))
        .collect();
    assert_eq!(lines, [(SUITE, 1), (OTHER_SUITE, 1)]);
    assert_eq!(number(&claim(store, OF).await.unwrap()), 1);
    assert_eq!(claim(store, OF).await, None);
    let lines: Vec<_> = stock(store, OF)
        .await
        .iter()
        .map(|line| (line.suite, line.one_time))
        .collect();
    assert_eq!(lines, [(SUITE, 0), (OTHER_SUITE, 1)]);
}

async fn suites_are_named_while_something_is_left(store: &impl Store) {
    const OF: [u128; 3] = [450, 451, 452];
    let of_other_suite = |package| NewPackage {
        suite: OTHER_SUITE,
        ..package
    };
    publish(store, OF[0], vec![package(1), of_other_suite(last_resort(2))]).await;
    let ends = NewPackage {
        certificate_not_after: NOW + 10,
        ..of_other_suite(package(2))
    };
    publish(store, OF[1], vec![package(1), package(3), ends]).await;
    let named = async |now| {
        let devices = OF.map(device);
        let mut found = store.suites(&devices, usable_at(now)).await.unwrap();
        found.sort_unstable();
        let name = |(of, suite)| (OF.iter().position(|known| device(*known) == of).unwrap(), suite);
        found.into_iter().map(name).collect::<Vec<_>>()
    };
    let all = [(0, SUITE), (0, OTHER_SUITE), (1, SUITE), (1, OTHER_SUITE)];
    assert_eq!(named(NOW).await, all);
    assert_eq!(named(NOW + 10).await, all, "the bounds are inclusive");
    assert_eq!(named(NOW + 11).await, all[..3], "a certificate has ended");
    assert_eq!(named(END - WINDOW + 1).await, [], "the window has begun");
    // The last one-time package goes; a last-resort package stays.
    claim(store, OF[0]).await.unwrap();
    assert_eq!(named(NOW).await, all[1..]);
    assert_eq!(store.suites(&[], usable_at(NOW)).await.unwrap(), []);
}

async fn an_init_key_is_accepted_once(store: &impl Store) {
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

async fn capacity_counts_usable_one_time_packages_of_a_suite(store: &impl Store) {
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

async fn another_signature_key_replaces_all(store: &impl Store) {
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

async fn the_last_of_two_last_resort_packages_stays(store: &impl Store) {
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

async fn few_packages_are_counted(store: &impl Store) {
    const OF: u128 = 1_500;
    let ends = NewPackage {
        certificate_not_after: NOW,
        ..package(3)
    };
    publish(store, OF, vec![package(1), package(2), ends, last_resort(4)]).await;
    let suspects = [
        (device(OF), SUITE),
        (device(OF), OTHER_SUITE),
        (device(OF + 1), SUITE),
    ];
    let low = async |now, below| {
        let mut low = store.low(&suspects, usable_at(now), below).await.unwrap();
        low.sort_by_key(|low| (low.device, low.suite));
        low.into_iter()
            .map(
                |LowStock {
                     device,
                     suite,
                     one_time,
                 }| (device, suite, one_time),
            )
            .collect::<Vec<_>>()
    };
    let nothing_of_others = [(device(OF), OTHER_SUITE, 0), (device(OF + 1), SUITE, 0)];
    assert_eq!(low(NOW, 3).await, nothing_of_others);
    let mut with_two = nothing_of_others.to_vec();
    with_two.insert(0, (device(OF), SUITE, 2));
    assert_eq!(low(NOW + 1, 3).await, with_two);
    assert_eq!(low(NOW + 1, 2).await, nothing_of_others);
}

async fn devices_are_found_by_user_and_by_id(store: &impl Store) {
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

async fn a_purged_device_is_gone_for_good(store: &impl Store) {
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

async fn a_sweep_deletes_what_has_ended_and_nothing_else(store: &impl Store) {
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
