//! Groups in each cipher suite, through the real services; and which suite a group gets that is made for certain users.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use futures::future::join_all;
use openmls::prelude::{DeserializeBytes as _, MlsMessageIn};
use valise_client_sdk::{
    AddFailure, CipherSuite, Client, Error, EventKind, Group, GroupStatus, Options, Store, StoreKey,
};
use valise_proto::{Position, Reason};
use valise_tests::command::run;
use valise_tests::homes::Homes;
use valise_tests::people::{Town, event, hears, joined, options};
use valise_tests::raw::Device;
use valise_tests::retention::{forget_entries, snapshot_after};
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

use CipherSuite::{MlKem768X25519Aes128, P256Aes128, X25519Aes128, X25519ChaCha20};

/// Of a device that can be in groups with these suites, and makes them with the first.
fn with(suites: &[CipherSuite]) -> Options {
    let mut options = options(5);
    options.cipher_suite = suites[0];
    options.key_packages.cipher_suites = suites.to_vec();
    options
}

async fn device(town: &Town, name: &str, suites: &[CipherSuite]) -> Client {
    town.device_with(name, Store::memory(), with(suites)).await
}

async fn authenticator(client: &Client, group: &Group) -> Vec<u8> {
    soon(client.synced()).await.unwrap();
    group.info().await.unwrap().epoch_authenticator
}

async fn suite(group: &Group) -> CipherSuite {
    group.info().await.unwrap().cipher_suite.unwrap()
}

/// A group in one suite: Alice made it, Bob is away for too long, Carol is removed, Dave's device is revoked.
struct Crew {
    suite: CipherSuite,
    alice: Client,
    hers: Group,
    dave: Client,
    daves: Group,
    bobs_store: Store,
    bob_left_at: Position,
}

impl Crew {
    /// Made, talked in, somebody removed, keys renewed; and Bob is gone, with the log going on.
    async fn at_work(town: &Town, suite: CipherSuite, folder: &std::path::Path) -> Self {
        let name = |who: &str| format!("{who}-{}", suite.number());
        let bobs_store = Store::file(folder.join(name("bob")), StoreKey::random());
        let alice = device(town, &name("alice"), &[suite]).await;
        let bob = town
            .device_with(&name("bob"), bobs_store.clone(), with(&[suite]))
            .await;
        let [carol, dave]: [Client; 2] =
            join_all(["carol", "dave"].map(|who| async move { device(town, &name(who), &[suite]).await }))
                .await
                .try_into()
                .unwrap();

        let hers = alice.create_group("Budget").await.unwrap();
        assert_eq!(self::suite(&hers).await, suite);
        let users = [bob.user().clone(), carol.user().clone()];
        let added = hers.add(&users).await.unwrap();
        assert_eq!((added.devices.len(), added.failed), (2, Vec::new()));
        let his = joined(&bob, hers.id()).await;
        let carols = joined(&carol, hers.id()).await;
        assert_eq!(self::suite(&his).await, suite);
        his.send("from bob").await.unwrap();
        hers.send("from alice").await.unwrap();
        for client in [&alice, &bob, &carol] {
            hears(client, "from bob").await;
            hears(client, "from alice").await;
        }
        his.self_update().await.unwrap();
        hers.remove(&[carol.user().clone()]).await.unwrap();
        until("carol is out", async || {
            (carols.info().await.unwrap().status == GroupStatus::Removed).then_some(())
        })
        .await;

        soon(bob.synced()).await.unwrap();
        let bob_left_at = his.info().await.unwrap().position;
        bob.close().await;
        hers.send("bob does not hear this").await.unwrap();
        hers.add(&[dave.user().clone()]).await.unwrap();
        let daves = joined(&dave, hers.id()).await;
        Self {
            suite,
            alice,
            hers,
            dave,
            daves,
            bobs_store,
            bob_left_at,
        }
    }

