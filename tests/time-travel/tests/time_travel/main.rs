//! More than a year of a deployment in a minute: certificates, key packages and retention end, devices are away, the services
//! restart, and nobody is forked out (checklist K4, O6, C3, C4, S5, T10, T11).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed set-up is a failed test"
)]

mod deployment;

use std::collections::BTreeSet;
use std::time::Duration;

use valise_client_sdk::{
    AddFailure, Client, DeviceId, EventKind, Group, GroupId, GroupStatus, Options, Position, Reason, Store,
    StoreKey, UserId,
};
use valise_tests::people::{Town, event, joined, options};
use valise_tests::raw::{Device, Plan};
use valise_tests::wait::{soon, until};
use valise_time_travel::travel;

use deployment::{DOMAIN, Deployment};

const DAY: Duration = Duration::from_hours(24);
/// Devices that are in touch look after their keys at least this often.
const STEP: u32 = 10;

/// A person with one device.
struct Person {
    name: &'static str,
    store: Store,
    id: DeviceId,
    /// While it is on.
    client: Option<Client>,
}

impl Person {
    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is on")
    }

    async fn off(&mut self) {
        let client = self.client.take().expect("it is on");
        soon(client.close()).await;
    }

    async fn on(&mut self) {
        let client = Client::open_with(self.store.clone(), settings()).await.unwrap();
        self.client = Some(client);
        self.tend().await;
    }

    /// Does what is due, and hears what there is to hear.
    async fn tend(&self) {
        let client = self.client();
        soon(client.upkeep()).await.unwrap();
        soon(client.synced()).await.unwrap();
    }

    async fn group(&self, id: GroupId) -> Group {
        self.client()
            .group(id)
            .await
            .unwrap()
            .expect("it knows the group")
    }

    /// The events that are there by now, all of them.
    async fn events(&self, last: GroupId) -> Vec<EventKind> {
        // A message of its own is behind all others.
        let mark = self.group(last).await.send("mark").await.unwrap();
        let mut events = self.client().events();
        let mut seen = Vec::new();
        loop {
            let event = soon(events.next()).await.unwrap();
            self.client().confirm(event.id).await.unwrap();
            let is_mark = event.group == last && event.position == mark.position;
            seen.push(event.kind);
            if is_mark {
                return seen;
            }
        }
    }
}

fn settings() -> Options {
    let mut options = options(5);
    options.commit_delay = Duration::ZERO;
    options.key_upkeep.evict_stale = Some(DAY * 30);
    options.rejoin.invitation_wait = Duration::from_secs(1);
    options
}

struct World {
    deployment: Deployment,
    town: Town,
    stores: tempfile::TempDir,
    today: u32,
}

impl World {
    async fn new() -> Self {
        let deployment = Deployment::start().await;
        let town = Town::at(deployment.servers(), &deployment.administrator_code, DOMAIN).await;
        Self {
            deployment,
            town,
            stores: tempfile::tempdir().unwrap(),
            today: 0,
        }
    }

    async fn person(&self, name: &'static str) -> Person {
        let file = self.stores.path().join(name);
        let store = Store::file(file, StoreKey::random());
        let client = self.town.device_with(name, store.clone(), settings()).await;
        // With an empty stock nobody could add it.
        soon(client.synced()).await.unwrap();
        Person {
            name,
            store,
            id: client.device(),
            client: Some(client),
        }
    }

    /// It becomes that day, step by step, while those who are on do what is due.
    async fn until(&mut self, day: u32, people: &[&Person]) {
        while self.today < day {
            let days = (day - self.today).min(STEP);
            self.today += days;
            travel(DAY * days);
            soon(self.town.administrator().upkeep()).await.unwrap();
            for person in people {
                person.tend().await;
            }
        }
    }
}

async fn info(person: &Person, group: GroupId) -> (GroupStatus, Position, Vec<u8>) {
    let info = person.group(group).await.info().await.unwrap();
    (info.status, info.position, info.epoch_authenticator)
}

/// They are in the same epoch of the group, and these are all its members.
async fn agree(group: GroupId, people: &[&Person], members: &[&Person]) {
    let expected: BTreeSet<DeviceId> = members.iter().map(|person| person.id).collect();
    until("all agree", async || {
        let mut authenticators = BTreeSet::new();
        for person in people {
            soon(person.client().synced()).await.unwrap();
            let (status, _, authenticator) = info(person, group).await;
            assert_ne!(
                status,
                GroupStatus::HeldByBadCommit,
                "{} is forked out",
                person.name
            );
            assert_ne!(status, GroupStatus::Quarantined, "{}", person.name);
            if status != GroupStatus::Active {
                return None;
            }
            let found = person.group(group).await.members().await.unwrap();
            if found.iter().map(|member| member.device).collect::<BTreeSet<_>>() != expected {
                return None;
            }
            authenticators.insert(authenticator);
        }
        (authenticators.len() == 1).then_some(())
    })
    .await;
}

