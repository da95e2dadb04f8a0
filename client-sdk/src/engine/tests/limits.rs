//! What is too large for the service.

use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::{GetParametersResponse, Limits};

use super::*;

fn limits(max_message_bytes: u32) -> GetParametersResponse {
    let limits = Limits {
        max_message_bytes,
        ..Limits::default()
    };
    GetParametersResponse {
        limits: Some(limits),
        ..GetParametersResponse::default()
    }
}

/// What becomes at once of a message with a payload of so many bytes: nothing yet, where it is queued.
fn send(person: &mut Person, log: &people::Log, bytes: usize) -> Option<Refusal> {
    let payload = vec![0; bytes];
    let mut outcome = person.submit(log.group, Operation::Send { payload });
    match outcome.try_recv() {
        Ok(Err(Error::Refused(refusal))) => Some(refusal),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

#[test]
fn a_message_that_the_service_would_refuse_is_not_queued() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.engine.adopt_parameters(&limits(8192)).unwrap();
    assert_eq!(
        send(&mut alice, &log, 8192 - 1023),
        Some(Refusal::too_large("payload", 8192 - 1024))
    );
    assert!(alice.engine.outbox_is_empty().unwrap());
    // The longest one makes a message that is not too large.
    assert_eq!(send(&mut alice, &log, 8192 - 1024), None);
    assert!(alice.upload().prepared.message.len() <= 8192);

    // The service's settings have changed; and there is a limit that is our own.
    alice.engine.adopt_parameters(&limits(u32::MAX)).unwrap();
    assert_eq!(send(&mut alice, &log, 1024 * 1024), None);
    let refused = send(&mut alice, &log, 1024 * 1024 + 1).unwrap();
    assert_eq!(refused.reason, Reason::MessageTooLarge);
}

#[test]
fn for_how_long_entries_and_copies_are_kept_is_learnt_again() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("bob.valise"), StoreKey::random());
    let (mut alice, mut bob) = (world.person("alice"), world.person_in("bob", &store));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.send(log.group, "one");
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    let copies = |bob: &mut Person| bob.engine.offer_after(log.group, Position::NONE).unwrap().len();
    assert_eq!(copies(&mut bob), 1);
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let keeping = GetParametersResponse {
        retention: seconds(7200),
        entry_copies: seconds(0),
        ..GetParametersResponse::default()
    };
    bob.engine.adopt_parameters(&keeping).unwrap();
    // What is not needed any more goes with the next look.
    bob.engine.upkeep().unwrap();
    assert_eq!(copies(&mut bob), 0);

    let mut bob = world.reopen(bob.forget(), &store);
    let kept = (bob.engine.device.retention, bob.engine.device.entry_copies);
    assert_eq!(kept, (7200, 0));
    // A service that says nothing of it changes nothing.
    bob.engine.adopt_parameters(&limits(8192)).unwrap();
    let kept = (bob.engine.device.retention, bob.engine.device.entry_copies);
    assert_eq!(kept, (7200, 0));
}

#[test]
fn a_stream_has_no_more_groups_than_the_service_takes_the_most_active_first() {
    let world = World::new();
    let mut alice = world.person("alice");
    let mut logs: Vec<_> = (0..3).map(|_| alice.create_group("")).collect();
    alice.send(logs[0].group, "one");
    logs[0].accept_all(&mut alice);
    logs[0].deliver(&mut alice);
    let ids: Vec<_> = logs.iter().map(|log| log.group).collect();
    let split = |alice: &mut Person| {
        let cursors = alice.engine.cursors().unwrap();
        let group = |cursor: &wire::GroupCursor| GroupId::try_from(&*cursor.group_id).unwrap();
        let on_stream: Vec<_> = cursors.groups.iter().map(group).collect();
        let others: Vec<_> = cursors.others.into_iter().collect();
        (on_stream, others)
    };
    // Nobody has said how many there may be.
    assert_eq!(split(&mut alice), (vec![ids[0], ids[2], ids[1]], vec![]));
    let two = GetParametersResponse {
        limits: Some(Limits {
            max_groups_per_device: 2,
            ..Limits::default()
        }),
        ..GetParametersResponse::default()
    };
    alice.engine.adopt_parameters(&two).unwrap();
    assert_eq!(split(&mut alice), (vec![ids[0], ids[2]], vec![ids[1]]));
    // A service that says nothing of it changes nothing.
    alice.engine.adopt_parameters(&limits(8192)).unwrap();
    assert_eq!(split(&mut alice), (vec![ids[0], ids[2]], vec![ids[1]]));
}
