//! Which node has which partition.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::command::Heard;
use super::dial::{Address, Dialer};
use super::discover;
use super::hear::Hearing;
use super::node::Node;
use super::open_error::OpenError;
use super::session::Session;
use crate::log::redis::config::{RedisConfig, RedisMode};
use crate::log::redis::gate::{Gate, Identity};
use crate::log::redis::partition::Partition;

/// The servers are asked again so often, if nothing fails.
const PERIOD: Duration = Duration::from_secs(5);
/// And if something does, with this pause at least.
const PAUSE: Duration = Duration::from_millis(100);
/// A node without a slot is kept for so long after a call was sent there.
const KEEP: Duration = Duration::from_secs(30);
/// Changes of identity that a listener may be behind.
const CHANGES: usize = 64;

/// The owner of each partition, as far as is known.
#[derive(Clone, Debug)]
pub(super) struct Map {
    owners: Vec<Option<Arc<Node>>>,
}

impl Map {
    fn empty() -> Self {
        Self {
            owners: vec![None; usize::from(Partition::COUNT)],
        }
    }

    pub(super) fn owner(&self, partition: Partition) -> Option<&Arc<Node>> {
        self.owners.get(partition.index())?.as_ref()
    }

    /// What a node owns.
    pub(super) fn owned_by(&self, address: &Address) -> Vec<Partition> {
        Partition::all()
            .filter(|partition| {
                self.owner(*partition)
                    .is_some_and(|node| node.address == *address)
            })
            .collect()
    }

    /// The nodes that own something, each once.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        let mut seen = BTreeSet::new();
        self.owners
            .iter()
            .flatten()
            .filter(|node| seen.insert(&node.address))
            .cloned()
            .collect()
    }

    /// Partitions without an owner.
    pub(super) fn orphans(&self) -> usize {
        self.owners.iter().filter(|owner| owner.is_none()).count()
    }
}

/// What all parts of the links share.
pub(super) struct Topology {
    pub(super) mode: RedisMode,
    pub(super) replicas: u32,
    pub(super) gate: Gate,
    pub(super) dialer: Dialer,
    /// What the sentinels call the primary.
    pub(super) master: Option<String>,
    pub(super) hearing: Hearing,
    map: watch::Sender<Arc<Map>>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    /// Nodes of the cluster that were named at last, to be asked when all owners are gone.
    known: Mutex<Vec<Address>>,
    /// Connections to servers that are only asked.
    pub(super) asked: Mutex<HashMap<Address, MultiplexedConnection>>,
    identities: Mutex<Vec<Option<Identity>>>,
    changed: broadcast::Sender<Arc<[Partition]>>,
    nudge: Notify,
    sessions: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Topology {
    pub(super) fn new(
        config: &RedisConfig,
        told: mpsc::Sender<Heard>,
        stop: CancellationToken,
    ) -> Result<Self, OpenError> {
        let named = config.mode == RedisMode::Sentinel;
        if named != config.sentinel_master.is_some() {
            return Err(OpenError::Setting {
                setting: "redis.sentinel_master",
                rule: "needed with redis.mode sentinel, and with no other".to_owned(),
            });
        }
        let partitions = usize::from(Partition::COUNT);
        Ok(Self {
            mode: config.mode,
            replicas: config.wait_replicas(),
            gate: Gate::new(config),
            dialer: Dialer::new(config)?,
            master: config.sentinel_master.clone(),
            hearing: Hearing::new(told),
            map: watch::Sender::new(Arc::new(Map::empty())),
            nodes: Mutex::default(),
            known: Mutex::default(),
            asked: Mutex::default(),
            identities: Mutex::new(vec![None; partitions]),
            changed: broadcast::channel(CHANGES).0,
            nudge: Notify::new(),
            sessions: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            stop,
        })
    }

    /// Runs a task until all is closed.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Ends all tasks.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.map.send_replace(Arc::new(Map::empty()));
        self.nodes.lock().clear();
        self.asked.lock().clear();
    }

