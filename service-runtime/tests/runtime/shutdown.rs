//! A shutdown loses nothing that has begun, and ends all the same.

use std::time::Duration;

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use valise_proto::Reason;
use valise_proto::directory::v1::ClaimKeyPackagesRequest;
use valise_service_runtime::{LIVENESS, ServerConfig};

use crate::server::{DIRECTORY, FOR_EVER, Server, UNTIL_SHUTDOWN, reason_of, soon, watch};

#[tokio::test]
async fn what_has_begun_is_finished_and_nothing_new_begins() {
    // So long that the end must come by itself.
    let config = ServerConfig {
        graceful_shutdown: Duration::from_hours(1),
        ..ServerConfig::default()
    };
    let server = Server::start(config).await;
    let _idle = server.channel().await;
    let mut client = server.directory().await;
    let mut stream = watch(server.channel().await, UNTIL_SHUTDOWN).await.unwrap();
    let request = tokio::spawn(async move {
        client
            .claim_key_packages(ClaimKeyPackagesRequest::default())
            .await
    });
    server.gate.until_entered().await;

    server.shutdown.cancel();
    // The stream's handler was told, and ended it.
    assert_eq!(
        reason_of(&soon(stream.message()).await.unwrap_err()),
        Reason::StoreUnavailable
    );
    let endpoint = server.endpoint();
    soon(async { while endpoint.connect().await.is_ok() {} }).await;

    server.gate.release.add_permits(1);
    soon(request).await.unwrap().unwrap();
    server.ended().await;
}

#[tokio::test]
async fn what_does_not_end_in_time_is_dropped() {
    let config = ServerConfig {
        graceful_shutdown: Duration::from_millis(10),
        ..ServerConfig::default()
    };
    let server = Server::start(config).await;
    let mut client = server.directory().await;
    let mut stream = watch(server.channel().await, FOR_EVER).await.unwrap();
    let request = tokio::spawn(async move {
        client
            .claim_key_packages(ClaimKeyPackagesRequest::default())
            .await
    });
    server.gate.until_entered().await;
    server.stop().await;
    soon(stream.message()).await.unwrap_err();
    soon(request).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn health_follows_readiness_and_shutdown() {
    let server = Server::start(ServerConfig::default()).await;
    let mut health = HealthClient::new(server.channel().await);
    for (service, expected) in [
        ("", ServingStatus::NotServing),
        (LIVENESS, ServingStatus::Serving),
    ] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = soon(health.check(request)).await.unwrap().into_inner().status();
        assert_eq!(status, expected, "{service:?}");
    }
    let unknown = HealthCheckRequest {
        service: "nothing".to_owned(),
    };
    assert_eq!(
        soon(health.check(unknown)).await.unwrap_err().code(),
        Code::NotFound
    );

    server.readiness.not_ready(DIRECTORY).await;
    let request = HealthCheckRequest {
        service: DIRECTORY.to_owned(),
    };
    let mut of_directory = soon(health.watch(request)).await.unwrap().into_inner();
    let mut of_all = soon(health.watch(HealthCheckRequest::default()))
        .await
        .unwrap()
        .into_inner();
    let mut heard = async |expected: ServingStatus| {
        for watcher in [&mut of_directory, &mut of_all] {
            let status = soon(watcher.message()).await.unwrap().unwrap().status();
            assert_eq!(status, expected);
        }
    };
    heard(ServingStatus::NotServing).await;
    server.readiness.ready(DIRECTORY).await;
    heard(ServingStatus::Serving).await;
    server.shutdown.cancel();
    heard(ServingStatus::NotServing).await;
    assert_eq!(
        soon(of_directory.message()).await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(
        soon(of_all.message()).await.unwrap_err().code(),
        Code::Unavailable
    );
    server.ended().await;
}

#[tokio::test]
async fn readiness_follows_a_store() {
    let server = Server::start(ServerConfig::default()).await;
    let mut health = HealthClient::new(server.channel().await);
    let mut watcher = soon(health.watch(HealthCheckRequest::default()))
        .await
        .unwrap()
        .into_inner();
    let mut heard = async |expected: ServingStatus| {
        let status = soon(watcher.message()).await.unwrap().unwrap().status();
        assert_eq!(status, expected);
    };
    heard(ServingStatus::NotServing).await;
    let (answer, asked) = tokio::sync::watch::channel(Some(true));
    let readiness = server.readiness.clone();
    let following = tokio::spawn(async move {
        let reachable = || {
            let answer = *asked.borrow();
            async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        };
        readiness.follow(&[DIRECTORY], reachable).await
    });
    heard(ServingStatus::Serving).await;
    // It says that it is not there, and later nothing at all.
    for away in [Some(false), None] {
        answer.send_replace(away);
        heard(ServingStatus::NotServing).await;
        answer.send_replace(Some(true));
        heard(ServingStatus::Serving).await;
    }
    following.abort();
    server.stop().await;
}
