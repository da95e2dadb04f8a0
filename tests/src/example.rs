//! What the examples in the SDK's documentation run in: real services, and devices of people who talk.

use std::error::Error;
use std::path::Path;

use valise_client_sdk::{Client, Group};

use crate::people::{Town, joined};
use crate::service::Service;

/// What an example ends with.
pub type Shown = Result<(), Box<dyn Error>>;

fn run(example: impl Future<Output = Shown>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Err(error) = runtime.block_on(example) {
        panic!("the example failed: {error}");
    }
}

/// With the address of services, a code for a device of `alice`, and a folder.
pub fn with_server(example: impl AsyncFnOnce(&str, &str, &Path) -> Shown) {
    run(async {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let code = town.code("alice").await;
        let folder = tempfile::tempdir()?;
        example(service.url(), &code, folder.path()).await
    });
}

/// With a device of the user `alice` and one of `bob`.
pub fn with_people(example: impl AsyncFnOnce(Client, Client) -> Shown) {
    run(async {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        example(town.device("alice").await, town.device("bob").await).await
    });
}

/// With a device of `alice`, a group that she made, a device of `bob`, and the same group there.
pub fn with_group(example: impl AsyncFnOnce(Client, Group, Client, Group) -> Shown) {
    run(async {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let (alice, bob) = (town.device("alice").await, town.device("bob").await);
        let group = alice.create_group("Budget 2027").await?;
        group.add(&[bob.user()]).await?;
        let of_bob = joined(&bob, group.id()).await;
        example(alice, group, bob, of_bob).await
    });
}

/// With an administrator's device, and one of the user `alice`.
pub fn with_administrator(example: impl AsyncFnOnce(&Client, Client) -> Shown) {
    run(async {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let alice = town.device("alice").await;
        example(town.administrator(), alice).await
    });
}
