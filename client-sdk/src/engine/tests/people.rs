//! What the tests are written with: a certificate authority, people with engines, and a log.

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{ExternalSender, SignaturePublicKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa,
    KeyPair, PKCS_ED25519, SanType,
};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use openmls_traits::signatures::Signer as _;
use tokio::sync::oneshot;
use valise_device_certificate::{
    KeyKind, ServiceIdentity, ServiceKey, TrustBundle, certification_request, service_uri,
};
use valise_proto::delivery::v1 as wire;
use valise_proto::{DeviceId, Epoch, GroupId, Position, Refusal, UserId};

use crate::engine::effects::OutletEnds;
use crate::engine::intents::{AddPackage, Operation, Outcome};
use crate::engine::{Arrival, Chore, Device, Engine, Outlets, Submission, Upload, UploadJob, UploadKind};
use crate::store::{Database, Enrolled};
use crate::{Content, Error, EventId, EventKind, GroupState, Options, Peer, Servers, Store};

type Answer = oneshot::Receiver<Result<Outcome, Error>>;

pub(super) const YEAR: Duration = Duration::from_hours(24 * 365);

/// What the service tells devices of itself.
pub(super) fn encoded_sender(identity: &ServiceIdentity) -> Vec<u8> {
    let sender = ExternalSender::new(
        SignaturePublicKey::from(identity.public_key()),
        valise_group_rules::credential(identity.chain()),
    );
    sender.tls_serialize_detached().unwrap()
}

/// A deployment: its certificate authority and its service's key.
pub(super) struct World {
    authority: CertifiedIssuer<'static, KeyPair>,
    external_sender: Vec<u8>,
}

impl World {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, uuid::Uuid::new_v4().to_string());
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap();
        // The same in all deployments, so that tests can mix them.
        let service = ExternalSender::new(
            SignaturePublicKey::from([7; 32].as_slice()),
            valise_group_rules::credential(&[vec![1, 2, 3]]),
        );
        Self {
            authority,
            external_sender: service.tls_serialize_detached().unwrap(),
        }
    }

    /// A deployment whose service is a real one, and that service's identity, with a certificate that ends then.
    pub(super) fn with_service(ends: SystemTime) -> (Self, ServiceIdentity) {
        let mut world = Self::new();
        let identity = world.certify_service(ServiceKey::generate().unwrap(), ends);
        world.external_sender = encoded_sender(&identity);
        (world, identity)
    }

    /// A certificate for the service's key, valid for a year until then.
    pub(super) fn certify_service(&self, key: ServiceKey, ends: SystemTime) -> ServiceIdentity {
        let (name, request) = ("delivery-service", key.request().unwrap());
        let mut request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        request.params.distinguished_name.push(DnType::CommonName, name);
        let uri = service_uri("a.example", name);
        request.params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        request.params.not_before = (ends - YEAR).into();
        request.params.not_after = ends.into();
        let chain = vec![request.signed_by(&self.authority).unwrap().der().to_vec()];
        key.with_chain(chain).unwrap()
    }

    pub(super) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der([self.authority.der().to_vec()]).unwrap()
    }

    pub(super) fn bundle_with(&self, other: &Self) -> TrustBundle {
        TrustBundle::from_der([self.authority.der().to_vec(), other.authority.der().to_vec()]).unwrap()
    }

    /// A certificate for a device's key, valid for so many days from now.
    pub(super) fn certify(&self, person: &mut Person, days: u64) -> Vec<Vec<u8>> {
        let request = person.engine.certification_request().unwrap();
        let (user, device) = (person.peer().user, person.id());
        let mut request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let now = Options::default().clock.now();
        request.params.not_before = (now - Duration::from_hours(1)).into();
        request.params.not_after = (now + Duration::from_hours(24 * days)).into();
        self.sign(request, &user, device)
    }

    fn sign(
        &self,
        mut request: CertificateSigningRequestParams,
        user: &UserId,
        device: DeviceId,
    ) -> Vec<Vec<u8>> {
        request
            .params
            .distinguished_name
            .push(DnType::CommonName, device.to_string());
        request.params.subject_alt_names = [user.uri(), device.uri(user)]
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
            .collect();
        vec![request.signed_by(&self.authority).unwrap().der().to_vec()]
    }

    pub(super) fn person(&self, name: &str) -> Person {
        self.person_in(name, &Store::memory())
    }

    /// Enrols a device of `name@a.example`.
    pub(super) fn person_in(&self, name: &str, store: &Store) -> Person {
        self.person_with(name, Database::open(store).unwrap())
    }

    /// The same, with a store that is open.
    pub(super) fn person_with(&self, name: &str, db: Database) -> Person {
        let signer = crate::mls::new_signer(&db.connection, KeyKind::Ed25519).unwrap();
        db.put_new_device(&Servers::one("http://127.0.0.1:1"), signer.public())
            .unwrap();
        let user: UserId = format!("{name}@a.example").parse().unwrap();
        let device = DeviceId::from_uuid(uuid::Uuid::new_v4());
        let request = certification_request(signer.public(), |message| signer.sign(message).ok()).unwrap();
        let request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let chain = self.sign(request, &user, device);
        db.put_enrolled(&Enrolled {
            user,
            device,
            chain,
            trust_bundle: vec![self.authority.der().to_vec()],
            external_sender: self.external_sender.clone(),
            retention: 3600,
            entry_copies: 3600,
        })
        .unwrap();
        Self::start(db)
    }

    /// Opens the store of a device again, after a crash.
    #[expect(clippy::unused_self, reason = "reads as a sentence")]
    pub(super) fn reopen(&self, _forgotten: Forgotten, store: &Store) -> Person {
        let mut person = Self::start(Database::open(store).unwrap());
        person.engine.resume().unwrap();
        person
    }

    pub(super) fn start(db: Database) -> Person {
        let row = db.device().unwrap().unwrap();
        let signer = crate::mls::load_signer(&db.connection, &row.signature_key).unwrap();
        let device = Device::new(&row.enrolled.unwrap(), signer).unwrap();
        let (outlets, ends) = Outlets::new();
        let engine = Engine::new(db, device, Options::default(), outlets);
        Person {
            engine,
            ends,
            last_event: EventId::NONE,
            inbox: 0,
        }
    }
}