    /// Bob comes back by an external commit, and so does a new device of his; Dave's device goes by the service's proposal.
    async fn afterwards(self, town: &Town) {
        let bob = Client::open_with(self.bobs_store.clone(), with(&[self.suite]))
            .await
            .unwrap();
        let mut events = bob.events();
        event(&bob, &mut events, |event| {
            matches!(event.kind, EventKind::Rejoined { missed: Some(_) }).then_some(())
        })
        .await;
        let his = bob.group(self.hers.id()).await.unwrap().unwrap();
        his.send("I was away").await.unwrap();
        hears(&self.alice, "I was away").await;
        hears(&self.dave, "I was away").await;

        let name = format!("bob-{}", self.suite.number());
        let phone = device(town, &name, &[self.suite]).await;
        let on_phone = soon(phone.come_in(self.hers.id())).await.unwrap();

        town.administrator()
            .revoke_device(self.dave.device())
            .await
            .unwrap();
        until("dave's device is out", async || {
            let members = self.hers.members().await.unwrap();
            let there = members.iter().any(|member| member.device == self.dave.device());
            (!there && members.len() == 3).then_some(())
        })
        .await;
        self.hers.send("without dave").await.unwrap();
        for (client, group) in [(&bob, &his), (&phone, &on_phone)] {
            hears(client, "without dave").await;
            assert_eq!(
                authenticator(client, group).await,
                authenticator(&self.alice, &self.hers).await
            );
        }
        assert!(self.daves.send("from outside").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_groups_whole_life_in_each_suite() {
    let mut service = Service::start().await;
    let town = Town::of(&service).await;
    let folder = tempfile::tempdir().unwrap();
    let crews = join_all(CipherSuite::ALL.map(|suite| Crew::at_work(&town, suite, folder.path()))).await;
    for crew in &crews {
        snapshot_after(&service, crew.hers.id(), crew.bob_left_at).await;
    }
    service.kill().await;
    for crew in &crews {
        forget_entries(&service, crew.hers.id());
    }
    service.restart().await;
    join_all(crews.into_iter().map(|crew| crew.afterwards(&town))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_gets_the_best_suite_that_its_first_members_share() {
    let service = Service::start_with(&["--suites", "0x004F,0x0003,0x0001,0x0002"]).await;
    let town = Town::of(&service).await;
    let all = [X25519Aes128, X25519ChaCha20, MlKem768X25519Aes128];
    let (alice, ben, cleo, dora, emil) = tokio::join!(
        device(&town, "alice", &all),
        device(&town, "ben", &[X25519Aes128, MlKem768X25519Aes128]),
        device(&town, "cleo", &[X25519Aes128, X25519ChaCha20]),
        device(&town, "dora", &[X25519Aes128]),
        device(&town, "emil", &[P256Aes128]),
    );
    for (with, expected) in [
        (vec![&ben], MlKem768X25519Aes128),
        (vec![&cleo], X25519ChaCha20),
        (vec![&ben, &cleo], X25519Aes128),
        (vec![&ben, &dora], X25519Aes128),
    ] {
        let users: Vec<_> = with.iter().map(|client| client.user().clone()).collect();
        let made = alice.create_group_with("", &users).await.unwrap();
        assert_eq!(suite(&made.group).await, expected);
        assert_eq!(
            (made.added.devices.len(), made.added.failed),
            (with.len(), vec![])
        );
        made.group.send("hello").await.unwrap();
        for client in with {
            let there = joined(client, made.group.id()).await;
            assert_eq!(suite(&there).await, expected);
        }
    }

    // All of a user's devices count, and those without a package or unknown do not.
    let nobody = town.user("nobody");
    let bens_phone = device(&town, "ben", &[X25519Aes128, X25519ChaCha20]).await;
    let users = [ben.user().clone(), nobody.clone()];
    let made = alice.create_group_with("", &users).await.unwrap();
    assert_eq!(suite(&made.group).await, X25519Aes128);
    assert_eq!(made.added.devices.len(), 2);
    assert_eq!(made.added.failed, [(nobody, None, AddFailure::UnknownUser)]);
    joined(&bens_phone, made.group.id()).await;

    // Who comes later must have the group's suite: the others are added, this one is named.
    let pq = alice
        .create_group_with("", &[alice.user().clone()])
        .await
        .unwrap()
        .group;
    assert_eq!(suite(&pq).await, MlKem768X25519Aes128, "it is alone");
    let added = pq.add(&[ben.user().clone(), emil.user().clone()]).await.unwrap();
    assert_eq!(added.devices, [(ben.user().clone(), ben.device())]);
    let failed = |client: &Client| {
        let failure = AddFailure::NoKeyPackage;
        (client.user().clone(), Some(client.device()), failure)
    };
    let mut expected = vec![failed(&bens_phone), failed(&emil)];
    expected.sort_by_key(|(user, ..)| user.to_string());
    assert_eq!(added.failed, expected);

    // Nothing is made for those who share none.
    let groups = alice.groups().await.unwrap().len();
    let users = [dora.user().clone(), emil.user().clone()];
    let refused = alice.create_group_with("", &users).await.unwrap_err();
    assert!(matches!(refused, Error::NoSharedSuite), "{refused}");
    assert_eq!(alice.groups().await.unwrap().len(), groups);
    let alone = emil.create_group("").await.unwrap();
    let added = alone.add(&[dora.user().clone()]).await.unwrap();
    assert_eq!(added.failed, [failed(&dora)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_keeps_the_kind_of_key_that_it_enrolled_with() {
    let service = Service::start_with(&["--suites", "0x0001,0x0002"]).await;
    let town = Town::of(&service).await;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::file(folder.path().join("alice"), StoreKey::random());
    let alice = town
        .device_with("alice", store.clone(), with(&[P256Aes128]))
        .await;
    alice.close().await;
    for other in [X25519Aes128, MlKem768X25519Aes128] {
        let refused = Client::open_with(store.clone(), with(&[other]))
            .await
            .unwrap_err();
        assert!(matches!(refused, Error::SuiteOfOtherKey(suite) if suite == other));
    }
    let alice = Client::open_with(store, with(&[P256Aes128])).await.unwrap();
    alice.create_group("").await.unwrap();

    // No device is in suites of both kinds, and the code is not used up by trying.
    let code = town.code("bob").await;
    let mixed = with(&[X25519Aes128, P256Aes128]);
    let refused = Client::enrol_with(service.url(), &code, "", Store::memory(), mixed).await;
    assert!(matches!(refused, Err(Error::SuiteOfOtherKey(P256Aes128))));
    let bob = Client::enrol_with(
        service.url(),
        &code,
        "",
        Store::memory(),
        with(&[MlKem768X25519Aes128]),
    );
    let bob = bob.await.unwrap();
    // The deployment decides which suites groups may have.
    let refused = bob.create_group("").await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::InvalidGroupInfo), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_stays_as_it_is_whatever_is_wrong_with_another_enrolment() {
    let service = Service::start_with(&["--suites", "0x0001,0x0002"]).await;
    let homes = Homes::of(&service).await;
    let enrol = async |server: &str, suites: &str| {
        let code = run(homes.command("admin", &["admin", "code", &homes.user("alice"), "--json"]));
        let code: serde_json::Value = serde_json::from_str(&code.await.ok()).unwrap();
        let code = code["code"].as_str().unwrap();
        let arguments = [
            "enrol", "--server", server, "--code", code, "--name", "a", "--suites", suites,
        ];
        run(homes.command("alice", &arguments)).await
    };
    enrol(service.url(), "0x0002").await.ok();
    for (server, suites) in [
        ("ftp://valise.example", "0x0001"),
        (service.url(), "0x0001"),
        (service.url(), "0x0001,0x0002"),
    ] {
        let ended = enrol(server, suites).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("already"), "{ended:?}");
        homes.new_group("alice", "still a device with a P-256 key").await;
    }
}

/// Pure ML-KEM, and what no suite is: whoever would make such a group is told which rule forbids it.
#[tokio::test(flavor = "multi_thread")]
async fn groups_with_pure_ml_kem_are_not_made() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = Device::enrol(&service, &town.code("alice").await).await;
    let group = alice.new_group();
    let (info, tree) = alice.registration(&group);
    // MLSMessage (version, wire format), GroupInfo, GroupContext: version, cipher suite.
    let suite_at = 6..8;
    assert_eq!(info[suite_at.clone()], 1_u16.to_be_bytes());
    for suite in [0x0042_u16, 0x0050, 0x0051, 0x0906, 0x0907, 0xF042] {
        let mut changed = info.clone();
        changed[suite_at.clone()].copy_from_slice(&suite.to_be_bytes());
        MlsMessageIn::tls_deserialize_exact_bytes(&changed).unwrap();
        let refusal = alice.register_bytes(changed, tree.clone()).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidGroupInfo);
        assert_eq!(refusal.metadata["rule"], "cipher_suite", "{suite:#06x}");
    }
    alice.register_bytes(info, tree).await.unwrap();
}
