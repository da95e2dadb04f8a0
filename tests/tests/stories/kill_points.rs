//! A device ends in the middle of everything it does: at each step of each operation a process of its own aborts, the store is opened
//! again, and what was begun is done once; or not at all, where it was not stored yet. Others are the witnesses of it.
//!
//! The steps are those of `client-sdk/src/kill_point.rs`, all of them: one that is never reached fails the test, and so does an
//! operation for which there is no story here. `VALISE_KILL_POINT=send/answered` tries that step alone.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up is a failed test"
)]

mod child;
mod device;
mod history;
mod lost;
mod membership;
mod newcomers;
mod renewal;
mod reset;
mod single;
mod stale;
mod stories;
mod witness;
mod world;

use std::collections::BTreeMap;
use std::pin::Pin;

use futures::{StreamExt as _, stream};
use valise_client_sdk::kill_point::{KillPoint, all};

use world::World;

/// Stories that are told at the same time: they mostly wait.
const AT_ONCE: usize = 6;

type Story<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_is_done_once_or_not_at_all() {
    let wanted = std::env::var("VALISE_KILL_POINT").ok();
    let mut operations: BTreeMap<&'static str, Vec<KillPoint>> = BTreeMap::new();
    for point in all() {
        if wanted.as_ref().is_none_or(|wanted| *wanted == point.to_string()) {
            operations.entry(point.operation).or_default().push(point);
        }
    }
    let count: usize = operations.values().map(Vec::len).sum();
    assert!(wanted.is_some() || count >= 40, "there are {count} steps");
    // The time moves on for the last stories: certificates are renewed after two months, and stale members removed after six.
    let mut later = |names: &[&str]| -> Vec<KillPoint> {
        let points = names.iter().filter_map(|name| operations.remove(*name));
        points.flatten().collect()
    };
    let (renewals, evictions) = (later(&renewal::OPERATIONS), later(&stale::OPERATIONS));
    let world = World::new().await;
    let renewals = renewal::prepare(&world, renewals).await;
    let evictions = stale::prepare(&world, evictions).await;
    let stories = operations
        .into_iter()
        .map(|(operation, points)| story(&world, operation, points));
    stream::iter(stories)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
    renewal::tell(&world, renewals).await;
    stale::tell(&world, evictions).await;
    println!("{count} steps of operations");
}

/// The story of an operation, for each of these steps.
fn story<'a>(world: &'a World, operation: &'static str, points: Vec<KillPoint>) -> Story<'a> {
    match operation {
        "enrol" | "fetch_parameters" | "make_key_packages" | "publish_key_packages" => {
            Box::pin(newcomers::enrol(world, points))
        }
        "create" => Box::pin(single::create(world, points)),
        "join" => Box::pin(newcomers::join(world, points)),
        "join_last_resort" => Box::pin(newcomers::join_last_resort(world, points)),
        "wish_rejoin" | "rejoin" => Box::pin(newcomers::come_in(world, points)),
        "settle" => Box::pin(lost::settle(world, points)),
        "follow_reset" | "make_successor" | "add_others" => Box::pin(reset::follow(world, operation, points)),
        "expire" | "remove_message" => Box::pin(history::forget(world, operation, points)),
        "confirm" => Box::pin(single::confirm(world, points)),
        "change_store_key" => Box::pin(single::change_store_key(world, points)),
        "leave" => Box::pin(membership::leave(world, points)),
        operation => Box::pin(stories::in_a_group(world, operation, points)),
    }
}
