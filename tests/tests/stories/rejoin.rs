//! Devices that come back by themselves: after they were away too long, after a store was lost; and one that a bad commit holds, which
//! comes back only when it is told to.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use valise_client_sdk::{
    ByItself, Client, DeviceId, Event, EventKind, Group, GroupId, GroupStatus, Options, Position, Reason,
    Store, StoreKey,
};
use valise_tests::people::{Town, event, hears, joined, options};
use valise_tests::raw::{Device, Plan};
use valise_tests::retention::{database, forget_entries, snapshot_after};
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

/// How many commits a device has in a group's log.
fn commits(service: &Service, group: GroupId, device: DeviceId) -> i64 {
    database(service)
        .query_row(
            "SELECT count(*) FROM entries WHERE kind = 1 AND sender = ?2
             AND group_number = (SELECT number FROM groups WHERE group_id = ?1)",
            rusqlite::params![group.as_bytes(), device.as_uuid().as_bytes()],
            |row| row.get(0),
        )
        .unwrap()
}

/// What a device missed that is back.
fn rejoined(event: &Event) -> Option<(Position, Position)> {
    match event.kind {
        EventKind::Rejoined { missed } => missed,
        _ => None,
    }
}

async fn status(group: &Group) -> GroupStatus {
    group.info().await.unwrap().status
}

async fn authenticator(client: &Client, group: &Group) -> Vec<u8> {
    soon(client.synced()).await.unwrap();
    group.info().await.unwrap().epoch_authenticator
}

