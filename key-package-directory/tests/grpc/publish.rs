//! What may be published, and that nothing of a refused call is stored.

use openmls::prelude::Ciphersuite;
use valise_access_token::Caller;
use valise_clock::Clock;
use valise_device_certificate::KeyKind;
use valise_group_rules::suites;
use valise_proto::directory::v1::GetStockRequest;
use valise_proto::{Reason, Refusal};

use crate::people::{Authority, DAY, Device, SUITE};
use crate::scene::{Given, Scene, refusal};

fn rule(refusal: &Refusal) -> (Reason, Option<&str>, Option<&str>) {
    let of = |key: &str| refusal.metadata.get(key).map(String::as_str);
    (refusal.reason, of("index"), of("rule"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_is_published_counted_and_deleted() {
    let scene = Scene::new().await;
    let alice = scene.device("alice");
    let empty = scene.stock(&alice).await;
    assert_eq!((empty.stock.len(), empty.low_level, empty.capacity), (0, 20, 200));
    assert_eq!(empty.maximum_lifetime.unwrap().seconds, 84 * 24 * 3600 + 3600);

    let mut packages = alice.packages(21);
    packages.push(alice.last_resort());
    let stock = scene.publish(&alice, packages).await.unwrap();
    assert_eq!(stock.len(), 1);
    assert_eq!(
        (stock[0].cipher_suite, stock[0].one_time, stock[0].last_resort),
        (SUITE, 21, true)
    );
    assert!(!stock[0].low);
    let unusable = stock[0].first_unusable_at.unwrap().seconds.unsigned_abs();
    let expected = Clock::system().unix_seconds() + 54 * DAY;
    assert!(
        expected.abs_diff(unusable) < DAY,
        "84 days of life less a window of 30"
    );
    assert_eq!(scene.stock(&alice).await.stock, stock);

    let bob = scene.device("bob");
    scene.publish(&bob, bob.packages(1)).await.unwrap();
    scene.claim_device(&bob, &alice).await;
    scene.claim_device(&bob, &alice).await;
    let stock = scene.stock(&alice).await.stock;
    assert_eq!((stock[0].one_time, stock[0].low), (19, true));
    assert_eq!(scene.delete(&alice).await, 20);
    let stock = scene.stock(&alice).await.stock;
    assert_eq!(
        (
            stock[0].one_time,
            stock[0].last_resort,
            stock[0].first_unusable_at
        ),
        (0, false, None)
    );
    assert_eq!(
        scene.stock(&bob).await.stock[0].one_time,
        1,
        "another device's stock stays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_named_and_nothing_is_stored() {
    let scene = Scene::new().await;
    let alice = scene.device("alice");
    let other_device = Device::new(&scene.authority, "alice");
    let bob = scene.device("bob");
    let stranger = Device::new(&Authority::new(), "alice");
    let now = Clock::system().unix_seconds();
    let ended = Device::with_certificate_until(&scene.authority, "alice", now - 10);
    let ending = Device::with_certificate_until(&scene.authority, "alice", now + 60);

    let mut flipped = alice.package();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut longer = alice.package();
    longer.push(0);
    let refused = [
        (&alice, other_device.package(), "identity"),
        (&alice, bob.package(), "identity"),
        (
            &alice,
            alice.package_with_certificate_of(&bob),
            "certificate_key_mismatch",
        ),
        (
            &alice,
            alice.package_with_certificate_of(&other_device),
            "certificate_key_mismatch",
        ),
        (&stranger, stranger.package(), "certificate_untrusted"),
        (&ended, ended.package(), "certificate_expired"),
        (&ending, ending.package(), "certificate_expired"),
        (&alice, alice.package_with_basic_credential(), "credential_type"),
        (&alice, alice.package_without_capabilities(), "capabilities"),
        (&alice, alice.package_for(30), "key_package"),
        (&alice, alice.package_for(30 * DAY), "lifetime_too_short"),
        (&alice, alice.package_for(100 * DAY), "lifetime_too_long"),
        (
            &alice,
            alice.package_of_suite(Ciphersuite::MLS_128_MLKEM768_AES256GCM_SHA384_Ed25519),
            "cipher_suite",
        ),
        (&alice, flipped, "key_package"),
        (&alice, longer, "encoding"),
        (&alice, b"garbage".to_vec(), "encoding"),
        (&alice, Vec::new(), "encoding"),
    ];
    for (by, package, expected) in refused {
        let outcome = scene.publish(by, vec![by.package(), package]).await;
        let refusal = outcome.unwrap_err();
        // A device whose own certificate is the fault has it in its first package already.
        let index = if std::ptr::eq(by, &raw const alice) {
            "1"
        } else {
            "0"
        };
        assert_eq!(
            rule(&refusal),
            (Reason::InvalidKeyPackage, Some(index), Some(expected))
        );
        assert_eq!(scene.stock(by).await.stock, [], "{expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_allowed_suite_of_the_devices_key_has_a_stock_of_its_own() {
    let scene = Scene::new().await;
    let alice = scene.device("alice");
    let own = |suite: &&Ciphersuite| suite.signature_algorithm() == suites()[0].signature_algorithm();
    let own: Vec<_> = suites().iter().filter(own).copied().collect();
    let packages = own.iter().map(|&suite| alice.package_of_suite(suite)).collect();
    let stock = scene.publish(&alice, packages).await.unwrap();
    let mut expected: Vec<_> = own.into_iter().map(|suite| u32::from(u16::from(suite))).collect();
    expected.sort_unstable();
    assert!(expected.contains(&0x004F), "the hybrid post-quantum one");
    assert_eq!(
        stock.iter().map(|line| line.cipher_suite).collect::<Vec<_>>(),
        expected
    );
    assert!(stock.iter().all(|line| line.one_time == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_p256_device_publishes_for_its_suite_with_its_own_certificate() {
    const P256: Ciphersuite = Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256;
    let scene = Scene::new().await;
    let alice = Device::of_kind(&scene.authority, "alice", KeyKind::P256);
    let bob = scene.device("bob");
    let stock = scene
        .publish(&alice, vec![alice.package_of_suite(P256)])
        .await
        .unwrap();
    assert_eq!((stock[0].cipher_suite, stock[0].one_time), (2, 1));
    // K3: the certificate's key is the leaf's.
    let foreign = alice.package_with_certificate(P256, &bob);
    let refusal = scene.publish(&alice, vec![foreign]).await.unwrap_err();
    let expected = (
        Reason::InvalidKeyPackage,
        Some("0"),
        Some("certificate_key_mismatch"),
    );
    assert_eq!(rule(&refusal), expected);
    // Said to be of another suite, whose signatures are made otherwise.
    let mut other_suite = alice.package_of_suite(P256);
    other_suite[6..8].copy_from_slice(&1_u16.to_be_bytes());
    let refusal = scene.publish(&alice, vec![other_suite]).await.unwrap_err();
    let expected = (Reason::InvalidKeyPackage, Some("0"), Some("key_package"));
    assert_eq!(rule(&refusal), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_and_numbers_have_limits() {
    let scene = Scene::with(|config| config.packages.capacity = 60).await;
    let alice = scene.device("alice");
    let refused = scene.publish(&alice, Vec::new()).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["field"].as_str()),
        (Reason::Malformed, "key_packages")
    );

    let refused = scene
        .publish(&alice, vec![alice.package(), vec![0; 16 * 1024 + 1]])
        .await
        .unwrap_err();
    assert_eq!(
        (refused.reason, refused.number("limit")),
        (Reason::MessageTooLarge, Some(16 * 1024))
    );
    assert_eq!(refused.number("index"), Some(1));

    let refused = scene
        .publish(&alice, vec![alice.package(); 101])
        .await
        .unwrap_err();
    assert_eq!(
        (refused.reason, refused.number("limit")),
        (Reason::MessageTooLarge, Some(100))
    );

    let refused = scene.publish(&alice, alice.packages(61)).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.number("limit")),
        (Reason::MessageTooLarge, Some(60))
    );
    assert_eq!(scene.stock(&alice).await.stock, []);

    scene.publish(&alice, alice.packages(60)).await.unwrap();
    scene.publish(&alice, vec![alice.last_resort()]).await.unwrap();
    let refused = scene
        .publish(&alice, vec![alice.last_resort(), alice.package()])
        .await
        .unwrap_err();
    assert_eq!(refused.reason, Reason::MessageTooLarge);
    assert_eq!(scene.stock(&alice).await.stock[0].one_time, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_accepted_once() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.device("alice"), scene.device("bob"));
    let (one, two) = (alice.package(), alice.package());
    let twice = scene
        .publish(&alice, vec![one.clone(), two.clone(), one.clone()])
        .await
        .unwrap_err();
    assert_eq!(
        rule(&twice),
        (Reason::InvalidKeyPackage, Some("2"), Some("seen_before"))
    );
    assert_eq!(scene.stock(&alice).await.stock, []);

    scene
        .publish(&alice, vec![one.clone(), two.clone()])
        .await
        .unwrap();
    let again = scene
        .publish(&alice, vec![alice.package(), two.clone()])
        .await
        .unwrap_err();
    assert_eq!(
        rule(&again),
        (Reason::InvalidKeyPackage, Some("1"), Some("seen_before"))
    );

    assert!(matches!(
        scene.claim_device(&bob, &alice).await,
        Given::OneTime(_)
    ));
    assert!(matches!(
        scene.claim_device(&bob, &alice).await,
        Given::OneTime(_)
    ));
    scene.delete(&alice).await;
    for claimed in [one, two] {
        let again = scene.publish(&alice, vec![claimed]).await.unwrap_err();
        assert_eq!(
            rule(&again),
            (Reason::InvalidKeyPackage, Some("0"), Some("seen_before"))
        );
    }
    assert_eq!(scene.stock(&alice).await.stock[0].one_time, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_signature_key_replaces_everything_and_keys_are_not_mixed() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.device("alice"), scene.device("bob"));
    scene
        .publish(&alice, vec![alice.package(), alice.last_resort()])
        .await
        .unwrap();
    let renewed = alice.with_a_new_key(&scene.authority);
    let mixed = scene
        .publish(&alice, vec![alice.package(), renewed.package()])
        .await
        .unwrap_err();
    assert_eq!(
        rule(&mixed),
        (
            Reason::InvalidKeyPackage,
            Some("1"),
            Some("signature_keys_differ")
        )
    );
    assert!(scene.stock(&alice).await.stock[0].last_resort);

    let package = renewed.package();
    let stock = scene.publish(&alice, vec![package.clone()]).await.unwrap();
    assert_eq!((stock[0].one_time, stock[0].last_resort), (1, false));
    assert_eq!(scene.claim_device(&bob, &alice).await, Given::OneTime(package));
    assert!(matches!(
        scene.claim_device(&bob, &alice).await,
        Given::Nothing(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_may_want_shorter_lives() {
    let scene = Scene::with(|config| {
        config.packages.maximum_lifetime = std::time::Duration::from_secs(10 * DAY);
        config.packages.retention = std::time::Duration::from_secs(5 * DAY);
    })
    .await;
    let alice = scene.device("alice");
    let refused = scene
        .publish(&alice, vec![alice.package_for(11 * DAY)])
        .await
        .unwrap_err();
    assert_eq!(rule(&refused).2, Some("lifetime_too_long"));
    let refused = scene
        .publish(&alice, vec![alice.package_for(5 * DAY)])
        .await
        .unwrap_err();
    assert_eq!(rule(&refused).2, Some("lifetime_too_short"));
    scene
        .publish(&alice, vec![alice.package_for(10 * DAY)])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_has_a_rate() {
    let limit = valise_service_runtime::RateLimit::new(3, 3600);
    let scene = Scene::with(|config| config.limits.publish = limit).await;
    let alice = scene.device("alice");
    scene.publish(&alice, alice.packages(3)).await.unwrap();
    let refused = scene.publish(&alice, alice.packages(1)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::RateLimited);
    scene
        .hand
        .advance(refused.retry_after.unwrap() + std::time::Duration::from_secs(1));
    scene.publish(&alice, alice.packages(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_devices_come_in() {
    let scene = Scene::new().await;
    let status = scene.client().get_stock(GetStockRequest {}).await.unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::TokenInvalid);
    let service = Caller::Service {
        name: "delivery-service".into(),
    };
    let status = scene
        .client()
        .get_stock(scene.request(&service, GetStockRequest {}))
        .await
        .unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::PolicyDenied);
}
