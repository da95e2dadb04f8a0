//! A delivery service that shows devices different logs (RFC 9750 §8.1, `docs/verifiable-delivery.md`): whatever it drops, adds, reorders or changes, the
//! devices notice with the next message between them; and what is only badly delivered is repaired and changes nothing.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::time::Duration;

use prost::Message as _;
use valise_client_sdk::{
    Client, DeviceId, EventId, EventKind, Events, Group, GroupId, GroupStatus, Role, Store, StoreKey, UserId,
};
use valise_proto::delivery::v1 as wire;
use valise_tests::liar::{Liar, Lie};
use valise_tests::people::{Town, event, joined, options, text};
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

/// A device that has been told everything so far, and what it hears from then on.
struct Ear {
    client: Client,
    events: Events,
}

/// What a device heard of one group, in order.
#[derive(Default, Debug)]
struct Heard {
    texts: Vec<String>,
    /// Who was shown another history, with the entry that says so.
    forks: Vec<(DeviceId, wire::Entry)>,
    others: Vec<EventKind>,
}

impl Heard {
    /// The entry with which that device has told that it was shown another history.
    fn of(&self, device: DeviceId) -> &wire::Entry {
        let fork = self.forks.iter().find(|(from, _)| *from == device);
        &fork.unwrap().1
    }
}

impl Ear {
    fn of(client: Client) -> Self {
        let events = client.events();
        Self { client, events }
    }

    fn device(&self) -> DeviceId {
        self.client.device()
    }

    async fn group(&self, group: GroupId) -> Group {
        self.client.group(group).await.unwrap().unwrap()
    }

    /// All that it hears of a group until it hears that, or something for which it is asked.
    async fn until(&mut self, group: GroupId, last: impl Fn(&EventKind, Option<&str>) -> bool) -> Heard {
        let listening = async {
            let mut heard = Heard::default();
            loop {
                let event = self.events.next().await.unwrap();
                if event.id != EventId::NONE {
                    self.client.confirm(event.id).await.unwrap();
                }
                if event.group != group {
                    continue;
                }
                let said = text(&event);
                let is_last = last(&event.kind, said.as_deref());
                match (event.kind, said) {
                    (_, Some(text)) => heard.texts.push(text),
                    (EventKind::DeliveryForked { sender, evidence, .. }, None) => {
                        let entry = wire::Entry::decode(evidence.as_slice()).unwrap();
                        heard.forks.push((sender.device, entry));
                    }
                    (other, None) => heard.others.push(other),
                }
                if is_last {
                    return heard;
                }
            }
        };
        soon(listening).await
    }

    async fn hears(&mut self, group: GroupId, last: &str) -> Heard {
        self.until(group, |_, text| text == Some(last)).await
    }
}

/// Alice and Carol are connected to the service, Bob and Dave each to a liar.
struct Scene {
    service: Service,
    alice: Ear,
    bob: Ear,
    carol: Ear,
    dave: Ear,
    to_bob: Liar,
    to_dave: Liar,
    others: Vec<UserId>,
}

impl Scene {
    async fn set() -> Self {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let (to_bob, to_dave) = (Liar::before(&service).await, Liar::before(&service).await);
        let device = |servers, name| town.device_at(servers, name, Store::memory(), options(20));
        let bob = device(to_bob.servers(), "bob").await;
        let dave = device(to_dave.servers(), "dave").await;
        Self {
            alice: Ear::of(town.device("alice").await),
            bob: Ear::of(bob),
            carol: Ear::of(town.device("carol").await),
            dave: Ear::of(dave),
            others: ["bob", "carol", "dave"].map(|name| town.user(name)).to_vec(),
            service,
            to_bob,
            to_dave,
        }
    }

    /// A group of all four, in which all have heard the same. Says how long its log is.
    async fn group(&mut self) -> (GroupId, u64) {
        let group = self.alice.client.create_group("").await.unwrap();
        group.add(&self.others).await.unwrap();
        let id = group.id();
        for ear in [&self.bob, &self.carol, &self.dave] {
            joined(&ear.client, id).await;
        }
        let sent = group.send("welcome").await.unwrap();
        for ear in [&mut self.alice, &mut self.bob, &mut self.carol, &mut self.dave] {
            ear.hears(id, "welcome").await;
        }
        (id, sent.position.0)
    }

    /// Carol says something, and Alice has heard all of it.
    async fn carol_says(&mut self, id: GroupId, texts: &[&str]) {
        let group = self.carol.group(id).await;
        for &text in texts {
            group.send(text).await.unwrap();
        }
        self.alice.hears(id, texts.last().unwrap()).await;
    }
}

const SAID: [&str; 3] = ["one", "two", "three"];

