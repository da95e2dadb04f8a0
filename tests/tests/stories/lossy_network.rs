//! Six devices on a bad network: requests and answers get lost, come late, streams and connections break, and the devices are closed and
//! opened again, while they send, add each other, remove each other, leave, rename and change their keys. When the network has
//! healed, all who are members are in one epoch, and everybody has seen all messages that were for them, in one order, each once.
//!
//! A run is made by its seed: `VALISE_SEED=7` is that run alone. With `VALISE_LONG=1` (`./test --long`) there are 200 of them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed set-up is a failed test"
)]

mod away;
mod book;
mod judge;
mod log;
mod phone;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use valise_client_sdk::{Act, Role};
use valise_tests::embedded::Services;
use valise_tests::people::Town;
use valise_tests::wait::{until, within};

use phone::Phone;

const DEVICES: usize = 6;
/// What each of them does.
const DEEDS: usize = 18;
const SHORT: u64 = 4;
const LONG: u64 = 200;
/// How long the devices may take for all that they do. Far more than it takes; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_converges() {
    let long = std::env::var_os("VALISE_LONG").is_some();
    let alone = std::env::var("VALISE_SEED").ok();
    let seeds = match &alone {
        Some(seed) => {
            let seed: u64 = seed.parse().expect("VALISE_SEED is a number");
            seed..seed + 1
        }
        None => 1..1 + if long { LONG } else { SHORT },
    };
    let (services, town) = Services::start().await;
    let mut all = BTreeMap::new();
    for seed in seeds {
        println!("VALISE_SEED={seed}");
        let counted = run(&services, &town, seed).await;
        println!("seed {seed}: {}", told(&counted));
        for (what, times) in counted {
            *all.entry(what).or_default() += times;
        }
    }
    println!("all: {}", told(&all));
    if alone.is_some() {
        return;
    }
    // So that the run is what it is said to be.
    for what in [
        "requests lost",
        "answers lost",
        "streams reset",
        "connections cut",
        "restarts",
        "messages",
    ] {
        assert!(all.get(what).is_some_and(|times| *times > 0), "no {what}");
    }
}

async fn run(services: &Services, town: &Town, seed: u64) -> BTreeMap<String, usize> {
    let mut phones = Vec::new();
    for number in 0..DEVICES {
        phones.push(Phone::new(services, town, seed, number).await);
    }
    let group = form_a_group(&phones).await;
    for phone in &phones {
        phone.proxy.lose(true);
    }
    let users: Arc<Vec<_>> = Arc::new(phones.iter().map(|phone| phone.user.clone()).collect());
    let acting = phones.into_iter().enumerate().map(|(number, mut phone)| {
        let random = StdRng::seed_from_u64(seed.wrapping_mul(1000) + number as u64);
        let users = Arc::clone(&users);
        tokio::spawn(async move {
            act(&mut phone, random, &users).await;
            phone
        })
    });
    let acting: Vec<_> = acting.collect();
    let mut phones = Vec::new();
    for phone in acting {
        phones.push(within(LIMIT, phone).await.unwrap());
    }
    for phone in &phones {
        phone.proxy.lose(false);
        phone.proxy.cut();
    }
    let counted = judge::judge(services, group, &phones).await;
    for phone in phones {
        phone.close().await;
    }
    counted
}

fn told(counted: &BTreeMap<String, usize>) -> String {
    let counted = counted.iter().map(|(what, times)| format!("{what}: {times}"));
    counted.collect::<Vec<_>>().join(", ")
}

/// Everybody is in it, and everybody may add, remove and rename.
async fn form_a_group(phones: &[Phone]) -> valise_client_sdk::GroupId {
    let (first, others) = phones.split_first().unwrap();
    let group = first.client().create_group("at first").await.unwrap();
    let mut policy = group.policy().await.unwrap();
    for act in [Act::Add, Act::Remove, Act::Rename] {
        policy = policy.with(act, Role::Member);
    }
    group.set_policy(policy).await.unwrap();
    let users: Vec<_> = others.iter().map(|phone| phone.user.clone()).collect();
    let added = group.add(&users).await.unwrap();
    assert_eq!(added.devices.len(), others.len());
    for phone in phones {
        phone.group.set(group.id()).unwrap();
        until("everybody is in the group", async || phone.member().await).await;
    }
    group.id()
}

/// One deed after another, with pauses.
async fn act(phone: &mut Phone, mut random: StdRng, users: &[valise_client_sdk::UserId]) {
    for number in 0..DEEDS {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..80))).await;
        let deed = random.random_range(0..100);
        let whom = &users[random.random_range(0..users.len())];
        match deed {
            0..28 => phone.send(number).await,
            28..42 => phone.queue(number).await,
            42..47 => phone.rename(number).await,
            47..53 => phone.self_update().await,
            53..76 => phone.add(whom).await,
            76..90 => phone.remove(whom).await,
            90..93 => phone.leave().await,
            _ => phone.restart().await,
        }
    }
}
