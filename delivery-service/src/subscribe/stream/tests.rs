//! A stream that nobody serves: a test takes its steps, one by one.

use bytes::Bytes;
use moka::future::Cache;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa,
    KeyPair, PKCS_ED25519, SanType,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use valise_access_token::{ServiceTokens, Verifier, VerifierFeed};
use valise_clock::Clock;
use valise_device_certificate::{ServiceIdentity, ServiceKey, TrustBundle, service_uri};
use valise_service_runtime::Lifecycle;

use super::*;
use crate::audit::AuditLink;
use crate::certificate_verdicts::CertificateVerdicts;
use crate::config::Config;
use crate::group_state::GroupStates;
use crate::log::conformance::{accept, device, group, message, user};
use crate::log::sqlite::SqliteLog;
use crate::log::{News, Notice, OrderedLog};
use crate::subscribe::fan_out::FanOut;
use crate::suites::Suites;

/// How long the stream's token lives.
const LIFETIME: Duration = Duration::from_mins(10);

/// A service's identity, and the authority that it is of.
fn identity() -> (ServiceIdentity, TrustBundle) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap();
    let (name, key) = ("delivery-service", ServiceKey::generate().unwrap());
    let request = key.request().unwrap();
    let mut request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
    request.params.distinguished_name.push(DnType::CommonName, name);
    let uri = service_uri("a.example", name);
    request.params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
    let chain = vec![request.signed_by(&authority).unwrap().der().to_vec()];
    let bundle = TrustBundle::from_der([authority.der().to_vec()]).unwrap();
    (key.with_chain(chain).unwrap(), bundle)
}

/// A service without its background tasks, a group of one device, and that device's stream.
struct Scene {
    stream: DeviceStream,
    said: mpsc::Receiver<Result<wire::SubscribeResponse, Status>>,
    delivery: Arc<Delivery>,
    alice: DeviceId,
    group: GroupId,
    _feed: VerifierFeed,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(clock: Clock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let (identity, bundle) = identity();
        identity.save(&file("key.pem"), &file("chain.pem")).unwrap();
        let config = Config::new(file("delivery.db"), file("key.pem"), file("chain.pem"));
        let log: Arc<dyn OrderedLog> = Arc::new(SqliteLog::open(&file("delivery.db")).unwrap());
        let (verifier, feed) = Verifier::new("valise://a.example", clock.clone(), bundle);
        feed.heard(0).unwrap();
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let tokens = ServiceTokens::new(channel.clone(), Arc::new(identity), clock.clone());
        let alice = device();
        let group = group(&*log, alice).await;
        let subscriber = Subscriber {
            user: user("alice"),
            device: alice,
            expires_at: clock.now() + LIFETIME,
        };
        let delivery = Arc::new(Delivery {
            states: GroupStates::new(Arc::clone(&log), config.cached_groups),
            log,
            fan_out: FanOut::default(),
            verifier,
            certificates: Arc::new(CertificateVerdicts::new()),
            audit: AuditLink { channel, tokens },
            clock,
            limits: config.limits,
            retention_seconds: config.retention_seconds,
            entry_copies: config.entry_copies(),
            suites: Suites::open(&config).unwrap(),
            plans_asked_for: Semaphore::new(1),
            trees: Cache::new(1),
            lifecycle: Lifecycle::new(&CancellationToken::new()),
        });
        let (outgoing, said) = mpsc::channel(64);
        let mut stream = DeviceStream::open(Arc::clone(&delivery), subscriber, outgoing);
        let from_the_beginning = wire::GroupCursor {
            group_id: group.to_vec().into(),
            cursor: Some(wire::Cursor {
                position: 0,
                entry_id: Bytes::new(),
            }),
        };
        stream.add_groups(&[from_the_beginning]).await.unwrap();
        Self {
            stream,
            said,
            delivery,
            alice,
            group,
            _feed: feed,
            _folder: folder,
        }
    }

    /// The positions of the entries that were said since it was asked last.
    fn entries(&mut self) -> Vec<u64> {
        let mut positions = Vec::new();
        while let Ok(said) = self.said.try_recv() {
            if let Some(subscribe_response::Message::Entry(entry)) = said.unwrap().message {
                positions.push(entry.position);
            }
        }
        positions
    }

    /// Puts something into the device's inbox.
    async fn notify(&mut self, key: &str) {
        let notice = Notice {
            device: self.alice,
            deduplication_key: key.to_owned(),
            cipher_suite: 1,
            one_time: 3,
            at: self.delivery.clock.unix_millis(),
        };
        self.delivery.log.notify(vec![notice]).await.unwrap();
        self.stream.inbox.news = true;
    }

    /// The numbers of the inbox items that are said now.
    async fn items(&mut self) -> Vec<u64> {
        self.stream.pump_inbox().await.unwrap();
        let mut numbers = Vec::new();
        while let Ok(said) = self.said.try_recv() {
            if let Some(subscribe_response::Message::InboxItem(item)) = said.unwrap().message {
                numbers.push(item.number);
            }
        }
        numbers
    }

    /// Lets more come for the stream than its mailbox holds, and nothing of its groups.
    async fn overflow(&self) {
        let (news, heard) = broadcast::channel(1024);
        for _ in 0..1000 {
            news.send(News::Inbox(self.alice)).unwrap();
        }
        drop(news);
        self.delivery.fan_out.run(heard, CancellationToken::new()).await;
    }
}

#[tokio::test]
async fn a_stream_that_missed_something_reads_all_its_groups() {
    let mut scene = Scene::new(Clock::system()).await;
    let said = message(scene.group, scene.alice, 0, "missed");
    accept(&*scene.delivery.log, said).await;
    scene.overflow().await;
    scene.stream.open_mailbox().await.unwrap();
    scene.stream.pump().await.unwrap();
    assert_eq!(scene.entries(), [1]);
}

#[tokio::test]
async fn a_stream_does_not_outlive_its_token() {
    let (clock, hand) = Clock::movable();
    let mut scene = Scene::new(clock).await;
    scene.stream.watch().await.unwrap();
    hand.advance(LIFETIME);
    let ended = scene.stream.watch().await.unwrap_err();
    assert_eq!(ended.reason, Reason::TokenExpired);
}

#[tokio::test]
async fn what_comes_to_a_store_that_lost_an_inbox_is_new_to_its_device() {
    let mut before = Scene::new(Clock::system()).await;
    before.notify("one").await;
    before.notify("two").await;
    let seen = before.items().await[1];
    tokio::time::sleep(Duration::from_millis(2)).await;

    let mut after = Scene::new(Clock::system()).await;
    // While the device is away, and while it is there.
    after.notify("three").await;
    after.stream.inbox = Inbox::begin(seen);
    let third = after.items().await;
    after.notify("four").await;
    let fourth = after.items().await;
    assert_eq!((third.len(), fourth.len()), (1, 1));
    assert!(third[0] < fourth[0]);

    let ack = wire::Ack {
        groups: Vec::new(),
        inbox_number: third[0],
    };
    after.stream.acknowledge(&ack).await.unwrap();
    after.stream.keep_acknowledgements().await.unwrap();
    let left = after.delivery.log.read_inbox(after.alice, 0, 9).await.unwrap();
    assert_eq!(left.len(), 1);
}
