//! Redis primaries die while their replicas are 1.2 seconds behind. With as many `wait_replicas` as each primary has replicas, nothing was
//! acknowledged that these did not have, and nothing is lost. What was acknowledged without waiting for a replica (`wait_replicas = 0`) is
//! lost, and the loss is noticed: the groups are frozen, and no device goes on as if nothing had happened.
//!
//! A run is made by its seed: `VALISE_SEED=7` is that run alone. With `VALISE_LONG=1` (`./test --long`) it is the full length, with all that
//! happens in `replicas_under_fire.rs` besides, and three seeds one after the other.

#![expect(clippy::print_stdout, reason = "it says what it injected and counted")]

use std::time::Duration;

use valise_tests::crowd::{Size, Talk};
use valise_tests::faults::{Faults, Injected};
use valise_tests::under_fire::{Form, Scene, long};

/// The replicas of one shard are stalled, and nothing else happens.
const SHORT: Form = Form {
    crowd: Size {
        devices: 5,
        groups: 4,
        members: 3,
        pause: Duration::from_millis(100),
    },
    delivery_replicas: 1,
    redis_replicas: 1,
    fire: Duration::ZERO,
    seeds: 1,
};
const LONG: Form = Form {
    seeds: 3,
    ..Form::LONG
};
/// Messages and commits that show that it goes on.
const SOME: usize = 20;

fn form() -> Form {
    if long() { LONG } else { SHORT }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_waiting_nothing_is_lost() {
    let form = form();
    for seed in form.seeds() {
        let mut scene = Scene::begin(&form, form.redis_replicas).await;
        let (injected, talk) = burn(&mut scene, seed, form, form.redis_replicas).await;
        assert!(injected.lost().is_empty(), "{:?}", injected.lost());
        scene.crowd.acknowledges(SOME).await;
        talk.stop().await;
        let tally = scene.crowd.judge(&scene.stack).await;
        println!("seed {seed}: nothing is lost of {tally:?}");
        assert!(tally.messages > form.crowd.devices, "there was load");
        assert!(tally.commits > 0, "there were commits");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_waiting_acknowledged_entries_are_lost_and_missed() {
    let form = form();
    for seed in form.seeds() {
        let mut scene = Scene::begin(&form, 0).await;
        let (injected, talk) = burn(&mut scene, seed, form, 0).await;
        talk.stop().await;
        let lost = injected.lost();
        assert!(!lost.is_empty(), "acknowledged, and not on the replicas");
        let losses = scene.crowd.judge_losses(&scene.stack, lost).await;
        println!("seed {seed}: {} groups lost entries: {losses:?}", lost.len());
        assert!(losses.noticed >= lost.len());
    }
}

/// The crowd talks while replicas are stalled, and goes on when everything runs again.
async fn burn(scene: &mut Scene, seed: u64, form: Form, wait_replicas: usize) -> (Injected, Talk) {
    println!("VALISE_SEED={seed}, wait_replicas = {wait_replicas}");
    let talk = scene.crowd.talk(seed, form.crowd.pause);
    scene.crowd.acknowledges(SOME).await;
    let faults = Faults::new(&mut scene.stack, &scene.proxies, seed);
    let faults = faults.stalling(&scene.crowd, wait_replicas);
    let faults = if long() { faults } else { faults.without_others() };
    let injected = faults.inject(form.fire).await;
    println!("seed {seed}: {injected}");
    (injected, talk)
}
