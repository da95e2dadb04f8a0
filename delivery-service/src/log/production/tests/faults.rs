//! When replicas and PostgreSQL come and go.

use std::sync::Arc;

use valise_local_stack::{Postgres, RedisCluster};
use valise_proto::{GroupId, Position};

use super::{Replica, Servers, positions, read_all, settings};
use crate::config::ArchiveConfig;
use crate::log::conformance::{accept, device, eventually, group, message, new_group};
use crate::log::redis::config::{RedisConfig, RedisMode};
use crate::log::redis::partition::Partition;
use crate::log::{Created, OrderedLog, postgres};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_may_be_away_for_a_while() {
    let mut servers = Servers::start().await;
    let mut replica = servers.replica(&settings()).await;
    replica.archive();
    let log = Arc::clone(&replica.log);
    let alice = device();
    let group = group(&*log, alice).await;
    for number in 1..=20 {
        accept(&*log, message(group, alice, 0, &number.to_string())).await;
    }
    replica.archived(group, 20).await;
    servers.postgres.stop().await;
    assert!(replica.log.reachable().await);
    for number in 21..=60 {
        accept(&*log, message(group, alice, 0, &number.to_string())).await;
    }
    // What is not archived stays where it is.
    let hot = log.read(group, Position(20), 100, 1 << 20).await.unwrap();
    assert_eq!(positions(&hot), (21..=60).collect::<Vec<_>>());
    servers.postgres.restart().await;
    replica.archived(group, 60).await;
    let all = read_all(&log, group, Position::NONE).await;
    assert_eq!(positions(&all), (1..=60).collect::<Vec<_>>());
    assert!(replica.log.reachable().await);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_refused_once_too_much_waits_to_be_archived() {
    let mut servers = Servers::start().await;
    let config = ArchiveConfig {
        max_unarchived_entries: 40,
        ..settings()
    };
    let mut replica = servers.replica(&config).await;
    replica.archive();
    let log = Arc::clone(&replica.log);
    let alice = device();
    let group = group(&*log, alice).await;
    accept(&*log, message(group, alice, 0, "first")).await;
    replica.archived(group, 1).await;
    servers.postgres.stop().await;
    let mut accepted = 1;
    let refused = eventually("a refusal", async || {
        match log.append(message(group, alice, 0, "more")).await {
            Ok(outcome) => {
                outcome.unwrap();
                accepted += 1;
                None
            }
            Err(error) => Some(error),
        }
    })
    .await;
    assert_eq!(refused.0, "too much is not archived yet");
    assert!(accepted > 40);
    assert!(!replica.log.reachable().await);
    servers.postgres.restart().await;
    eventually("entries taken again", async || {
        log.append(message(group, alice, 0, "again")).await.ok()
    })
    .await
    .unwrap();
    assert!(replica.log.reachable().await);
    let all = read_all(&log, group, Position::NONE).await;
    assert_eq!(positions(&all), (1..=accepted + 1).collect::<Vec<_>>());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_goes_on_where_one_is_gone() {
    let servers = Servers::start().await;
    let (mut first, mut second) = (
        servers.replica(&settings()).await,
        servers.replica(&settings()).await,
    );
    first.archive();
    second.archive();
    let alice = device();
    let mut groups = Vec::new();
    for _ in 0..20 {
        let group = group(&*first.log, alice).await;
        for log in [&first.log, &second.log] {
            for number in 0..10 {
                accept(&**log, message(group, alice, 0, &number.to_string())).await;
            }
        }
        groups.push(group);
    }
    for group in &groups {
        second.archived(*group, 20).await;
    }
    // As by a `kill -9`: no lease is given back.
    first.tasks.abort_all();
    for group in &groups {
        for number in 0..10 {
            accept(&*second.log, message(*group, alice, 0, &number.to_string())).await;
        }
    }
    for group in &groups {
        second.archived(*group, 30).await;
        let all = read_all(&second.log, *group, Position::NONE).await;
        assert_eq!(positions(&all), (1..=30).collect::<Vec<_>>());
    }
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_holds_up_no_other() {
    let (mut cluster, server) = tokio::join!(RedisCluster::start(3, 0), Postgres::start());
    let database = server.database("delivery").await;
    postgres::migrate(&database.parse().unwrap()).await.unwrap();
    let urls = cluster.urls().iter().map(|url| url.parse().unwrap()).collect();
    let mut redis = RedisConfig::new(RedisMode::Cluster, urls);
    redis.wait_replicas = Some(0);
    let replica = Replica::open(&database, &redis, &settings()).await;
    let archiver = replica.archiver(|_, _| false);
    archiver.renew().await.unwrap();
    archiver.round().await.unwrap();
    let log = &*replica.log;
    let alice = device();
    let here = loop {
        let id = GroupId::random(&mut rand::rng());
        if cluster.primary_of_slot(Partition::of_group(&id).slot()).await == 1 {
            break id;
        }
    };
    assert_eq!(log.create(new_group(here, alice)).await.unwrap(), Created::Yes);
    for number in 1..=6 {
        accept(log, message(here, alice, 0, &number.to_string())).await;
    }
    cluster.node_mut(0).kill().await;
    assert!(archiver.round().await.is_err(), "it is said");
    let known = log.archive.group(here).await.unwrap().unwrap();
    assert_eq!((known.head.position, known.trimmed), (Position(6), Position(3)));
    drop(archiver);
    replica.stop().await;
}
