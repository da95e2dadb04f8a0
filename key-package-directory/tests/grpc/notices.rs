//! Low stock is told to the delivery service, once a day for a device and suite.

use std::sync::Arc;

use valise_access_token::ServiceTokens;
use valise_key_package_directory::DeliveryLink;
use valise_proto::delivery::v1::device_notice::Notice;

use crate::fakes::{NAME, Peers};
use crate::people::SUITE;
use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_told_once_a_day_that_its_stock_is_low() {
    let mut scene = Scene::closed(|config| config.packages.low_level = 2);
    let mut peers = Peers::start(&scene).await;
    let identity = Arc::new(scene.authority.service(NAME));
    let tokens = ServiceTokens::new(peers.channel.clone(), identity, scene.clock.clone());
    scene
        .start(Some(DeliveryLink {
            channel: peers.channel.clone(),
            tokens,
        }))
        .await;
    let (alice, bob, carol) = (scene.device("alice"), scene.device("bob"), scene.device("carol"));
    scene.publish(&alice, alice.packages(4)).await.unwrap();
    scene.publish(&carol, vec![carol.last_resort()]).await.unwrap();

    scene.claim_device(&bob, &alice).await;
    scene.claim_device(&bob, &alice).await;
    scene.claim_device(&bob, &alice).await;
    let notice = peers.notice().await;
    assert_eq!(notice.device_id, alice.id.to_string());
    let Some(Notice::LowStock(low)) = notice.notice else {
        panic!("not of low stock")
    };
    assert_eq!(
        (low.cipher_suite, low.one_time),
        (SUITE, 1),
        "not before the third claim"
    );
    assert!((1..=128).contains(&notice.deduplication_key.len()));

    // A second notice to Alice would come before the one to Carol, who has only a last-resort package.
    scene.claim_device(&bob, &alice).await;
    scene.claim_device(&bob, &carol).await;
    let to_carol = peers.notice().await;
    assert_eq!(to_carol.device_id, carol.id.to_string());
    assert_ne!(to_carol.deduplication_key, notice.deduplication_key);
    scene.stop().await;
}
