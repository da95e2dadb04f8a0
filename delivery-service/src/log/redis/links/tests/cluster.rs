//! A cluster whose nodes die, and whose slots move.

use std::sync::Arc;

use valise_local_stack::RedisCluster;

use super::*;

fn cluster_config(cluster: &RedisCluster, wait_replicas: u32) -> RedisConfig {
    // One of them is enough to find the others.
    let mut config = config(RedisMode::Cluster, &cluster.urls()[1..2]);
    config.wait_replicas = Some(wait_replicas);
    config
}

/// A partition that a node has.
async fn partition_of(cluster: &RedisCluster, node: usize) -> Partition {
    for partition in Partition::all() {
        if cluster.primary_of_slot(partition.slot()).await == node {
            return partition;
        }
    }
    panic!("node {node} has no partition");
}

/// Calls until it is answered: a failover may take longer than a call is repeated.
async fn get_through(links: &Links, partition: Partition, command: Command) {
    let mut last = None;
    for _ in 0..5 {
        match links.call(partition, command.clone()).await {
            Ok(_) => return,
            Err(error) => last = Some(error),
        }
    }
    panic!("no call gets through: {last:?}");
}

#[tokio::test]
async fn a_killed_primary_is_replaced_and_nothing_answered_is_lost() {
    // With one replica each, none would be left to wait for.
    let mut cluster = RedisCluster::start(3, 2).await;
    let links = open(&cluster_config(&cluster, 1)).await;
    let mut heard = links.heard().unwrap();
    let mut changed = links.run_ids_changed();
    let [lost, other] = [partition_of(&cluster, 0).await, partition_of(&cluster, 2).await];
    for partition in [lost, other] {
        let added = links.call(partition, add(partition, "before")).await;
        assert_eq!(added.unwrap(), Value::Int(1));
        assert!(hear(&mut heard, &message(partition, "before")).await.is_empty());
    }
    cluster.node_mut(0).kill().await;
    set(&links, other, "key", "meanwhile").await;
    get_through(&links, lost, add(lost, "after")).await;
    let both = ["after", "before"].map(str::to_owned);
    assert_eq!(members(&links, lost).await, BTreeSet::from(both));
    hear_lost(&mut heard, [lost]).await;
    let added = links.call(lost, add(lost, "again")).await;
    assert_eq!(added.unwrap(), Value::Int(1));
    hear(&mut heard, &message(lost, "again")).await;
    let partitions = within("a change of identity", changed.recv()).await.unwrap();
    assert!(partitions.contains(&lost) && !partitions.contains(&other));
    until("all to be reachable", async || links.unusable().await == 0).await;

    // It comes back as a replica, and takes over again.
    cluster.node_mut(0).restart().await;
    cluster.settled().await;
    let new = cluster.primary_of_slot(lost.slot()).await;
    assert_ne!(new, 0);
    cluster.node_mut(new).kill().await;
    get_through(&links, lost, add(lost, "third")).await;
    assert_eq!(members(&links, lost).await.len(), 4);
    hear_lost(&mut heard, [lost]).await;
}

#[tokio::test]
async fn a_primary_that_hangs_is_replaced() {
    let cluster = RedisCluster::start(3, 2).await;
    let links = open(&cluster_config(&cluster, 1)).await;
    let hung = partition_of(&cluster, 0).await;
    set(&links, hung, "key", "value").await;
    cluster.node(0).pause();
    get_through(&links, hung, command("GET", hung, "key", &[])).await;
    assert_eq!(get(&links, hung, "key").await.as_deref(), Some("value"));
    cluster.node(0).resume();
    cluster.settled().await;
    set(&links, hung, "key", "more").await;
}

#[tokio::test]
async fn a_manual_failover_is_followed() {
    let cluster = RedisCluster::start(3, 1).await;
    let links = open(&cluster_config(&cluster, 1)).await;
    let mut heard = links.heard().unwrap();
    let moved = partition_of(&cluster, 0).await;
    set(&links, moved, "key", "value").await;
    assert_eq!(cluster.node(3).command(&["CLUSTER", "FAILOVER"]).await, "OK");
    hear_lost(&mut heard, [moved]).await;
    assert_eq!(get(&links, moved, "key").await.as_deref(), Some("value"));
    assert_eq!(cluster.primary_of_slot(moved.slot()).await, 3);
    let added = links.call(moved, add(moved, "after")).await;
    assert_eq!(added.unwrap(), Value::Int(1));
    hear(&mut heard, &message(moved, "after")).await;
}

