//! The engine: one thread that owns the store and all MLS state. Everything else sends it jobs.
//!
//! A job's changes (MLS state, cursors, outbox, events) are one transaction. What the rest of the client must hear of (an upload,
//! an outcome) leaves only after it is durable.

mod adds;
mod copies;
mod delivery_chain;
mod device_changes;
mod effects;
mod entry;
mod ephemeral;
mod group_info;
mod history;
mod inbox;
mod intents;
mod join;
mod known_keys;
mod limits;
mod live;
mod newcomer;
mod outcome;
mod packages;
mod pending;
mod prepare;
mod quarantine;
mod queries;
mod regressed;
mod rejoin;
mod reports;
mod reset;
mod roles;
mod settle;
#[cfg(test)]
mod tests;
mod trust;
mod upkeep;

use std::collections::{HashMap, HashSet};
use std::thread;

use openmls::prelude::{Ciphersuite, CredentialWithKey, ExternalSender};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::RustCrypto;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;
use valise_device_certificate::TrustBundle;
use valise_proto::{DeviceId, GroupId, UserId};

pub(crate) use adds::{AddNews, Adder, DueAdd};
pub(crate) use effects::{Chore, Follow, Outlets, Upload, UploadJob, UploadKind};
pub(crate) use inbox::{Applied, Arrival};
pub(crate) use intents::{Operation, Outcome};
pub(crate) use known_keys::SharedDevices;
pub(crate) use reset::Behind;
pub(crate) use roles::MAX_GROUP_NAME;

use crate::mls::Provider;
use crate::store::{AddId, Database, Enrolled, IntentId};
use crate::{Error, GroupStatus, Options, Peer, kill_point};
use effects::Effect;
use live::LiveGroup;

/// Who this device is, and whom it trusts.
pub(crate) struct Device {
    pub(crate) user: UserId,
    pub(crate) id: DeviceId,
    pub(crate) signer: SignatureKeyPair,
    /// Its certificate and those that issued it, DER.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) credential: CredentialWithKey,
    pub(crate) bundle: TrustBundle,
    pub(crate) external_sender: ExternalSender,
    /// How long the service keeps entries, in seconds: key packages must outlive it.
    pub(crate) retention: u64,
    /// How long copies of entries are kept for the service, in seconds; 0: not at all.
    pub(crate) entry_copies: u64,
}

impl Device {
    pub(crate) fn new(enrolled: &Enrolled, signer: SignatureKeyPair) -> Result<Self, Error> {
        Ok(Self {
            user: enrolled.user.clone(),
            id: enrolled.device,
            credential: crate::mls::credential(&enrolled.chain, signer.public()),
            chain: enrolled.chain.clone(),
            signer,
            bundle: TrustBundle::from_der(enrolled.trust_bundle.iter().cloned())?,
            external_sender: crate::mls::external_sender(&enrolled.external_sender)?,
            retention: enrolled.retention,
            entry_copies: enrolled.entry_copies,
        })
    }

    fn peer(&self) -> Peer {
        Peer {
            user: self.user.clone(),
            device: self.id,
        }
    }
}

/// Somebody who waits for the outcome of an intent.
struct Waiter {
    span: Span,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

/// A point in a transaction to which it can be taken back.
struct Savepoint {
    /// How many effects there were.
    effects: usize,
}

/// The state of the engine's thread.
pub(crate) struct Engine {
    db: Database,
    crypto: RustCrypto,
    device: Device,
    options: Options,
    /// Loaded groups. A rollback drops them: their ratchets may be ahead of the store.
    live: HashMap<GroupId, LiveGroup>,
    /// Second instances that read ephemeral messages; never stored.
    ephemeral: HashMap<GroupId, ephemeral::Reader>,
    waiters: HashMap<IntentId, Waiter>,
    /// Who waits for adds.
    adders: HashMap<AddId, Adder>,
    /// Groups whose messages were refused until a proposal is committed that has not arrived here yet.
    awaiting_proposal: HashSet<GroupId>,
    /// Bytes of copies since the old ones were last looked at.
    copied: usize,
    /// The longest lifetime of a key package that the directory takes, in seconds, as it said last.
    longest_lifetime: u64,
    /// What leaves once the running transaction is durable.
    effects: Vec<Effect>,
    outlets: Outlets,
}

impl Engine {
    pub(crate) fn new(db: Database, device: Device, options: Options, outlets: Outlets) -> Self {
        Self {
            db,
            crypto: RustCrypto::default(),
            device,
            options,
            live: HashMap::new(),
            ephemeral: HashMap::new(),
            waiters: HashMap::new(),
            adders: HashMap::new(),
            awaiting_proposal: HashSet::new(),
            copied: 0,
            longest_lifetime: u64::MAX,
            effects: Vec::new(),
            outlets,
        }
    }

    /// Runs a change as one transaction. If it fails, nothing of it remains.
    fn transaction<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.db.begin()?;
        kill_point::begun();
        let result = change(self).and_then(|value| {
            kill_point::before_commit();
            self.db.commit().map(|()| value)
        });
        match result {
            Ok(value) => {
                kill_point::committed();
                self.let_effects_out();
                Ok(value)
            }
            Err(error) => {
                self.db.rollback();
                self.live.clear();
                self.effects.clear();
                Err(error)
            }
        }
    }

    /// What follows can be taken back alone, with what it wants to leave the engine.
    fn savepoint(&mut self) -> Result<Savepoint, Error> {
        self.db.savepoint()?;
        Ok(Savepoint {
            effects: self.effects.len(),
        })
    }

