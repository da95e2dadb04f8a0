//! The README's example: enrols a device, makes a group, talks to itself in it.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use valise_client_sdk::{Client, EventKind, Store, StoreKey};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, server, code, file] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: readme SERVER ENROLMENT-CODE STORE-FILE".into());
    };
    let key = StoreKey::random(); // keep it in the platform's key store
    let alice = Client::enrol(server, code, "laptop", Store::file(file, key)).await?;
    let group = alice.create_group("Budget 2027").await?;
    group.send("Bonjour").await?; // group.add(&["bob@interieur.example"]).await? invites all of Bob's devices

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
