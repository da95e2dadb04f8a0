//! A Redis Cluster.

mod view;

use std::fs;

use crate::folder::Ground;
use crate::process::Patience;
use crate::programs::RedisProgram;
use crate::redis::{Node, Redis};
use crate::resp::Answer;
use view::View;

const SLOTS: usize = 16384;

/// Node timeout 1.5 seconds: a replica takes over some three seconds after its primary died. Replicas stay with their
/// primary's slots, and what is covered answers while something is not.
const CONFIGURATION: &str = "\
cluster-enabled yes
cluster-config-file nodes.conf
cluster-node-timeout 1500
cluster-require-full-coverage no
cluster-allow-replica-migration no
cluster-announce-ip 127.0.0.1
";

/// Primaries that share the slots evenly, and replicas of each. Nodes `0..primaries` begin as primaries; the replicas
/// of primary `n` begin at `primaries + n * replicas_each`.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    ids: Vec<String>,
}

impl RedisCluster {
    /// Starts the nodes and joins them. All of them agree when it returns.
    pub async fn start(primaries: usize, replicas_each: usize) -> Self {
        Self::start_on(&Ground::Thrown, 0, primaries, replicas_each).await
    }

    /// The same; or starts again the one that is there, on the same ports.
    pub(crate) async fn start_on(
        ground: &Ground,
        offset: u16,
        primaries: usize,
        replicas_each: usize,
    ) -> Self {
        let count = primaries * (1 + replicas_each);
        let joined = match ground {
            Ground::Thrown => None,
            Ground::Kept(kept) => Some(kept.data.join("cluster-joined")),
        };
        let begins = joined.as_ref().is_none_or(|mark| !mark.exists());
        let mut nodes = Vec::new();
        let mut ids = Vec::new();
        for index in 0..count {
            let name = format!("redis-{}", index + 1);
            if let (Ground::Kept(kept), true) = (ground, begins) {
                // Of an attempt that was not finished: nobody has stored anything in it.
                drop(fs::remove_dir_all(kept.data.join(&name)));
            }
            let offset = offset + u16::try_from(index).expect("a small number");
            let node = Node {
                ground,
                name,
                offset,
                configuration: CONFIGURATION,
                extra: &[],
                bus: Some(offset + u16::try_from(count).expect("a small number")),
            };
            let node = Redis::start_node(RedisProgram::Redis, &node).await;
            ids.push(node.command(&["CLUSTER", "MYID"]).await);
            nodes.push(node);
        }
        let cluster = Self { nodes, ids };
        if begins {
            cluster.join(primaries, replicas_each).await;
        }
        cluster.settled().await;
        if let Some(mark) = joined {
            fs::write(mark, "").expect("cannot write into the data folder");
        }
        cluster
    }

