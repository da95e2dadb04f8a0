//! Devices are added to groups while the servers of a Redis Cluster die, a slot moves, a replica of the delivery service is killed,
//! PostgreSQL is away and connections are cut. A group and the inboxes of its joiners are in different partitions, so that every
//! Welcome goes from one shard to others by the relay, and it may die with either. At the end every device that is in a roster
//! has had its Welcome once, joins with it, and reads on.
//!
//! A run is made by its seed: `VALISE_SEED=7` is that run alone. With `VALISE_LONG=1` (`./test --long`) there is more fire.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use valise_client_sdk::{AddFailure, Client, DeviceId, EventKind, Group, GroupId, Store, UserId, WhatNow};
use valise_local_stack::{LocalStack, RedisShape, StackOptions};
use valise_proto::delivery::v1::inbox_item::Item;
use valise_proto::delivery::v1::subscribe_response::Message as In;
use valise_proto::delivery::v1::{GetRatchetTreeRequest, WelcomeItem};
use valise_tests::crowd::{door, servers};
use valise_tests::faults::Faults;
use valise_tests::people::{Town, options, text};
use valise_tests::proxy::Proxy;
use valise_tests::raw::stream::Stream;
use valise_tests::raw::{Device, Door};
use valise_tests::wait::{until, within};

const REPLICAS: usize = 2;
/// They add.
const ADDERS: usize = 3;
/// They are added, half of them with the SDK and half without.
const JOINERS: usize = 10;
/// More groups than that no adder makes: a device gives so many packages to one other an hour.
const MOST_GROUPS: usize = 50;
const LIMIT: Duration = Duration::from_secs(300);

/// What is shown is on both replicas of a shard: either may be elected.
const WAIT_REPLICAS: (&str, &str) = ("VALISE_DELIVERY_REDIS__WAIT_REPLICAS", "2");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_added_device_gets_its_welcome_once() {
    let long = std::env::var_os("VALISE_LONG").is_some();
    let seed = std::env::var("VALISE_SEED").map_or(1, |seed| seed.parse().expect("VALISE_SEED is a number"));
    println!("VALISE_SEED={seed}");
    // At least one fault of each kind.
    let fire = Duration::from_secs(if long { 60 } else { 0 });
    let mut stack = start().await;
    let mut proxies = Vec::new();
    for number in 0..REPLICAS {
        proxies.push(Proxy::to(stack.delivery(number).port()).await);
    }
    let people = People::gather(&stack, &proxies).await;

    let stop = Arc::new(AtomicBool::new(false));
    let adding: Vec<JoinHandle<Vec<Group>>> = people
        .adders
        .iter()
        .enumerate()
        .map(|(number, adder)| {
            let random = StdRng::seed_from_u64(seed * 1000 + number as u64);
            tokio::spawn(keep_adding(
                Arc::clone(adder),
                people.users(),
                random,
                Arc::clone(&stop),
            ))
        })
        .collect();
    let injected = Faults::new(&mut stack, &proxies, seed).inject(fire).await;
    println!("seed {seed}: {injected}");
    stop.store(true, Ordering::Relaxed);
    let mut groups = Vec::new();
    for adder in adding {
        groups.extend(within(LIMIT, adder).await.unwrap());
    }

    let rosters = rosters(&groups).await;
    let welcomes: usize = rosters.values().map(BTreeSet::len).sum();
    println!("seed {seed}: {welcomes} Welcomes of {} groups", groups.len());
    assert!(welcomes > 3 * JOINERS, "{welcomes}: there was too little to do");
    nothing_is_left_to_relay(&stack).await;
    for device in &people.raw {
        let expected = rosters.get(&device.id).cloned().unwrap_or_default();
        has_each_once(&stack, device, &expected).await;
    }
    for group in &groups {
        within(LIMIT, group.send("after the fire")).await.unwrap();
    }
    for joiner in &people.joiners {
        let expected = rosters.get(&joiner.device.device()).cloned().unwrap_or_default();
        joiner.has_joined_and_reads(&expected).await;
    }
}

