//! What must be true of every refusal, and of the services after it.

use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use valise_proto::{Reason, Refusal};
use valise_tests::raw::{Device, refusal};
use valise_tests::service::Service;

/// One of our reasons, and nothing that a stranger has no business to know.
pub(crate) fn told(status: &Status) -> Refusal {
    let refusal = refusal(status);
    assert_eq!(
        (status.code(), status.message()),
        (refusal.reason.code(), refusal.reason.message())
    );
    assert_ne!(refusal.reason, Reason::Internal);
    for (name, value) in &refusal.metadata {
        let plain = |text: &str| {
            text.len() <= 64
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        assert!(plain(name) && plain(value), "{name}: {value}");
    }
    refusal
}

pub(crate) async fn healthy(service: &Service, device: &Device) {
    let mut health = HealthClient::new(service.connect().await);
    let answer = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        answer.status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
    let (mut group, _) = device.group_with(&[]).await;
    device.send(&mut group, b"hello").await.unwrap();
    assert!(!service.log().contains("panic"), "{}", service.log());
}