    async fn join(&self, primaries: usize, replicas_each: usize) {
        for (index, node) in self.nodes.iter().enumerate() {
            must(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
            if index < primaries {
                let first = (index * SLOTS / primaries).to_string();
                let last = ((index + 1) * SLOTS / primaries - 1).to_string();
                must(node, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            }
            for other in &self.nodes[..index] {
                let (port, bus) = (other.port().to_string(), other.bus().to_string());
                must(node, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
            }
        }
        let patience = Patience::with("the nodes to know each other");
        for node in &self.nodes {
            while !View::of(node)
                .await
                .is_some_and(|view| self.ids.iter().all(|id| view.is_healthy(id)))
            {
                patience.look(String::new).await;
            }
        }
        for (index, node) in self.nodes.iter().enumerate().skip(primaries) {
            let primary = (index - primaries) / replicas_each;
            must(node, &["CLUSTER", "REPLICATE", &self.ids[primary]]).await;
        }
        let patience = Patience::with("the replicas to be known");
        let replicas = |view: View| self.ids.iter().filter(|id| view.primary_of(id).is_some()).count();
        for node in &self.nodes {
            while View::of(node).await.map_or(0, replicas) != primaries * replicas_each {
                patience.look(String::new).await;
            }
        }
    }

    /// The URLs of all nodes.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// One node.
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    /// One node, to be killed or restarted.
    pub fn node_mut(&mut self, index: usize) -> &mut Redis {
        &mut self.nodes[index]
    }

    /// Starts a node again. By itself it follows whoever has exactly the slots that it had; where those have moved on meanwhile,
    /// it gets a primary as from an operator: the one with the fewest replicas.
    pub async fn revive(&mut self, index: usize) {
        self.nodes[index].restart().await;
        let patience = Patience::with(format!("node {index} to find its place"));
        loop {
            let node = &self.nodes[index];
            let view = View::of(node).await;
            let follows = view.is_some_and(|view| view.primary_of(&self.ids[index]).is_some());
            let primaries = self.primaries().await;
            if follows || primaries.contains(&index) {
                return;
            }
            let mut least = None;
            for primary in primaries {
                let replicas = self.replicas_of(primary).await.len();
                if least.is_none_or(|(fewest, _)| replicas < fewest) {
                    least = Some((replicas, primary));
                }
            }
            let (_, primary) = least.expect("there are primaries");
            // Refused as long as it takes the slots for its own.
            let refusal = run(node, &["CLUSTER", "REPLICATE", &self.ids[primary]])
                .await
                .err();
            patience.look(|| refusal.unwrap_or_default()).await;
        }
    }

    /// How many nodes there are.
    #[expect(clippy::len_without_is_empty, reason = "there is no cluster without nodes")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node that has this slot, by what the running nodes last decided. It may be dead: ask
    /// [`settled`](Self::settled) first to rule that out.
    pub async fn primary_of_slot(&self, slot: u16) -> usize {
        let owner = self.owners().await[usize::from(slot)].clone();
        let node = self.ids.iter().position(|id| *id == owner);
        node.unwrap_or_else(|| panic!("nobody has slot {slot}"))
    }

    /// The nodes that have slots, in order.
    pub async fn primaries(&self) -> Vec<usize> {
        let owners = self.owners().await;
        (0..self.len())
            .filter(|&node| owners.contains(&self.ids[node]))
            .collect()
    }

    /// The replicas that follow this node, running or not, as the first running node knows them.
    pub async fn replicas_of(&self, node: usize) -> Vec<usize> {
        let mut views = self.views().await;
        let view = views.pop().expect("a node is running");
        let follows = |&other: &usize| view.primary_of(&self.ids[other]) == Some(&self.ids[node]);
        (0..self.len()).filter(follows).collect()
    }

    async fn views(&self) -> Vec<View> {
        let mut views = Vec::new();
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            views.extend(View::of(node).await);
        }
        views
    }

    /// The owner's id of each slot; where the nodes differ, the one with the higher configuration epoch.
    async fn owners(&self) -> Vec<String> {
        let mut owners = vec![(0, String::new()); SLOTS];
        for view in self.views().await {
            view.owners(&mut owners);
        }
        owners.into_iter().map(|(_, id)| id).collect()
    }

    /// Waits until the running nodes agree: every slot has one running owner, every running replica follows a running
    /// primary and has its link up, and nobody takes a running node for a dead one.
    pub async fn settled(&self) {
        let patience = Patience::with("the cluster to settle");
        while let Err(why) = self.judge().await {
            patience.look(|| why).await;
        }
    }

    async fn judge(&self) -> Result<(), String> {
        let running: Vec<usize> = (0..self.len())
            .filter(|&node| self.nodes[node].is_running())
            .collect();
        let mut agreed: Option<Vec<String>> = None;
        for &node in &running {
            let server = &self.nodes[node];
            let view = View::of(server)
                .await
                .ok_or(format!("node {node} does not answer"))?;
            for &other in &running {
                if !view.is_healthy(&self.ids[other]) {
                    return Err(format!("node {node} does not see node {other} alive"));
                }
            }
            let mut owners = vec![(0, String::new()); SLOTS];
            view.owners(&mut owners);
            let owners: Vec<_> = owners.into_iter().map(|(_, id)| id).collect();
            let owned = |owner: &String| running.iter().any(|&node| self.ids[node] == *owner);
            if let Some(slot) = owners.iter().position(|owner| !owned(owner)) {
                return Err(format!("node {node} knows nobody alive with slot {slot}"));
            }
            if *agreed.get_or_insert_with(|| owners.clone()) != owners {
                return Err(format!("node {node} sees the slots with others"));
            }
            let state = server
                .ask(&["CLUSTER", "INFO"])
                .await
                .map_err(|error| error.to_string())?;
            if !state.to_string().contains("cluster_state:ok") {
                return Err(format!("node {node} does not find the cluster well"));
            }
            if let Some(primary) = view.primary_of(&self.ids[node]) {
                let up = server.info("replication", "master_link_status").await.as_deref() == Some("up");
                if !up || !owned(primary) || !owners.contains(primary) {
                    return Err(format!("replica {node} has no link to a primary"));
                }
            } else if !owners.contains(&self.ids[node]) {
                return Err(format!("node {node} has neither slots nor a primary"));
            }
        }
        Ok(())
    }

    /// Moves a slot and its keys to this node, which must be a primary, while clients go on. Begins again where a node
    /// fails meanwhile.
    pub async fn migrate_slot(&self, slot: u16, to: usize) {
        let patience = Patience::with(format!("slot {slot} to migrate"));
        while let Err(why) = self.try_migrate(slot, to).await {
            patience.look(|| why).await;
        }
        while !self
            .views()
            .await
            .iter()
            .all(|view| view.owner(slot) == Some(&self.ids[to]))
        {
            patience.look(|| "not all nodes know who has it".to_owned()).await;
        }
    }

    async fn try_migrate(&self, slot: u16, to: usize) -> Result<(), String> {
        let from = self.primary_of_slot(slot).await;
        if from == to {
            return Ok(());
        }
        let name = slot.to_string();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        run(
            target,
            &["CLUSTER", "SETSLOT", &name, "IMPORTING", &self.ids[from]],
        )
        .await?;
        run(source, &["CLUSTER", "SETSLOT", &name, "MIGRATING", &self.ids[to]]).await?;
        let port = target.port().to_string();
        loop {
            let Answer::List(keys) = run(source, &["CLUSTER", "GETKEYSINSLOT", &name, "100"]).await? else {
                break;
            };
            if keys.is_empty() {
                break;
            }
            let mut command: Vec<&[u8]> = vec![
                b"MIGRATE".as_slice(),
                b"127.0.0.1",
                port.as_bytes(),
                b"",
                b"0",
                b"5000",
            ];
            command.extend([b"REPLACE".as_slice(), b"KEYS"]);
            command.extend(keys.iter().filter_map(|key| match key {
                Answer::Bytes(key) => Some(key.as_slice()),
                _ => None,
            }));
            run_bytes(source, &command).await?;
        }
        // The new owner first: it must not be that nobody has it.
        let others = self
            .primaries()
            .await
            .into_iter()
            .filter(|&node| node != from && node != to);
        for node in [to, from].into_iter().chain(others) {
            if self.nodes[node].is_running() {
                run(
                    &self.nodes[node],
                    &["CLUSTER", "SETSLOT", &name, "NODE", &self.ids[to]],
                )
                .await?;
            }
        }
        Ok(())
    }
}

async fn run(node: &Redis, command: &[&str]) -> Result<Answer, String> {
    let command: Vec<&[u8]> = command.iter().map(|argument| argument.as_bytes()).collect();
    run_bytes(node, &command).await
}

async fn run_bytes(node: &Redis, command: &[&[u8]]) -> Result<Answer, String> {
    match node.ask_bytes(command).await {
        Ok(Answer::Error(text)) => Err(text),
        Ok(answer) => Ok(answer),
        Err(error) => Err(error.to_string()),
    }
}

async fn must(node: &Redis, command: &[&str]) {
    if let Err(why) = run(node, command).await {
        panic!("{}: {why}", command.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replica_takes_over_and_the_old_primary_follows() {
        let mut cluster = RedisCluster::start(3, 1).await;
        assert_eq!(cluster.primaries().await, [0, 1, 2]);
        assert_eq!(cluster.replicas_of(0).await, [3]);
        // "foo" is in slot 12182, which the third primary has.
        let old = cluster.primary_of_slot(12182).await;
        assert_eq!(old, 2);
        assert_eq!(cluster.node(old).command(&["SET", "foo", "bar"]).await, "OK");
        assert_eq!(cluster.node(old).command(&["WAIT", "1", "10000"]).await, "1");
        cluster.node_mut(old).kill().await;
        cluster.settled().await;
        let new = cluster.primary_of_slot(12182).await;
        assert_eq!(new, 5);
        assert_eq!(cluster.node(new).command(&["GET", "foo"]).await, "bar");
        cluster.node_mut(old).restart().await;
        cluster.settled().await;
        assert_eq!(cluster.primaries().await, [0, 1, 5]);
        assert_eq!(
            cluster.node(old).info("replication", "role").await.as_deref(),
            Some("slave")
        );
    }

    #[tokio::test]
    async fn a_slot_migrates_with_its_keys() {
        let cluster = RedisCluster::start(3, 0).await;
        for number in 0..250 {
            let key = format!("{{foo}}{number}");
            assert_eq!(cluster.node(2).command(&["SET", &key, "bar"]).await, "OK");
        }
        // Not every key is text.
        let answer = cluster
            .node(2)
            .ask_bytes(&[b"SET".as_slice(), b"{foo}\xff\x00", b"bar"])
            .await;
        assert_eq!(answer.unwrap().to_string(), "OK");
        cluster.migrate_slot(12182, 0).await;
        assert_eq!(cluster.primary_of_slot(12182).await, 0);
        assert_eq!(
            cluster
                .node(0)
                .command(&["CLUSTER", "COUNTKEYSINSLOT", "12182"])
                .await,
            "251"
        );
        assert!(
            cluster
                .node(2)
                .command(&["GET", "{foo}1"])
                .await
                .starts_with("MOVED 12182")
        );
        cluster.settled().await;
    }
}