#[tokio::test]
async fn calls_get_through_while_a_slot_migrates() {
    let cluster = RedisCluster::start(3, 1).await;
    let links = Arc::new(open(&cluster_config(&cluster, 1)).await);
    let mut heard = links.heard().unwrap();
    let moving = partition_of(&cluster, 0).await;
    for number in 0..200 {
        set(&links, moving, &format!("key-{number}"), "value").await;
    }
    let calling = tokio::spawn({
        let links = Arc::clone(&links);
        async move {
            let mut rounds = 0;
            loop {
                let what = format!("round-{rounds}");
                links.call(moving, add(moving, &what)).await.unwrap();
                assert_eq!(get(&links, moving, "key-199").await.as_deref(), Some("value"));
                if get(&links, moving, "stop").await.is_some() {
                    return rounds;
                }
                rounds += 1;
            }
        }
    });
    for to in [1, 2, 0] {
        cluster.migrate_slot(moving.slot(), to).await;
        hear_lost(&mut heard, [moving]).await;
        let what = format!("on node {to}");
        links.call(moving, add(moving, &what)).await.unwrap();
        hear(&mut heard, &message(moving, &what)).await;
    }
    set(&links, moving, "stop", "now").await;
    let rounds = within("the calls", calling).await.unwrap();
    let there = members(&links, moving).await;
    assert!((0..=rounds).all(|round| there.contains(&format!("round-{round}"))));
}

#[tokio::test]
async fn a_shard_that_lacks_a_replica_holds_up_no_other() {
    let mut cluster = RedisCluster::start(3, 1).await;
    let links = open(&cluster_config(&cluster, 1)).await;
    let replica = cluster.replicas_of(0).await[0];
    let [held, other] = [partition_of(&cluster, 0).await, partition_of(&cluster, 1).await];
    assert_eq!(links.unusable().await, 0);
    cluster.node_mut(replica).kill().await;
    until("it to be noticed", async || links.unusable().await > 0).await;
    let unusable = links.unusable().await;
    assert!((256..512).contains(&unusable), "a third: {unusable}");
    set(&links, other, "key", "value").await;
    let error = links
        .call(held, command("GET", held, "key", &[]))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("too few replicas have it"), "{error}");
    cluster.node_mut(replica).restart().await;
    until("it to be used again", async || links.unusable().await == 0).await;
    set(&links, held, "key", "value").await;
}

/// Begins to move a partition's slot, with these keys.
async fn move_keys(cluster: &RedisCluster, moving: Partition, [from, to]: [usize; 2], keys: &[&str]) {
    let slot = moving.slot().to_string();
    let [source, target] = [cluster.node(from), cluster.node(to)];
    let source_id = source.command(&["CLUSTER", "MYID"]).await;
    let target_id = target.command(&["CLUSTER", "MYID"]).await;
    let importing = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id];
    assert_eq!(target.command(&importing).await, "OK");
    let migrating = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id];
    assert_eq!(source.command(&migrating).await, "OK");
    let port = target.port().to_string();
    for key in keys {
        // Without REPLACE, as operators' tools do: a key that is on both sides stops it.
        let migrate = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
        assert_eq!(source.command(&migrate).await, "OK");
    }
}

/// A partition whose slot moves: of its keys "gone" and "left", one is on the other side already.
async fn half_moved(cluster: &RedisCluster, links: &Links) -> Partition {
    // Fences of the node use this partition, too.
    let moving = partition_of(cluster, 0).await;
    for key in ["gone", "left"] {
        set(links, moving, key, key).await;
    }
    let gone = ["gone", "fence"].map(|name| key(moving, name));
    move_keys(cluster, moving, [0, 1], &gone.each_ref().map(String::as_str)).await;
    moving
}

