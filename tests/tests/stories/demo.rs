//! `valise demo` shows everything and checks what it shows; and the services tell how they are, and what they can do.

use serde_json::Value;
use tokio_stream::StreamExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use valise_tests::command::{run, valise};
use valise_tests::service::Service;

const SERVICES: [&str; 7] = [
    "valise.authentication.v1.AdministrationService",
    "valise.authentication.v1.AuthenticationInternalService",
    "valise.authentication.v1.AuthenticationService",
    "valise.delivery.v1.DeliveryAdministrationService",
    "valise.delivery.v1.DeliveryInternalService",
    "valise.delivery.v1.DeliveryService",
    "valise.directory.v1.KeyPackageDirectoryService",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_finds_everything_as_it_should_be() {
    let told = run(valise(["demo", "--members", "4", "--messages", "10", "--json"]))
        .await
        .ok();
    let outcome: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(outcome["ok"], true);
    let checks = outcome["checks"].as_array().unwrap();
    assert!(checks.len() >= 5, "{checks:?}");
    assert!(checks.iter().all(|check| check["ok"] == true), "{checks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_tells_a_story() {
    let told = run(valise(["demo", "--members", "3", "--messages", "1"]))
        .await
        .ok();
    assert!(told.lines().count() > 10, "{told}");
    assert!(!told.contains('\u{1b}'), "no escapes where nobody looks");
    assert_eq!(run(valise(["demo", "--members", "2"])).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_to_everybody() {
    let service = Service::start().await;
    let mut health = HealthClient::new(service.connect().await);
    for name in SERVICES.iter().chain(&["", "live"]) {
        let answer = health
            .check(HealthCheckRequest {
                service: (*name).to_owned(),
            })
            .await
            .unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{name}");
    }
    let unknown = health
        .check(HealthCheckRequest {
            service: "valise.nothing".to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_told_to_everybody() {
    let service = Service::start().await;
    let mut reflection = ServerReflectionClient::new(service.connect().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        unreachable!("{answer:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in SERVICES {
        assert!(names.iter().any(|one| one == name), "{name} in {names:?}");
    }
}
