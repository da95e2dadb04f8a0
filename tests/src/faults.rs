//! What goes wrong in a cluster, on purpose, by seed.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;
use valise_local_stack::LocalStack;

use crate::proxy::Proxy;
use crate::wait::{SOON, until};

/// How long PostgreSQL is away.
const WITHOUT_SQL: Duration = Duration::from_secs(10);
/// A dead Redis node comes back after so many milliseconds: before its replica takes over, or long after.
const DEAD_NODE: std::ops::Range<u64> = 500..8000;

/// Between two looks at what is to come back.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillReplica,
    KillPrimary,
    MigrateSlot,
    StopSql,
    CutConnections,
}

const ALL: [Fault; 5] = [
    Fault::KillReplica,
    Fault::KillPrimary,
    Fault::MigrateSlot,
    Fault::StopSql,
    Fault::CutConnections,
];

/// Injects one fault after the other into a stack that it has for itself. A dead Redis node and a stopped PostgreSQL stay away
/// while others follow.
pub struct Faults<'a> {
    stack: &'a mut LocalStack,
    proxies: &'a [Proxy],
    random: StdRng,
    /// What is still to come before all begin again.
    hand: Vec<Fault>,
    counted: BTreeMap<String, usize>,
    dead_node: Option<(usize, Instant)>,
    sql_back: Option<Instant>,
}

impl<'a> Faults<'a> {
    /// The same seed gives the same faults in the same order.
    pub fn new(stack: &'a mut LocalStack, proxies: &'a [Proxy], seed: u64) -> Self {
        Self {
            stack,
            proxies,
            random: StdRng::seed_from_u64(seed),
            hand: Vec::new(),
            counted: BTreeMap::new(),
            dead_node: None,
            sql_back: None,
        }
    }

    /// For so long, and at least until there was one of each kind. Then everything runs and agrees again. Says what there was.
    pub async fn inject(mut self, time: Duration) -> String {
        let end = Instant::now() + time;
        let mut round = 0;
        while round == 0 || Instant::now() < end {
            self.hand = ALL.to_vec();
            self.hand.shuffle(&mut self.random);
            while let Some(fault) = self.hand.pop() {
                self.mend(false).await;
                self.commit(fault).await;
                self.pause(500, 2500).await;
                if round > 0 && Instant::now() >= end {
                    break;
                }
            }
            round += 1;
        }
        self.mend(true).await;
        self.stack.redis().settled().await;
        let counted = self
            .counted
            .iter()
            .map(|(what, times)| format!("{what}: {times}"));
        counted.collect::<Vec<_>>().join(", ")
    }

    async fn commit(&mut self, fault: Fault) {
        match fault {
            Fault::KillReplica => self.kill_replica().await,
            Fault::KillPrimary => self.kill_primary().await,
            Fault::MigrateSlot => self.migrate_slot().await,
            Fault::StopSql => self.stop_sql().await,
            Fault::CutConnections => self.cut_connections().await,
        }
    }

    fn count(&mut self, what: &str, times: usize) {
        *self.counted.entry(what.to_owned()).or_default() += times;
    }

    /// What has been away for long enough comes back, or all that is away.
    async fn mend(&mut self, all: bool) {
        let now = Instant::now();
        if let Some((node, _)) = self.dead_node.take_if(|(_, back)| all || *back <= now) {
            self.stack.redis_mut().revive(node).await;
        }
        if let Some(back) = self.sql_back.take_if(|back| all || *back <= now) {
            tokio::time::sleep_until(back).await;
            self.stack.postgres_mut().restart().await;
        }
    }

    async fn kill_replica(&mut self) {
        let number = self.random.random_range(0..self.proxies.len());
        self.stack.delivery(number).kill().await;
        self.pause(100, 1500).await;
        self.count("delivery replicas killed", 1);
        self.count("starts of them", 0);
        // What it needs may be away: it ends, and is started again.
        let deadline = Instant::now() + SOON;
        while !self.stack.delivery(number).is_serving().await {
            assert!(
                Instant::now() < deadline,
                "replica {number} does not serve again: {}",
                self.stack.delivery(number).log()
            );
            let started = self.stack.delivery(number).revive().await;
            self.count("starts of them", usize::from(started));
            self.mend(false).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn kill_primary(&mut self) {
        if let Some((node, _)) = self.dead_node.take() {
            self.stack.redis_mut().revive(node).await;
        }
        // One at a time: a shard of which more than that is gone may lose what it was trusted with.
        self.stack.redis().settled().await;
        let primaries = self.stack.redis().primaries().await;
        let victim = primaries[self.random.random_range(0..primaries.len())];
        self.stack.redis_mut().node_mut(victim).kill().await;
        let away = Duration::from_millis(self.random.random_range(DEAD_NODE));
        self.dead_node = Some((victim, Instant::now() + away));
        self.count("Redis primaries killed", 1);
    }

    /// A slot with groups in it, to another primary.
    async fn migrate_slot(&mut self) {
        let redis = self.stack.redis();
        redis.settled().await;
        let primaries = redis.primaries().await;
        let busy = until("a group to be in the log", async || {
            let mut busy = Vec::new();
            for primary in &primaries {
                let keys = redis.node(*primary).command(&["KEYS", "{p*}s:*"]).await;
                for key in keys.lines().filter(|line| line.starts_with("{p")) {
                    let tag = key.split_inclusive('}').next().unwrap_or_default();
                    busy.push((tag.to_owned(), *primary));
                }
            }
            busy.sort();
            (!busy.is_empty()).then_some(busy)
        })
        .await;
        let (tag, from) = busy[self.random.random_range(0..busy.len())].clone();
        let others: Vec<usize> = primaries.into_iter().filter(|primary| *primary != from).collect();
        let to = others[self.random.random_range(0..others.len())];
        let slot = redis.node(from).command(&["CLUSTER", "KEYSLOT", &tag]).await;
        redis.migrate_slot(slot.parse().unwrap(), to).await;
        self.count("slots migrated", 1);
    }

    async fn stop_sql(&mut self) {
        self.mend(false).await;
        if self.sql_back.is_none() {
            self.stack.postgres_mut().stop().await;
            self.sql_back = Some(Instant::now() + WITHOUT_SQL);
            self.count("PostgreSQL stopped", 1);
        }
    }

    /// Those of the devices to a replica, and of clients, listeners or replicas to a Redis node.
    async fn cut_connections(&mut self) {
        let proxy = self.random.random_range(0..self.proxies.len());
        let cut = self.proxies[proxy].cut();
        self.count("connections of devices cut", cut);
        let primaries = self.stack.redis().primaries().await;
        let node = primaries[self.random.random_range(0..primaries.len())];
        let kind = ["normal", "pubsub", "replica"][self.random.random_range(0..3)];
        if self.stack.redis().node(node).is_running() {
            let redis = self.stack.redis().node(node);
            let cut = redis.command(&["CLIENT", "KILL", "TYPE", kind]).await;
            self.count("connections of Redis cut", cut.parse().unwrap());
        }
    }

    async fn pause(&mut self, least: u64, most: u64) {
        let milliseconds = self.random.random_range(least..most);
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}
