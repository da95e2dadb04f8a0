//! Several replicas on one PostgreSQL are one service.

use std::time::Duration;

use futures::future::join_all;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::HealthCheckResponse;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use valise_access_token::ServiceTokens;
use valise_authentication_service::{Config, Kind, Service, migrate, run};
use valise_clock::Clock;
use valise_device_certificate::KeyKind;
use valise_local_stack::Postgres;
use valise_proto::Reason;
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::authentication::v1::enrol_request::Proof;
use valise_proto::authentication::v1::watch_revocations_response::Event;
use valise_proto::authentication::v1::{
    EnrolRequest, GetJwksRequest, GetTrustBundleRequest, ListAuditEventsRequest, ListDevicesRequest,
    RevokeDeviceRequest, SuspendUserRequest, WatchRevocationsRequest,
};

use crate::support::{Device, HOUR, Key, Scene, reason, rule, user, with};

const DEADLINE: Duration = Duration::from_secs(120);

/// Of a database with the schema in it.
async fn config(server: &Postgres) -> Config {
    let database: valise_sql_database::Database = server.database("authentication").await.parse().unwrap();
    let config = Config::new(database, "valise.example", vec!["interieur.example".into()]);
    migrate(&config).await.unwrap();
    config
}

/// Two that start at the same time on an empty database.
async fn replicas(server: &Postgres) -> (Scene, Scene) {
    let config = config(server).await;
    let replica = || {
        let database = config.database.clone();
        Scene::with(|config| config.database = database)
    };
    tokio::join!(replica(), replica())
}

async fn revoke(scene: &Scene, by: &Device, device: &Device) {
    let request = RevokeDeviceRequest {
        device_id: device.id.clone(),
    };
    let mut client = scene.client();
    client.revoke_device(with(&by.token, request)).await.unwrap();
}