    /// Have they ended?
    pub(super) fn is_closed(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The owners, and their changes.
    pub(super) fn map(&self) -> watch::Receiver<Arc<Map>> {
        self.map.subscribe()
    }

    /// The owners now.
    pub(super) fn current(&self) -> Arc<Map> {
        Arc::clone(&self.map.borrow())
    }

    /// A node, which is connected to from now on.
    pub(super) fn node(self: &Arc<Self>, address: &Address) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(address) {
            return Arc::clone(node);
        }
        let node = Arc::new(Node::new(address.clone()));
        nodes.insert(address.clone(), Arc::clone(&node));
        self.spawn(Arc::clone(&node).run(Arc::clone(self)));
        node
    }

    /// The session with a server, if there is one.
    pub(super) fn up(&self, address: &Address) -> Option<Arc<Session>> {
        self.nodes.lock().get(address)?.up()
    }

    /// A node says that a partition belongs to another one.
    pub(super) fn moved(self: &Arc<Self>, partition: Partition, to: &Address) {
        let node = self.node(to);
        let moved = self.map.send_if_modified(|map| {
            if map.owner(partition).is_some_and(|owner| owner.address == *to) {
                return false;
            }
            Arc::make_mut(map).owners[partition.index()] = Some(node);
            true
        });
        if moved {
            self.note_identities();
        }
        self.nudge();
    }

    /// As [`Topology::moved`], of a slot.
    pub(super) fn moved_slot(self: &Arc<Self>, slot: u16, to: &Address) {
        if let Some(partition) = Partition::all().find(|partition| partition.slot() == slot) {
            self.moved(partition, to);
        }
    }

    /// Has the servers asked again, soon.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Asks the servers again and again.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut before = None;
        loop {
            tokio::select! {
                () = self.nudge.notified() => {}
                () = tokio::time::sleep(PERIOD) => {}
            }
            let failed = self.refresh().await.err();
            if failed != before
                && let Some(reason) = &failed
            {
                tracing::warn!(%reason, "the servers of the log cannot say who has what");
            }
            before = failed;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks the servers who owns what.
    pub(super) async fn refresh(self: &Arc<Self>) -> Result<(), OpenError> {
        let known = self.known.lock().clone();
        let views = discover::ask(self, &known).await?;
        let current = self.current();
        let owners = discover::agree(&views, |partition| {
            current.owner(partition).map(|node| node.address.clone())
        });
        let owners: Vec<_> = owners
            .iter()
            .map(|address| address.as_ref().map(|address| self.node(address)))
            .collect();
        let mut known: Vec<_> = views.into_iter().flat_map(|view| view.known).collect();
        known.sort();
        known.dedup();
        *self.known.lock() = known;
        self.map.send_if_modified(|map| {
            let address = |owner: &Option<Arc<Node>>| owner.as_ref().map(|node| node.address.clone());
            let same = map.owners.iter().map(address).eq(owners.iter().map(address));
            if !same {
                *map = Arc::new(Map { owners });
            }
            !same
        });
        self.drop_unused();
        self.note_identities();
        Ok(())
    }

    fn drop_unused(&self) {
        let used: BTreeSet<_> = self
            .current()
            .nodes()
            .iter()
            .map(|node| node.address.clone())
            .collect();
        self.nodes.lock().retain(|address, node| {
            let keep = used.contains(address) || node.asked_within(KEEP);
            if !keep {
                node.stop();
            }
            keep
        });
        let mut asked = self.asked.lock();
        asked.retain(|address, _| self.mode == RedisMode::Sentinel || !used.contains(address));
    }

    /// Compares who answers for each partition with who did before.
    pub(super) fn note_identities(&self) {
        let map = self.current();
        let mut changed = Vec::new();
        let mut identities = self.identities.lock();
        for node in map.nodes() {
            let Some(session) = node.up() else { continue };
            for partition in map.owned_by(&node.address) {
                let before = &mut identities[partition.index()];
                if before.as_ref() != Some(&session.identity)
                    && before.replace(session.identity.clone()).is_some()
                {
                    changed.push(partition);
                }
            }
        }
        drop(identities);
        if !changed.is_empty() {
            // Nobody may listen.
            let _ = self.changed.send(changed.into());
        }
    }

    /// See [`super::Links::run_ids_changed`].
    pub(super) fn changes(&self) -> broadcast::Receiver<Arc<[Partition]>> {
        self.changed.subscribe()
    }
}
