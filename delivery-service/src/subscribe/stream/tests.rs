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
use valise_access_token::{RevocationSubject, ServiceTokens, Verifier, VerifierFeed};
use valise_clock::Clock;
use valise_device_certificate::{ServiceIdentity, ServiceKey, TrustBundle, service_uri};
use valise_service_runtime::Lifecycle;

use super::*;
use crate::audit::AuditLink;
use crate::certificate_verdicts::CertificateVerdicts;
use crate::config::{Config, Limits};
use crate::group_state::GroupStates;
use crate::log::conformance::{accept, commit, device, effects, group, message, user};
use crate::log::sqlite::SqliteLog;
use crate::log::{News, Notice, OrderedLog};
use crate::subscribe::fan_out::FanOut;
use crate::subscribe::pages::Pages;
use crate::subscribe::stuck::{REDELIVERIES, StuckEntries};
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

/// A new stream of that device, and what it says.
fn open(
    delivery: &Arc<Delivery>,
    device: DeviceId,
    room: usize,
) -> (DeviceStream, mpsc::Receiver<wire::SubscribeResponse>) {
    let subscriber = Subscriber {
        user: user("alice"),
        device,
        expires_at: delivery.clock.now() + LIFETIME,
    };
    let (outgoing, said) = mpsc::channel(room);
    (
        DeviceStream::open(Arc::clone(delivery), subscriber, outgoing),
        said,
    )
}

fn from_the_beginning(group: GroupId) -> wire::GroupCursor {
    let cursor = wire::Cursor {
        position: 0,
        entry_id: Bytes::new(),
    };
    wire::GroupCursor {
        group_id: group.to_vec().into(),
        cursor: Some(cursor),
    }
}

/// The positions of the entries that were said since it was asked last.
fn entries_of(said: &mut mpsc::Receiver<wire::SubscribeResponse>) -> Vec<u64> {
    let mut positions = Vec::new();
    while let Ok(said) = said.try_recv() {
        if let Some(subscribe_response::Message::Entry(entry)) = said.message {
            positions.push(entry.position);
        }
    }
    positions
}

/// The device is revoked, and the feed says so.
fn revoke(feed: &VerifierFeed, device: DeviceId) {
    let revocation = Revocation {
        number: feed.newest() + 1,
        subject: RevocationSubject::Device {
            user: user("alice"),
            device,
        },
        at: std::time::UNIX_EPOCH,
    };
    feed.apply(revocation).unwrap();
}

/// A service without its background tasks, a group of one device, and that device's stream.
struct Scene {
    stream: DeviceStream,
    said: mpsc::Receiver<wire::SubscribeResponse>,
    delivery: Arc<Delivery>,
    alice: DeviceId,
    group: GroupId,
    feed: VerifierFeed,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(clock: Clock) -> Self {
        Self::with(clock, Limits::default(), 64).await
    }

    /// With room for so many messages that nobody has read.
    async fn with(clock: Clock, limits: Limits, room: usize) -> Self {
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
        let delivery = Arc::new(Delivery {
            states: GroupStates::new(Arc::clone(&log), config.cached_members),
            log,
            fan_out: FanOut::default(),
            pages: Pages::default(),
            stuck_entries: StuckEntries::default(),
            verifier,
            certificates: Arc::new(CertificateVerdicts::new()),
            audit: AuditLink { channel, tokens },
            clock,
            limits,
            retention_seconds: config.retention_seconds,
            entry_copies: config.entry_copies(),
            suites: Suites::open(&config).unwrap(),
            plans_asked_for: Semaphore::new(1),
            trees: Cache::new(1),
            lifecycle: Lifecycle::new(&CancellationToken::new()),
        });
        let (stream, said) = open(&delivery, alice, room);
        let mut scene = Self {
            stream,
            said,
            delivery,
            alice,
            group,
            feed,
            _folder: folder,
        };
        scene.follow(group).await.unwrap();
        scene
    }

    /// The stream follows that group from the beginning.
    async fn follow(&mut self, group: GroupId) -> Result<(), Refusal> {
        self.stream.add_groups(&[from_the_beginning(group)]).await
    }

    /// The device comes back without having acknowledged anything.
    async fn come_back(&mut self) {
        (self.stream, self.said) = open(&self.delivery, self.alice, self.said.max_capacity());
        self.follow(self.group).await.unwrap();
    }

