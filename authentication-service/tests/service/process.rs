//! The service as it runs in production: with the whole stack around it.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use valise_authentication_service::{Config, StartError, run};
use valise_clock::Clock;
use valise_proto::Reason;
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::authentication::v1::{GetTrustBundleRequest, ListDevicesRequest};

use crate::support::{config, reason};

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn it_serves_until_it_is_told_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(run(config(directory.path()), listener, shutdown.clone()));
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = AuthenticationServiceClient::new(channel.clone());
    client.get_trust_bundle(GetTrustBundleRequest {}).await.unwrap();
    assert_eq!(
        reason(client.list_devices(ListDevicesRequest::default()).await),
        Reason::TokenInvalid
    );
    for name in [
        "AuthenticationService",
        "AdministrationService",
        "AuthenticationInternalService",
    ] {
        let request = HealthCheckRequest {
            service: format!("valise.authentication.v1.{name}"),
        };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{name}");
    }
    shutdown.cancel();
    timeout(DEADLINE, running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_cannot_work_is_said_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let start = async |config: Config| {
        let outcome = valise_authentication_service::Service::open(config, Clock::system()).await;
        let text = outcome
            .map_err(|error: StartError| error.to_string())
            .unwrap_err();
        assert_eq!(text.lines().count(), 1);
        text
    };
    let mut no_domains = config(directory.path());
    no_domains.domains.clear();
    assert_eq!(
        start(no_domains).await,
        "configuration: domains: nobody could enrol: name at least one"
    );
    let missing = directory.path().join("missing");
    let expected = format!(
        "cannot use the database {}: its directory does not exist",
        missing.join("authentication.db").display()
    );
    assert_eq!(start(config(&missing)).await, expected);
}
