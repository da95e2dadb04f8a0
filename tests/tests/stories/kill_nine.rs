//! `kill -9` of the services under load, and a start on the same data. Everything that was acknowledged is there, nothing twice,
//! and the devices go on without help.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use valise_client_sdk::{Group, Position, Store};
use valise_tests::people::{Town, joined, messages, options};
use valise_tests::raw::{Device, Door, Plan, read_all};
use valise_tests::service::Service;
use valise_tests::wait::{until, within};

const DEVICES: usize = 4;
const MESSAGES: usize = 300;
const KILLS: usize = 4;
/// Far more than it takes; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there() {
    let mut service = Service::start().await;
    let town = Town::of(&service).await;
    let observer = Device::enrol(&service, &town.code("observer").await).await;
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        devices.push(
            town.device_with(&format!("user{number}"), Store::memory(), options(5))
                .await,
        );
    }
    let users = devices.iter().map(|device| device.user().to_string()).collect();
    let packages = observer.claim(users).await;
    let mut group = observer.new_group();
    observer.register(&group).await.unwrap();
    let bundle = observer.commit(&mut group, Plan::add(packages));
    let added = observer.submit(&bundle).await.unwrap();
    let id = group.group_id().as_slice().to_vec();
    let group_id = id.as_slice().try_into().unwrap();

    // Everybody sends and commits all the time, whatever happens to the services.
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut sending = Vec::new();
    for (number, device) in devices.iter().enumerate() {
        let group = joined(device, group_id).await;
        sending.push(tokio::spawn(send_all(group, number, Arc::clone(&acknowledged))));
    }
    for kill in 1..=KILLS {
        let enough = DEVICES * MESSAGES * kill / (KILLS + 1);
        until("the load goes on", async || {
            (acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
        service.kill().await;
        service.restart().await;
    }
    let mut sent = BTreeMap::new();
    for sender in sending {
        for (position, text) in within(LIMIT, sender).await.unwrap() {
            assert_eq!(sent.insert(position, text), None, "a position was given twice");
        }
    }
    assert_eq!(sent.len(), DEVICES * MESSAGES);

    // The log: no gap, nothing twice, and what was acknowledged where it was said to be.
    let door = Door::open(service.connect().await);
    let door = door.with_token(&observer.new_token_at(&door).await.unwrap());
    let log = read_all(&door, &id, added.position).await;
    let positions: Vec<u64> = log.iter().map(|entry| entry.position).collect();
    let last = added.position + log.len() as u64;
    assert_eq!(positions, (added.position + 1..=last).collect::<Vec<_>>());
    // What the devices have read is what they sent, each once, each in its place.
    for device in &devices {
        let mut events = device.events();
        let received = within(LIMIT, messages(device, &mut events, DEVICES * MESSAGES)).await;
        assert!(
            received.into_iter().eq(sent.clone()),
            "all the same on each device"
        );
    }
}

async fn send_all(group: Group, number: usize, acknowledged: Arc<AtomicUsize>) -> Vec<(Position, String)> {
    let mut sent = Vec::new();
    for message in 0..MESSAGES {
        let text = format!("{number}/{message}");
        let accepted = group.send(text.as_str()).await.unwrap();
        acknowledged.fetch_add(1, Ordering::Relaxed);
        sent.push((accepted.position, text));
        if message % 40 == 20 {
            group.self_update().await.unwrap();
        }
    }
    sent
}
