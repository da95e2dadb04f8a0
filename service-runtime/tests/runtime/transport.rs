//! Connections: TLS, and how many.

use std::num::NonZeroUsize;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use valise_proto::directory::v1::PublishKeyPackagesRequest;
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;
use valise_service_runtime::{ServerConfig, TlsConfig};

use crate::server::{Server, soon};

#[tokio::test]
async fn with_a_certificate_only_tls_is_spoken() {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tls = TlsConfig {
        certificate: dir.path().join("chain.pem"),
        key: dir.path().join("key.pem"),
    };
    std::fs::write(&tls.certificate, own.cert.pem()).unwrap();
    std::fs::write(&tls.key, own.signing_key.serialize_pem()).unwrap();
    let server = Server::start(ServerConfig {
        tls: Some(tls),
        ..ServerConfig::default()
    })
    .await;

    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(own.cert.pem()));
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
