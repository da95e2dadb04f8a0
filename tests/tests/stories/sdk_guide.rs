//! The examples of the guide for app developers are code that runs.

#![expect(clippy::print_stdout, reason = "an example may print")]

use std::path::Path;

use valise_client_sdk::Error;
use valise_client_sdk::{Act, Group, Role, UserId};
use valise_client_sdk::{Client, EventKind, Store, StoreKey};
use valise_client_sdk::{Content, HistoryMessage, SendStatus};
use valise_tests::people::{Town, joined};
use valise_tests::service::Service;

async fn first_steps(server: &str, code: &str, file: &Path) -> Result<(), Error> {
    let key = StoreKey::random(); // into the platform's key store
    let alice = Client::enrol(server, code, "laptop", Store::file(file, key)).await?;
    let group = alice.create_group("Budget 2027").await?;
    group.send("Bonjour").await?;

    let mut events = alice.events();
    while let Some(event) = events.next().await {
        if let EventKind::Message { sender, content } = event.kind {
            println!("{}: {}", sender.user, content.as_text().unwrap_or("(not text)"));
            alice.confirm(event.id).await?; // with all before it; until then they come again after every restart
            break;
        }
    }
    alice.close().await;
    Ok(())
}

async fn a_group_of_two(alice: &Client, bob: &UserId) -> Result<Group, Error> {
    let group = alice.create_group("Budget 2027").await?;
    let added = group.add(&[bob]).await?;
    for (user, device, failure) in &added.failed {
        println!("{user} {device:?} was not added: {failure:?}"); // the others were
    }
    group.set_role(bob, Role::Moderator).await?;
    let anybody_adds = group.policy().await?.with(Act::Add, Role::Member);
    group.set_policy(anybody_adds).await?;
    Ok(group)
}

async fn talk(alice: &Client, group: &Group) -> Result<Vec<HistoryMessage>, Error> {
    // On the screen at once, sent when there is a connection:
    let id = group.queue("Let us meat at ten").await?;
    if let Some(message) = group.history().message(id).await? {
        match message.status {
            SendStatus::Queued => println!("one tick"),
            SendStatus::Accepted { position } => println!("two ticks: entry {position}"),
            SendStatus::Failed { cause, what_now } => println!("{cause}: {what_now:?}"),
        }
    }
    group.send(Content::edit(id, "Let us meet at ten")).await?;
    group.send(Content::reaction(id, "👍")).await?;
    alice.synced().await?; // what they change is changed when they have come back
    group.history().search("meet", 20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_run() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let folder = tempfile::tempdir().unwrap();
    let code = town.code("alice").await;
    first_steps(service.url(), &code, &folder.path().join("alice.valise"))
        .await
        .unwrap();

    let (alice, bob) = (town.device("alice").await, town.device("bob").await);
    let group = a_group_of_two(&alice, bob.user()).await.unwrap();
    let of_bob = joined(&bob, group.id()).await;
    let found = talk(&alice, &group).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].as_text(), Some("Let us meet at ten"));
    assert_eq!(found[0].reactions.len(), 1);
    // Bob may add, as the guide says.
    of_bob.add(&[town.administrator().user()]).await.unwrap();
}

#[test]
fn the_guide_shows_them() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sdk-guide.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let shown: Vec<_> = guide
        .split("```rust\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(shown.len(), 3);
    for block in shown {
        let (imports, function) = block.split_once("\n\n").unwrap();
        assert!(include_str!("sdk_guide.rs").contains(function), "{function}");
        assert!(imports.starts_with("use valise_client_sdk::"), "{imports}");
    }
}