fn nobody() -> ListDevicesRequest {
    ListDevicesRequest::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_are_one_service() {
    let server = Postgres::start().await;
    let (first, second) = replicas(&server).await;
    let mut published = Vec::new();
    for scene in [&first, &second] {
        let keys = scene.client().get_jwks(GetJwksRequest {}).await.unwrap();
        let bundle = scene.client().get_trust_bundle(GetTrustBundleRequest {}).await;
        published.push((keys.into_inner(), bundle.unwrap().into_inner()));
    }
    assert_eq!(published[0], published[1], "made once");

    let root = first.device("root", Kind::Administrator).await;
    let (alice, bob) = (
        second.device("alice", Kind::Device).await,
        second.device("bob", Kind::Device).await,
    );
    for token in [&root.token, &alice.token, &bob.token] {
        first.client().list_devices(with(token, nobody())).await.unwrap();
        second.client().list_devices(with(token, nobody())).await.unwrap();
    }

    // What one was told, the other knows from the feed, and at once where it asks the store.
    let mut news = second.service.verifier().revocations();
    revoke(&first, &root, &alice).await;
    assert_eq!(
        reason(second.token(&alice.id, &alice.key).await),
        Reason::DeviceRevoked
    );
    timeout(DEADLINE, news.recv()).await.unwrap().unwrap();
    assert_eq!(
        reason(second.client().list_devices(with(&alice.token, nobody())).await),
        Reason::DeviceRevoked
    );
    let mut news = first.service.verifier().revocations();
    let suspend = SuspendUserRequest {
        user_id: user("bob").into(),
    };
    let mut administration = second.administration();
    let suspended = administration.suspend_user(with(&root.token, suspend)).await;
    suspended.unwrap();
    timeout(DEADLINE, news.recv()).await.unwrap().unwrap();
    assert_eq!(
        reason(first.client().list_devices(with(&bob.token, nobody())).await),
        Reason::UserSuspended
    );

    // One audit log.
    let mut logs = Vec::new();
    for scene in [&first, &second] {
        let request = with(&root.token, ListAuditEventsRequest::default());
        let events = scene.administration().list_audit_events(request).await.unwrap();
        logs.push(events.into_inner().events);
    }
    assert_eq!(logs[0], logs[1]);
    let numbers: Vec<_> = logs[0].iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_good_once_is_good_at_one_replica() {
    let server = Postgres::start().await;
    let (first, second) = replicas(&server).await;
    let code = first.code("alice", Kind::Device).await;
    let keys: Vec<_> = (0..50).map(|_| Key::generate()).collect();
    let tries = keys
        .iter()
        .enumerate()
        .map(|(n, key)| [&first, &second][n % 2].try_enrol(&code, key));
    let outcomes = join_all(tries).await;
    let won: Vec<_> = (0..50).filter(|n| outcomes[*n].is_ok()).collect();
    let [winner] = won[..] else { panic!("{won:?}") };
    let (id, key) = (&outcomes[winner].as_ref().unwrap().device_id, &keys[winner]);

    // Where its answer was lost, any replica gives it again.
    let again = [&first, &second].map(|scene| scene.try_enrol(&code, key));
    for again in join_all(again).await {
        assert_eq!(&again.unwrap(), outcomes[winner].as_ref().unwrap());
    }

    let assertion = first.assertion(id, key);
    let exchanges = (0..20).map(|n| [&first, &second][n % 2].exchange(&assertion));
    let outcomes = join_all(exchanges).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);

    // The clock of one is 29 s ahead. When the assertion has expired there it is forgotten there, but not yet expired here.
    second.hand.advance(Duration::from_secs(29));
    let assertion = first.assertion(id, key);
    first.exchange(&assertion).await.unwrap();
    for scene in [&first, &second] {
        scene.hand.advance(Duration::from_secs(65));
    }
    second.token(id, key).await.unwrap();
    let replayed = (Reason::InvalidAssertion, "replay".to_owned());
    assert_eq!(rule(first.exchange(&assertion).await), replayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_moves_to_another_replica_is_not_ahead_of_it() {
    let server = Postgres::start().await;
    let (first, second) = replicas(&server).await;
    let root = first.device("root", Kind::Administrator).await;
    let identity = first
        .service
        .issue_service_identity("delivery-service", KeyKind::Ed25519)
        .await;
    let tokens = ServiceTokens::new(
        first.channel.clone(),
        identity.unwrap().into(),
        first.clock.clone(),
    );
    for known in 1..=10 {
        let lost = first.device("alice", Kind::Device).await;
        revoke(&first, &root, &lost).await;
        // It has heard of it from the first, long before the second asks the store by itself.
        let mut request = tonic::Request::new(WatchRevocationsRequest { after_number: known });
        tokens.authorize(&mut request).await.unwrap();
        let watched = second.client().watch_revocations(request).await.unwrap();
        let next = timeout(DEADLINE, watched.into_inner().next()).await.unwrap();
        match next.unwrap().unwrap().event.unwrap() {
            Event::Heartbeat(heartbeat) => assert_eq!(heartbeat.newest_number, known),
            Event::Revocation(revocation) => panic!("{revocation:?}"),
        }
    }
}

/// A server as it runs in production.
struct Running {
    client: AuthenticationServiceClient<Channel>,
    health: Streaming<HealthCheckResponse>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), valise_authentication_service::StartError>>,
}

impl Running {
    async fn start(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(run(config, listener, shutdown.clone()));
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        let all = HealthCheckRequest::default();
        let health = HealthClient::new(channel.clone()).watch(all).await.unwrap();
        Self {
            client: AuthenticationServiceClient::new(channel),
            health: health.into_inner(),
            shutdown,
            serving,
        }
    }

    async fn until(&mut self, expected: ServingStatus) {
        let heard = async { while self.health.message().await.unwrap().unwrap().status() != expected {} };
        timeout(DEADLINE, heard).await.expect("health did not follow");
    }

    async fn enrol(&self, code: &str, key: &Key) -> Result<String, tonic::Status> {
        let request = EnrolRequest {
            proof: Some(Proof::EnrolmentCode(code.into())),
            certification_request: key.request(),
            device_name: String::new(),
        };
        let enrolled = timeout(DEADLINE, self.client.clone().enrol(request)).await;
        enrolled.unwrap().map(|enrolled| enrolled.into_inner().device_id)
    }

    async fn list(&self, token: &str) -> Result<(), tonic::Status> {
        let listed = self.client.clone().list_devices(with(token, nobody())).await;
        listed.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_it_says_so_and_then_goes_on() {
    let mut server = Postgres::start().await;
    let config = config(&server).await;
    let operator = Service::open(config.clone(), Clock::system()).await.unwrap();
    let code = async |name: &str| {
        let made = operator
            .create_enrolment_code(&user(name), Kind::Device, HOUR)
            .await;
        made.unwrap().code.as_str().to_owned()
    };
    let (first, second) = (code("alice").await, code("alice").await);
    operator.stop().await;
    let mut running = Running::start(config).await;
    running.until(ServingStatus::Serving).await;
    let key = Key::generate();
    let id = running.enrol(&first, &key).await.unwrap();
    let assertion = key.assertion(&id, Clock::system().now());
    let token = valise_proto::authentication::v1::IssueTokenRequest { assertion };
    let token = running
        .client
        .issue_token(token)
        .await
        .unwrap()
        .into_inner()
        .access_token;
    running.list(&token).await.unwrap();

    server.stop().await;
    assert_eq!(
        reason(running.enrol(&second, &Key::generate()).await),
        Reason::StoreUnavailable
    );
    running.until(ServingStatus::NotServing).await;
    assert_eq!(reason(running.list(&token).await), Reason::StoreUnavailable);
    server.restart().await;
    running.until(ServingStatus::Serving).await;
    running.enrol(&second, &Key::generate()).await.unwrap();

    // It is there and says nothing.
    server.pause();
    running.until(ServingStatus::NotServing).await;
    assert_eq!(reason(running.list(&token).await), Reason::StoreUnavailable);
    server.resume();
    running.until(ServingStatus::Serving).await;
    let followed = async {
        while running.list(&token).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, followed)
        .await
        .expect("the feed did not follow");

    running.shutdown.cancel();
    timeout(DEADLINE, running.serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