/// A device whose engine is gone.
pub(super) struct Forgotten;

/// A device.
pub(super) struct Person {
    pub(super) engine: Engine,
    pub(super) ends: OutletEnds,
    last_event: EventId,
    inbox: u64,
}

/// A group's log.
pub(super) struct Log {
    pub(super) group: GroupId,
    pub(super) entries: Vec<wire::Entry>,
    pub(super) epoch: Epoch,
}

impl Person {
    pub(super) fn peer(&self) -> Peer {
        self.engine.device.peer()
    }

    pub(super) fn id(&self) -> DeviceId {
        self.engine.device.id
    }

    /// The process dies.
    pub(super) fn forget(self) -> Forgotten {
        drop(self);
        Forgotten
    }

    pub(super) fn state(&mut self, group: GroupId) -> GroupState {
        self.engine.group_state(group).unwrap()
    }

    pub(super) fn create_group(&mut self, name: &str) -> Log {
        let group = GroupId::random(&mut rand::rng());
        let (answer, mut outcome) = oneshot::channel();
        self.engine
            .create_group(
                group,
                name,
                Options::default().cipher_suite.mls(),
                tracing::Span::none(),
                answer,
            )
            .unwrap();
        let upload = self.upload();
        assert_eq!(upload.kind, UploadKind::Create);
        self.accepted(&upload, Position::NONE);
        assert_eq!(outcome.try_recv().unwrap().unwrap(), Outcome::Created);
        Log {
            group,
            entries: Vec::new(),
            epoch: Epoch(0),
        }
    }

    pub(super) fn submit(&mut self, group: GroupId, operation: Operation) -> Answer {
        let (answer, outcome) = oneshot::channel();
        let span = tracing::Span::none();
        self.engine.submit_all(vec![Submission {
            group,
            operation,
            span,
            answer,
        }]);
        outcome
    }

    pub(super) fn send(&mut self, group: GroupId, text: &str) -> Answer {
        self.say(group, &Content::text(text))
    }

    pub(super) fn say(&mut self, group: GroupId, content: &Content) -> Answer {
        let payload = content.to_payload().unwrap();
        self.submit(group, Operation::Send { payload })
    }

    /// One of this device's key packages, as the directory hands it out.
    pub(super) fn package(&mut self, last_resort: bool) -> AddPackage {
        let suite = Options::default().cipher_suite.mls();
        self.engine
            .make_key_packages(suite, usize::from(!last_resort), last_resort)
            .unwrap();
        let packages = self.engine.key_packages_to_publish(100).unwrap();
        let references: Vec<_> = packages.iter().map(|package| package.reference.clone()).collect();
        self.engine.key_packages_published(&references).unwrap();
        AddPackage {
            peer: self.peer(),
            message: packages.last().unwrap().message.clone(),
        }
    }