#[tokio::test]
async fn keys_on_both_sides_of_a_migration_are_found() {
    let cluster = RedisCluster::start(3, 1).await;
    let links = open(&cluster_config(&cluster, 1)).await;
    let moving = half_moved(&cluster, &links).await;
    for key in ["gone", "left"] {
        assert_eq!(get(&links, moving, key).await.as_deref(), Some(key));
    }
    assert_eq!(get(&links, moving, "new").await, None);
    let both = vec![
        command("GET", moving, "gone", &[]),
        command("TTL", moving, "gone", &[]),
    ];
    let answers = links.calls(moving, both).await.unwrap();
    assert_eq!(answers, [Value::BulkString(b"gone".to_vec()), Value::Int(-1)]);
    // On both sides: not before the slot has moved.
    let mut both = redis::cmd("MGET");
    both.arg(key(moving, "gone")).arg(key(moving, "left"));
    let error = links
        .call(moving, Command::Plain(both.clone()))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "log store: outcome unknown, repeat with the same key: Redis answers TRYAGAIN"
    );
    let slot = moving.slot().to_string();
    let left = ["CLUSTER", "GETKEYSINSLOT", &slot, "100"];
    assert_eq!(cluster.node(0).command(&left).await, key(moving, "left"));
    move_keys(&cluster, moving, [0, 1], &[&key(moving, "left")]).await;
    cluster.migrate_slot(moving.slot(), 1).await;
    let answers = links.call(moving, Command::Plain(both)).await.unwrap();
    let expected = ["gone", "left"].map(|value| Value::BulkString(value.as_bytes().to_vec()));
    assert_eq!(answers, Value::Array(expected.to_vec()));
}

#[tokio::test]
async fn commands_that_are_sent_together_find_keys_on_both_sides_of_a_migration() {
    let cluster = RedisCluster::start(3, 1).await;
    let links = open(&cluster_config(&cluster, 1)).await;
    let moving = half_moved(&cluster, &links).await;
    let found = |name: &str| Value::BulkString(name.as_bytes().to_vec());
    let sides = [
        ("gone", found("gone")),
        ("left", found("left")),
        ("new", Value::Nil),
    ];
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let together = order.map(|number: usize| command("GET", moving, sides[number].0, &[]));
        let answers = links.calls(moving, together.to_vec()).await.unwrap();
        assert_eq!(answers, order.map(|number| sides[number].1.clone()), "{order:?}");
    }
}

#[tokio::test]
async fn a_node_receives_its_first_slot() {
    let cluster = RedisCluster::start(4, 1).await;
    // The fourth gives its slots to the third.
    for node in 0..cluster.len() {
        let removed = ["CLUSTER", "DELSLOTSRANGE", "12288", "16383"];
        assert_eq!(cluster.node(node).command(&removed).await, "OK");
    }
    let third = cluster.node(2);
    third.command(&["CLUSTER", "BUMPEPOCH"]).await;
    assert_eq!(
        third
            .command(&["CLUSTER", "ADDSLOTSRANGE", "12288", "16383"])
            .await,
        "OK"
    );
    until("all to know", async || {
        for node in 0..cluster.len() {
            let info = cluster.node(node).command(&["CLUSTER", "INFO"]).await;
            if !info.contains("cluster_slots_assigned:16384") || !info.contains("cluster_state:ok") {
                return false;
            }
        }
        cluster.primaries().await == [0, 1, 2]
    })
    .await;
    let links = open(&cluster_config(&cluster, 1)).await;
    let mut heard = links.heard().unwrap();
    let moving = partition_of(&cluster, 0).await;
    set(&links, moving, "key", "value").await;
    move_keys(&cluster, moving, [0, 3], &[&key(moving, "key")]).await;
    assert_eq!(get(&links, moving, "key").await.as_deref(), Some("value"));
    set(&links, moving, "new", "value").await;
    cluster.migrate_slot(moving.slot(), 3).await;
    hear_lost(&mut heard, [moving]).await;
    for key in ["key", "new"] {
        assert_eq!(get(&links, moving, key).await.as_deref(), Some("value"));
    }
}
