//! 16 devices commit to one group at the same time, 20 times each. Each epoch has exactly one commit, and all devices end in
//! the same epoch with the same secrets.

use std::sync::Arc;
use std::time::Duration;

use valise_client_sdk::{Client, Epoch, Store};
use valise_proto::delivery::v1::EntryKind;
use valise_tests::people::{Town, joined, options};
use valise_tests::raw::{Device, Plan};
use valise_tests::service::Service;
use valise_tests::wait::{all, until, within};

const DEVICES: usize = 16;
const COMMITS: u64 = 20;
/// Far more than it takes; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn each_epoch_has_one_commit() {
    let service = Service::start().await;
    let town = Arc::new(Town::of(&service).await);
    // Makes the group, then only looks at its log.
    let observer = Device::enrol(&service, &town.code("observer").await).await;
    let devices = (0..DEVICES).map(|number| {
        let town = Arc::clone(&town);
        async move {
            town.device_with(&format!("user{number}"), Store::memory(), options(1))
                .await
        }
    });
    let devices: Vec<Client> = all(devices).await;

    let users = devices.iter().map(|device| device.user().to_string()).collect();
    let packages = observer.claim(users).await;
    assert_eq!(packages.len(), DEVICES);
    let mut group = observer.new_group();
    observer.register(&group).await.unwrap();
    let bundle = observer.commit(&mut group, Plan::add(packages));
    let added = observer.submit(&bundle).await.unwrap();
    let id = group.group_id().as_slice().to_vec();
    let group_id = id.as_slice().try_into().unwrap();

    let commits = devices.into_iter().map(|device| async move {
        let group = joined(&device, group_id).await;
        for _ in 0..COMMITS {
            group.self_update().await.unwrap();
        }
        (device, group)
    });
    let devices = within(LIMIT, all(commits)).await;

    let log = observer.read_all(&id, added.position).await;
    let epochs: Vec<u64> = log.iter().map(|entry| entry.epoch).collect();
    let total = DEVICES as u64 * COMMITS;
    assert!(log.iter().all(|entry| entry.kind() == EntryKind::Commit));
    assert_eq!(
        epochs,
        (added.epoch..added.epoch + total).collect::<Vec<_>>(),
        "one commit an epoch, none without"
    );
    let positions: Vec<u64> = log.iter().map(|entry| entry.position).collect();
    assert_eq!(
        positions,
        (added.position + 1..=added.position + total).collect::<Vec<_>>()
    );
    for (device, _) in &devices {
        let id = device.device().to_string();
        let own = log.iter().filter(|entry| entry.sender_device_id == id).count();
        assert_eq!(own as u64, COMMITS, "each operation is one commit");
    }

    let last = Epoch(added.epoch + total);
    let mut authenticators = Vec::new();
    for (_, group) in &devices {
        let state = until("the device has followed", async || {
            let state = group.info().await.unwrap();
            (state.epoch == last).then_some(state)
        });
        authenticators.push(state.await.epoch_authenticator);
    }
    assert!(!authenticators[0].is_empty());
    assert!(authenticators.iter().all(|other| *other == authenticators[0]));
}
