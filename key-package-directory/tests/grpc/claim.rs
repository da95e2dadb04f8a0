//! Who gets which package.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use valise_proto::directory::v1::{Claim, ClaimFailure, ClaimKeyPackagesRequest};
use valise_proto::{Reason, UserId};
use valise_service_runtime::RateLimit;

use crate::people::{DAY, Device, SUITE};
use crate::scene::{Given, Scene, given};

const EXHAUSTED: Given = Given::Nothing(ClaimFailure::Exhausted as i32);

fn wanted(users: &[&UserId], devices: &[&Device]) -> ClaimKeyPackagesRequest {
    ClaimKeyPackagesRequest {
        user_ids: users.iter().map(ToString::to_string).collect(),
        device_ids: devices.iter().map(|device| device.id.to_string()).collect(),
        cipher_suite: SUITE,
    }
}

fn who(claims: &[Claim]) -> Vec<(&str, &str)> {
    claims
        .iter()
        .map(|claim| (claim.user_id.as_str(), claim.device_id.as_str()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_serves_many_devices_and_says_per_device_why_not() {
    let scene = Scene::new().await;
    let alice = scene.device("alice");
    let mut bobs = [scene.device("bob"), scene.device("bob")];
    bobs.sort_by_key(|bob| bob.id);
    let (carol, dave) = (scene.device("carol"), scene.device("dave"));
    for device in [&bobs[0], &bobs[1], &carol] {
        scene.publish(device, vec![device.package()]).await.unwrap();
    }
    scene.publish(&carol, vec![carol.last_resort()]).await.unwrap();
    scene.claim_device(&alice, &bobs[1]).await;
    scene.claim_device(&alice, &carol).await;

    let request = wanted(
        &[&carol.user, &bobs[0].user, &dave.user, &carol.user],
        &[&bobs[0], &dave, &dave],
    );
    let claims = scene.claim(&alice, request).await.unwrap();
    let id = |device: &Device| device.id.to_string();
    let expected = [
        (carol.user.as_str(), &*id(&carol)),
        (bobs[0].user.as_str(), &*id(&bobs[0])),
        (bobs[1].user.as_str(), &*id(&bobs[1])),
        (dave.user.as_str(), ""),
        ("", &*id(&dave)),
    ];
    assert_eq!(who(&claims), expected);
    let given: Vec<_> = claims.into_iter().map(given).collect();
    assert!(matches!(given[0], Given::LastResort(_)));
    assert!(matches!(given[1], Given::OneTime(_)));
    assert_eq!(given[2], EXHAUSTED);
    let unknown = Given::Nothing(ClaimFailure::UnknownUser as i32);
    assert_eq!(
        given[3..],
        [unknown, Given::Nothing(ClaimFailure::UnknownUser as i32)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_adds_their_own_user_gets_their_other_devices() {
    let scene = Scene::new().await;
    let (one, two) = (scene.device("alice"), scene.device("alice"));
    for device in [&one, &two] {
        scene.publish(device, vec![device.package()]).await.unwrap();
    }
    let claims = scene.claim(&one, wanted(&[&one.user], &[&one])).await.unwrap();
    assert_eq!(who(&claims), [(one.user.as_str(), &*two.id.to_string())]);
    assert!(matches!(given(claims[0].clone()), Given::OneTime(_)));
    assert_eq!(scene.stock(&one).await.stock[0].one_time, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn suites_are_not_confused() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.device("alice"), scene.device("bob"));
    scene.publish(&alice, vec![alice.package()]).await.unwrap();
    let of_suite = |cipher_suite| ClaimKeyPackagesRequest {
        cipher_suite,
        ..wanted(&[&alice.user], &[])
    };
    let claims = scene.claim(&bob, of_suite(3)).await.unwrap();
    assert_eq!(given(claims[0].clone()), EXHAUSTED);
    // No suites, pure ML-KEM, and no numbers of suites.
    for unknown in [
        0,
        6,
        0x0042,
        0x0050,
        0x0051,
        0x0906,
        0x0907,
        0xF042,
        0x1_0001,
        u32::MAX,
    ] {
        let refused = scene.claim(&bob, of_suite(unknown)).await.unwrap_err();
        assert_eq!(
            (refused.reason, refused.metadata["field"].as_str()),
            (Reason::Malformed, "cipher_suite")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_read_are_refused() {
    let scene = Scene::new().await;
    let alice = scene.device("alice");
    let refused = scene.claim(&alice, wanted(&[], &[])).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Malformed);
    let texts = |user: &str, device: &str| ClaimKeyPackagesRequest {
        user_ids: vec![user.to_owned()],
        device_ids: vec![device.to_owned()],
        cipher_suite: SUITE,
    };
    let device = alice.id.to_string();
    for (request, field) in [
        (texts("alice", &device), "user_ids"),
        (texts("", &device), "user_ids"),
        (texts("alice@interieur.example", "42"), "device_ids"),
        (
            texts("alice@interieur.example", &device.to_uppercase()),
            "device_ids",
        ),
    ] {
        let refused = scene.claim(&alice, request).await.unwrap_err();
        assert_eq!(
            (refused.reason, refused.metadata["field"].as_str()),
            (Reason::Malformed, field)
        );
    }
    let many = ClaimKeyPackagesRequest {
        user_ids: vec!["bob@interieur.example".into(); 257],
        ..wanted(&[], &[])
    };
    assert_eq!(
        scene.claim(&alice, many).await.unwrap_err().reason,
        Reason::MessageTooLarge
    );
}

/// K1, K2.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_claims_at_once_all_succeed_and_none_gets_the_package_of_another() {
    let scene =
        Arc::new(Scene::with(|config| config.limits.claim_of_one_device = RateLimit::new(50, 3600)).await);
    let alice = Arc::new(scene.device("alice"));
    scene.publish(&alice, alice.packages(100)).await.unwrap();
    let mut rest = alice.packages(99);
    let last_resort = alice.last_resort();
    rest.push(last_resort.clone());
    scene.publish(&alice, rest).await.unwrap();
    scene.publish(&alice, vec![alice.package()]).await.unwrap();

    let requesters: Vec<_> = (0..20)
        .map(|n| Arc::new(scene.device(&format!("user{n}"))))
        .collect();
    let claims: Vec<_> = (0..1_000)
        .map(|turn| {
            let (scene, alice, by) = (
                Arc::clone(&scene),
                Arc::clone(&alice),
                Arc::clone(&requesters[turn % 20]),
            );
            tokio::spawn(async move { scene.claim_device(&by, &alice).await })
        })
        .collect();
    let mut one_time = HashSet::new();
    let mut fallbacks = 0;
    for claim in claims {
        match claim.await.unwrap() {
            Given::OneTime(message) => assert!(one_time.insert(message), "handed out twice"),
            Given::LastResort(message) => {
                assert_eq!(message, last_resort);
                fallbacks += 1;
            }
            Given::Nothing(failure) => panic!("nothing: {failure}"),
        }
    }
    assert_eq!((one_time.len(), fallbacks), (200, 800));
}

/// K1.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_out_stays_handed_out_after_a_restart() {
    let mut scene = Scene::new().await;
    let (alice, bob) = (scene.device("alice"), scene.device("bob"));
    scene.publish(&alice, alice.packages(4)).await.unwrap();
    let mut handed = HashSet::new();
    for turn in 0..4 {
        if turn == 2 {
            scene.restart().await;
        }
        match scene.claim_device(&bob, &alice).await {
            Given::OneTime(message) => assert!(handed.insert(message), "handed out twice"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(scene.claim_device(&bob, &alice).await, EXHAUSTED);
}

/// K4: a package is handed out only while it outlives the retention window.
#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_would_not_outlive_the_window_is_not_handed_out() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.device("alice"), scene.device("bob"));
    let (short, long, last_resort) = (alice.package_for(40 * DAY), alice.package(), alice.last_resort());
    scene
        .publish(&alice, vec![long.clone(), short, last_resort.clone()])
        .await
        .unwrap();

    scene.hand.advance(Duration::from_secs(10 * DAY));
    let line = scene.stock(&alice).await.stock[0];
    assert_eq!(line.one_time, 1, "the one of 40 days has less than 30 left");
    assert_eq!(scene.claim_device(&bob, &alice).await, Given::OneTime(long));
    assert_eq!(
        scene.claim_device(&bob, &alice).await,
        Given::LastResort(last_resort)
    );

    scene.hand.advance(Duration::from_secs(44 * DAY));
    assert_eq!(
        scene.claim_device(&bob, &alice).await,
        EXHAUSTED,
        "a last-resort package ends like others"
    );
}

/// K5: nobody is given a package whose certificate has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_package_without_a_valid_certificate_is_not_handed_out() {
    let scene = Scene::new().await;
    let bob = scene.device("bob");
    let until = scene.clock.unix_seconds() + 2 * DAY;
    let alice = Device::with_certificate_until(&scene.authority, "alice", until);
    let stock = scene.publish(&alice, alice.packages(2)).await.unwrap();
    assert!(stock[0].first_unusable_at.unwrap().seconds.unsigned_abs() < until);
    assert!(matches!(
        scene.claim_device(&bob, &alice).await,
        Given::OneTime(_)
    ));
    scene.hand.advance(Duration::from_secs(2 * DAY));
    assert_eq!(scene.claim_device(&bob, &alice).await, EXHAUSTED);
}

/// K6: one user cannot drain a device.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_gets_so_many_packages_of_one_device_and_others_are_not_held_up() {
    let limit = RateLimit::new(2, 3600);
    let scene = Scene::with(|config| config.limits.claim_of_one_device = limit).await;
    let (alice, carol) = (scene.device("alice"), scene.device("carol"));
    let (bob, bobs_other) = (scene.device("bob"), scene.device("bob"));
    for device in [&alice, &carol] {
        scene.publish(device, device.packages(10)).await.unwrap();
    }
    scene.claim_device(&bob, &alice).await;
    scene.claim_device(&bob, &alice).await;
    let limited = || Given::Nothing(ClaimFailure::RateLimited as i32);
    assert_eq!(
        scene.claim_device(&bobs_other, &alice).await,
        limited(),
        "it is the user who is limited"
    );
    let claims = scene
        .claim(&bob, wanted(&[&alice.user, &carol.user], &[]))
        .await
        .unwrap();
    let both: Vec<_> = claims.into_iter().map(given).collect();
    assert_eq!(both[0], limited());
    assert!(
        matches!(both[1], Given::OneTime(_)),
        "one device does not fail the others"
    );
    assert!(matches!(
        scene.claim_device(&carol, &alice).await,
        Given::OneTime(_)
    ));
    scene.hand.advance(Duration::from_hours(1));
    assert!(matches!(
        scene.claim_device(&bob, &alice).await,
        Given::OneTime(_)
    ));
}

/// K6: who asks for very many, known or not, has to wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_asks_for_so_many_devices() {
    let scene = Scene::with(|config| config.limits.claim = RateLimit::new(3, 3600)).await;
    let (alice, bob) = (scene.device("alice"), scene.device("bob"));
    scene.publish(&alice, alice.packages(2)).await.unwrap();
    let nobody = |n: usize| ClaimKeyPackagesRequest {
        user_ids: (0..n).map(|n| format!("nobody{n}@interieur.example")).collect(),
        ..wanted(&[], &[])
    };
    assert_eq!(scene.claim(&bob, nobody(3)).await.unwrap().len(), 3);
    let refused = scene.claim(&bob, wanted(&[&alice.user], &[])).await.unwrap_err();
    assert_eq!(refused.reason, Reason::RateLimited);
    assert!(refused.retry_after.unwrap() > Duration::ZERO);
    assert_eq!(
        scene.stock(&alice).await.stock[0].one_time,
        2,
        "a refused call takes nothing"
    );
    scene
        .hand
        .advance(refused.retry_after.unwrap() + Duration::from_secs(1));
    assert!(matches!(
        scene.claim_device(&bob, &alice).await,
        Given::OneTime(_)
    ));
}