    /// Takes it back. Groups that it has touched are to be loaded again.
    fn roll_back(&mut self, to: &Savepoint) -> Result<(), Error> {
        self.effects.truncate(to.effects);
        self.db.rollback_to_savepoint()
    }

    fn provider(&self) -> Provider<'_> {
        Provider::new(&self.crypto, &self.db.connection)
    }

    fn now(&self) -> u64 {
        self.options.clock.unix_seconds()
    }

    /// Takes up what a former run left: prepared requests go out again, as repeats.
    pub(crate) fn resume(&mut self) -> Result<(), Error> {
        self.tidy_history()?;
        self.transaction(|engine| {
            engine.resume_reports()?;
            for group in engine.db.groups()? {
                if !group.status.is_usable() && group.status != GroupStatus::Quarantined {
                    continue;
                }
                if group.status == GroupStatus::Rejoining {
                    engine.resume_rejoin(group.id)?;
                    continue;
                }
                for intent in engine.db.prepared_intents(group.id)? {
                    engine.upload(&intent, true)?;
                }
                engine.pump(group.id)?;
                engine.watch_proposals(group.id)?;
            }
            Ok(())
        })
    }
}

type Task = Box<dyn FnOnce(&mut Engine) + Send>;

/// One operation, with whoever waits for its outcome.
pub(crate) struct Submission {
    group: GroupId,
    operation: Operation,
    span: Span,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

enum Job {
    Run(Task),
    Submit(Submission),
    Close,
}

/// Most operations that are stored with one transaction.
const MAX_SUBMISSIONS: usize = 512;

/// Sends jobs to the engine. Cheap to clone; the engine ends with its last handle, or when it is closed.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    jobs: mpsc::UnboundedSender<Job>,
}

impl EngineHandle {
    /// Starts the engine's thread.
    pub(crate) fn start(engine: Engine) -> Result<(Self, thread::JoinHandle<()>), Error> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("valise-engine".to_owned())
            .spawn(move || work(engine, queue))
            .map_err(|error| Error::Store(std::sync::Arc::new(error)))?;
        Ok((Self { jobs }, thread))
    }

    /// Runs something on the engine's thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, result) = oneshot::channel();
        let span = Span::current();
        let task: Task = Box::new(move |engine| {
            // Whoever asked may have gone: the work is done nevertheless.
            let _ = answer.send(span.in_scope(|| task(engine)));
        });
        self.jobs.send(Job::Run(task)).map_err(|_| Error::Closed)?;
        result.await.map_err(|_| Error::Closed)?
    }

    /// Runs something on the engine's thread, after all that was sent before, without waiting for it.
    pub(crate) fn post(&self, task: impl FnOnce(&mut Engine) + Send + 'static) {
        // A closed engine has no use for it.
        let _ = self.jobs.send(Job::Run(Box::new(task)));
    }

    /// Stores an operation and waits for its outcome.
    pub(crate) async fn submit(
        &self,
        group: GroupId,
        operation: Operation,
        span: Span,
    ) -> Result<Outcome, Error> {
        let (answer, outcome) = oneshot::channel();
        self.jobs
            .send(Job::Submit(Submission {
                group,
                operation,
                span,
                answer,
            }))
            .map_err(|_| Error::Closed)?;
        outcome.await.map_err(|_| Error::Closed)?
    }

    /// Makes a group and waits until the service has registered it.
    pub(crate) async fn create_group(
        &self,
        id: GroupId,
        name: String,
        suite: Ciphersuite,
        span: Span,
    ) -> Result<Outcome, Error> {
        let (answer, outcome) = oneshot::channel();
        self.run(move |engine| engine.create_group(id, &name, suite, span, answer))
            .await?;
        outcome.await.map_err(|_| Error::Closed)?
    }

    /// The same, for certain users: they are added as soon as the service has registered the group.
    pub(crate) async fn create_group_with(
        &self,
        id: GroupId,
        name: String,
        suite: Ciphersuite,
        users: Vec<UserId>,
        adder: Adder,
    ) -> Result<Outcome, Error> {
        let (answer, outcome) = oneshot::channel();
        let waiter = Waiter {
            span: adder.span.clone(),
            answer,
        };
        self.run(move |engine| engine.create_group_with(id, &name, suite, &users, waiter, adder))
            .await?;
        outcome.await.map_err(|_| Error::Closed)?
    }

    /// Brings this device back into a group, or into one that it was never in (`elsewhere`), and waits until it is.
    pub(crate) async fn rejoin(&self, group: GroupId, elsewhere: bool, span: Span) -> Result<(), Error> {
        let (answer, outcome) = oneshot::channel();
        self.run(move |engine| engine.ask_rejoin(group, elsewhere, span, answer))
            .await?;
        outcome.await.map_err(|_| Error::Closed)?.map(drop)
    }

    /// Ends the engine after the jobs that are queued.
    pub(crate) fn close(&self) {
        // If it has ended already, that is what was wanted.
        let _ = self.jobs.send(Job::Close);
    }
}

fn work(mut engine: Engine, mut queue: mpsc::UnboundedReceiver<Job>) {
    let mut next = queue.blocking_recv();
    while let Some(job) = next.take() {
        match job {
            Job::Run(task) => task(&mut engine),
            Job::Close => return,
            Job::Submit(first) => {
                // Whatever else is waiting shares the transaction, and its one wait for the disk.
                let mut batch = vec![first];
                while batch.len() < MAX_SUBMISSIONS {
                    match queue.try_recv() {
                        Ok(Job::Submit(more)) => batch.push(more),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                engine.submit_all(batch);
            }
        }
        if next.is_none() {
            next = queue.blocking_recv();
        }
    }
}
