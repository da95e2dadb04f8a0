//! What goes wrong in a cluster, on purpose, by seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;
use valise_client_sdk::GroupId;
use valise_local_stack::LocalStack;

use crate::crowd::Crowd;
use crate::positions::{self, Positions};
use crate::proxy::Proxy;
use crate::wait::{SOON, until};

/// How long PostgreSQL is away.
const WITHOUT_SQL: Duration = Duration::from_secs(10);
/// A dead Redis node comes back after so many milliseconds: before its replica takes over, or long after.
const DEAD_NODE: std::ops::Range<u64> = 500..8000;

/// How long replicas are stopped at least before their primary dies.
const STALLED: Duration = Duration::from_millis(1200);
/// So many acknowledged messages are lost with it at least, where replicas are not waited for.
const LOST: usize = 5;

/// Between two looks at what is to come back.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillReplica,
    KillPrimary,
    MigrateSlot,
    StopSql,
    CutConnections,
    StallReplicas,
}

/// Where nothing more was asked for.
const USUAL: [Fault; 5] = [
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
    /// Each round has these; what is twice in it is so often in a round.
    kinds: Vec<Fault>,
    /// What is still to come before all begin again.
    hand: Vec<Fault>,
    stalls: Option<Stalls<'a>>,
    injected: Injected,
    dead_node: Option<(usize, Instant)>,
    sql_back: Option<Instant>,
}

/// Whose answers are looked at while replicas are stopped, and how many replicas these answers wait for.
#[derive(Clone, Copy)]
struct Stalls<'a> {
    crowd: &'a Crowd,
    wait_replicas: usize,
}

/// What there was.
#[derive(Clone, Debug, Default)]
pub struct Injected {
    counted: BTreeMap<String, usize>,
    lost: BTreeSet<GroupId>,
}

impl Injected {
    /// Groups of which Redis has lost acknowledged entries that are in the archive.
    pub fn lost(&self) -> &BTreeSet<GroupId> {
        &self.lost
    }

    fn count(&mut self, what: &str, times: usize) {
        *self.counted.entry(what.to_owned()).or_default() += times;
    }
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (what, times)) in self.counted.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{what}: {times}")?;
        }
        Ok(())
    }
}

impl<'a> Faults<'a> {
    /// The same seed gives the same faults in the same order.
    pub fn new(stack: &'a mut LocalStack, proxies: &'a [Proxy], seed: u64) -> Self {
        Self {
            stack,
            proxies,
            random: StdRng::seed_from_u64(seed),
            kinds: USUAL.to_vec(),
            hand: Vec::new(),
            stalls: None,
            injected: Injected::default(),
            dead_node: None,
            sql_back: None,
        }
    }

    /// Also stops the replicas of a shard for 1.2 seconds, twice in each round, before their primary dies and one of them takes over. The
    /// crowd talks meanwhile. Where the service waits for all replicas (`wait_replicas`), it is told nothing that they do not have; where
    /// it waits for none, it is, and that is lost.
    pub fn stalling(mut self, crowd: &'a Crowd, wait_replicas: usize) -> Self {
        self.stalls = Some(Stalls { crowd, wait_replicas });
        self.kinds.extend([Fault::StallReplicas; 2]);
        self
    }

    /// That once in each round, and nothing else.
    pub fn without_others(mut self) -> Self {
        self.kinds = vec![Fault::StallReplicas];
        self
    }

