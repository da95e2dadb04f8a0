//! A 5,000-line file is piped into three devices at once. Three other devices show all 15,000 lines, in one and the same order.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use valise_tests::command::{Running, run, valise};
use valise_tests::homes::Homes;
use valise_tests::service::Service;
use valise_tests::wait::{all, within};

const LINES: usize = 5_000;
const SENDERS: [&str; 3] = ["anna", "ben", "cleo"];
const LISTENERS: [&str; 3] = ["dora", "emil", "fay"];
/// Far more than it takes; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn three_listeners_see_one_order() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    for name in SENDERS.iter().chain(&LISTENERS) {
        homes.enrol(name).await;
    }
    let group = homes.new_group("anna", "Press review").await;
    let others: Vec<_> = SENDERS.iter().chain(&LISTENERS).skip(1).copied().collect();
    homes.add("anna", &group, &others).await;

    let file = homes.file("lines.txt", &text());
    let listening: Vec<_> = LISTENERS
        .map(|name| {
            let count = (LINES * SENDERS.len()).to_string();
            Running::start(homes.command(name, &["listen", &group, "--json", "--count", &count]))
        })
        .into_iter()
        .map(Running::rest)
        .collect();
    let sending: Vec<_> = SENDERS
        .map(|name| {
            let mut command = homes.command(name, &["send", &group]);
            command.stdin(std::fs::File::open(&file).unwrap());
            async move { command.output().await.unwrap() }
        })
        .into();
    let (sent, heard) = within(LIMIT, async { tokio::join!(all(sending), all(listening)) }).await;
    for output in sent {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    let orders: Vec<_> = heard
        .into_iter()
        .map(|(lines, code)| {
            assert_eq!(code, Some(0));
            messages(&lines)
        })
        .collect();
    assert_eq!(orders[0].len(), LINES * SENDERS.len());
    assert!(orders[0].is_sorted_by(|one, next| one.position < next.position));
    assert!(
        orders[0] == orders[1] && orders[0] == orders[2],
        "one order for everybody"
    );
    let mut by_sender: HashMap<&str, Vec<&str>> = HashMap::new();
    for message in &orders[0] {
        by_sender.entry(&message.sender).or_default().push(&message.text);
    }
    assert_eq!(by_sender.len(), SENDERS.len());
    let file = text();
    let expected: Vec<_> = file.lines().collect();
    for (sender, lines) in by_sender {
        assert!(
            lines == expected,
            "each line of {sender} once, in the order of the file"
        );
    }

    // What was shown was confirmed: nothing of it comes again.
    let more = run(homes.command("anna", &["send", &group, "one more"])).await;
    more.ok();
    let next = run(homes.command("dora", &["listen", &group, "--json", "--count", "1"]))
        .await
        .ok();
    assert_eq!(
        messages(&next.lines().map(str::to_owned).collect::<Vec<_>>())[0].text,
        "one more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_to_nowhere_says_so_and_fails() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    homes.enrol("anna").await;
    let ended = run(homes.command("anna", &["send", "no such group", "hello"])).await;
    assert_ne!(ended.code, Some(0));
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    let ended = run(valise(["send", "--profil", "x", "y"])).await;
    assert_eq!(ended.code, Some(2));
}

fn text() -> String {
    (0..LINES).fold(String::new(), |mut text, line| {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "line {line}: le conseil s'est réuni ce matin, on en parlera {}",
            "bla ".repeat(line % 9)
        );
        text
    })
}

#[derive(PartialEq, Eq, Debug)]
struct Message {
    position: u64,
    sender: String,
    text: String,
}

fn messages(lines: &[String]) -> Vec<Message> {
    let events = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let messages = events.filter(|event| event["kind"] == "message");
    messages
        .map(|event| Message {
            position: event["position"].as_u64().unwrap(),
            sender: event["sender"]["user"].as_str().unwrap().to_owned(),
            text: event["text"].as_str().unwrap().to_owned(),
        })
        .collect()
}
