//! The process that ends: it opens a device's store, does one thing, and waits for its end.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use valise_client_sdk::{Client, Group, GroupId, Policy, Role, Store, StoreKey, UserId};
use valise_tests::people::{event, text};
use valise_tests::wait::soon;

use crate::kill_points::history::named;
use crate::kill_points::world::ahead_by;

/// Under this name a child finds what it is to do.
pub(crate) const ORDERS: &str = "VALISE_TEST_ORDERS";
/// The child's name as a test of this executable.
pub(crate) const NAME: &str = "kill_points::child::a_device_that_ends";

/// What a child does, and with which device.
#[derive(Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) url: String,
    pub(crate) store: PathBuf,
    pub(crate) key: [u8; 32],
    /// How far its clock is ahead.
    pub(crate) ahead: Duration,
    pub(crate) task: Task,
}

/// What a device is asked for.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Task {
    Enrol {
        code: String,
    },
    Create {
        name: String,
    },
    /// In the group with that id.
    In([u8; 16], Deed),
    /// Into the group with that id.
    ComeIn([u8; 16]),
    /// Reads up to that message, and confirms it.
    Confirm {
        text: String,
    },
    Upkeep,
    ChangeStoreKey {
        key: [u8; 32],
    },
    /// Only what a device does by itself.
    BeThere,
}

/// What a device is to do in a group.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Deed {
    Send {
        text: String,
    },
    Rename {
        name: String,
    },
    Add(UserId),
    Remove(UserId),
    Leave,
    SetRole(UserId, Role),
    SetPolicy(Policy),
    SelfUpdate,
    /// Says that a message was read.
    MarkRead {
        text: String,
    },
    RemoveMessage {
        text: String,
    },
}

/// Not a test: what the process of a device runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the others, as a process of its own"]
async fn a_device_that_ends() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let store = Store::file(orders.store, StoreKey::from_bytes(orders.key));
    let options = ahead_by(orders.ahead);
    let client = match &orders.task {
        Task::Enrol { code } => Client::enrol_with(&orders.url, code, "a device", store, options).await,
        _ => Client::open_with(store, options).await,
    };
    let client = client.unwrap();
    soon(client.synced()).await.unwrap();
    run(&client, orders.task).await;
    // The end comes, or the one who waits for it loses patience.
    std::future::pending::<()>().await;
}

async fn run(client: &Client, task: Task) {
    match task {
        Task::Enrol { .. } | Task::BeThere => {}
        Task::Create { name } => drop(client.create_group(&name).await.unwrap()),
        Task::In(id, deed) => {
            let group = client.group(GroupId::from_bytes(id)).await.unwrap().unwrap();
            run_in(&group, deed).await;
        }
        Task::ComeIn(id) => drop(client.come_in(GroupId::from_bytes(id)).await.unwrap()),
        Task::Confirm { text: wanted } => {
            let mut events = client.events();
            event(client, &mut events, |event| {
                (text(event)? == wanted).then_some(())
            })
            .await;
        }
        Task::Upkeep => client.upkeep().await.unwrap(),
        Task::ChangeStoreKey { key } => client.change_store_key(StoreKey::from_bytes(key)).await.unwrap(),
    }
}

async fn run_in(group: &Group, deed: Deed) {
    match deed {
        Deed::Send { text } => drop(group.send(text.as_str()).await.unwrap()),
        Deed::Rename { name } => group.rename(&name).await.unwrap(),
        Deed::Add(user) => drop(group.add(&[user]).await.unwrap()),
        Deed::Remove(user) => drop(group.remove(&[user]).await.unwrap()),
        Deed::Leave => group.leave().await.unwrap(),
        Deed::SetRole(user, role) => group.set_role(user, role).await.unwrap(),
        Deed::SetPolicy(policy) => group.set_policy(policy).await.unwrap(),
        Deed::SelfUpdate => group.self_update().await.unwrap(),
        Deed::MarkRead { text } => {
            let history = group.history();
            let read = named(&history, &text).await.unwrap();
            history.mark_read(&[read]).await.unwrap();
        }
        Deed::RemoveMessage { text } => {
            let history = group.history();
            let unwanted = named(&history, &text).await.unwrap();
            history.remove(unwanted).await.unwrap();
        }
    }
}
