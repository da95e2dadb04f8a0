//! What was said is remembered on each device: replies, reactions, edits, deletions, what expires, and what is found again.

use std::time::Duration;

use serde_json::Value;
use valise_client_sdk::{
    Clock, Content, Event, EventKind, Expiry, HistoryMessage, Kind, MessageId, Reason, SendStatus, Store,
    WhatNow,
};
use valise_tests::command::run;
use valise_tests::homes::Homes;
use valise_tests::people::{Town, event, joined, options};
use valise_tests::service::Service;
use valise_tests::wait::until;

/// The message of that name, once it has come.
fn named(id: MessageId) -> impl Fn(&Event) -> Option<Content> {
    move |event| match &event.kind {
        EventKind::Message { content, .. } if content.id() == Some(id) => Some(content.clone()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_remember_the_same() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let (clock, hand) = Clock::movable();
    let mut movable = options(5);
    movable.clock = clock;
    let alice = town.device("alice").await;
    let bob = town.device_with("bob", Store::memory(), movable).await;
    let group = alice.create_group("Lunch").await.unwrap();
    group.add(&[bob.user().clone()]).await.unwrap();
    let bobs = joined(&bob, group.id()).await;
    let mut heard = bob.events();

    let sent = group.send("On mange ou ?").await.unwrap();
    let content = event(&bob, &mut heard, named(sent.id)).await;
    assert_eq!(content.kind(), Kind::Text("On mange ou ?"));
    let reply = bobs.send(Content::reply(sent.id, "Chez Marcel")).await.unwrap();
    bobs.send(Content::reaction(sent.id, "🍽")).await.unwrap();
    bobs.send(Content::read_receipt(&[sent.id])).await.unwrap();
    group.send(Content::edit(sent.id, "On mange où ?")).await.unwrap();
    let forged = bobs.send(Content::delete(sent.id)).await.unwrap();
    let passing = Content::text("Le code est 1234").expiring(Expiry::AfterRead(Duration::from_secs(600)));
    let passing = bobs.send(passing).await.unwrap();
    assert!(forged.position < passing.position);

    let mut pages = Vec::new();
    for (client, group) in [(&alice, &group), (&bob, &bobs)] {
        let page = until("everything has come", async || {
            let page = group.history().page(None, 10).await.unwrap();
            (page
                .iter()
                .any(|message| message.id == passing.id && message.position().is_some())
                && page.iter().any(|message| message.edited))
            .then_some(page)
        })
        .await;
        let texts: Vec<_> = page.iter().map(|message| message.as_text().unwrap()).collect();
        assert_eq!(texts, ["On mange où ?", "Chez Marcel", "Le code est 1234"]);
        assert_eq!(page[1].id, reply.id);
        assert_eq!(page[0].reactions[0].emoji, "🍽");
        assert_eq!(page[0].read_by, [bob.user().clone()]);
        let found = client.search("mange ou", 10).await.unwrap();
        assert_eq!(found.len(), 1);
        pages.push(page);
    }
    let positions =
        |page: &[HistoryMessage]| -> Vec<_> { page.iter().map(HistoryMessage::position).collect() };
    assert_eq!(positions(&pages[0]), positions(&pages[1]));
    assert!(matches!(pages[0][0].status, SendStatus::Accepted { position } if position == sent.position));

    // On Bob's device, who wrote it, it expires by his clock; Alice has not read it.
    let another = Content::text("x").expiring(Expiry::AfterRead(Duration::from_secs(1)));
    bobs.send(another).await.unwrap();
    hand.advance(Duration::from_secs(601));
    until("it is deleted", async || {
        let message = bobs.history().message(passing.id).await.unwrap();
        message.is_none().then_some(())
    })
    .await;
    assert!(group.history().message(passing.id).await.unwrap().is_some());
    assert!(group.history().remove(passing.id).await.unwrap());
    alice.close().await;
    bob.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_message_is_sent_when_there_is_a_way() {
    let mut service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = town.device("alice").await;
    let group = alice.create_group("").await.unwrap();
    service.kill().await;
    let id = group.queue("later").await.unwrap();
    let message = group.history().message(id).await.unwrap().unwrap();
    assert_eq!(message.position(), None);
    assert_eq!(message.status, SendStatus::Queued);
    service.restart().await;
    until("it is accepted", async || {
        let message = group.history().message(id).await.unwrap().unwrap();
        message.position()
    })
    .await;
    alice.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_it() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    homes.enrol("anna").await;
    homes.new_group("anna", "Lunch").await;
    for text in ["On mange où ?", "Chez Marcel", "Ou chez Paul"] {
        run(homes.command("anna", &["send", "Lunch", text])).await.ok();
    }
    // The last one has come back when it is listened to.
    run(homes.command("anna", &["listen", "Lunch", "--count", "3"]))
        .await
        .ok();
    // What is remembered needs no service.
    drop(service);
    let lines = async |arguments: &[&str]| -> Vec<String> {
        let command = homes.command("anna", &[&["history", "Lunch"][..], arguments].concat());
        run(command).await.ok().lines().map(str::to_owned).collect()
    };
    let all = lines(&[]).await;
    assert_eq!(all.len(), 3);
    assert!(all[0].ends_with("On mange où ?") && all[2].ends_with("Ou chez Paul"));
    assert!(lines(&["--limit", "1"]).await[0].ends_with("Ou chez Paul"));
    let found = lines(&["--search", "chez", "--json"]).await;
    let found: Vec<Value> = found
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0]["text"], "Chez Marcel");
    assert_eq!(found[0]["status"], "accepted");
    assert!(lines(&["--search", "\" OR (*"]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_for_the_service_is_refused_before_it_is_queued() {
    const LIMIT: usize = 256 * 1024;
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = town.device("alice").await;
    let group = alice.create_group("Long reads").await.unwrap();
    for size in [LIMIT, 1024 * 1024] {
        let error = group.send("x".repeat(size)).await.unwrap_err();
        assert_eq!(
            (error.reason(), error.what_now()),
            (Some(Reason::MessageTooLarge), WhatNow::Denied)
        );
        assert!(error.to_string().contains("limit="), "{error}");
    }
    // Nothing of them is remembered, and nothing waits.
    assert_eq!(group.history().page(None, 10).await.unwrap(), []);
    let sent = group.send("x".repeat(LIMIT - 2048)).await.unwrap();
    assert_eq!(sent.position.0, 1);
}
