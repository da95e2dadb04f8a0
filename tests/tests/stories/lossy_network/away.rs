//! A device that was away while much happened to it.

use valise_client_sdk::{Client, EventKind, Store, StoreKey};
use valise_tests::embedded::Services;
use valise_tests::people::{joined, text};
use valise_tests::wait::soon;

/// Its invitation may come before what it still has to read of its first membership.
#[tokio::test]
async fn removed_and_added_again() {
    let (services, town) = Services::start().await;
    let bob = town.device("bob").await;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::file(folder.path().join("alice.valise"), StoreKey::random());
    let alice = town
        .device_with("alice", store.clone(), services.options(5))
        .await;
    let bobs = bob.create_group("Budget").await.unwrap();
    let user = [alice.user().clone()];
    bobs.add(&user).await.unwrap();
    joined(&alice, bobs.id()).await;
    alice.close().await;

    bobs.send("before").await.unwrap();
    bobs.remove(&user).await.unwrap();
    bobs.send("without her").await.unwrap();
    bobs.add(&user).await.unwrap();
    bobs.send("after").await.unwrap();

    let alice = Client::open_with(store, services.options(5)).await.unwrap();
    let mut events = alice.events();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "after") {
        let event = soon(events.next()).await.unwrap();
        match event.kind {
            EventKind::Removed { .. } => seen.push("removed".to_owned()),
            EventKind::Joined { .. } => seen.push("joined".to_owned()),
            _ => seen.extend(text(&event)),
        }
    }
    assert_eq!(seen, ["before", "removed", "joined", "after"]);
}
