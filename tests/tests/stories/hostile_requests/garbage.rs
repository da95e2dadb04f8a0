//! Nothing, garbage and too much, at every RPC.

use valise_proto::Reason;
use valise_tests::people::Town;
use valise_tests::raw::Device;
use valise_tests::service::Service;

use crate::hostile_requests::answers::{healthy, told};
use crate::hostile_requests::contract::{call, contract};

#[tokio::test(flavor = "multi_thread")]
async fn no_garbage_gets_in() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let device = Device::enrol(&service, &town.code("anna").await).await;
    let administrator = administrators_token(&service, &town).await;
    let token = format!("Bearer {}", device.new_token().await.unwrap());
    for (path, _) in contract() {
        let token = if path.contains("Administration") {
            &administrator
        } else {
            &token
        };
        let internal = path.contains("Internal") || path.ends_with("WatchRevocations");
        // A field number 0, a length beyond the end, a group that does not end, text that is none.
        for garbage in [&[0x00, 0x01][..], &[0x0a, 0x7f, 0x01], &[0x0b], &[0xff; 64]] {
            let answer = call(&service, &path, Some(token), garbage.to_vec()).await;
            let refused = told(&answer.unwrap_err());
            assert_eq!(
                (refused.reason, refused.metadata["field"].as_str()),
                (Reason::Malformed, "request"),
                "{path}"
            );
        }
        let status = call(&service, &path, Some(token), vec![0; 9 * 1024 * 1024])
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, Reason::MessageTooLarge, "{path}");
        match (
            call(&service, &path, Some(token), Vec::new()).await,
            needs_nothing(&path),
        ) {
            (Ok(_), true) => {}
            (Err(status), false) => {
                let expected = if internal {
                    Reason::PolicyDenied
                } else {
                    Reason::Malformed
                };
                let expected = empty_reason(&path).unwrap_or(expected);
                assert_eq!(told(&status).reason, expected, "{path}");
            }
            (answer, _) => panic!("{path} without anything: {answer:?}"),
        }
    }
    healthy(&service, &device).await;
}

/// An empty request is a good one.
fn needs_nothing(path: &str) -> bool {
    let nothing = [
        "GetTrustBundle",
        "GetJwks",
        "ListDevices",
        "ListUsers",
        "ListAuditEvents",
        "GetStock",
        "DeleteKeyPackages",
        "GetParameters",
        "ListGroups",
        "ListCommitReports",
    ];
    nothing.iter().any(|name| path.ends_with(name))
}

/// Where an empty request is wrong in another way than in its form.
fn empty_reason(path: &str) -> Option<Reason> {
    let reasons = [
        ("RenewCertificate", Reason::InvalidCertificateRequest),
        ("IssueToken", Reason::InvalidAssertion),
        ("IssueServiceCertificate", Reason::InvalidCertificateRequest),
    ];
    reasons
        .iter()
        .find(|(name, _)| path.ends_with(name))
        .map(|(_, reason)| *reason)
}

async fn administrators_token(service: &Service, town: &Town) -> String {
    let code = town.administrator().administration();
    let user = town.user("second-admin");
    let hour = std::time::Duration::from_secs(3600);
    let code = code
        .create_enrolment_code(&user, valise_client_sdk::UserKind::Administrator, hour)
        .await
        .unwrap();
    let device = Device::enrol(service, &code.code).await;
    format!("Bearer {}", device.new_token().await.unwrap())
}
