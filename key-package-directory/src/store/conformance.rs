//! What every [`Store`] must do. Each backend's tests call these with an empty store.

mod claims;
pub(crate) mod concurrency;
mod devices;
mod publishing;

use std::sync::Arc;

use uuid::Uuid;
use valise_proto::{DeviceId, UserId};

use super::{Handed, NewPackage, Publication, PublishOutcome, StockLine, Store, Usable, Wanted};

const SUITE: u16 = 1;
const OTHER_SUITE: u16 = 3;
/// Everything below is in seconds, around this now.
const NOW: u64 = 1_000_000;
const WINDOW: u64 = 1_000;
const END: u64 = NOW + 10 * WINDOW;

pub(crate) fn device(number: u128) -> DeviceId {
    DeviceId::from_uuid(Uuid::from_u128(number))
}

fn user(name: &str) -> UserId {
    format!("{name}@interieur.example").parse().unwrap()
}

fn usable_at(now: u64) -> Usable {
    Usable {
        not_after_from: now + WINDOW,
        certificate_not_after_from: now,
    }
}

/// A package whose content is its number.
fn package(number: u64) -> NewPackage {
    let mut init_key_digest = [0; 32];
    init_key_digest[..8].copy_from_slice(&number.to_be_bytes());
    NewPackage {
        suite: SUITE,
        last_resort: false,
        not_after: END,
        certificate_not_after: END,
        init_key_digest,
        message: number.to_be_bytes().to_vec(),
    }
}

fn last_resort(number: u64) -> NewPackage {
    NewPackage {
        last_resort: true,
        ..package(number)
    }
}

pub(crate) fn number(handed: &Handed) -> u64 {
    u64::from_be_bytes(handed.message.as_slice().try_into().unwrap())
}

fn publication(name: &str, of: u128, packages: Vec<NewPackage>) -> Publication {
    Publication {
        user: user(name),
        device: device(of),
        signature_key: b"key".to_vec(),
        packages,
        usable: usable_at(NOW),
        capacity: 200,
    }
}

async fn publish(store: &impl Store, of: u128, packages: Vec<NewPackage>) {
    let outcome = store.publish(publication("alice", of, packages)).await.unwrap();
    assert_eq!(outcome, PublishOutcome::Stored);
}

/// So many one-time packages, with their number for content, and a last-resort package.
pub(crate) async fn publish_numbered(store: &impl Store, of: u128, one_time: u64, last: u64) {
    let packages = (0..one_time).map(package).chain([last_resort(last)]).collect();
    publish(store, of, packages).await;
}

pub(crate) fn wanted(devices: &[u128], now: u64) -> Wanted {
    let devices = devices.iter().copied().map(device).collect();
    Wanted {
        suite: SUITE,
        devices,
        usable: usable_at(now),
    }
}

pub(crate) async fn claim(store: &impl Store, of: u128) -> Option<Handed> {
    let mut handed = store.claim(wanted(&[of], NOW)).await.unwrap();
    assert!(handed.len() <= 1);
    handed.pop()
}

async fn stock(store: &impl Store, of: u128) -> Vec<StockLine> {
    store.stock(device(of), usable_at(NOW)).await.unwrap()
}

/// All of it, on one store. Each story has devices of its own.
pub(crate) async fn run<S: Store>(store: &Arc<S>) {
    claims::one_time_then_last_resort(&**store).await;
    claims::those_that_end_first_go_first_and_unusable_ones_never(&**store).await;
    claims::a_claim_serves_many_devices_and_leaves_out_those_without(&**store).await;
    claims::suites_are_apart(&**store).await;
    claims::suites_are_named_while_something_is_left(&**store).await;
    publishing::an_init_key_is_accepted_once(&**store).await;
    publishing::capacity_counts_usable_one_time_packages_of_a_suite(&**store).await;
    publishing::another_signature_key_replaces_all(&**store).await;
    devices::devices_are_found_by_user_and_by_id(&**store).await;
    publishing::the_last_of_two_last_resort_packages_stays(&**store).await;
    claims::few_packages_are_counted(&**store).await;
    devices::a_purged_device_is_gone_for_good(&**store).await;
    devices::a_sweep_deletes_what_has_ended_and_nothing_else(&**store).await;
    concurrency::a_thousand_claims_at_once(store).await;
}
