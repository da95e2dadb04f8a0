//! What is shown of events, as text and as JSON.

use std::time::{Duration, SystemTime};

use valise_client_sdk::{ChainValue, EventId, Position};

use super::*;

fn event(kind: EventKind) -> Event {
    Event {
        id: EventId(1),
        group: GroupId::from_bytes([7; 16]),
        position: Position(3),
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        kind,
    }
}

fn bob() -> Peer {
    Peer {
        user: "bob@valise.example".parse().unwrap(),
        device: "0b000000-0000-4000-8000-000000000002".parse().unwrap(),
    }
}

#[test]
fn a_message_in_json_keeps_its_form() {
    let message = event(EventKind::Message {
        sender: bob(),
        content: "zwei\nZeilen".into(),
    });
    assert_eq!(
        serde_json::from_str::<Value>(&json(&message).unwrap()).unwrap(),
        json!({
            "group": "07070707-0707-0707-0707-070707070707",
            "position": 3,
            "at": "2023-11-14T22:13:20Z",
            "kind": "message",
            "sender": { "user": "bob@valise.example", "device": "0b000000-0000-4000-8000-000000000002" },
            "text": "zwei\nZeilen",
        })
    );
    assert_eq!(body(&message), "bob@valise.example: zwei\u{fffd}Zeilen");
}

#[test]
fn a_new_device_of_a_member_is_told() {
    let added = event(EventKind::DeviceAdded {
        user: "alice@valise.example".parse().unwrap(),
        device: "0a000000-0000-4000-8000-000000000001".parse().unwrap(),
        by: bob(),
        epoch: valise_client_sdk::Epoch(9),
    });
    let value: Value = serde_json::from_str(&json(&added).unwrap()).unwrap();
    assert_eq!(value["kind"], "device_added");
    assert_eq!(value["sender"]["user"], "bob@valise.example");
    assert_eq!(value["user"], "alice@valise.example");
    assert_eq!(value["device"], "0a000000-0000-4000-8000-000000000001");
    assert_eq!(value["epoch"], 9);
    assert_eq!(
        body(&added),
        "* bob@valise.example added a device or key of the member alice@valise.example that was not there before: \
         0a000000-0000-4000-8000-000000000001"
    );
}

#[test]
fn another_history_is_told_with_the_evidence() {
    let forked = |ours| {
        event(EventKind::DeliveryForked {
            sender: bob(),
            position: Position(2),
            theirs: ChainValue::from_bytes([0xAB; 32]),
            ours,
            evidence: vec![1, 255],
        })
    };
    let value: Value = serde_json::from_str(&json(&forked(None)).unwrap()).unwrap();
    assert_eq!(value["kind"], "delivery_forked");
    assert_eq!(value["sender"]["user"], "bob@valise.example");
    assert_eq!((&value["position"], &value["read_up_to"]), (&json!(3), &json!(2)));
    assert_eq!(value["their_chain"], "ab".repeat(32));
    assert_eq!(value["our_chain"], Value::Null);
    assert_eq!(value["evidence_hex"], "01ff");
    let ours = Some(ChainValue::from_bytes([1; 32]));
    let value: Value = serde_json::from_str(&json(&forked(ours)).unwrap()).unwrap();
    assert_eq!(value["our_chain"], "01".repeat(32));
    let line = body(&forked(None));
    assert!(
        line.starts_with("* bob@valise.example was shown another history of this group"),
        "{line}"
    );
}

#[test]
fn what_is_no_text_is_told_as_bytes() {
    let content = Content::new("image/png", [1, 255]);
    let line = json(&event(EventKind::Message {
        sender: bob(),
        content,
    }))
    .unwrap();
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["text"], Value::Null);
    assert_eq!(value["body_hex"], "01ff");
}

#[test]
fn what_refers_to_other_messages_says_to_which() {
    let mut bytes = [0xAB; 32];
    bytes[0] = 1;
    let id = MessageId::from_bytes(bytes).unwrap();
    let name = format!("01{}", "ab".repeat(31));
    let say = |content: Content| {
        let event = event(EventKind::Message {
            sender: bob(),
            content,
        });
        let value: Value = serde_json::from_str(&json(&event).unwrap()).unwrap();
        (body(&event), value)
    };
    let (line, value) = say(Content::reply(id, "yes"));
    assert_eq!(line, "bob@valise.example: (reply) yes");
    assert_eq!(
        (&value["kind"], &value["in_reply_to"]),
        (&json!("message"), &json!(name))
    );
    let (line, value) = say(Content::reaction(id, "❤"));
    assert_eq!(line, "* bob@valise.example reacted ❤");
    assert_eq!(
        (&value["kind"], &value["emojis"]),
        (&json!("reaction"), &json!(["❤"]))
    );
    let (line, value) = say(Content::edit(id, "no"));
    assert_eq!(line, "bob@valise.example: (edited) no");
    assert_eq!((&value["kind"], &value["of"]), (&json!("edit"), &json!(name)));
    let (line, value) = say(Content::delete(id));
    assert_eq!(line, "* bob@valise.example deleted a message");
    assert_eq!(value["kind"], "delete");
    let (_, value) = say(Content::read_receipt(&[id]));
    assert_eq!(value["messages"], json!([{ "id": name, "status": 2 }]));
}

#[test]
fn changes_say_who() {
    assert_eq!(changes(&[bob(), bob()], &[]), "added bob@valise.example");
    assert_eq!(changes(&[], &[bob()]), "removed bob@valise.example");
}
