//! Connections: TLS, and how many.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use valise_proto::directory::v1::PublishKeyPackagesRequest;
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;
use valise_service_runtime::{LIVENESS, ServerConfig, TlsConfig};

use crate::server::{DIRECTORY, Server, soon};

/// A certificate for `localhost`, and what a client needs to believe it.
fn certificate(dir: &Path) -> (TlsConfig, Certificate) {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let tls = TlsConfig {
        certificate: dir.join("chain.pem"),
        key: dir.join("key.pem"),
    };
    std::fs::write(&tls.certificate, own.cert.pem()).unwrap();
    std::fs::write(&tls.key, own.signing_key.serialize_pem()).unwrap();
    (tls, Certificate::from_pem(own.cert.pem()))
}

#[tokio::test]
async fn with_a_certificate_only_tls_is_spoken() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, authority) = certificate(dir.path());
    let server = Server::start(ServerConfig {
        tls: Some(tls),
        ..ServerConfig::default()
    })
    .await;

    let trust = ClientTlsConfig::new().ca_certificate(authority);
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", server.address.port())).unwrap();
    let channel = soon(endpoint.tls_config(trust).unwrap().connect()).await.unwrap();
    let mut client = KeyPackageDirectoryServiceClient::new(channel);
    soon(client.publish_key_packages(PublishKeyPackagesRequest::default()))
        .await
        .unwrap();

    let mut plain = KeyPackageDirectoryServiceClient::new(server.endpoint().connect_lazy());
    soon(plain.publish_key_packages(PublishKeyPackagesRequest::default()))
        .await
        .unwrap_err();
    server.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, former) = certificate(dir.path());
    let server = Server::start(ServerConfig {
        tls: Some(tls),
        ..ServerConfig::default()
    })
    .await;
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", server.address.port())).unwrap();
    let connect = async |authority: &Certificate| {
        let trust = ClientTlsConfig::new().ca_certificate(authority.clone());
        endpoint.clone().tls_config(trust).unwrap().connect().await
    };
    soon(connect(&former)).await.unwrap();

    let (_, renewed) = certificate(dir.path());
    // A minute passes.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    let shown = async { while connect(&renewed).await.is_err() {} };
    soon(shown).await;
    soon(connect(&former)).await.unwrap_err();
    server.stop().await;
}

#[tokio::test]
async fn probes_that_speak_no_tls_have_an_address_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, _) = certificate(dir.path());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let server = Server::start(ServerConfig {
        tls: Some(tls),
        health_listen: Some(address),
        // The places of clients are not those of probes.
        max_connections: NonZeroUsize::MIN,
        ..ServerConfig::default()
    })
    .await;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let connect = async {
        loop {
            if let Ok(channel) = endpoint.connect().await {
                return channel;
            }
        }
    };
    let channel = soon(connect).await;
    let health = HealthClient::new(channel.clone());
    let status = async |service: &str| {
        let service = service.to_owned();
        let answer = soon(health.clone().check(HealthCheckRequest { service })).await;
        answer.unwrap().into_inner().status()
    };
    assert_eq!(status(LIVENESS).await, ServingStatus::Serving);
    server.readiness.not_ready(DIRECTORY).await;
    assert_eq!(status(DIRECTORY).await, ServingStatus::NotServing);
    server.readiness.ready(DIRECTORY).await;
    assert_eq!(status(DIRECTORY).await, ServingStatus::Serving);

    // Nothing else is there.
    let mut client = KeyPackageDirectoryServiceClient::new(channel);
    let refused = soon(client.publish_key_packages(PublishKeyPackagesRequest::default())).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    server.stop().await;
    assert!(soon(endpoint.connect()).await.is_err());
}

#[tokio::test]
async fn a_connection_too_many_waits_for_a_free_place() {
    let config = ServerConfig {
        max_connections: NonZeroUsize::MIN,
        ..ServerConfig::default()
    };
    let server = Server::start(config).await;
    let mut first = server.directory().await;
    soon(first.publish_key_packages(PublishKeyPackagesRequest::default()))
        .await
        .unwrap();

    let mut second = KeyPackageDirectoryServiceClient::new(server.endpoint().connect_lazy());
    let mut waiting = tokio::spawn(async move {
        second
            .publish_key_packages(PublishKeyPackagesRequest::default())
            .await
    });
    // It cannot be answered as long as the first is there, however often that is asked.
    for _ in 0..20 {
        soon(first.publish_key_packages(PublishKeyPackagesRequest::default()))
            .await
            .unwrap();
        assert!(!waiting.is_finished());
    }
    drop(first);
    soon(&mut waiting).await.unwrap().unwrap();
    server.stop().await;
}
