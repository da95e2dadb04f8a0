//! A crowd on a Redis Cluster and several replicas of the delivery service, to which things happen.

use std::ops::Range;
use std::time::Duration;

use valise_local_stack::{LocalStack, RedisShape, StackOptions};

use crate::crowd::{Crowd, Size};
use crate::proxy::Proxy;

/// Entries leave Redis soon, though not while a call that has brought them may still be repeated: what is read is of both halves.
const SETTINGS: [(&str, &str); 4] = [
    ("VALISE_DELIVERY_ARCHIVE__HOT_ENTRIES", "10"),
    ("VALISE_DELIVERY_ARCHIVE__HOT_SECONDS", "12"),
    ("VALISE_DELIVERY_ARCHIVE__LEASE_SECONDS", "3"),
    ("VALISE_DELIVERY_ARCHIVE__SWEEP_MILLISECONDS", "500"),
];

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Who talks.
    pub crowd: Size,
    /// Replicas of the delivery service.
    pub delivery_replicas: usize,
    /// Replicas of each of the three Redis primaries.
    pub redis_replicas: usize,
    /// How long things happen at least.
    pub fire: Duration,
    /// Runs one after the other, each made by its seed.
    pub seeds: u64,
}

impl Form {
    /// The full size.
    pub const LONG: Self = Self {
        crowd: Size {
            devices: 30,
            groups: 20,
            members: 6,
            pause: Duration::from_millis(500),
        },
        delivery_replicas: 3,
        redis_replicas: 2,
        fire: Duration::from_secs(60),
        seeds: 5,
    };

    /// The seeds of its runs, from 1 on; with `VALISE_SEED=7` that one alone.
    pub fn seeds(&self) -> Range<u64> {
        match std::env::var("VALISE_SEED") {
            Ok(seed) => {
                let seed = seed.parse().expect("VALISE_SEED is a number");
                seed..seed + 1
            }
            Err(_) => 1..1 + self.seeds,
        }
    }
}

/// Is it to be the full length (`./test --long`)?
pub fn long() -> bool {
    std::env::var_os("VALISE_LONG").is_some()
}

/// Where it happens.
pub struct Scene {
    /// All servers.
    pub stack: LocalStack,
    /// The devices' ways to the replicas of the delivery service.
    pub proxies: Vec<Proxy>,
    /// The devices.
    pub crowd: Crowd,
}

impl Scene {
    /// Starts all servers, of which the delivery service waits for so many replicas of a Redis primary (`wait_replicas`). Everybody is in
    /// their groups when it returns.
    pub async fn begin(form: &Form, wait_replicas: usize) -> Self {
        let mut environment: Vec<(String, String)> = SETTINGS
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let wait = "VALISE_DELIVERY_REDIS__WAIT_REPLICAS".to_owned();
        environment.push((wait, wait_replicas.to_string()));
        let options = StackOptions {
            authentication_replicas: 1,
            directory_replicas: 1,
            delivery_replicas: form.delivery_replicas,
            redis: RedisShape::Cluster {
                primaries: 3,
                replicas_each: form.redis_replicas,
            },
            environment,
            ..StackOptions::default()
        };
        let stack = LocalStack::start(options).await;
        let mut proxies = Vec::new();
        for number in 0..form.delivery_replicas {
            proxies.push(Proxy::to(stack.delivery(number).port()).await);
        }
        let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
        let crowd = Crowd::gather(&stack, &urls, form.crowd).await;
        Self {
            stack,
            proxies,
            crowd,
        }
    }
}
