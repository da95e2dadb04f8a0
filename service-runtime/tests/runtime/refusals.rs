//! Whatever goes wrong, a client gets one of Valise's reasons and nothing of the service's inside.

use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use valise_proto::authentication::v1::WatchRevocationsRequest;
use valise_proto::directory::v1::{
    ClaimKeyPackagesRequest, DeleteKeyPackagesRequest, GetStockRequest, PublishKeyPackagesRequest,
    PublishKeyPackagesResponse,
};
use valise_proto::{Reason, Refusal};
use valise_service_runtime::ServerConfig;

use crate::server::{
    MAX_REQUEST_BYTES, PUBLISH, SECRET, Server, THEN_FAIL, THEN_PANIC, reason_of, soon, watch,
};

#[tokio::test]
async fn a_panic_is_an_internal_error_and_harms_nobody_else() {
    let server = Server::start(ServerConfig::default()).await;
    let mut client = server.directory().await;
    let status = soon(client.get_stock(GetStockRequest {})).await.unwrap_err();
    assert_eq!(reason_of(&status), Reason::Internal);
    soon(client.publish_key_packages(PublishKeyPackagesRequest::default()))
        .await
        .unwrap();
    server.stop().await;
}

#[test]
fn what_a_panic_says_is_not_printed() {
    let test = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "refusals::a_panic_is_an_internal_error_and_harms_nobody_else",
        ])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&test.stdout) + String::from_utf8_lossy(&test.stderr);
    assert!(
        printed.contains("1 passed") && !printed.contains(SECRET),
        "{printed}"
    );
}

#[tokio::test]
async fn a_panic_in_a_stream_is_an_internal_error_too() {
    let server = Server::start(ServerConfig::default()).await;
    let mut stream = watch(server.channel().await, THEN_PANIC).await.unwrap();
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!(reason_of(&status), Reason::Internal);
    server.stop().await;
}

#[tokio::test]
async fn a_text_without_a_reason_does_not_reach_the_client() {
    let server = Server::start(ServerConfig::default()).await;
    let status = soon(
        server
            .directory()
            .await
            .delete_key_packages(DeleteKeyPackagesRequest {}),
    )
    .await
    .unwrap_err();
    assert_eq!(reason_of(&status), Reason::Internal);
    let mut stream = watch(server.channel().await, THEN_FAIL).await.unwrap();
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!(reason_of(&status), Reason::Internal);
    server.stop().await;
}

#[tokio::test]
async fn garbage_is_malformed() {
    let server = Server::start(ServerConfig::default()).await;
    // Field 1 is a number here and bytes there.
    let garbage = WatchRevocationsRequest { after_number: 7 };
    let status = call(server.channel().await, PUBLISH, garbage).await.unwrap_err();
    assert_eq!(Refusal::from_status(&status), Some(Refusal::malformed("request")));
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_the_limit() {
    let server = Server::start(ServerConfig::default()).await;
    let request = PublishKeyPackagesRequest {
        key_packages: vec![vec![0; MAX_REQUEST_BYTES + 1]],
    };
    let status = soon(server.directory().await.publish_key_packages(request))
        .await
        .unwrap_err();
    assert_eq!(
        Refusal::from_status(&status),
        Some(Refusal::too_large("request", MAX_REQUEST_BYTES))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_slow_handler_meets_the_deadline() {
    let config = ServerConfig {
        request_deadline: Duration::from_millis(10),
        ..ServerConfig::default()
    };
    let server = Server::start(config).await;
    let mut client = server.directory().await;
    let status = soon(client.claim_key_packages(ClaimKeyPackagesRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(reason_of(&status), Reason::DeadlineExceeded);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_exist_is_unimplemented() {
    let server = Server::start(ServerConfig::default()).await;
    for path in [
        "/valise.directory.v1.KeyPackageDirectoryService/Nothing",
        "/nothing.Nothing/Nothing",
    ] {
        let status = call(server.channel().await, path, WatchRevocationsRequest::default())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
    server.stop().await;
}

/// Any message to any path.
async fn call(channel: Channel, path: &'static str, message: WatchRevocationsRequest) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = ProstCodec::<WatchRevocationsRequest, PublishKeyPackagesResponse>::default();
    let path = PathAndQuery::from_static(path);
    soon(client.unary(tonic::Request::new(message), path, codec))
        .await
        .map(|_| ())
}
