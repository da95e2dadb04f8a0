//! More requests than the service takes are refused at once; those at work, streams and probes are not harmed.

use std::num::NonZeroUsize;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use valise_proto::Reason;
use valise_proto::directory::v1::{ClaimKeyPackagesRequest, PublishKeyPackagesRequest};
use valise_service_runtime::{LIVENESS, ServerConfig};

use crate::server::{FOR_EVER, Server, reason_of, soon, watch};

fn one_at_a_time() -> ServerConfig {
    ServerConfig {
        concurrency_limit: NonZeroUsize::MIN,
        // The stream that nobody ends.
        graceful_shutdown: std::time::Duration::ZERO,
        ..ServerConfig::default()
    }
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_probes_are_answered() {
    let server = Server::start(one_at_a_time()).await;
    let mut client = server.directory().await;
    let mut first = client.clone();
    let first =
        tokio::spawn(async move { first.claim_key_packages(ClaimKeyPackagesRequest::default()).await });
    server.gate.until_entered().await;

    let status = soon(client.publish_key_packages(PublishKeyPackagesRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(reason_of(&status), Reason::Overloaded);
    let mut health = HealthClient::new(server.channel().await);
    soon(health.check(HealthCheckRequest {
        service: LIVENESS.to_owned(),
    }))
    .await
    .unwrap();

    server.gate.release.add_permits(1);
    soon(first).await.unwrap().unwrap();
    soon(client.publish_key_packages(PublishKeyPackagesRequest::default()))
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_has_begun_keeps_nobody_out() {
    let server = Server::start(one_at_a_time()).await;
    let _streams = [
        watch(server.channel().await, FOR_EVER).await.unwrap(),
        watch(server.channel().await, FOR_EVER).await.unwrap(),
    ];
    let mut client = server.directory().await;
    soon(client.publish_key_packages(PublishKeyPackagesRequest::default()))
        .await
        .unwrap();
    server.stop().await;
}
