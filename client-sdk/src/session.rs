//! A running client: the engine, the way to the services, and the tasks between them.

mod adds;
mod chores;
pub(crate) mod enrol;
mod expiry;
mod feed;
mod limits;
mod listed;
mod regressed;
mod rejoin;
mod reset;
mod scrub;
mod stock;
mod subscribe;
mod synced;
mod uninvited;
pub(crate) mod upkeep;
mod upload;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use valise_proto::{DeviceId, UserId};

use crate::engine::{Device, Engine, EngineHandle, Outlets};
use crate::progress::ProgressSender;
use crate::store::{Database, Enrolled};
use crate::transport::{Channels, DeviceKey, Transport};
use crate::{Connection, Error, Event, EventId, OfflineReason, Options, Store, mls};

/// What clients and groups share.
pub(crate) struct Session {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) engine: EngineHandle,
    pub(crate) transport: Transport,
    pub(crate) options: Options,
    pub(crate) connection: watch::Sender<Connection>,
    /// Counts the engine's transactions.
    pub(crate) progress: watch::Receiver<u64>,
    /// How far long work has come.
    pub(crate) long_work: ProgressSender,
    newest_event: watch::Receiver<EventId>,
    ephemeral: broadcast::Sender<Event>,
    /// Key packages are to be published.
    top_up: Notify,
    /// Groups are to be rejoined.
    rejoins: Notify,
    /// The log of some group went back in time.
    regressed: Notify,
    /// Groups were reset.
    resets: Notify,
    /// Users are to be added.
    adds: Notify,
    /// Some message expires.
    expiring: Notify,
    /// Groups that are not on the stream are to be read now.
    read_others: Notify,
    /// Deleted secrets are in the store's write-ahead log.
    scrubbing: Notify,
    /// One publishes at a time. When somebody last did, in seconds since 1970-01-01 UTC.
    publishing: tokio::sync::Mutex<Option<u64>>,
    /// One sees to keys at a time.
    tending: tokio::sync::Mutex<()>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Session {
    /// Opens the store of an enrolled device and starts everything.
    pub(crate) async fn open(store: Store, options: Options) -> Result<Arc<Self>, Error> {
        let db = blocking(move || Database::open(&store)).await?;
        let row = db.device()?.ok_or(Error::NotEnrolled)?;
        let enrolled = row.enrolled.ok_or(Error::NotEnrolled)?;
        let channels = Channels::new(&row.servers)?;
        let (db, enrolled) = enrol::complete(db, enrolled, &row.signature_key, &channels, &options).await?;
        Self::start(db, &enrolled, &row.signature_key, channels, options).await
    }

    async fn start(
        db: Database,
        enrolled: &Enrolled,
        signature_key: &[u8],
        channels: Channels,
        options: Options,
    ) -> Result<Arc<Self>, Error> {
        let key = DeviceKey {
            device: enrolled.device,
            signer: mls::load_signer(&db.connection, signature_key)?,
        };
        enrol::fit(&options, &key.signer)?;
        let device = Device::new(enrolled, mls::load_signer(&db.connection, signature_key)?)?;
        let (outlets, ends) = Outlets::new();
        let transport = Transport::new(channels, key, options.clock.clone());
        let (engine, thread) = EngineHandle::start(Engine::new(db, device, options.clone(), outlets))?;
        let (connection, _) = watch::channel(Connection::Offline {
            reason: OfflineReason::Starting,
        });
        let session = Arc::new(Self {
            user: enrolled.user.clone(),
            device: enrolled.device,
            engine,
            transport,
            options,
            connection,
            progress: ends.progress,
            long_work: ProgressSender::new(),
            newest_event: ends.newest_event,
            ephemeral: ends.ephemeral,
            top_up: Notify::new(),
            rejoins: Notify::new(),
            regressed: Notify::new(),
            resets: Notify::new(),
            adds: Notify::new(),
            expiring: Notify::new(),
            read_others: Notify::new(),
            scrubbing: Notify::new(),
            publishing: tokio::sync::Mutex::new(None),
            tending: tokio::sync::Mutex::new(()),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            thread: Mutex::new(Some(thread)),
        });
        session.engine.run(Engine::resume).await?;
        session.spawn(upload::run(Arc::clone(&session), ends.uploads));
        session.spawn(subscribe::run(Arc::clone(&session), ends.follows));
        session.spawn(chores::run(Arc::clone(&session), ends.chores));
        session.spawn(stock::run(Arc::clone(&session)));
        session.spawn(rejoin::run(Arc::clone(&session)));
        session.spawn(regressed::run(Arc::clone(&session)));
        session.spawn(reset::run(Arc::clone(&session)));
        session.spawn(adds::run(Arc::clone(&session)));
        session.spawn(expiry::run(Arc::clone(&session)));
        session.spawn(scrub::run(Arc::clone(&session)));
        session.spawn(upkeep::run(Arc::clone(&session)));
        session.spawn(uninvited::run(Arc::clone(&session)));
        Ok(session)
    }

    /// Runs a task until it ends or the client does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled(task).await;
        });
    }

    /// Sends events to an app, as long as it listens.
    pub(crate) fn feed_events(self: &Arc<Self>, to: mpsc::Sender<Event>) {
        let ephemeral = self.ephemeral.subscribe();
        self.spawn(feed::run(
            self.engine.clone(),
            self.newest_event.clone(),
            ephemeral,
            to,
        ));
    }

    /// Starts the end without waiting for it.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.engine.close();
        self.connection.send_replace(Connection::Offline {
            reason: OfflineReason::Closed,
        });
    }

    /// Ends everything and waits until the store is closed.
    pub(crate) async fn close(&self) {
        self.shut_down();
        self.tasks.wait().await;
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the engine did not end as it should");
            }
        }
    }
}

/// Opens things that wait for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Closed)?
}
