//! While the log is frozen: what was under way waits for its repair, and so does coming back.

use super::*;

#[test]
fn a_frozen_log_makes_what_was_under_way_wait_for_its_repair() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("bob.valise"), StoreKey::random());
    let (mut alice, mut bob, mut log) = with(world.person("alice"), world.person_in("bob", &store));
    let mut sent = bob.send(log.group, "the log has it, or not");
    let first = bob.upload();
    log.accept(&bob, &first);
    let place = Position(log.entries.len() as u64);
    log.deliver(&mut alice);
    lose(&mut bob, &log);
    bob.events();
    let repeat = bob.upload();
    bob.refuse(&repeat, Refusal::new(Reason::LogRegressed));
    assert_eq!(bob.state(log.group).status, GroupStatus::LogRegressed);
    assert!(matches!(bob.events()[..], [EventKind::LogRegressed { .. }]));
    assert!(bob.chores().iter().any(|chore| matches!(chore, Chore::Regressed)));

    // A restart changes nothing.
    let mut bob = world.reopen(bob.forget(), &store);
    assert!(bob.peek_kinds().is_empty());
    assert!(bob.engine.outbox_is_empty().unwrap(), "nothing is under way");
    assert!(bob.engine.due_rejoins().unwrap().is_empty());
    assert_eq!(bob.engine.regressed_groups().unwrap(), [log.group]);
    assert!(bob.engine.regressed_cursor(log.group).unwrap().is_some());
    assert!(
        !bob.engine
            .offer_after(log.group, Position::NONE)
            .unwrap()
            .is_empty()
    );

    assert!(bob.engine.log_is_open(log.group, false).unwrap());
    assert_eq!(bob.events().last(), Some(&EventKind::Rejoining));
    let again = bob.upload();
    assert!(again.repeat);
    assert_eq!(
        (again.prepared.key, &again.prepared.message),
        (first.prepared.key, &first.prepared.message)
    );
    bob.accepted(&again, place);
    assert!(sent.try_recv().is_err(), "who waited went with the process");
    comes_back(&mut bob, &mut alice, &mut log);
    assert_eq!(messages(&mut bob), ["the log has it, or not"]);
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    agree(&mut alice, &mut bob, &mut log);
}

#[test]
fn an_external_commit_on_a_frozen_log_is_built_again_when_it_is_repaired() {
    // The app may ask once more before the device has noticed that the log is open.
    for asked in [false, true] {
        let world = World::new();
        let (mut alice, mut bob, mut log) = scene(&world);
        bob.engine.options.rejoin.lost = ByItself::Never;
        lose(&mut bob, &log);
        let mut back = ask(&mut bob, log.group);
        let mut queued = bob.send(log.group, "queued");
        let current = alice.current(&log);
        bob.engine.rejoin_with(log.group, &current).unwrap();
        let upload = bob.upload();
        bob.refuse(&upload, Refusal::new(Reason::LogRegressed));
        let state = bob.state(log.group);
        assert_eq!((state.status, state.members), (GroupStatus::LogRegressed, 0));
        assert!(back.try_recv().is_err() && queued.try_recv().is_err());
        assert!(
            !bob.engine
                .offer_after(log.group, Position::NONE)
                .unwrap()
                .is_empty()
        );

        if asked {
            back.close();
            bob.engine.waiters.clear();
            back = ask(&mut bob, log.group);
        } else {
            assert!(bob.engine.log_is_open(log.group, false).unwrap());
        }
        assert_eq!(bob.state(log.group).status, GroupStatus::Rejoining);
        assert_eq!(bob.engine.due_rejoins().unwrap(), [log.group]);
        comes_back(&mut bob, &mut alice, &mut log);
        assert_eq!(back.try_recv().unwrap().unwrap(), Outcome::Rejoined);
        log.accept_all(&mut bob);
        log.deliver(&mut bob);
        log.deliver(&mut alice);
        assert_eq!(messages(&mut alice).last().unwrap(), "queued");
        log.accept_all(&mut alice);
        agree(&mut alice, &mut bob, &mut log);
        assert!(bob.engine.outbox_is_empty().unwrap());
    }
}

/// Bob's group stands still, and he has asked to rejoin it.
fn asked_while_regressed(world: &World) -> (Person, Person, Log) {
    let (alice, mut bob, log) = scene(world);
    let reason = Reason::LogRegressed.as_str();
    bob.engine.group_ended(log.group, reason, Position(1)).unwrap();
    drop(ask(&mut bob, log.group));
    bob.chores();
    (alice, bob, log)
}

#[test]
fn who_cannot_rejoin_looks_again_whether_the_log_is_repaired() {
    let world = World::new();
    let (_, mut bob, log) = asked_while_regressed(&world);
    bob.engine
        .rejoin_denied(log.group, Reason::PolicyDenied.into())
        .unwrap();
    assert_eq!(bob.state(log.group).status, GroupStatus::LogRegressed);
    assert!(bob.chores().iter().any(|chore| matches!(chore, Chore::Regressed)));
    assert!(bob.engine.log_is_open(log.group, true).unwrap());
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);

    // Without keys it could not go on, whatever the log has.
    let (mut alice, mut bob, log) = asked_while_regressed(&world);
    let current = alice.current(&log);
    bob.engine.rejoin_with(log.group, &current).unwrap();
    let upload = bob.upload();
    bob.refuse(&upload, Refusal::new(Reason::EpochConflict));
    bob.engine
        .rejoin_denied(log.group, Reason::PolicyDenied.into())
        .unwrap();
    assert_eq!(bob.state(log.group).status, GroupStatus::Lost);
}
