//! Key packages that are not published, and claims that are not answered.

use valise_proto::Reason;
use valise_proto::directory::v1 as directory;
use valise_tests::people::Town;
use valise_tests::raw::Device;
use valise_tests::raw::bytes::flipped;
use valise_tests::service::Service;

use crate::hostile_requests::answers::{healthy, told};

#[tokio::test(flavor = "multi_thread")]
async fn key_packages_of_others_are_not_taken() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let anna = Device::enrol(&service, &town.code("anna").await).await;
    let bob = Device::enrol(&service, &town.code("bob").await).await;
    let publish = |key_packages: Vec<Vec<u8>>| directory::PublishKeyPackagesRequest { key_packages };
    let own = valise_tests::raw::message(anna.key_package());
    let bobs = valise_tests::raw::message(bob.key_package());
    for (what, packages, expected) in [
        ("none", vec![], Reason::Malformed),
        ("an empty one", vec![vec![]], Reason::InvalidKeyPackage),
        ("garbage", vec![vec![0xa5; 500]], Reason::InvalidKeyPackage),
        (
            "another's",
            vec![own.clone(), bobs.clone()],
            Reason::InvalidKeyPackage,
        ),
        (
            "one twice",
            vec![own.clone(), own.clone()],
            Reason::InvalidKeyPackage,
        ),
        (
            "truncated",
            vec![own[..own.len() - 1].to_vec()],
            Reason::InvalidKeyPackage,
        ),
        (
            "a bit of the signature",
            vec![flipped(&own, 3)],
            Reason::InvalidKeyPackage,
        ),
        ("too large", vec![vec![0; 16 * 1024 + 1]], Reason::MessageTooLarge),
        ("too many", vec![own.clone(); 101], Reason::MessageTooLarge),
    ] {
        let status = anna
            .door
            .directory()
            .publish_key_packages(publish(packages))
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected, "{what}");
    }
    let stock = anna
        .door
        .directory()
        .get_stock(directory::GetStockRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        stock
            .stock
            .iter()
            .all(|stock| stock.one_time == 0 && !stock.last_resort),
        "nothing was stored"
    );
    anna.door
        .directory()
        .publish_key_packages(publish(vec![own.clone()]))
        .await
        .unwrap();
    let status = anna
        .door
        .directory()
        .publish_key_packages(publish(vec![own]))
        .await
        .unwrap_err();
    assert_eq!(told(&status).metadata["rule"], "seen_before");

    let claim = |user_ids: Vec<String>, cipher_suite| directory::ClaimKeyPackagesRequest {
        user_ids,
        device_ids: Vec::new(),
        cipher_suite,
    };
    let anna_id = anna.user.to_string();
    for (what, request, expected) in [
        ("no users", claim(vec!["nobody".to_owned()], 1), Reason::Malformed),
        ("no suite", claim(vec![anna_id.clone()], 0), Reason::Malformed),
        (
            "a suite that is not allowed",
            claim(vec![anna_id.clone()], 0x0042),
            Reason::Malformed,
        ),
        (
            "too many",
            claim(vec![anna_id.clone(); 257], 1),
            Reason::MessageTooLarge,
        ),
    ] {
        let status = bob
            .door
            .directory()
            .claim_key_packages(request)
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected, "{what}");
    }
    // Who does not exist is told like who never published.
    let unknown = claim(vec![town.user("nobody").to_string()], 1);
    let claims = bob
        .door
        .directory()
        .claim_key_packages(unknown)
        .await
        .unwrap()
        .into_inner()
        .claims;
    let failure = directory::claim::Result::Failure(directory::ClaimFailure::UnknownUser.into());
    assert_eq!(claims[0].result, Some(failure));
    healthy(&service, &anna).await;
}
