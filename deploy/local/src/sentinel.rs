//! Three Redis servers that three Sentinels watch over.

use crate::folder::Ground;
use crate::process::Patience;
use crate::programs::RedisProgram;
use crate::redis::{Node, Redis};

/// What Sentinel calls the servers.
const MASTER: &str = "valise";

/// One primary, two replicas and three Sentinels that call them `valise`. A primary counts as down after 1.5 seconds.
#[derive(Debug)]
pub struct RedisSentinel {
    nodes: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl RedisSentinel {
    /// Starts all six, and waits until the replicas follow and the Sentinels know each other.
    pub async fn start() -> Self {
        let primary = Redis::start().await;
        let port = primary.port();
        let mut nodes = vec![primary];
        for _ in 0..2 {
            let follow = format!("replicaof 127.0.0.1 {port}\n");
            nodes.push(start("replica", &follow, &[]).await);
        }
        // A Sentinel learns of the replicas from its primary, once.
        for replica in &nodes[1..] {
            let patience = Patience::with("a replica's link");
            while replica.info("replication", "master_link_status").await.as_deref() != Some("up") {
                patience.look(String::new).await;
            }
        }
        let watch = format!(
            "sentinel monitor {MASTER} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {MASTER} 1500\n\
             sentinel failover-timeout {MASTER} 6000\n\
             sentinel parallel-syncs {MASTER} 2\n"
        );
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(start("sentinel", &watch, &["--sentinel"]).await);
        }
        for sentinel in &sentinels {
            let patience = Patience::with("the sentinels to know each other");
            loop {
                let state = sentinel.command(&["SENTINEL", "MASTER", MASTER]).await;
                if state.contains("num-slaves\n2\n") && state.contains("num-other-sentinels\n2\n") {
                    break;
                }
                patience.look(|| state).await;
            }
        }
        Self { nodes, sentinels }
    }

    /// The ids of the processes of all that run, Sentinels aside.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(Redis::id).collect()
    }

    /// The Sentinels' URLs.
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Redis::url).collect()
    }

    /// The server that most Sentinels call the primary.
    pub async fn primary(&self) -> usize {
        let mut votes = vec![0; self.nodes.len()];
        for sentinel in &self.sentinels {
            let address = sentinel
                .command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER])
                .await;
            let port = address.lines().last().and_then(|port| port.parse().ok());
            if let Some(node) = self.nodes.iter().position(|node| Some(node.port()) == port) {
                votes[node] += 1;
            }
        }
        let node = (0..votes.len()).max_by_key(|&node| votes[node]);
        node.expect("there are nodes")
    }

    /// One of the three servers.
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    /// One of the three servers, to be killed or restarted.
    pub fn node_mut(&mut self, index: usize) -> &mut Redis {
        &mut self.nodes[index]
    }
}

async fn start(name: &str, configuration: &str, extra: &[&str]) -> Redis {
    let node = Node {
        name: name.to_owned(),
        configuration,
        extra,
        ..Node::plain(&Ground::Thrown, 0)
    };
    Redis::start_node(RedisProgram::Redis, &node).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replica_takes_over_and_the_old_primary_follows() {
        let mut servers = RedisSentinel::start().await;
        let old = servers.primary().await;
        assert_eq!(servers.node(old).command(&["SET", "key", "value"]).await, "OK");
        assert_eq!(servers.node(old).command(&["WAIT", "2", "10000"]).await, "2");
        servers.node_mut(old).kill().await;
        let patience = Patience::with("a failover");
        while servers.primary().await == old {
            patience.look(String::new).await;
        }
        let new = servers.primary().await;
        has_role(servers.node(new), "master").await;
        assert_eq!(servers.node(new).command(&["GET", "key"]).await, "value");
        servers.node_mut(old).restart().await;
        has_role(servers.node(old), "slave").await;
    }

    async fn has_role(node: &Redis, role: &str) {
        let patience = Patience::with(format!("the role {role}"));
        while node.info("replication", "role").await.as_deref() != Some(role) {
            patience.look(String::new).await;
        }
    }
}