#[tokio::test(flavor = "multi_thread")]
async fn away_for_longer_than_entries_are_kept() {
    let mut service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = town.device("alice").await;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::file(folder.path().join("bob.valise"), StoreKey::random());
    let bob = town.device_with("bob", store.clone(), options(5)).await;
    let hers = alice.create_group("Budget").await.unwrap();
    hers.add(&[town.user("bob")]).await.unwrap();
    joined(&bob, hers.id()).await;
    soon(bob.synced()).await.unwrap();
    let left_at = bob
        .group(hers.id())
        .await
        .unwrap()
        .unwrap()
        .info()
        .await
        .unwrap()
        .position;
    let bobs_device = bob.device();
    bob.close().await;

    for n in 0..5 {
        hers.send(n.to_string()).await.unwrap();
    }
    let _carol = town.device("carol").await;
    hers.add(&[town.user("carol")]).await.unwrap();
    snapshot_after(&service, hers.id(), left_at).await;
    service.kill().await;
    forget_entries(&service, hers.id());

    // Bob writes something before he is in touch again.
    let bob = Client::open_with(store, options(5)).await.unwrap();
    let his = bob.group(hers.id()).await.unwrap().unwrap();
    let writing = tokio::spawn({
        let his = his.clone();
        async move { his.send("I was away").await }
    });
    service.restart().await;
    let mut events = bob.events();
    let (first, last) = event(&bob, &mut events, rejoined).await;
    assert_eq!(first, left_at.next());
    let sent = soon(writing).await.unwrap().unwrap();
    assert!(last < sent.position);
    assert_eq!(status(&his).await, GroupStatus::Active);

    let mut seen = alice.events();
    let who = event(&alice, &mut seen, |event| match &event.kind {
        EventKind::CameBack { peer, .. } => Some(peer.device),
        _ => None,
    })
    .await;
    assert_eq!(who, bobs_device);
    hears(&alice, "I was away").await;
    hers.send("welcome back").await.unwrap();
    hears(&bob, "welcome back").await;
    assert_eq!(
        authenticator(&alice, &hers).await,
        authenticator(&bob, &his).await
    );
    assert_eq!(his.members().await.unwrap().len(), 3);
    assert_eq!(commits(&service, hers.id(), bobs_device), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn once_though_the_stream_breaks_while_the_backlog_comes() {
    let mut service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = town.device("alice").await;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::file(folder.path().join("bob.valise"), StoreKey::random());
    let bob = town.device_with("bob", store.clone(), options(5)).await;
    let (lost, long) = (
        alice.create_group("lost").await.unwrap(),
        alice.create_group("long").await.unwrap(),
    );
    for group in [&lost, &long] {
        group.add(&[town.user("bob")]).await.unwrap();
        joined(&bob, group.id()).await;
    }
    soon(bob.synced()).await.unwrap();
    let left_at = bob
        .group(lost.id())
        .await
        .unwrap()
        .unwrap()
        .info()
        .await
        .unwrap()
        .position;
    let bobs_device = bob.device();
    bob.close().await;
    lost.send("never read by bob").await.unwrap();
    let _carol = town.device("carol").await;
    lost.add(&[town.user("carol")]).await.unwrap();
    snapshot_after(&service, lost.id(), left_at).await;
    let sends = (0..1500).map(|n| {
        let long = long.clone();
        async move { long.send(n.to_string()).await.unwrap() }
    });
    valise_tests::wait::all(sends).await;
    service.kill().await;
    forget_entries(&service, lost.id());
    service.restart().await;

    let bob = Client::open_with(store, options(5)).await.unwrap();
    let his = bob.group(long.id()).await.unwrap().unwrap();
    let mut position = his.info().await.unwrap().position;
    for _ in 0..3 {
        // Wherever in the backlog it is by then.
        until("some of the backlog", async || {
            let now = his.info().await.unwrap().position;
            (now > position || now.0 > 1500).then_some(())
        })
        .await;
        position = his.info().await.unwrap().position;
        service.kill().await;
        service.restart().await;
    }
    let mut events = bob.events();
    event(&bob, &mut events, rejoined).await;
    soon(bob.synced()).await.unwrap();
    let back = bob.group(lost.id()).await.unwrap().unwrap();
    assert_eq!(
        authenticator(&bob, &back).await,
        authenticator(&alice, &lost).await
    );
    assert_eq!(commits(&service, lost.id(), bobs_device), 1, "S8");
}

fn coming_in() -> Options {
    let mut options = options(5);
    options.rejoin.other_devices = ByItself::Always;
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_device_after_the_store_was_lost() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = town.device("alice").await;
    let laptop = town.device("bob").await;
    let carol = town.device("carol").await;
    let hers = alice.create_group("Budget").await.unwrap();
    hers.add(&[town.user("bob")]).await.unwrap();
    joined(&laptop, hers.id()).await;
    let lost = laptop.device();
    laptop.close().await;

    let new = town.device_with("bob", Store::memory(), coming_in()).await;
    let mut events = new.events();
    event(&new, &mut events, rejoined).await;
    let his = new.group(hers.id()).await.unwrap().unwrap();
    let mut seen = alice.events();
    let added = event(&alice, &mut seen, |event| match &event.kind {
        EventKind::MembersChanged { added, by, .. } if *added == [by.clone()] => Some(by.device),
        _ => None,
    })
    .await;
    assert_eq!(added, new.device());
    hers.send("who are you?").await.unwrap();
    hears(&new, "who are you?").await;
    his.send("bob, with a new laptop").await.unwrap();
    hears(&alice, "bob, with a new laptop").await;
    assert_eq!(his.name().await, "Budget");

    // The old device's leaf goes when it is revoked.
    new.revoke_device(lost).await.unwrap();
    until("the old leaf is gone", async || {
        let members = his.members().await.unwrap();
        (!members.iter().any(|member| member.device == lost)).then_some(())
    })
    .await;
    assert_eq!(
        authenticator(&alice, &hers).await,
        authenticator(&new, &his).await
    );

    // By default nobody comes in without being asked; and nobody at all whose user is no member.
    let phone = town.device("bob").await;
    soon(phone.synced()).await.unwrap();
    assert!(phone.groups().await.unwrap().is_empty());
    assert_eq!(phone.groups_elsewhere().await.unwrap(), [hers.id()]);
    let on_phone = phone.come_in(hers.id()).await.unwrap();
    assert_eq!(on_phone.members().await.unwrap().len(), 3);
    assert!(carol.groups_elsewhere().await.unwrap().is_empty());
    let error = carol.come_in(hers.id()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::NotAMember));
    assert!(carol.groups().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn held_by_a_bad_commit_until_it_is_told_to_rejoin() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = Device::enrol(&service, &town.code("alice").await).await;
    let (bob, carol) = (town.device("bob").await, town.device("carol").await);
    let users = [&bob, &carol].map(|client| client.user().to_string());
    let packages = alice.claim(users.to_vec()).await;
    let mut hers = alice.new_group();
    alice.register(&hers).await.unwrap();
    let bundle = alice.commit(&mut hers, Plan::add(packages));
    alice.submit(&bundle).await.unwrap();
    hers.merge_pending_commit(&alice.provider).unwrap();
    let id = GroupId::try_from(hers.group_id().as_slice()).unwrap();
    let bobs = joined(&bob, id).await;
    let carols = joined(&carol, id).await;

    // Its membership tag, which the service cannot check, is wrong.
    let mut bad = alice.commit(&mut hers, Plan::self_update());
    *bad.commit.last_mut().unwrap() ^= 1;
    let accepted = alice.submit(&bad).await.unwrap();
    hers.merge_pending_commit(&alice.provider).unwrap();
    for (client, group) in [(&bob, &bobs), (&carol, &carols)] {
        let mut events = client.events();
        event(client, &mut events, |event| {
            matches!(event.kind, EventKind::HeldByBadCommit { .. }).then_some(())
        })
        .await;
        assert_eq!(status(group).await, GroupStatus::HeldByBadCommit);
    }
    until("it is reported by both", async || {
        let log = service.log();
        let reports = log.matches("a member cannot process an accepted commit");
        (reports.count() >= 2).then_some(())
    })
    .await;
    // However long they are in touch: nothing by itself.
    soon(bob.synced()).await.unwrap();
    let log = alice.read_all(id.as_bytes(), accepted.position).await;
    assert!(log.is_empty(), "S7");

    soon(bobs.rejoin()).await.unwrap();
    assert_eq!(status(&bobs).await, GroupStatus::Active);
    assert_eq!(status(&carols).await, GroupStatus::HeldByBadCommit);
    let sent = bobs.send("back again").await.unwrap();
    let log = alice.read_all(id.as_bytes(), accepted.position).await;
    assert_eq!(log.last().unwrap().position, sent.position.0);
    let heard: Vec<_> = log
        .iter()
        .filter_map(|entry| alice.apply(&mut hers, &entry.mls_message))
        .collect();
    assert_eq!(heard.len(), 1);
    soon(carols.rejoin()).await.unwrap();
    let carols_state = authenticator(&carol, &carols).await;
    assert_eq!(authenticator(&bob, &bobs).await, carols_state);
}
