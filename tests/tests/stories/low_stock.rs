//! Claims bring a device's stock of one-time key packages below the directory's low level; the directory tells the device, through its
//! inbox, and the SDK publishes again.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::time::Duration;

use rusqlite::Connection;
use valise_client_sdk::{DeviceId, Store};
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::inbox_item::Item;
use valise_tests::people::{Town, options};
use valise_tests::raw::stream::Stream;
use valise_tests::raw::{Device, SUITE};
use valise_tests::service::Service;
use valise_tests::wait::until;

/// Below so many one-time packages a stock is low: the directory's default.
const LOW_LEVEL: usize = 20;

/// Claims so many key packages of a user's only device.
async fn claim(device: &Device, user: &str, count: usize) {
    for _ in 0..count {
        assert_eq!(device.claim(vec![user.to_owned()]).await.len(), 1);
    }
}

/// How many one-time packages the directory has of a device.
fn stock(service: &Service, device: DeviceId) -> usize {
    let database = Connection::open(service.data().join("directory.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let count: i64 = database
        .query_row(
            "SELECT count(*) FROM key_package WHERE device = ?1 AND last_resort = 0",
            [device.as_uuid().as_bytes()],
            |row| row.get(0),
        )
        .unwrap();
    usize::try_from(count).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_told_on_its_stream() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = Device::enrol(&service, &town.code("alice").await).await;
    let bob = Device::enrol(&service, &town.code("bob").await).await;
    bob.publish(LOW_LEVEL + 1).await;
    let mut stream = Stream::open(&bob.door, Vec::new(), 0).await.unwrap();
    stream.caught_up().await;

    claim(&alice, bob.user.as_str(), 2).await;
    let told = wire::LowStockItem {
        cipher_suite: SUITE,
        one_time: 19,
    };
    assert_eq!(stream.inbox_item().await.item, Some(Item::LowStock(told)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_told_publishes_again() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let full = LOW_LEVEL + 10;
    let bob = town.device_with("bob", Store::memory(), options(full)).await;
    let filled = async || {
        until("a full stock", async || {
            (stock(&service, bob.device()) == full).then_some(())
        })
        .await;
    };
    filled().await;

    // It is left alone for as long as it is not low; and nothing else has it look at its stock for hours.
    let alice = Device::enrol(&service, &town.code("alice").await).await;
    claim(&alice, bob.user().as_str(), full - LOW_LEVEL).await;
    assert_eq!(stock(&service, bob.device()), LOW_LEVEL);
    claim(&alice, bob.user().as_str(), 1).await;
    filled().await;
}
