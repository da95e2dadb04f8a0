//! Three replicas of the delivery service on a Redis Cluster, under load, while processes are killed, a slot moves, PostgreSQL is
//! away and connections are cut. Every device ends with every acknowledged entry, in one order, without a gap or a double; nobody
//! was shown an entry that is not in the log at the end; each epoch has one commit.
//!
//! A run is made by its seed: `VALISE_SEED=7` is that run alone. With `VALISE_LONG=1` (`./test --long`) it is the full length, and
//! five seeds one after the other.

#![expect(clippy::print_stdout, reason = "it says what it injected and counted")]

use std::time::{Duration, Instant};

use valise_local_stack::{LocalStack, RedisShape, StackOptions};
use valise_tests::crowd::{Crowd, Size};
use valise_tests::faults::Faults;
use valise_tests::proxy::Proxy;

const REPLICAS: usize = 3;

/// What is shown is on both replicas of a shard: either may be elected. Entries leave Redis soon, though not while a call that has
/// brought them may still be repeated: what is read is of both halves.
const SETTINGS: [(&str, &str); 5] = [
    ("VALISE_DELIVERY_REDIS__WAIT_REPLICAS", "2"),
    ("VALISE_DELIVERY_ARCHIVE__HOT_ENTRIES", "10"),
    ("VALISE_DELIVERY_ARCHIVE__HOT_SECONDS", "12"),
    ("VALISE_DELIVERY_ARCHIVE__LEASE_SECONDS", "3"),
    ("VALISE_DELIVERY_ARCHIVE__SWEEP_MILLISECONDS", "500"),
];

/// How much there is of everything.
#[derive(Clone, Copy)]
struct Form {
    crowd: Size,
    fire: Duration,
    seeds: u64,
}

const SHORT: Form = Form {
    crowd: Size {
        devices: 9,
        groups: 6,
        members: 4,
        pause: Duration::from_millis(250),
    },
    fire: Duration::from_secs(15),
    seeds: 1,
};

const LONG: Form = Form {
    crowd: Size {
        devices: 30,
        groups: 20,
        members: 6,
        pause: Duration::from_millis(500),
    },
    fire: Duration::from_secs(60),
    seeds: 5,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_device_has_what_was_acknowledged() {
    let form = if std::env::var_os("VALISE_LONG").is_some() {
        LONG
    } else {
        SHORT
    };
    let seeds = match std::env::var("VALISE_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("VALISE_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 1..1 + form.seeds,
    };
    for seed in seeds {
        run(seed, form).await;
    }
}

async fn run(seed: u64, form: Form) {
    println!("VALISE_SEED={seed}");
    let options = StackOptions {
        authentication_replicas: 1,
        directory_replicas: 1,
        delivery_replicas: REPLICAS,
        redis: RedisShape::Cluster {
            primaries: 3,
            replicas_each: 2,
        },
        environment: SETTINGS
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..StackOptions::default()
    };
    let begin = Instant::now();
    let mut stack = LocalStack::start(options).await;
    let mut proxies = Vec::new();
    for number in 0..REPLICAS {
        proxies.push(Proxy::to(stack.delivery(number).port()).await);
    }
    let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
    let crowd = Crowd::gather(&stack, &urls, form.crowd).await;
    println!("seed {seed}: everybody is there after {:?}", begin.elapsed());

    let talk = crowd.talk(seed, form.crowd.pause);
    let injected = Faults::new(&mut stack, &proxies, seed).inject(form.fire).await;
    println!("seed {seed}: injected after {:?}: {injected}", begin.elapsed());
    talk.stop().await;
    println!("seed {seed}: all answered after {:?}", begin.elapsed());
    let tally = crowd.judge(&stack).await;
    println!("seed {seed}: {tally:?} after {:?}", begin.elapsed());
    assert!(tally.messages > form.crowd.devices, "there was load");
    assert!(tally.commits > 0, "there were commits");
}
