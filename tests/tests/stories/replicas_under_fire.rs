//! Three replicas of the delivery service on a Redis Cluster, under load, while processes are killed, a slot moves, PostgreSQL is
//! away and connections are cut. Every device ends with every acknowledged entry, in one order, without a gap or a double; nobody
//! was shown an entry that is not in the log at the end; each epoch has one commit.
//!
//! A run is made by its seed: `VALISE_SEED=7` is that run alone. With `VALISE_LONG=1` (`./test --long`) it is the full length, and
//! five seeds one after the other.

#![expect(clippy::print_stdout, reason = "it says what it injected and counted")]

use std::time::{Duration, Instant};

use valise_tests::crowd::Size;
use valise_tests::faults::Faults;
use valise_tests::under_fire::{Form, Scene, long};

const SHORT: Form = Form {
    crowd: Size {
        devices: 9,
        groups: 6,
        members: 4,
        pause: Duration::from_millis(250),
    },
    fire: Duration::from_secs(15),
    seeds: 1,
    ..Form::LONG
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_device_has_what_was_acknowledged() {
    let form = if long() { Form::LONG } else { SHORT };
    for seed in form.seeds() {
        run(seed, form).await;
    }
}

async fn run(seed: u64, form: Form) {
    println!("VALISE_SEED={seed}");
    let begin = Instant::now();
    // What is shown is on both replicas of a shard: either may be elected.
    let mut scene = Scene::begin(&form, form.redis_replicas).await;
    println!("seed {seed}: everybody is there after {:?}", begin.elapsed());

    let talk = scene.crowd.talk(seed, form.crowd.pause);
    let faults = Faults::new(&mut scene.stack, &scene.proxies, seed);
    let injected = faults.inject(form.fire).await;
    println!("seed {seed}: injected after {:?}: {injected}", begin.elapsed());
    talk.stop().await;
    println!("seed {seed}: all answered after {:?}", begin.elapsed());
    let tally = scene.crowd.judge(&scene.stack).await;
    println!("seed {seed}: {tally:?} after {:?}", begin.elapsed());
    assert!(tally.messages > form.crowd.devices, "there was load");
    assert!(tally.commits > 0, "there were commits");
}