async fn add(by: &Person, group: GroupId, whom: &Person) -> Result<(), AddFailure> {
    let user: UserId = format!("{}@{DOMAIN}", whom.name).parse().unwrap();
    let added = soon(by.group(group).await.add(&[user])).await.unwrap();
    match added.failed.first() {
        None => Ok(()),
        Some((_, _, failure)) => Err(*failure),
    }
}

fn came_back(events: &[EventKind]) -> bool {
    events
        .iter()
        .any(|kind| matches!(kind, EventKind::Rejoined { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_days() {
    let mut world = World::new().await;
    let alice = world.person("alice").await;
    let mut bob = world.person("bob").await;
    let mut carol = world.person("carol").await;
    let mut erin = world.person("erin").await;
    let cabinet = alice.client().create_group("Cabinet").await.unwrap().id();
    for whom in [&bob, &carol] {
        add(&alice, cabinet, whom).await.unwrap();
        joined(whom.client(), cabinet).await;
    }
    agree(cabinet, &[&alice, &bob, &carol], &[&alice, &bob, &carol]).await;
    // Nobody hears of Carol again. Erin's key packages, of this day, end with day 84; her certificate with day 90.
    carol.off().await;
    erin.off().await;

    world.until(20, &[&alice, &bob]).await;
    let mut frank = world.person("frank").await;
    let mut grace = world.person("grace").await;
    grace.off().await;
    let quiet = alice.client().create_group("").await.unwrap().id();
    add(&alice, quiet, &frank).await.unwrap();
    joined(frank.client(), quiet).await;
    world.until(50, &[&alice, &bob, &frank]).await;
    agree(quiet, &[&alice, &frank], &[&alice, &frank]).await;

    // A package of Erin's is claimed while that is allowed, and kept.
    let mut mallory =
        Device::enrol_at(world.deployment.door().await, &world.town.code("mallory").await).await;
    let mut hers = mallory.new_group();
    mallory.register(&hers).await.unwrap();
    let kept = mallory.claim(vec![format!("erin@{DOMAIN}")]).await;

    // Bob and Frank are away when Erin is added, with a package that lives for another 31 days.
    bob.off().await;
    frank.off().await;
    world.until(53, &[&alice]).await;
    add(&alice, quiet, &erin).await.unwrap();
    add(&alice, cabinet, &erin).await.unwrap();
    add(&alice, cabinet, &grace).await.unwrap();
    alice.group(cabinet).await.send("with erin").await.unwrap();

    // What ends within the time that entries are kept is neither handed out nor accepted any more.
    world.until(70, &[&alice]).await;
    let late = alice.client().create_group("Late").await.unwrap().id();
    assert_eq!(
        add(&alice, late, &erin).await,
        Err(AddFailure::NoKeyPackage),
        "K4, at the claim"
    );
    let token = mallory.new_token().await.unwrap();
    mallory.door = mallory.door.with_token(&token);
    let bundle = mallory.commit(&mut hers, Plan::add(kept));
    let refusal = mallory.submit(&bundle).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::InvalidCommit, "K4, at the commit");

    // So who was away for less than that reads the Add.
    world.until(82, &[&alice]).await;
    bob.on().await;
    agree(cabinet, &[&alice, &bob], &[&alice, &bob, &carol, &erin, &grace]).await;
    assert!(!came_back(&bob.events(cabinet).await), "he has read it");

    // Erin comes when her package has ended, and the messages after her invitation are gone.
    world.until(86, &[&alice, &bob]).await;
    erin.on().await;
    let everybody = [&alice, &bob, &carol, &erin, &grace];
    agree(cabinet, &[&alice, &bob, &erin], &everybody).await;
    agree(quiet, &[&alice, &erin], &[&alice, &erin, &frank]).await;

    // Frank was away for longer than that: what he would have to read next is an Add that cannot be read any more.
    world.until(100, &[&alice, &bob, &erin]).await;
    frank.on().await;
    agree(quiet, &[&alice, &erin, &frank], &[&alice, &erin, &frank]).await;
    assert!(came_back(&frank.events(quiet).await));
    // Grace was, too, and her invitation is gone: she comes in as a member that lost its place.
    world.deployment.forgets_invitations().await;
    grace.on().await;
    until("grace is in", async || {
        grace.client().group(cabinet).await.unwrap()
    })
    .await;
    let everybody = [&alice, &bob, &carol, &erin, &grace];
    agree(cabinet, &[&alice, &bob, &erin, &grace], &everybody).await;

    // The services know their groups after a restart, though no Add of before can be replayed, and though Carol's leaf and
    // certificate have ended; and with her in it a new device joins.
    world.until(112, &[&alice, &bob, &erin, &frank, &grace]).await;
    world.deployment.restart_renewed().await;
    let dave = world.person("dave").await;
    add(&alice, cabinet, &dave).await.unwrap();
    joined(dave.client(), cabinet).await;
    let everybody = [&alice, &bob, &carol, &dave, &erin, &grace];
    agree(cabinet, &[&alice, &bob, &dave, &erin, &grace], &everybody).await;

    // Carol's certificate ended 30 days ago: she is removed.
    world
        .until(119, &[&alice, &bob, &dave, &erin, &frank, &grace])
        .await;
    agree(cabinet, &[&alice], &everybody).await;
    world
        .until(130, &[&alice, &bob, &dave, &erin, &frank, &grace])
        .await;
    // It is the time of the group's newest entry that counts, and nobody may have new keys to show just now.
    alice.group(cabinet).await.send("still here").await.unwrap();
    soon(alice.client().synced()).await.unwrap();
    alice.tend().await;
    agree(
        cabinet,
        &[&alice, &bob, &dave, &erin, &grace],
        &[&alice, &bob, &dave, &erin, &grace],
    )
    .await;

    // Bob is away for longer than entries are kept, and comes back by himself.
    let (_, left_at, _) = info(&bob, cabinet).await;
    bob.events(cabinet).await;
    bob.off().await;
    for text in ["one", "two", "three"] {
        alice.group(cabinet).await.send(text).await.unwrap();
    }
    world.until(165, &[&alice, &dave, &erin, &frank, &grace]).await;
    alice.group(cabinet).await.send("four").await.unwrap();
    world.deployment.has_forgotten(cabinet, left_at.0 + 3).await;
    bob.on().await;
    let missed = event(bob.client(), &mut bob.client().events(), |event| {
        match &event.kind {
            EventKind::Rejoined { missed } => *missed,
            _ => None,
        }
    })
    .await;
    assert!(missed.0 > left_at && missed.1.0 > left_at.0 + 3, "{missed:?}");
    agree(
        cabinet,
        &[&alice, &bob, &dave, &erin, &grace],
        &[&alice, &bob, &dave, &erin, &grace],
    )
    .await;

    // A year later: whoever had not renewed certificate and keys would have been refused or removed by now.
    world
        .until(400, &[&alice, &bob, &dave, &erin, &frank, &grace])
        .await;
    world.deployment.restart().await;
    for person in [&alice, &bob, &dave, &erin, &frank, &grace] {
        person.tend().await;
    }
    soon(bob.group(cabinet).await.self_update()).await.unwrap();
    agree(
        cabinet,
        &[&alice, &bob, &dave, &erin, &grace],
        &[&alice, &bob, &dave, &erin, &grace],
    )
    .await;
    agree(quiet, &[&alice, &erin, &frank], &[&alice, &erin, &frank]).await;

    // And everybody can be asked into a new group: whoever is on has usable key packages at the directory.
    let new = frank.client().create_group("New").await.unwrap().id();
    for whom in [&alice, &bob, &dave, &erin, &grace] {
        assert_eq!(add(&frank, new, whom).await, Ok(()), "{}", whom.name);
        joined(whom.client(), new).await;
    }
    let everybody = [&alice, &bob, &dave, &erin, &frank, &grace];
    agree(new, &everybody, &everybody).await;

    // The certificate of the delivery service that the first groups name ended with day 365; it has another one for the same key. A device that
    // knows only that one joins them, and one that is revoked is removed from them.
    let heidi = world.person("heidi").await;
    add(&alice, cabinet, &heidi).await.unwrap();
    joined(heidi.client(), cabinet).await;
    let administrator = world.town.administrator();
    administrator.revoke_device(grace.id).await.unwrap();
    let left = [&alice, &bob, &dave, &erin, &heidi];
    agree(cabinet, &left, &left).await;
    for mut person in [alice, bob, dave, erin, frank, grace, heidi] {
        person.off().await;
    }
}
