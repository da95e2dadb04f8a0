//! The delivery service itself, on SQLite, in this process: called through its gRPC services, but without sockets and tokens.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};
use valise_access_token::{
    Caller, Revocation, RevocationSubject, ServiceTokens, VerifiedToken, Verifier, VerifierFeed,
};
use valise_clock::Clock;
use valise_delivery_service::{AuditLink, Config, Service as Delivery};
use valise_device_certificate::{ServiceIdentity, ServiceKey};
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use valise_proto::delivery::v1::subscribe_request::Message as Out;
use valise_proto::delivery::v1::subscribe_response::Message as In;
use valise_proto::{GroupId, Position, Refusal};

use crate::Peer;
use crate::engine::tests::people::{World, YEAR};
use crate::engine::{Upload, UploadKind};

/// For what happens at once unless something is broken.
const SOON: Duration = Duration::from_secs(60);

/// A deployment: its certificate authority and its delivery service.
pub(super) struct Service {
    pub(super) world: World,
    runtime: Runtime,
    routes: Routes,
    verifier: Verifier,
    feed: VerifierFeed,
    revocations: u64,
    /// While it runs.
    delivery: Option<Delivery>,
    folder: tempfile::TempDir,
}

impl Service {
    pub(super) fn start() -> Self {
        Self::start_until(Clock::system().now() + YEAR)
    }