async fn start() -> LocalStack {
    LocalStack::start(StackOptions {
        authentication_replicas: 1,
        directory_replicas: 1,
        delivery_replicas: REPLICAS,
        redis: RedisShape::Cluster {
            primaries: 3,
            replicas_each: 2,
        },
        environment: vec![(WAIT_REPLICAS.0.to_owned(), WAIT_REPLICAS.1.to_owned())],
        ..StackOptions::default()
    })
    .await
}

struct People {
    adders: Vec<Arc<Client>>,
    joiners: Vec<Joiner>,
    raw: Vec<Device>,
}

impl People {
    async fn gather(stack: &LocalStack, proxies: &[Proxy]) -> Self {
        let code = stack.administrator_code().unwrap();
        let town = Town::at(servers(stack, proxies[0].url()), code, stack.domain()).await;
        let client = async |name: String, number: usize, packages: usize| {
            let servers = servers(stack, proxies[number % REPLICAS].url());
            Arc::new(
                town.device_at(servers, &name, Store::memory(), options(packages))
                    .await,
            )
        };
        let mut people = Self {
            adders: Vec::new(),
            joiners: Vec::new(),
            raw: Vec::new(),
        };
        for number in 0..ADDERS {
            people
                .adders
                .push(client(format!("adder{number}"), number, 1).await);
        }
        for number in 0..JOINERS / 2 {
            let device = client(format!("joiner{number}"), number, 50).await;
            people.joiners.push(Joiner::begin(device));
            let device =
                Device::enrol_at(door(stack, 0).await, &town.code(&format!("raw{number}")).await).await;
            device.publish(150).await;
            people.raw.push(device);
        }
        people
    }

    fn users(&self) -> Vec<UserId> {
        let joiners = self.joiners.iter().map(|joiner| joiner.device.user().clone());
        joiners
            .chain(self.raw.iter().map(|device| device.user.clone()))
            .collect()
    }
}