    /// Adds them, and lets them join.
    pub(super) fn add(&mut self, log: &mut Log, people: &mut [&mut Self]) {
        let packages = people.iter_mut().map(|person| person.package(false)).collect();
        let mut outcome = self.submit(log.group, Operation::Add { packages });
        let commit = self.upload();
        log.accept(self, &commit);
        log.deliver(self);
        assert!(matches!(
            outcome.try_recv().unwrap(),
            Ok(Outcome::Committed { .. })
        ));
        let tree = self.tree(log.group);
        for person in people {
            person.join(log, &commit, tree.clone());
        }
        // The group's name, if it has one.
        log.accept_all(self);
        log.deliver(self);
    }

    /// Makes another person something else.
    pub(super) fn set_role(&mut self, log: &mut Log, of: &Self, role: crate::Role) {
        let user = of.engine.device.user.clone();
        self.done(log, Operation::SetRole { user, role });
    }

    /// Does something with a commit that nobody comes before.
    pub(super) fn done(&mut self, log: &mut Log, operation: Operation) {
        let mut outcome = self.submit(log.group, operation);
        log.accept_all(self);
        log.deliver(self);
        assert!(matches!(
            outcome.try_recv().unwrap(),
            Ok(Outcome::Committed { .. })
        ));
    }

    pub(super) fn tree(&mut self, group: GroupId) -> Bytes {
        let live = super::super::live::get(&mut self.engine.live, &self.engine.db, group).unwrap();
        live.mls
            .export_ratchet_tree()
            .tls_serialize_detached()
            .unwrap()
            .into()
    }

    /// The inbox item of the last commit in the log.
    pub(super) fn welcome(&mut self, log: &Log, commit: &Upload) -> wire::InboxItem {
        self.inbox += 1;
        let last = log.entries.last().unwrap();
        wire::InboxItem {
            number: self.inbox,
            item: Some(wire::inbox_item::Item::Welcome(wire::WelcomeItem {
                welcome: commit.prepared.welcome.clone().unwrap().into(),
                group_id: log.group.to_vec().into(),
                epoch: log.epoch.0,
                commit: Some(wire::Cursor {
                    position: last.position,
                    entry_id: last.entry_id.clone(),
                }),
            })),
            accepted_at: last.accepted_at,
        }
    }

    /// The service says that the group was reset.
    pub(super) fn hear_of_reset(&mut self, log: &Log, successor: GroupId) {
        self.inbox += 1;
        let item = wire::InboxItem {
            number: self.inbox,
            item: Some(wire::inbox_item::Item::GroupReset(wire::GroupResetItem {
                group_id: log.group.to_vec().into(),
                successor_group_id: successor.to_vec().into(),
                last_position: log.entries.len() as u64,
            })),
            accepted_at: None,
        };
        self.engine.apply(vec![Arrival::Inbox(item, None)]).unwrap();
    }

    pub(super) fn join(&mut self, log: &Log, commit: &Upload, tree: Bytes) {
        let item = self.welcome(log, commit);
        self.engine
            .apply(vec![Arrival::Inbox(item, Some(Ok(tree)))])
            .unwrap();
    }

    fn uploads(&mut self) -> Vec<Upload> {
        let mut uploads = Vec::new();
        while let Ok(job) = self.ends.uploads.try_recv() {
            match job {
                UploadJob::Send(upload) => uploads.push(upload),
                UploadJob::Clear(group) => uploads.retain(|upload| upload.group != group),
            }
        }
        uploads
    }

    /// The next request; those after it stay.
    pub(super) fn upload(&mut self) -> Upload {
        let mut uploads = self.uploads().into_iter();
        let first = uploads.next().expect("nothing is to be sent");
        self.put_back(uploads);
        first
    }

    pub(super) fn peek_kinds(&mut self) -> Vec<UploadKind> {
        let uploads = self.uploads();
        let kinds = uploads.iter().map(|upload| upload.kind).collect();
        self.put_back(uploads.into_iter());
        kinds
    }

    fn put_back(&self, uploads: impl Iterator<Item = Upload>) {
        for upload in uploads {
            self.engine.outlets.uploads.send(UploadJob::Send(upload)).unwrap();
        }
    }

    pub(super) fn accepted(&mut self, upload: &Upload, position: Position) {
        self.engine
            .accepted(
                upload.intent,
                upload.prepared.key,
                position,
                upload.prepared.epoch,
            )
            .unwrap();
    }