    /// One whose certificate ends then.
    pub(super) fn start_until(ends: SystemTime) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (world, identity) = World::with_service(ends);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        identity.save(&file("key.pem"), &file("chain.pem")).unwrap();
        let (verifier, feed) = Verifier::new("valise://a.example", Clock::system(), world.bundle());
        feed.heard(0).unwrap();
        let (delivery, routes) = runtime.block_on(open(folder.path(), verifier.clone()));
        Self {
            world,
            runtime,
            routes,
            verifier,
            feed,
            revocations: 0,
            delivery: Some(delivery),
            folder,
        }
    }

    /// The certificate is renewed, and the service starts again with it. What it is from now on.
    pub(super) fn renew_certificate(&mut self, ends: SystemTime) -> ServiceIdentity {
        // What is open as long as somebody has it goes with the last one.
        self.routes = Routes::default();
        if let Some(delivery) = self.delivery.take() {
            self.runtime.block_on(delivery.stop());
        }
        let identity = self.world.certify_service(self.key(), ends);
        identity
            .save_chain(&self.folder.path().join("chain.pem"))
            .unwrap();
        self.feed.heard(self.revocations).unwrap();
        let opened = open(self.folder.path(), self.verifier.clone());
        let (delivery, routes) = self.runtime.block_on(opened);
        self.delivery = Some(delivery);
        self.routes = routes;
        identity
    }

    pub(super) fn key(&self) -> ServiceKey {
        ServiceKey::load(&self.folder.path().join("key.pem")).unwrap()
    }

    fn call<T, R>(
        &self,
        from: &Peer,
        message: T,
        call: impl AsyncFnOnce(DeliveryServiceClient<Routes>, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<R, Refusal> {
        // The authentication service lives: otherwise everybody counts as revoked.
        self.feed.heard(self.revocations).unwrap();
        let request = request(from, message);
        let client = DeliveryServiceClient::new(self.routes.clone());
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(SOON, call(client, request))
                .await
                .expect("the service answers")
        });
        answer
            .map(Response::into_inner)
            .map_err(|status| Refusal::from_status(&status).expect("a refusal has a reason"))
    }

    /// Submits what a device has prepared.
    pub(super) fn submit(
        &self,
        from: &Peer,
        upload: &Upload,
        repeat: bool,
    ) -> Result<wire::Accepted, Refusal> {
        let prepared = &upload.prepared;
        let message: bytes::Bytes = prepared.message.clone().into();
        let group_info: bytes::Bytes = prepared.group_info.clone().unwrap_or_default().into();
        let welcome: bytes::Bytes = prepared.welcome.clone().unwrap_or_default().into();
        let (idempotency_key, may_be_repeat) = (prepared.key.to_vec().into(), repeat);
        let accepted = match upload.kind {
            UploadKind::Create => {
                let request = wire::CreateGroupRequest {
                    group_info: message,
                    ratchet_tree: welcome,
                    idempotency_key,
                };
                self.call(from, request, async |mut client, it| {
                    client.create_group(it).await
                })?;
                return Ok(wire::Accepted::default());
            }
            UploadKind::Message => {
                let request = wire::SendMessageRequest {
                    mls_message: message,
                    idempotency_key,
                    may_be_repeat,
                };
                self.call(from, request, async |mut client, it| {
                    client.send_message(it).await
                })?
                .accepted
            }
            UploadKind::Commit => {
                let request = wire::SubmitCommitRequest {
                    commit: message,
                    group_info,
                    welcome,
                    idempotency_key,
                    may_be_repeat,
                };
                self.call(from, request, async |mut client, it| {
                    client.submit_commit(it).await
                })?
                .accepted
            }
            UploadKind::ExternalCommit => {
                let request = wire::SubmitExternalCommitRequest {
                    commit: message,
                    group_info,
                    idempotency_key,
                    may_be_repeat,
                };
                self.call(from, request, async |mut client, it| {
                    client.submit_external_commit(it).await
                })?
                .accepted
            }
            UploadKind::Proposal => {
                let request = wire::SubmitProposalRequest {
                    proposal: message,
                    idempotency_key,
                    may_be_repeat,
                };
                self.call(from, request, async |mut client, it| {
                    client.submit_proposal(it).await
                })?
                .accepted
            }
        };
        Ok(accepted.expect("it was accepted"))
    }

    /// At most so many entries after a position.
    pub(super) fn read(
        &self,
        from: &Peer,
        group: GroupId,
        after: Position,
        count: u32,
    ) -> Result<Vec<wire::Entry>, Refusal> {
        let request = wire::ReadEntriesRequest {
            group_id: group.to_vec().into(),
            after_position: after.0,
            max_entries: count,
        };
        let page = self.call(from, request, async |mut client, it| {
            client.read_entries(it).await
        })?;
        Ok(page.entries)
    }

    pub(super) fn group_info(
        &self,
        from: &Peer,
        group: GroupId,
    ) -> Result<wire::GetGroupInfoResponse, Refusal> {
        let request = wire::GetGroupInfoRequest {
            group_id: group.to_vec().into(),
            ..wire::GetGroupInfoRequest::default()
        };
        self.call(from, request, async |mut client, it| {
            client.get_group_info(it).await
        })
    }

    pub(super) fn tree(&self, from: &Peer, welcome: &wire::WelcomeItem) -> Result<bytes::Bytes, Refusal> {
        let request = wire::GetRatchetTreeRequest {
            group_id: welcome.group_id.clone(),
            epoch: welcome.epoch,
        };
        let answer = self.call(from, request, async |mut client, it| {
            client.get_ratchet_tree(it).await
        })?;
        Ok(answer.ratchet_tree)
    }

    /// What is in a device's inbox after that item.
    pub(super) fn inbox(&self, from: &Peer, after: u64) -> Vec<wire::InboxItem> {
        let (say, requests) = mpsc::channel(64);
        let out = |message| wire::SubscribeRequest {
            message: Some(message),
        };
        let start = wire::Start {
            groups: Vec::new(),
            inbox_cursor: after,
        };
        say.try_send(out(Out::Start(start))).unwrap();
        let mut answers = self
            .call(from, ReceiverStream::new(requests), async |mut client, it| {
                client.subscribe(it).await
            })
            .unwrap();
        let read = async {
            let mut items = Vec::new();
            while let Some(answer) = answers.message().await.unwrap() {
                match answer.message.unwrap() {
                    In::InboxItem(item) => {
                        let ack = wire::Ack {
                            groups: Vec::new(),
                            inbox_number: item.number,
                        };
                        items.push(item);
                        say.send(out(Out::Ack(ack))).await.unwrap();
                    }
                    In::CaughtUp(_) => break,
                    _ => {}
                }
            }
            items
        };
        self.runtime
            .block_on(async { tokio::time::timeout(SOON, read).await })
            .expect("a stream says when it has caught up")
    }

    /// An administrator revokes a device. What follows from it takes its time.
    pub(super) fn revoke(&mut self, whom: &Peer) {
        self.revocations += 1;
        let revocation = Revocation {
            number: self.revocations,
            subject: RevocationSubject::Device {
                user: whom.user.clone(),
                device: whom.device,
            },
            at: SystemTime::UNIX_EPOCH,
        };
        self.feed.apply(revocation).unwrap();
    }

    /// Waits until the log has an entry at that position.
    pub(super) fn has_entry(&self, group: GroupId, position: u64) {
        let question = "SELECT count(*) FROM groups WHERE group_id = ?1 AND position >= ?2";
        self.until(question, group, position);
    }

    /// Waits until a snapshot of the state after the commit at that position is kept.
    pub(super) fn has_snapshot(&self, group: GroupId, position: u64) {
        let question = "SELECT count(*) FROM snapshots WHERE group_id = ?1 AND position >= ?2";
        self.until(question, group, position);
    }

    fn until(&self, question: &str, group: GroupId, position: u64) {
        let database = self.database();
        let deadline = std::time::Instant::now() + SOON;
        loop {
            let parameters = rusqlite::params![group.as_bytes(), position.cast_signed()];
            let count: i64 = database
                .query_row(question, parameters, |row| row.get(0))
                .unwrap();
            if count > 0 {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "not there: {question} {position}"
            );
            self.feed.heard(self.revocations).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Does what retention does to a log: the newest snapshot, and what comes after it, stay. Says which entry is the first that is kept.
    pub(super) fn trim(&self, group: GroupId) -> u64 {
        let database = self.database();
        let kept: i64 = database
            .query_row(
                "SELECT max(position) FROM snapshots WHERE group_id = ?1",
                [group.as_bytes()],
                |row| row.get(0),
            )
            .unwrap();
        database
            .execute(
                "DELETE FROM entries WHERE position < ?2
                 AND group_number = (SELECT number FROM groups WHERE group_id = ?1)",
                rusqlite::params![group.as_bytes(), kept],
            )
            .unwrap();
        kept.cast_unsigned()
    }

    fn database(&self) -> Connection {
        let database = Connection::open(self.folder.path().join("delivery.db")).unwrap();
        database.busy_timeout(SOON).unwrap();
        database
    }
}

/// The service with the files in that folder, and the way to it.
async fn open(folder: &Path, verifier: Verifier) -> (Delivery, Routes) {
    let file = |name: &str| folder.join(name);
    let config = Config::new(file("delivery.db"), file("key.pem"), file("chain.pem"));
    // No administrator acts here: nobody is asked to write anything down.
    let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let identity = ServiceIdentity::load(&file("key.pem"), &file("chain.pem")).unwrap();
    let tokens = ServiceTokens::new(channel.clone(), Arc::new(identity), Clock::system());
    let audit = AuditLink { channel, tokens };
    let delivery = Delivery::open(config, verifier, audit, Clock::system())
        .await
        .unwrap();
    let mut routes = RoutesBuilder::default();
    delivery.add_routes(&mut routes);
    (delivery, routes.routes().prepare())
}

fn request<T>(from: &Peer, message: T) -> Request<T> {
    let caller = Caller::Device {
        user: from.user.clone(),
        device: from.device,
        administrator: false,
    };
    let mut request = Request::new(message);
    request.extensions_mut().insert(VerifiedToken {
        caller: caller.clone(),
        expires_at: SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 1000),
    });
    request.extensions_mut().insert(caller);
    request
}
