//! What devices have seen.

use valise_client_sdk::{Client, Event, EventKind, Events, Group};
use valise_tests::people::text;
use valise_tests::wait::soon;

/// All events from here up to that message, which are confirmed then.
pub(crate) async fn seen_until(client: &Client, events: &mut Events, mark: &str) -> Vec<Event> {
    let reading = async {
        let mut seen = Vec::new();
        loop {
            let event = events.next().await.unwrap();
            let last = text(&event).as_deref() == Some(mark);
            let id = event.id;
            seen.push(event);
            if last {
                client.confirm(id).await.unwrap();
                return seen;
            }
        }
    };
    soon(reading).await
}

/// How many of the events are such.
pub(crate) fn count(events: &[Event], of: impl Fn(&EventKind) -> bool) -> usize {
    events.iter().filter(|event| of(&event.kind)).count()
}

/// What no event may say here.
pub(crate) fn no_trouble(events: &[Event]) {
    for event in events {
        assert!(
            !matches!(
                event.kind,
                EventKind::Unreadable { .. }
                    | EventKind::HeldByBadCommit { .. }
                    | EventKind::Quarantined { .. }
                    | EventKind::LogRegressed { .. }
                    | EventKind::Lost
                    | EventKind::WelcomeUnusable { .. }
                    | EventKind::RuleBreach { .. }
                    | EventKind::OperationFailed { .. }
                    | EventKind::RejoinFailed { .. }
            ),
            "{event:?}"
        );
    }
}

/// All of them are in one epoch.
pub(crate) async fn agree(devices: &[(&Client, &Group)], about: &str) {
    let mut states = Vec::new();
    for (client, group) in devices {
        soon(client.synced()).await.unwrap();
        let state = group.info().await.unwrap();
        states.push((state.epoch, state.epoch_authenticator));
    }
    assert!(!states[0].1.is_empty(), "{about}");
    assert!(
        states.iter().all(|state| *state == states[0]),
        "{about}: {states:?}"
    );
}
