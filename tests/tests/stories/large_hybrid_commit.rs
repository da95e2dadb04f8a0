//! The largest commit that there is in the post-quantum suite, whose keys are forty times as large: 256 Adds, within the limits.

use std::time::Duration;

use futures::StreamExt;
use valise_client_sdk::{CipherSuite, Client, Options, Store};
use valise_tests::people::{Town, event, joined, options, text};
use valise_tests::service::Service;
use valise_tests::wait::within;

/// The most Adds in a commit.
const ADDS: usize = 256;
/// Enrolments at the same time.
const AT_ONCE: usize = 16;
/// Far more than it takes; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(600);

fn hybrid() -> Options {
    let mut options = options(1);
    options.cipher_suite = CipherSuite::MlKem768X25519Aes128;
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_as_a_commit_may_add_are_added_with_one() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = town.device_with("alice", Store::memory(), hybrid()).await;
    let enrolling = futures::stream::iter(0..ADDS).map(|number| {
        let town = &town;
        async move {
            let name = format!("user{number:03}");
            town.device_with(&name, Store::memory(), hybrid()).await
        }
    });
    let others: Vec<Client> = within(LIMIT, enrolling.buffered(AT_ONCE).collect()).await;
    let users: Vec<_> = others.iter().map(|device| device.user().clone()).collect();
    let group = alice.create_group("Everybody").await.unwrap();
    let before = group.info().await.unwrap().epoch;
    let added = within(LIMIT, group.add(&users)).await.unwrap();
    assert_eq!((added.devices.len(), added.failed), (ADDS, Vec::new()));
    assert_eq!(group.info().await.unwrap().epoch.0, before.0 + 1, "one commit");

    group.send("bonjour à tous").await.unwrap();
    for device in [&others[0], &others[ADDS / 2], &others[ADDS - 1]] {
        let there = joined(device, group.id()).await;
        let mut events = device.events();
        event(device, &mut events, |event| {
            (text(event).as_deref() == Some("bonjour à tous")).then_some(())
        })
        .await;
        // A path over a tree of that size is the other large commit.
        there.self_update().await.unwrap();
    }
}
