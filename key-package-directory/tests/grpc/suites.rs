//! Which suites devices have packages of.

use openmls::prelude::Ciphersuite;
use valise_access_token::RevocationSubject;
use valise_proto::directory::v1::{DeviceCipherSuites, FindCipherSuitesRequest};
use valise_proto::{Reason, Refusal};
use valise_service_runtime::RateLimit;

use crate::people::Device;
use crate::scene::{Given, Scene, refusal};

const CHACHA: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
const HYBRID: Ciphersuite = Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519;

async fn find(scene: &Scene, by: &Device, users: &[String]) -> Result<Vec<DeviceCipherSuites>, Refusal> {
    let message = FindCipherSuitesRequest {
        user_ids: users.to_vec(),
    };
    let request = scene.request(&by.caller(), message);
    let answer = scene.client().find_cipher_suites(request).await;
    answer
        .map(|answer| answer.into_inner().devices)
        .map_err(|status| refusal(&status))
}

fn line(of: &Device, suites: &[u32]) -> DeviceCipherSuites {
    DeviceCipherSuites {
        user_id: of.user.to_string(),
        device_id: of.id.to_string(),
        cipher_suites: suites.to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_device_is_named_with_what_can_be_had_of_it() {
    let scene = Scene::new().await;
    let (alice, alices_other) = (scene.device("alice"), scene.device("alice"));
    let (bob, carol, dave) = (scene.device("bob"), scene.device("carol"), scene.device("dave"));
    for device in [&alice, &alices_other, &bob] {
        scene.publish(device, vec![device.package()]).await.unwrap();
    }
    let packages = vec![bob.package_of_suite(HYBRID), bob.package_of_suite(CHACHA)];
    scene.publish(&bob, packages).await.unwrap();
    scene.publish(&carol, vec![carol.last_resort()]).await.unwrap();
    scene.publish(&dave, vec![dave.package()]).await.unwrap();

    let users =
        ["dave", "carol", "bob", "alice", "nobody", "bob"].map(|name| format!("{name}@interieur.example"));
    let found = find(&scene, &alice, &users).await.unwrap();
    let expected = [
        line(&alices_other, &[1]),
        line(&bob, &[1, 3, 0x4F]),
        line(&carol, &[1]),
        line(&dave, &[1]),
    ];
    assert_eq!(
        found, expected,
        "by user; not the caller's own, and nobody unknown"
    );

    // What is used up or revoked is not there any more.
    assert!(matches!(
        scene.claim_device(&alice, &dave).await,
        Given::OneTime(_)
    ));
    assert!(matches!(
        scene.claim_device(&alice, &carol).await,
        Given::LastResort(_)
    ));
    scene.revoke(RevocationSubject::Device {
        user: bob.user.clone(),
        device: bob.id,
    });
    let found = find(&scene, &alice, &users).await.unwrap();
    assert_eq!(found, [line(&alices_other, &[1]), line(&carol, &[1])]);
    // Asking takes nothing.
    assert_eq!(scene.stock(&alices_other).await.stock[0].one_time, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_or_is_too_much_is_refused() {
    let scene = Scene::with(|config| config.limits.find_suites = RateLimit::new(300, 3600)).await;
    let alice = scene.device("alice");
    let refused = find(&scene, &alice, &[]).await.unwrap_err();
    assert_eq!(refused, Refusal::malformed("user_ids"));
    let refused = find(&scene, &alice, &["not a user".to_owned()])
        .await
        .unwrap_err();
    assert_eq!(refused, Refusal::malformed("user_ids"));
    let many: Vec<_> = (0..257).map(|n| format!("user{n}@interieur.example")).collect();
    let refused = find(&scene, &alice, &many).await.unwrap_err();
    assert_eq!(refused, Refusal::too_large("user_ids", 256));
    // Users who do not exist cost as much as those who do.
    assert_eq!(find(&scene, &alice, &many[..256]).await.unwrap(), []);
    let refused = find(&scene, &alice, &many[..256]).await.unwrap_err();
    assert_eq!(refused.reason, Reason::RateLimited);
}
