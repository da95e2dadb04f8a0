//! Proofs that are used up, of another device, or none.

use valise_proto::Reason;
use valise_proto::authentication::v1 as authentication;
use valise_tests::people::Town;
use valise_tests::raw::bytes::flipped;
use valise_tests::raw::{Device, assertion_of, new_signer, request_of};
use valise_tests::service::Service;

use crate::hostile_requests::answers::{healthy, told};

#[tokio::test(flavor = "multi_thread")]
async fn proofs_are_good_once_and_for_their_owner() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let code = town.code("anna").await;
    let device = Device::enrol(&service, &code).await;
    let bob = Device::enrol(&service, &town.code("bob").await).await;

    let signer = new_signer();
    let enrol = |code: &str| authentication::EnrolRequest {
        proof: Some(authentication::enrol_request::Proof::EnrolmentCode(
            code.to_owned(),
        )),
        certification_request: request_of(&signer),
        device_name: String::new(),
    };
    for code in [code.as_str(), "", "0000-0000-0000-0000-0000-0000", "é"] {
        let status = device.door.authentication().enrol(enrol(code)).await.unwrap_err();
        assert_eq!(told(&status).reason, Reason::InvalidEnrolmentProof, "{code}");
    }
    let token = authentication::EnrolRequest {
        proof: Some(authentication::enrol_request::Proof::OidcIdToken(
            "e30.e30.".to_owned(),
        )),
        ..enrol("")
    };
    let status = device.door.authentication().enrol(token).await.unwrap_err();
    assert_eq!(told(&status).reason, Reason::InvalidEnrolmentProof);
    // A good code with a bad request is still good afterwards; another's key is not to be had.
    let fresh = town.code("carol").await;
    let mut bad = enrol(&fresh);
    bad.certification_request = flipped(&bad.certification_request, 3);
    let status = device.door.authentication().enrol(bad).await.unwrap_err();
    assert_eq!(told(&status).reason, Reason::InvalidCertificateRequest);
    let stolen = authentication::EnrolRequest {
        certification_request: request_of(&bob.signer),
        ..enrol(&fresh)
    };
    let status = device.door.authentication().enrol(stolen).await.unwrap_err();
    assert_eq!(told(&status).reason, Reason::InvalidCertificateRequest);
    device.door.authentication().enrol(enrol(&fresh)).await.unwrap();

    let issue = |assertion: String| authentication::IssueTokenRequest { assertion };
    let assertion = assertion_of(&device.id.to_string(), &device.signer);
    device
        .door
        .authentication()
        .issue_token(issue(assertion.clone()))
        .await
        .unwrap();
    let replayed = device
        .door
        .authentication()
        .issue_token(issue(assertion.clone()))
        .await
        .unwrap_err();
    assert_eq!(told(&replayed).reason, Reason::InvalidAssertion);
    let foreign = assertion_of(&device.id.to_string(), &bob.signer);
    for (assertion, expected) in [
        (foreign, Reason::InvalidAssertion),
        (
            flipped(assertion.as_bytes(), 60)
                .into_iter()
                .map(char::from)
                .collect(),
            Reason::InvalidAssertion,
        ),
        ("rubbish".to_owned(), Reason::InvalidAssertion),
        (
            assertion_of(&uuid::Uuid::new_v4().to_string(), &signer),
            Reason::UnknownDevice,
        ),
        (
            assertion_of("delivery-service", &signer),
            Reason::InvalidAssertion,
        ),
        (assertion_of("somebody", &signer), Reason::UnknownDevice),
        ("x".repeat(5000), Reason::MessageTooLarge),
    ] {
        let status = device
            .door
            .authentication()
            .issue_token(issue(assertion))
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected);
    }
    healthy(&service, &device).await;
}