    /// The device's messages are in the log, and it has come back.
    async fn behind(&mut self, texts: &[&str]) {
        for text in texts {
            accept(&*self.delivery.log, message(self.group, self.alice, 0, text)).await;
        }
        self.come_back().await;
    }

    /// The authentication service is heard of, and the stream sends what it can.
    async fn pump(&mut self) -> Result<(), Refusal> {
        self.feed.heard(self.feed.newest()).unwrap();
        self.stream.pump().await
    }

    /// Nobody reads. What becomes of the stream when that happens once the connection is full?
    async fn full_when(&mut self, happens: impl FnOnce(&Delivery, &VerifierFeed)) -> Refusal {
        self.feed.heard(self.feed.newest()).unwrap();
        let (said, feed) = (&self.said, &self.feed);
        let delivery: &Delivery = &self.delivery;
        let when_full = async {
            while said.len() < said.max_capacity() {
                tokio::task::yield_now().await;
            }
            happens(delivery, feed);
        };
        let stream = &mut self.stream;
        let both = async { tokio::join!(stream.pump(), when_full).0 };
        // Well before it is a slow reader's.
        tokio::time::timeout(Duration::from_secs(20), both)
            .await
            .unwrap()
            .unwrap_err()
    }

    /// The positions of the entries that were said since it was asked last.
    fn entries(&mut self) -> Vec<u64> {
        entries_of(&mut self.said)
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
        self.feed.heard(self.feed.newest()).unwrap();
        self.stream.pump_inbox().await.unwrap();
        let mut numbers = Vec::new();
        while let Ok(said) = self.said.try_recv() {
            if let Some(subscribe_response::Message::InboxItem(item)) = said.message {
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
    scene.pump().await.unwrap();
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

#[tokio::test]
async fn a_stream_that_cannot_send_ends_when_it_must_all_the_same() {
    let texts = ["one", "two", "three"];
    let mut scene = Scene::with(Clock::system(), Limits::default(), 1).await;
    scene.behind(&texts).await;
    let alice = scene.alice;
    let ended = scene.full_when(|_, feed| revoke(feed, alice)).await;
    assert_eq!(ended.reason, Reason::DeviceRevoked);
    assert_eq!(scene.entries(), [1], "nothing after what it had got");

    let mut scene = Scene::with(Clock::system(), Limits::default(), 1).await;
    scene.behind(&texts).await;
    let alice = scene.alice;
    let ended = scene
        .full_when(|delivery, _| drop(delivery.fan_out.open(alice)))
        .await;
    assert_eq!(ended.reason, Reason::Displaced);

    scene.come_back().await;
    let ended = scene
        .full_when(|delivery, _| delivery.lifecycle.stopping().cancel())
        .await;
    assert_eq!(ended.reason, Reason::StoreUnavailable);
}

#[tokio::test]
async fn a_revoked_device_gets_no_further_page() {
    let mut scene = Scene::new(Clock::system()).await;
    scene.behind(&["one"]).await;
    scene.notify("one").await;
    scene.feed.heard(0).unwrap();
    revoke(&scene.feed, scene.alice);
    let ended = scene.stream.pump_group(scene.group).await.unwrap_err();
    assert_eq!(ended.reason, Reason::DeviceRevoked);
    let ended = scene.stream.pump_inbox().await.unwrap_err();
    assert_eq!(ended.reason, Reason::DeviceRevoked);
    assert!(scene.said.try_recv().is_err(), "nothing was said");
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_slow() {
    let limits = Limits {
        slow_reader_seconds: 0,
        ..Limits::default()
    };
    let mut scene = Scene::with(Clock::system(), limits, 1).await;
    scene.behind(&["one", "two"]).await;
    let ended = scene.pump().await.unwrap_err();
    assert_eq!(ended.reason, Reason::SlowReader);
    assert_eq!(scene.entries(), [1]);
}

#[tokio::test]
async fn a_reader_that_acknowledges_nothing_is_slow() {
    let limits = Limits {
        slow_reader_seconds: 0,
        unacknowledged_entries: 1,
        ..Limits::default()
    };
    let mut scene = Scene::with(Clock::system(), limits, 64).await;
    scene.behind(&["one", "two"]).await;
    scene.pump().await.unwrap();
    assert_eq!(scene.entries(), [1]);
    // While its window is open, it is not.
    let cursor = wire::Cursor {
        position: 1,
        entry_id: Bytes::new(),
    };
    let ack = wire::Ack {
        groups: vec![wire::GroupCursor {
            group_id: scene.group.to_vec().into(),
            cursor: Some(cursor),
        }],
        inbox_number: 0,
    };
    scene.stream.acknowledge(&ack).await.unwrap();
    scene.feed.heard(0).unwrap();
    scene.stream.watch().await.unwrap();
    scene.pump().await.unwrap();
    assert_eq!(scene.entries(), [2]);
    let ended = scene.stream.watch().await.unwrap_err();
    assert_eq!(ended.reason, Reason::SlowReader);
}

#[tokio::test]
async fn an_entry_that_is_sent_again_and_again_is_found_once() {
    let mut scene = Scene::new(Clock::system()).await;
    scene.behind(&["one", "two"]).await;
    for _ in 0..REDELIVERIES {
        scene.pump().await.unwrap();
        assert_eq!(scene.entries(), [1, 2]);
        scene.come_back().await;
    }
    scene.pump().await.unwrap();
    assert_eq!(scene.stream.count_unacknowledged(), [(scene.group, Position(1))]);
    scene.come_back().await;
    scene.pump().await.unwrap();
    assert!(scene.stream.count_unacknowledged().is_empty());
}

#[tokio::test]
async fn a_group_counts_once_however_often_it_is_named() {
    let limits = Limits {
        groups_per_device: 1,
        ..Limits::default()
    };
    let mut scene = Scene::with(Clock::system(), limits, 64).await;
    scene.follow(scene.group).await.unwrap();
    let other = group(&*scene.delivery.log, scene.alice).await;
    let refused = scene.follow(other).await.unwrap_err();
    assert_eq!(refused, Refusal::too_large("groups", 1));
    scene.stream.drop_group(scene.group);
    scene.follow(other).await.unwrap();
}

#[tokio::test]
async fn devices_that_come_back_together_read_a_group_together() {
    let scene = Scene::new(Clock::system()).await;
    let others: Vec<DeviceId> = (0..50).map(|_| device()).collect();
    let mut add = commit(scene.group, scene.alice, 0);
    effects(&mut add).joined = others.iter().map(|other| (user("bob"), *other)).collect();
    accept(&*scene.delivery.log, add).await;
    for text in ["two", "three"] {
        accept(&*scene.delivery.log, message(scene.group, scene.alice, 1, text)).await;
    }
    scene.feed.heard(0).unwrap();
    let mut streams = Vec::new();
    for other in others {
        let (mut stream, mut said) = open(&scene.delivery, other, 64);
        stream
            .add_groups(&[from_the_beginning(scene.group)])
            .await
            .unwrap();
        scene.feed.heard(0).unwrap();
        stream.pump().await.unwrap();
        assert_eq!(entries_of(&mut said), [2, 3]);
        streams.push(stream);
    }
    let read = scene.delivery.pages.count().await;
    assert_eq!(read, 2, "what they missed, and that there is no more");
}

#[tokio::test]
async fn what_others_have_read_before_hides_nothing() {
    let mut scene = Scene::new(Clock::system()).await;
    // Somebody follows the group all the time, and there are no news of it.
    let mailbox = scene.delivery.fan_out.open(device());
    scene.delivery.fan_out.follow(&mailbox, scene.group);
    scene.overflow().await;
    scene.stream.open_mailbox().await.unwrap();
    scene.pump().await.unwrap();
    assert_eq!(scene.delivery.pages.count().await, 1, "that there is nothing");
    scene.behind(&["one"]).await;
    scene.pump().await.unwrap();
    assert_eq!(scene.entries(), [1]);
    // Nor where they are told to read.
    accept(&*scene.delivery.log, message(scene.group, scene.alice, 0, "two")).await;
    let (news, heard) = broadcast::channel(1);
    news.send(News::Behind(scene.group)).unwrap();
    drop(news);
    scene.delivery.fan_out.run(heard, CancellationToken::new()).await;
    scene.stream.open_mailbox().await.unwrap();
    scene.pump().await.unwrap();
    assert_eq!(scene.entries(), [2]);
}
