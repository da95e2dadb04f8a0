//! A group of 500 devices: made, and its first message read by everybody.

use std::time::Duration;

use futures::StreamExt;
use valise_client_sdk::{Client, Store};
use valise_tests::people::{Town, event, joined, options, text};
use valise_tests::service::Service;
use valise_tests::wait::within;

const DEVICES: usize = 500;
/// Enrolments and joins at the same time.
const AT_ONCE: usize = 16;
/// Far more than it takes; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reads_the_first_message() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let enrolling = futures::stream::iter(0..DEVICES).map(|number| {
        let town = &town;
        // One package is enough: nobody is added twice.
        async move {
            town.device_with(&format!("user{number:03}"), Store::memory(), options(1))
                .await
        }
    });
    let devices: Vec<Client> = within(LIMIT, enrolling.buffered(AT_ONCE).collect()).await;

    let (creator, others) = devices.split_first().unwrap();
    let group = creator.create_group("Everybody").await.unwrap();
    let users: Vec<_> = others.iter().map(|device| device.user().clone()).collect();
    let added = within(LIMIT, group.add(&users)).await.unwrap();
    assert_eq!((added.devices.len(), added.failed), (DEVICES - 1, Vec::new()));
    let sent = within(LIMIT, group.send("bonjour à tous")).await.unwrap();
    let state = group.info().await.unwrap();
    assert_eq!(state.members, DEVICES);

    let reading = futures::stream::iter(others).map(|device| {
        let id = group.id();
        async move {
            let here = joined(device, id).await;
            let mut events = device.events();
            let (text, position) = event(device, &mut events, |event| {
                text(event).map(|text| (text, event.position))
            })
            .await;
            (text, position, here.info().await.unwrap())
        }
    });
    let read: Vec<_> = within(LIMIT, reading.buffer_unordered(AT_ONCE).collect()).await;
    assert_eq!(read.len(), DEVICES - 1);
    for (text, position, here) in read {
        assert_eq!((text.as_str(), position), ("bonjour à tous", sent.position));
        assert_eq!((here.members, here.epoch), (DEVICES, state.epoch));
        assert_eq!(here.epoch_authenticator, state.epoch_authenticator);
    }
}
