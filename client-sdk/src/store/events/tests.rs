//! Stored events: of this version, and of those before.

use super::*;
use crate::Store;

fn stored(database: &Database) -> Vec<EventKind> {
    let events = database.events_after(EventId::NONE, 100).unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

#[test]
fn alarms_and_failures_are_read_as_they_were_written() {
    let database = Database::open(&Store::memory()).unwrap();
    let evidence = vec![1, 2, 255];
    let kinds = [
        EventKind::HeldByBadCommit {
            cause: "x".to_owned(),
            evidence: evidence.clone(),
        },
        EventKind::Quarantined {
            rule: "x".to_owned(),
            evidence: evidence.clone(),
        },
        EventKind::LogRegressed {
            entry_id: vec![7; 8],
            evidence: evidence.clone(),
        },
        EventKind::Unreadable {
            sender: None,
            evidence,
        },
        EventKind::OperationFailed {
            operation: "add".to_owned(),
            cause: "RATE_LIMITED".to_owned(),
            what_now: WhatNow::Retry,
            message: None,
            users: vec!["bob@a.example".parse().unwrap()],
        },
    ];
    for kind in &kinds {
        database
            .put_event(GroupId::from_bytes([1; 16]), Position(3), 0, kind)
            .unwrap();
    }
    assert_eq!(stored(&database), kinds);
}

#[test]
fn events_of_version_9_are_read() {
    let database = Database::open(&Store::memory()).unwrap();
    let old = [
        r#"{"kind":"held_by_bad_commit","cause":"x"}"#,
        r#"{"kind":"quarantined","rule":"x"}"#,
        r#"{"kind":"log_regressed"}"#,
        r#"{"kind":"unreadable","sender":null}"#,
        r#"{"kind":"operation_failed","operation":"send","cause":"POLICY_DENIED"}"#,
    ];
    for detail in old {
        database
            .connection
            .execute(
                "INSERT INTO events (group_id, position, at, detail) VALUES (?1, 1, 1, ?2)",
                params![[1_u8; 16].as_slice(), detail],
            )
            .unwrap();
    }
    let expected = [
        EventKind::HeldByBadCommit {
            cause: "x".to_owned(),
            evidence: Vec::new(),
        },
        EventKind::Quarantined {
            rule: "x".to_owned(),
            evidence: Vec::new(),
        },
        EventKind::LogRegressed {
            entry_id: Vec::new(),
            evidence: Vec::new(),
        },
        EventKind::Unreadable {
            sender: None,
            evidence: Vec::new(),
        },
        EventKind::OperationFailed {
            operation: "send".to_owned(),
            cause: "POLICY_DENIED".to_owned(),
            what_now: WhatNow::Denied,
            message: None,
            users: Vec::new(),
        },
    ];
    assert_eq!(stored(&database), expected);
}
