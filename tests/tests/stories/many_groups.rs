//! A device in more groups than the service takes on a stream is in touch all the same, and gets the messages of all of them.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::collections::HashSet;

use valise_client_sdk::{Client, Group, GroupId, Store, StoreKey};
use valise_tests::embedded::Services;
use valise_tests::people::{Town, event, joined, text};
use valise_tests::wait::soon;

/// Groups of Alice and Bob, as Alice has them.
async fn three_groups(alice: &Client, bob: &Client, town: &Town) -> Vec<Group> {
    let mut groups = Vec::new();
    for name in ["one", "two", "three"] {
        let group = soon(alice.create_group(name)).await.unwrap();
        soon(group.add(&[town.user("bob")])).await.unwrap();
        joined(bob, group.id()).await;
        groups.push(group);
    }
    groups
}

async fn say(groups: &[Group], words: &str) {
    for group in groups {
        soon(group.send(words)).await.unwrap();
    }
}

/// Waits until the device has heard that in all of the groups.
async fn hears_in_all(client: &Client, groups: &[Group], words: &str) {
    soon(client.synced()).await.unwrap();
    let mut events = client.events();
    let mut missing: HashSet<GroupId> = groups.iter().map(Group::id).collect();
    while !missing.is_empty() {
        let group = event(client, &mut events, |event| {
            (text(event).as_deref() == Some(words)).then_some(event.group)
        });
        missing.remove(&group.await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_on_the_stream_comes_all_the_same() {
    let (services, town) = Services::start_with(|up| up.delivery_limits.groups_per_device = 2).await;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::file(folder.path().join("bob.valise"), StoreKey::random());
    let alice = town
        .device_with("alice", Store::memory(), services.options(5))
        .await;
    let bob = town.device_with("bob", store.clone(), services.options(5)).await;
    let groups = three_groups(&alice, &bob, &town).await;
    say(&groups, "you are here").await;
    hears_in_all(&bob, &groups, "you are here").await;
    // A commit is done when it has come back, wherever the group is.
    for group in &groups {
        let of_bob = bob.group(group.id()).await.unwrap().unwrap();
        soon(of_bob.self_update()).await.unwrap();
    }

    bob.close().await;
    say(&groups, "you were away").await;
    let bob = Client::open_with(store, services.options(5)).await.unwrap();
    hears_in_all(&bob, &groups, "you were away").await;
    let of_bob = soon(bob.groups()).await.unwrap();
    say(&of_bob, "I am back").await;
    hears_in_all(&alice, &groups, "I am back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_takes_fewer_groups_than_before_is_asked_how_many() {
    let (services, town) = Services::start().await;
    let alice = town
        .device_with("alice", Store::memory(), services.options(5))
        .await;
    let bob = town
        .device_with("bob", Store::memory(), services.options(5))
        .await;
    let groups = three_groups(&alice, &bob, &town).await;
    soon(bob.synced()).await.unwrap();
    let _services = services
        .restart_with(|up| up.delivery_limits.groups_per_device = 2)
        .await;
    say(&groups, "after the change").await;
    hears_in_all(&bob, &groups, "after the change").await;
}
