//! Who may call, and with which token.

use tonic::Code;
use valise_proto::Reason;
use valise_proto::authentication::v1 as authentication;
use valise_tests::people::Town;
use valise_tests::raw::{Device, assertion_of};
use valise_tests::service::Service;

use crate::hostile_requests::answers::{healthy, told};
use crate::hostile_requests::contract::{call, contract};

/// What needs no token.
const OPEN: [&str; 4] = ["Enrol", "IssueToken", "GetTrustBundle", "GetJwks"];

#[tokio::test(flavor = "multi_thread")]
async fn no_call_without_a_good_token() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let device = Device::enrol(&service, &town.code("anna").await).await;
    let good = device.new_token().await.unwrap();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let other: String = signature
        .chars()
        .map(|c| if c == 'A' { 'B' } else { 'A' })
        .collect();
    let (header, claims) = head.split_once('.').unwrap();
    // {"alg":"none"}
    let unsigned = format!("Bearer eyJhbGciOiJub25lIn0.{claims}.");
    let tokens = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Bearer rubbish".to_owned(),
        format!("Basic {good}"),
        good.clone(),
        format!("Bearer {head}.{other}"),
        format!("Bearer {header}..{signature}"),
        format!("Bearer {good}{}", "x".repeat(5000)),
        format!("Bearer {}", assertion_of(&device.id.to_string(), &device.signer)),
        unsigned,
    ];
    let closed = contract()
        .into_iter()
        .filter(|(path, _)| !OPEN.iter().any(|open| path.ends_with(open)));
    let mut calls = 0;
    for (path, _) in closed {
        let status = call(&service, &path, None, Vec::new()).await.unwrap_err();
        assert_eq!(told(&status).reason, Reason::TokenInvalid, "{path}");
        for token in &tokens {
            let status = call(&service, &path, Some(token), Vec::new()).await.unwrap_err();
            assert_eq!(told(&status).reason, Reason::TokenInvalid, "{path}: {token}");
            calls += 1;
        }
    }
    assert!(calls > 25 * tokens.len());
    // Also where there is nothing: who has no token does not learn what there is.
    let status = call(
        &service,
        "/valise.delivery.v1.DeliveryService/Nothing",
        None,
        Vec::new(),
    )
    .await
    .unwrap_err();
    assert_eq!(told(&status).reason, Reason::TokenInvalid);
    let token = format!("Bearer {good}");
    let nothing = call(
        &service,
        "/valise.delivery.v1.DeliveryService/Nothing",
        Some(&token),
        Vec::new(),
    )
    .await;
    assert_eq!(nothing.unwrap_err().code(), Code::Unimplemented);
    healthy(&service, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn administration_is_for_administrators() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let device = Device::enrol(&service, &town.code("anna").await).await;
    let token = format!("Bearer {}", device.new_token().await.unwrap());
    for (path, _) in contract() {
        let closed = path.contains("Administration")
            || path.contains("Internal")
            || path.ends_with("WatchRevocations");
        if closed {
            let status = call(&service, &path, Some(&token), Vec::new()).await.unwrap_err();
            assert_eq!(told(&status).reason, Reason::PolicyDenied, "{path}");
        }
    }
    // Users of other domains are not made.
    let other: valise_client_sdk::UserId = "mallory@elsewhere.example".parse().unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let made = town.administrator().administration();
    let made = made
        .create_enrolment_code(&other, valise_client_sdk::UserKind::Device, hour)
        .await;
    assert_eq!(made.err().unwrap().reason(), Some(Reason::PolicyDenied));
    // Devices and users of others: not to be changed, and those that are not there are not to be told from them.
    let bob = Device::enrol(&service, &town.code("bob").await).await;
    for device_id in [bob.id.to_string(), uuid::Uuid::new_v4().to_string()] {
        let rename = authentication::RenameDeviceRequest {
            device_id: device_id.clone(),
            name: "mine".to_owned(),
        };
        let status = device
            .door
            .authentication()
            .rename_device(rename)
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, Reason::UnknownDevice);
        let revoke = authentication::RevokeDeviceRequest { device_id };
        let status = device
            .door
            .authentication()
            .revoke_device(revoke)
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, Reason::UnknownDevice);
    }
    healthy(&service, &device).await;
}