/// Bob is told a lie about what Carol says: he and Alice notice, each by what the other says next. Says what Bob heard of Carol.
async fn both_notice(scene: &mut Scene, lie: impl Fn(u64) -> Lie) -> Vec<String> {
    let (id, last) = scene.group().await;
    // About the second of three.
    let lie = lie(last + 2);
    scene.to_bob.lie(id, lie);
    scene.carol_says(id, &SAID).await;
    let (hers, his) = (scene.alice.group(id).await, scene.bob.group(id).await);
    hers.send("have you heard?").await.unwrap();
    let heard = scene.bob.hears(id, "have you heard?").await;
    // Carol has read what she said first when she says the rest, so what she says may tell him already.
    let evidence = heard.of(scene.alice.device());
    assert_eq!(evidence.group_id, id.as_bytes().as_slice(), "{lie:?}");
    assert!(evidence.mls_message.windows(6).any(|bytes| bytes == b"valise"));
    let state = his.info().await.unwrap();
    assert_eq!(state.status, GroupStatus::Active, "{lie:?}");
    assert_eq!(state.forked_at.map(|at| at.0), Some(evidence.position), "{lie:?}");

    his.send("and you?").await.unwrap();
    let found = scene.alice.hears(id, "and you?").await;
    let who: Vec<_> = found.forks.iter().map(|(device, _)| *device).collect();
    assert_eq!(who, [scene.bob.device()], "{lie:?}: {found:?}");
    heard
        .texts
        .into_iter()
        .filter(|text| text != "have you heard?")
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_replayed_reordered_or_changed_is_noticed() {
    let mut scene = Scene::set().await;
    let heard = both_notice(&mut scene, Lie::Drop).await;
    assert_eq!(heard, ["one", "three"]);
    let heard = both_notice(&mut scene, Lie::Replay).await;
    assert_eq!(heard, SAID, "it is not shown twice");
    let heard = both_notice(&mut scene, Lie::Swap).await;
    assert_eq!(heard, ["one", "three", "two"]);
    let heard = both_notice(&mut scene, Lie::Later).await;
    assert_eq!(heard, SAID);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_with_different_histories_notice_each_other() {
    let mut scene = Scene::set().await;
    let (id, last) = scene.group().await;
    scene.to_bob.lie(id, Lie::Drop(last + 1));
    scene.to_dave.lie(id, Lie::Drop(last + 2));
    scene.carol_says(id, &SAID).await;
    let heard = scene.bob.hears(id, "three").await;
    assert_eq!(heard.texts, ["two", "three"]);
    let heard = scene.dave.hears(id, "three").await;
    assert_eq!(heard.texts, ["one", "three"]);

    scene.bob.group(id).await.send("two, three").await.unwrap();
    let heard = scene.dave.hears(id, "two, three").await;
    assert_eq!(heard.forks.len(), 1);
    assert_eq!(heard.forks[0].0, scene.bob.device());
    scene.dave.group(id).await.send("one, three").await.unwrap();
    let heard = scene.bob.hears(id, "one, three").await;
    assert_eq!(heard.forks.len(), 1);
    assert_eq!(heard.forks[0].0, scene.dave.device());
    // Who was shown everything hears of both.
    let heard = scene.alice.hears(id, "one, three").await;
    assert_eq!(heard.forks.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_from_another_history_is_merged_and_reported() {
    let mut scene = Scene::set().await;
    let (id, last) = scene.group().await;
    scene.to_bob.lie(id, Lie::Later(last + 2));
    scene.carol_says(id, &SAID).await;
    let hers = scene.alice.group(id).await;
    let carol = scene.carol.client.user().clone();
    hers.set_role(carol, Role::Moderator).await.unwrap();
    hers.send("after it").await.unwrap();
    let heard = scene.bob.hears(id, "after it").await;
    assert_eq!(heard.of(scene.alice.device()).kind(), wire::EntryKind::Commit);
    assert!(
        heard
            .others
            .iter()
            .any(|kind| matches!(kind, EventKind::RolesChanged { .. })),
        "{heard:?}"
    );
    let his = scene.bob.group(id).await.info().await.unwrap();
    let alices = hers.info().await.unwrap();
    assert_eq!(his.epoch_authenticator, alices.epoch_authenticator);
    let service = &scene.service;
    until("the report", async || {
        let reported = service.log().contains("a member was shown another log");
        reported.then_some(())
    })
    .await;

    // The new epoch begins alike.
    scene.bob.group(id).await.send("going on").await.unwrap();
    let heard = scene.alice.hears(id, "going on").await;
    assert!(heard.forks.is_empty(), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_delivery_is_repaired_and_no_alarm() {
    let mut scene = Scene::set().await;
    let lies: [fn(u64) -> Lie; 3] = [|_| Lie::Again, Lie::Gap, Lie::Late];
    for lie in lies {
        let (id, last) = scene.group().await;
        let lie = lie(last + 2);
        scene.to_bob.lie(id, lie);
        scene.carol_says(id, &SAID).await;
        scene.alice.group(id).await.send("all there?").await.unwrap();
        let heard = scene.bob.hears(id, "all there?").await;
        assert_eq!(heard.texts, ["one", "two", "three", "all there?"], "{lie:?}");
        assert!(
            heard.forks.is_empty() && heard.others.is_empty(),
            "{lie:?}: {heard:?}"
        );
        scene.bob.group(id).await.send("yes").await.unwrap();
        let heard = scene.alice.hears(id, "yes").await;
        assert!(
            heard.forks.is_empty() && heard.others.is_empty(),
            "{lie:?}: {heard:?}"
        );
        let state = scene.bob.group(id).await.info().await.unwrap();
        assert_eq!(
            (state.status, state.forked_at),
            (GroupStatus::Active, None),
            "{lie:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_entry_in_a_place_that_was_read_is_noticed() {
    let mut scene = Scene::set().await;
    let (id, last) = scene.group().await;
    scene.to_bob.lie(id, Lie::Instead(last + 2));
    scene.carol_says(id, &SAID).await;
    let heard = scene
        .bob
        .until(id, |kind, _| matches!(kind, EventKind::LogRegressed { .. }))
        .await;
    assert_eq!(heard.texts, ["one", "two"]);
    let Some(EventKind::LogRegressed { entry_id, evidence }) = heard.others.last() else {
        panic!("{heard:?}");
    };
    let shown = wire::Entry::decode(evidence.as_slice()).unwrap();
    assert_eq!(
        (&*shown.group_id, shown.position),
        (id.as_bytes().as_slice(), last + 2)
    );
    assert!(!entry_id.is_empty() && shown.entry_id != entry_id.as_slice());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_dropped_leaves_what_comes_after_it_as_evidence() {
    let mut scene = Scene::set().await;
    let (id, last) = scene.group().await;
    scene.to_bob.lie(id, Lie::Drop(last + 1));
    let hers = scene.alice.group(id).await;
    hers.self_update().await.unwrap();
    hers.send("of the next epoch").await.unwrap();
    let heard = scene
        .bob
        .until(id, |kind, _| matches!(kind, EventKind::Unreadable { .. }))
        .await;
    let his = scene.bob.group(id).await;
    let epoch = his.info().await.unwrap().epoch.0;
    let Some(EventKind::Unreadable { evidence, .. }) = heard.others.last() else {
        panic!("{heard:?}");
    };
    let entry = wire::Entry::decode(evidence.as_slice()).unwrap();
    assert_eq!(
        (entry.kind(), entry.epoch),
        (wire::EntryKind::Application, epoch + 1)
    );
    assert_eq!(his.info().await.unwrap().status, GroupStatus::Active);

    // A commit that leads on from the one he was not shown stops him.
    hers.self_update().await.unwrap();
    let heard = scene
        .bob
        .until(id, |kind, _| matches!(kind, EventKind::HeldByBadCommit { .. }))
        .await;
    let Some(EventKind::HeldByBadCommit { evidence, .. }) = heard.others.last() else {
        panic!("{heard:?}");
    };
    let entry = wire::Entry::decode(evidence.as_slice()).unwrap();
    assert_eq!((entry.kind(), entry.epoch), (wire::EntryKind::Commit, epoch + 1));
    let state = his.info().await.unwrap();
    assert_eq!(
        (state.status, state.epoch.0),
        (GroupStatus::HeldByBadCommit, epoch)
    );
    // The others go on.
    scene.carol.hears(id, "of the next epoch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_gets_its_invitation_comes_in_without_it_even_if_the_first_look_fails() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let liar = Liar::before(&service).await;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::file(folder.path().join("bob"), StoreKey::random());
    let mut options = options(5);
    options.rejoin.invitation_wait = Duration::ZERO;
    let code = town.code("bob").await;
    let enrolled = Client::enrol_with(liar.servers(), &code, "", store.clone(), options.clone());
    let bob = enrolled.await.unwrap();
    soon(bob.synced()).await.unwrap();

    liar.keep_invitations();
    let alice = town.device("alice").await;
    let group = alice.create_group("Budget").await.unwrap();
    group.add(&[bob.user()]).await.unwrap();
    bob.close().await;
    liar.refuse_to_list_once();
    let bob = Client::open_with(store, options).await.unwrap();
    let mut events = bob.events();
    event(&bob, &mut events, |event| {
        matches!(event.kind, EventKind::Rejoined { .. }).then_some(())
    })
    .await;
    let his = bob.group(group.id()).await.unwrap().unwrap();
    his.send("here").await.unwrap();
}
