//! The device that ends: its store, its processes, and what it says when it is opened again.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use valise_client_sdk::kill_point::KillPoint;
use valise_client_sdk::{Client, Store, StoreKey};
use valise_tests::wait::soon;

use crate::kill_points::child::{NAME, ORDERS, Orders, Task};
use crate::kill_points::world::World;

/// Aborted (POSIX).
const SIGABRT: i32 = 6;

/// A device whose store is a file.
pub(crate) struct Device<'a> {
    world: &'a World,
    store: PathBuf,
    pub(crate) key: [u8; 32],
}

impl<'a> Device<'a> {
    /// With a store that is not there yet.
    pub(crate) fn unborn(world: &'a World, name: &str) -> Self {
        Self {
            world,
            store: world.store(name),
            key: *StoreKey::random().as_bytes(),
        }
    }

    /// Enrolled, and open.
    pub(crate) async fn of(world: &'a World, name: &str) -> (Self, Client) {
        let device = Self::unborn(world, &name.replace('/', "-"));
        let store = device.store();
        let client = world.town.device_with(name, store, world.options()).await;
        (device, client)
    }

    pub(crate) fn store(&self) -> Store {
        Store::file(&self.store, StoreKey::from_bytes(self.key))
    }

    /// A process does that with the device, and ends at that step.
    pub(crate) async fn ends(&self, point: KillPoint, task: Task) {
        let orders = Orders {
            url: self.world.url.clone(),
            store: self.store.clone(),
            key: self.key,
            ahead: self.world.ahead(),
            task,
        };
        let child = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--ignored", "--nocapture"])
            .env(ORDERS, serde_json::to_string(&orders).unwrap())
            .env("VALISE_KILL_POINT", point.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let limit = valise_tests::wait::SOON;
        let Ok(ended) = tokio::time::timeout(limit, child.wait_with_output()).await else {
            panic!("{point} was not reached");
        };
        let ended = ended.unwrap();
        assert_eq!(
            ended.status.signal(),
            Some(SIGABRT),
            "{point} was not reached: {}\n{}",
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(&ended.stderr),
        );
    }

    /// Opens the store again, and waits until what was under way is done.
    pub(crate) async fn open(&self) -> Client {
        let client = Client::open_with(self.store(), self.world.options())
            .await
            .unwrap();
        soon(client.synced()).await.unwrap();
        client
    }
}
