//! The process that ends: it opens a device's store, does one thing, and waits for its end.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use valise_client_sdk::{Client, GroupId, Policy, Role, Store, StoreKey, UserId};
use valise_tests::people::{event, text};
use valise_tests::wait::soon;

use crate::history::named;
use crate::world::ahead_by;

/// Under this name a child finds what it is to do.
pub(crate) const ORDERS: &str = "VALISE_TEST_ORDERS";
/// The child's name as a test of this executable.
pub(crate) const NAME: &str = "child::a_device_that_ends";

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
    Send {
        group: [u8; 16],
        text: String,
    },
    Rename {
        group: [u8; 16],
        name: String,
    },
    Add {
        group: [u8; 16],
        user: UserId,
    },
    Remove {
        group: [u8; 16],
        user: UserId,
    },
    Leave {
        group: [u8; 16],
    },
    SetRole {
        group: [u8; 16],
        user: UserId,
        role: Role,
    },
    SetPolicy {
        group: [u8; 16],
        policy: Policy,
    },
    SelfUpdate {
        group: [u8; 16],
    },
    ComeIn {
        group: [u8; 16],
    },
    /// Reads up to that message, and confirms it.
    Confirm {
        text: String,
    },
    /// Says that a message was read.
    MarkRead {
        group: [u8; 16],
        text: String,
    },
    RemoveMessage {
        group: [u8; 16],
        text: String,
    },
    Upkeep,
    ChangeStoreKey {
        key: [u8; 32],
    },
    /// Only what a device does by itself.
    BeThere,
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
    let group = async |id: [u8; 16]| client.group(GroupId::from_bytes(id)).await.unwrap().unwrap();
    match task {
        Task::Enrol { .. } | Task::BeThere => {}
        Task::Create { name } => drop(client.create_group(&name).await.unwrap()),
        Task::Send { group: id, text } => drop(group(id).await.send(text.as_str()).await.unwrap()),
        Task::Rename { group: id, name } => group(id).await.rename(&name).await.unwrap(),
        Task::Add { group: id, user } => drop(group(id).await.add(&[user]).await.unwrap()),
        Task::Remove { group: id, user } => drop(group(id).await.remove(&[user]).await.unwrap()),
        Task::Leave { group: id } => group(id).await.leave().await.unwrap(),
        Task::SetRole {
            group: id,
            user,
            role,
        } => group(id).await.set_role(user, role).await.unwrap(),
        Task::SetPolicy { group: id, policy } => group(id).await.set_policy(policy).await.unwrap(),
        Task::SelfUpdate { group: id } => group(id).await.self_update().await.unwrap(),
        Task::ComeIn { group } => drop(client.come_in(GroupId::from_bytes(group)).await.unwrap()),
        Task::Confirm { text: wanted } => {
            let mut events = client.events();
            event(client, &mut events, |event| {
                (text(event)? == wanted).then_some(())
            })
            .await;
        }
        Task::MarkRead { group: id, text } => {
            let history = group(id).await.history();
            let read = named(&history, &text).await.unwrap();
            history.mark_read(&[read]).await.unwrap();
        }
        Task::RemoveMessage { group: id, text } => {
            let history = group(id).await.history();
            let unwanted = named(&history, &text).await.unwrap();
            history.remove(unwanted).await.unwrap();
        }
        Task::Upkeep => client.upkeep().await.unwrap(),
        Task::ChangeStoreKey { key } => client.change_store_key(StoreKey::from_bytes(key)).await.unwrap(),
    }
}
