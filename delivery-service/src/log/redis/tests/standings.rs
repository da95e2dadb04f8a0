//! What it costs when a device comes back.

use std::collections::BTreeSet;

use super::faults::without_sweeps;
use super::*;
use crate::log::conformance::{accept, device, eventually, group, message, user};
use crate::log::redis::partition::Partition;

/// How many scripts a server has run.
async fn scripts(server: &Redis) -> u64 {
    let info = server.command(&["INFO", "commandstats"]).await;
    let count = info.lines().find_map(|line| {
        let numbers = line.trim().strip_prefix("cmdstat_evalsha:calls=")?;
        numbers.split(',').next()?.parse().ok()
    });
    count.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_partition_is_asked_once_for_all_groups() {
    const GROUPS: usize = 200;
    let server = Redis::start().await;
    let log = without_sweeps(&server).await;
    let alice = device();
    let mut asked = Vec::new();
    for _ in 0..GROUPS {
        let id = group(&*log, alice).await;
        let first = accept(&*log, message(id, alice, 0, "first")).await;
        asked.push((id, first.position));
    }
    // What the groups' creation hands over to elsewhere is done, and the server knows the script.
    eventually("her groups", async || {
        let groups = log
            .memberships(&user("alice"), alice, None, GROUPS)
            .await
            .unwrap();
        (groups.len() == GROUPS).then_some(())
    })
    .await;
    log.standings(alice, vec![asked[0]]).await.unwrap();

    let partitions: BTreeSet<Partition> = asked.iter().map(|(id, _)| Partition::of_group(id)).collect();
    let before = scripts(&server).await;
    let standings = log.standings(alice, asked).await.unwrap();
    assert!(standings.iter().all(|standing| standing.id.is_some()));
    assert_eq!(scripts(&server).await - before, partitions.len() as u64);
}
