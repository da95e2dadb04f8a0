//! Which package is handed out, and what is left then.

use std::collections::HashMap;

use super::{
    END, NOW, OTHER_SUITE, SUITE, WINDOW, claim, device, last_resort, number, package, publish, stock,
    usable_at, wanted,
};
use crate::store::{LowStock, NewPackage, StockLine, Store};

pub(super) async fn one_time_then_last_resort(store: &impl Store) {
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

pub(super) async fn those_that_end_first_go_first_and_unusable_ones_never(store: &impl Store) {
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

pub(super) async fn a_claim_serves_many_devices_and_leaves_out_those_without(store: &impl Store) {
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

pub(super) async fn suites_are_apart(store: &impl Store) {
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

pub(super) async fn suites_are_named_while_something_is_left(store: &impl Store) {
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

pub(super) async fn few_packages_are_counted(store: &impl Store) {
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