    /// What the service would answer whoever asks for the group as this member has it.
    pub(super) fn current(&mut self, log: &Log) -> wire::GetGroupInfoResponse {
        let ratchet_tree = self.tree(log.group);
        let live = super::super::live::get(&mut self.engine.live, &self.engine.db, log.group).unwrap();
        let info = live
            .mls
            .export_group_info(&self.engine.crypto, &self.engine.device.signer, false)
            .unwrap();
        let epoch = live.mls.epoch().as_u64();
        let began =
            |entry: &&wire::Entry| entry.kind() == wire::EntryKind::Commit && entry.epoch + 1 == epoch;
        wire::GetGroupInfoResponse {
            group_info: info.to_bytes().unwrap().into(),
            epoch,
            commit_position: log.entries.iter().find(began).map_or(0, |commit| commit.position),
            ratchet_tree,
        }
    }

    /// The last entry of the log is this device's external commit.
    pub(super) fn rejoined(&mut self, log: &Log, upload: &Upload) {
        let last = log.entries.last().unwrap();
        let accepted = wire::Accepted {
            position: last.position,
            entry_id: last.entry_id.clone(),
            epoch: log.epoch.0,
            accepted_at: last.accepted_at,
        };
        self.engine
            .rejoined(upload.intent, upload.prepared.key, &accepted)
            .unwrap();
    }

    pub(super) fn refuse(&mut self, upload: &Upload, refusal: Refusal) {
        self.engine
            .refused(upload.intent, upload.prepared.key, refusal)
            .unwrap();
    }

    /// What happened since this was last asked.
    pub(super) fn events(&mut self) -> Vec<EventKind> {
        let events = self.engine.events_after(self.last_event, 1000).unwrap();
        self.last_event = events.last().map_or(self.last_event, |event| event.id);
        events.into_iter().map(|event| event.kind).collect()
    }

    pub(super) fn chores(&mut self) -> Vec<Chore> {
        std::iter::from_fn(|| self.ends.chores.try_recv().ok()).collect()
    }

    /// How long this device waits before it commits what was proposed.
    pub(super) fn commit_delay(&mut self) -> Option<Duration> {
        self.chores().into_iter().find_map(|chore| match chore {
            Chore::CommitProposals { after, .. } => Some(after),
            _ => None,
        })
    }

    /// What this device has told the service of a commit.
    pub(super) fn report(&mut self) -> Option<wire::CommitFault> {
        self.chores().into_iter().find_map(|chore| match chore {
            Chore::Report(report) => wire::CommitFault::try_from(report.fault).ok(),
            _ => None,
        })
    }

    /// Was it asked to watch for messages that expire?
    pub(super) fn expires(&mut self) -> bool {
        self.chores().iter().any(|chore| matches!(chore, Chore::Expire))
    }

    pub(super) fn reported(&mut self) -> bool {
        self.chores()
            .iter()
            .any(|chore| matches!(chore, Chore::Report(_)))
    }
}

impl Log {
    /// The entry that a request would become.
    pub(super) fn entry(&self, from: &Person, upload: &Upload) -> wire::Entry {
        let kind = match upload.kind {
            UploadKind::Commit | UploadKind::ExternalCommit => wire::EntryKind::Commit,
            UploadKind::Proposal => wire::EntryKind::Proposal,
            UploadKind::Message => wire::EntryKind::Application,
            UploadKind::Create => panic!("not of the log"),
        };
        let now = Options::default().clock.unix_millis();
        wire::Entry {
            group_id: self.group.to_vec().into(),
            position: self.entries.len() as u64 + 1,
            kind: kind.into(),
            epoch: upload.prepared.epoch.0,
            accepted_at: Some(prost_types::Timestamp {
                seconds: (now / 1000).cast_signed(),
                nanos: 0,
            }),
            entry_id: rand::random::<[u8; 8]>().to_vec().into(),
            mls_message: upload.prepared.message.clone().into(),
            sender_device_id: from.id().to_string(),
        }
    }

    pub(super) fn accept(&mut self, from: &Person, upload: &Upload) {
        assert_eq!(
            upload.prepared.epoch, self.epoch,
            "the service accepts the current epoch only"
        );
        let entry = self.entry(from, upload);
        if matches!(upload.kind, UploadKind::Commit | UploadKind::ExternalCommit) {
            assert!(upload.prepared.group_info.is_some());
            self.epoch = self.epoch.next();
        }
        self.entries.push(entry);
    }

    /// Accepts all that this device has to send now.
    pub(super) fn accept_all(&mut self, from: &mut Person) {
        for upload in from.uploads() {
            self.accept(from, &upload);
        }
    }

    /// Hands over the whole log, again and again: what was applied is passed over.
    pub(super) fn deliver(&self, to: &mut Person) {
        let Some((_, position)) = to.engine.standing(self.group).unwrap() else {
            return;
        };
        let from = usize::try_from(position.0).unwrap();
        let arrivals = self.entries[from..].iter().cloned().map(Arrival::Entry).collect();
        to.engine.apply(arrivals).unwrap();
    }
}
