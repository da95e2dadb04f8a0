//! Revoked devices and suspended users (checklist K5).

use std::time::Duration;

use valise_access_token::RevocationSubject;
use valise_proto::Reason;
use valise_proto::directory::v1::{ClaimFailure, ClaimKeyPackagesRequest};
use valise_service_runtime::RateLimit;

use crate::people::{Device, SUITE};
use crate::scene::{Given, Scene, given};

const REVOKED: Given = Given::Nothing(ClaimFailure::DeviceRevoked as i32);

async fn claims_of_user(scene: &Scene, by: &Device, of: &Device) -> Vec<(String, Given)> {
    let request = ClaimKeyPackagesRequest {
        user_ids: vec![of.user.to_string()],
        device_ids: Vec::new(),
        cipher_suite: SUITE,
    };
    let claims = scene.claim(by, request).await.unwrap();
    claims
        .into_iter()
        .map(|claim| (claim.device_id.clone(), given(claim)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_devices_packages_are_not_served_from_then_on_and_purged() {
    // It is asked again and again until the purge is done.
    let scene = Scene::with(|config| config.limits.claim = RateLimit::new(u32::MAX, 1)).await;
    let (lost, kept, bob) = (scene.device("alice"), scene.device("alice"), scene.device("bob"));
    for device in [&lost, &kept] {
        scene
            .publish(device, vec![device.package(), device.last_resort()])
            .await
            .unwrap();
    }
    scene.revoke(RevocationSubject::Device {
        user: lost.user.clone(),
        device: lost.id,
    });
    assert_eq!(scene.claim_device(&bob, &lost).await, REVOKED);
    let refused = scene.publish(&lost, vec![lost.package()]).await.unwrap_err();
    assert_eq!(refused.reason, Reason::DeviceRevoked);

    // Once it is purged, the user's devices are the others.
    let purged = async {
        loop {
            let claims = claims_of_user(&scene, &bob, &lost).await;
            if claims.len() == 1 {
                return claims;
            }
            tokio::task::yield_now().await;
        }
    };
    let claims = tokio::time::timeout(Duration::from_secs(20), purged)
        .await
        .unwrap();
    assert_eq!(claims[0].0, kept.id.to_string());
    assert_eq!(
        scene.claim_device(&bob, &lost).await,
        REVOKED,
        "by its id, one is told why"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_revoked_while_the_directory_was_down_are_purged_when_it_is_back() {
    let mut scene = Scene::new().await;
    let (alice, bob) = (scene.device("alice"), scene.device("bob"));
    scene.publish(&alice, vec![alice.package()]).await.unwrap();
    scene.stop().await;
    scene.revoke(RevocationSubject::Device {
        user: alice.user.clone(),
        device: alice.id,
    });
    scene.start(None).await;
    assert_eq!(scene.claim_device(&bob, &alice).await, REVOKED);
    assert_eq!(
        claims_of_user(&scene, &bob, &alice).await,
        [(alice.id.to_string(), REVOKED)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_users_packages_wait_for_the_user() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.device("alice"), scene.device("bob"));
    let package = alice.package();
    scene.publish(&alice, vec![package.clone()]).await.unwrap();
    scene.revoke(RevocationSubject::Suspended {
        user: alice.user.clone(),
    });
    assert_eq!(scene.claim_device(&bob, &alice).await, REVOKED);
    scene.revoke(RevocationSubject::Resumed {
        user: alice.user.clone(),
    });
    assert_eq!(scene.claim_device(&bob, &alice).await, Given::OneTime(package));
}