/// Makes groups and adds everybody, one to three at a time, until it is told to stop.
async fn keep_adding(
    adder: Arc<Client>,
    mut users: Vec<UserId>,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
) -> Vec<Group> {
    let mut groups = Vec::new();
    while !stop.load(Ordering::Relaxed) && groups.len() < MOST_GROUPS {
        let group = adder.create_group("under fire").await.unwrap();
        groups.push(group.clone());
        users.shuffle(&mut random);
        let mut left = users.as_slice();
        while !left.is_empty() && !stop.load(Ordering::Relaxed) {
            let (next, rest) = left.split_at(random.random_range(1..=3).min(left.len()));
            match group.add(next).await {
                Ok(added) => {
                    // Of a try whose answer was lost.
                    let mut failures = added.failed.iter().map(|(.., failure)| *failure);
                    assert!(
                        failures.all(|failure| failure == AddFailure::AlreadyMember),
                        "{added:?}"
                    );
                    left = rest;
                }
                // The directory was asked while its store was away.
                Err(error) if error.what_now() == WhatNow::Retry => {}
                Err(error) => panic!("{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(50..250))).await;
        }
    }
    groups
}

/// Which devices are in which groups. What an adder commits last comes after all that it did before.
async fn rosters(groups: &[Group]) -> BTreeMap<DeviceId, BTreeSet<GroupId>> {
    let mut rosters: BTreeMap<DeviceId, BTreeSet<GroupId>> = BTreeMap::new();
    for group in groups {
        within(LIMIT, group.self_update()).await.unwrap();
        for member in group.members().await.unwrap() {
            rosters.entry(member.device).or_default().insert(group.id());
        }
    }
    rosters
}

/// Waits until no shard has a hand-off.
async fn nothing_is_left_to_relay(stack: &LocalStack) {
    until("all hand-offs to be done", async || {
        for node in stack.redis().primaries().await {
            let redis = stack.redis().node(node);
            let keys = redis.command(&["KEYS", "{p*}out"]).await;
            for key in keys.lines().filter(|line| line.starts_with("{p")) {
                if redis.command(&["XLEN", key]).await != "0" {
                    return None;
                }
            }
        }
        Some(())
    })
    .await;
}

/// The device's inbox has one Welcome of each of these groups, numbered without a gap, and it joins with each.
async fn has_each_once(stack: &LocalStack, device: &Device, expected: &BTreeSet<GroupId>) {
    let door = door(stack, 0).await;
    let token = until("a token", async || device.new_token_at(&door).await.ok()).await;
    let door = door.with_token(&token);
    let mut stream = Stream::open(&door, Vec::new(), 0).await.unwrap();
    let (mut numbers, mut welcomes) = (Vec::new(), Vec::new());
    loop {
        match stream.next().await.unwrap() {
            In::InboxItem(item) => {
                numbers.push(item.number);
                stream.ack_inbox(item.number).await;
                if let Some(Item::Welcome(welcome)) = item.item {
                    welcomes.push(welcome);
                }
            }
            In::CaughtUp(_) => break,
            _ => {}
        }
    }
    assert!(numbers.is_sorted_by(|one, next| one < next), "in order");
    let groups: Vec<GroupId> = welcomes
        .iter()
        .map(|welcome| GroupId::try_from(&welcome.group_id[..]).unwrap())
        .collect();
    let once: BTreeSet<GroupId> = groups.iter().copied().collect();
    assert_eq!((once.len(), &once), (groups.len(), expected), "each once");
    for welcome in welcomes {
        joins(&door, device, welcome).await;
    }
}

async fn joins(door: &Door, device: &Device, welcome: WelcomeItem) {
    let request = GetRatchetTreeRequest {
        group_id: welcome.group_id.clone(),
        epoch: welcome.epoch,
    };
    let tree = until("the tree of an epoch", async || {
        door.delivery().get_ratchet_tree(request.clone()).await.ok()
    });
    let group = device.join(&welcome.welcome, &tree.await.into_inner().ratchet_tree);
    assert_eq!(group.epoch().as_u64(), welcome.epoch);
}

/// A device with the SDK, and what it has told.
struct Joiner {
    device: Arc<Client>,
    told: Arc<Mutex<Told>>,
    listening: JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    joined: Vec<GroupId>,
    read: Vec<GroupId>,
    troubles: Vec<String>,
}

impl Joiner {
    fn begin(device: Arc<Client>) -> Self {
        let told = Arc::default();
        let listening = tokio::spawn(listen(Arc::clone(&device), Arc::clone(&told)));
        Self {
            device,
            told,
            listening,
        }
    }

    async fn has_joined_and_reads(&self, expected: &BTreeSet<GroupId>) {
        until("a joiner to read in all of its groups", async || {
            let told = self.told.lock();
            (told.read.len() >= expected.len() || !told.troubles.is_empty()).then_some(())
        })
        .await;
        let told = self.told.lock();
        assert!(told.troubles.is_empty(), "{:?}", told.troubles);
        for groups in [&told.joined, &told.read] {
            let once: BTreeSet<GroupId> = groups.iter().copied().collect();
            assert_eq!((once.len(), &once), (groups.len(), expected), "each once");
        }
    }
}

impl Drop for Joiner {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(device: Arc<Client>, told: Arc<Mutex<Told>>) {
    let mut events = device.events();
    while let Some(event) = events.next().await {
        {
            let mut told = told.lock();
            match &event.kind {
                EventKind::Joined { .. } => told.joined.push(event.group),
                EventKind::Message { .. } if text(&event).as_deref() == Some("after the fire") => {
                    told.read.push(event.group);
                }
                EventKind::HeldByBadCommit { .. }
                | EventKind::Quarantined { .. }
                | EventKind::LogRegressed { .. }
                | EventKind::Lost
                | EventKind::Unreadable { .. }
                | EventKind::WelcomeUnusable { .. }
                | EventKind::Removed { .. } => told.troubles.push(format!("{event:?}")),
                _ => {}
            }
        }
        if device.confirm(event.id).await.is_err() {
            return;
        }
    }
}