    /// For so long, and at least until there was all of one round. Then everything runs and agrees again. Says what there was.
    pub async fn inject(mut self, time: Duration) -> Injected {
        let end = Instant::now() + time;
        let mut round = 0;
        while round == 0 || Instant::now() < end {
            self.hand.clone_from(&self.kinds);
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
        self.injected
    }

    async fn commit(&mut self, fault: Fault) {
        match fault {
            Fault::KillReplica => self.kill_replica().await,
            Fault::KillPrimary => self.kill_primary().await,
            Fault::MigrateSlot => self.migrate_slot().await,
            Fault::StopSql => self.stop_sql().await,
            Fault::CutConnections => self.cut_connections().await,
            Fault::StallReplicas => self.stall_replicas().await,
        }
    }

    fn count(&mut self, what: &str, times: usize) {
        self.injected.count(what, times);
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
        self.make_whole().await;
        let primaries = self.stack.redis().primaries().await;
        let victim = primaries[self.random.random_range(0..primaries.len())];
        self.kill_node(victim).await;
        self.count("Redis primaries killed", 1);
    }

    /// One dead node at a time: a shard of which more than that is gone may lose what it was trusted with.
    async fn make_whole(&mut self) {
        if let Some((node, _)) = self.dead_node.take() {
            self.stack.redis_mut().revive(node).await;
        }
        self.stack.redis().settled().await;
    }

    async fn kill_node(&mut self, node: usize) {
        self.stack.redis_mut().node_mut(node).kill().await;
        let away = Duration::from_millis(self.random.random_range(DEAD_NODE));
        self.dead_node = Some((node, Instant::now() + away));
    }

    /// The replicas of a shard are stopped, and cut off; then its primary dies, they run again, and one of them takes over.
    async fn stall_replicas(&mut self) {
        let stalls = self.stalls.expect("there is a crowd");
        self.make_whole().await;
        if stalls.wait_replicas == 0 {
            // The archive is to have what Redis loses; and nobody waits for an answer from before.
            self.mend(true).await;
            drop(stalls.crowd.silence().await);
        }
        let Some(victim) = self.busy_primary(stalls.crowd).await else {
            return;
        };
        let stack = &*self.stack;
        let redis = stack.redis();
        let (primary, replicas) = (redis.node(victim), redis.replicas_of(victim).await);
        for replica in replicas.iter().map(|replica| redis.node(*replica)) {
            // However old what it has is, it may be elected.
            let validity = ["CONFIG", "SET", "cluster-replica-validity-factor", "0"];
            assert_eq!(replica.command(&validity).await, "OK");
            replica.pause();
        }
        // They would still read what waits in their connections.
        primary.command(&["CLIENT", "KILL", "TYPE", "replica"]).await;
        // Of anything after this they can have nothing.
        let known = self.in_use(stalls.crowd, positions::in_redis(primary).await);
        let before = stalls.crowd.acknowledged_after(&known);
        tokio::time::sleep(STALLED).await;
        let mut lost = BTreeSet::new();
        let mut silence = None;
        if stalls.wait_replicas == 0 {
            until("answers that the replicas do not know", async || {
                (stalls.crowd.acknowledged_after(&known) >= before + LOST).then_some(())
            })
            .await;
            // So that it is certain what is lost, and that the service can notice.
            silence = Some(stalls.crowd.silence().await);
            let all = positions::in_redis(primary).await;
            until("the archive to have it", async || {
                let archived = positions::in_archive(stack).await;
                let has = |group: &GroupId| archived.get(group) >= all.get(group);
                known.keys().all(has).then_some(())
            })
            .await;
            let grown = known.iter().filter(|(group, last)| all.get(*group) > Some(*last));
            lost.extend(grown.map(|(group, _)| *group));
        }
        let missed = stalls.crowd.acknowledged_after(&known) - before;
        assert!(
            stalls.wait_replicas == 0 || missed == 0,
            "{missed} answers that the replicas do not know"
        );

        self.kill_node(victim).await;
        let redis = self.stack.redis();
        for replica in replicas {
            redis.node(replica).resume();
        }
        drop(silence);
        redis.settled().await;
        assert!(!redis.primaries().await.contains(&victim), "a replica took over");
        self.injected.lost.extend(lost);
        self.count("Redis primaries killed after their replicas were stalled", 1);
        self.count("acknowledged messages lost", missed);
    }

    /// A primary of groups that are in use, if there is one.
    async fn busy_primary(&mut self, crowd: &Crowd) -> Option<usize> {
        let redis = self.stack.redis();
        let mut busy = Vec::new();
        for primary in redis.primaries().await {
            let positions = positions::in_redis(redis.node(primary)).await;
            if !self.in_use(crowd, positions).is_empty() {
                busy.push(primary);
            }
        }
        if busy.is_empty() {
            return None;
        }
        Some(busy[self.random.random_range(0..busy.len())])
    }

    /// Of these groups, those that nothing has happened to.
    fn in_use(&self, crowd: &Crowd, mut positions: Positions) -> Positions {
        let alarmed = crowd.alarmed();
        positions.retain(|group, _| !alarmed.contains(group) && !self.injected.lost.contains(group));
        positions
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
