//! Devices that were shown different logs notice it.

use super::*;

/// Bob is shown another log than Alice; each hears of it from what the other says next.
fn both_notice(what: &str, tamper: impl Fn(&mut Vec<wire::Entry>)) {
    let mut scene = scene();
    scene.alice_says("I have seen all");
    let mut entries = scene.log.entries.clone();
    tamper(&mut entries);
    let bobs = renumbered(&scene.log, entries);
    let kinds = scene.bob_is_shown(&bobs);
    assert!(
        texts(&kinds).contains(&"I have seen all"),
        "{what}: the message is shown"
    );
    let found = forks(&kinds);
    assert_eq!(found.len(), 1, "{what}: {kinds:?}");
    assert_eq!(found[0].sender, scene.alice.peer(), "{what}");
    assert_eq!(found[0].position, Position(4), "{what}");
    assert_ne!(found[0].ours, Some(found[0].theirs), "{what}");
    let mine = scene
        .alice
        .engine
        .db
        .chain_value(scene.log.group, Position(4))
        .unwrap();
    assert_eq!(Some(found[0].theirs), mine, "{what}");
    // The entry is the evidence.
    let said = claim(&found[0].evidence);
    assert!(
        matches!(said, Said::Claim(claim) if claim.value == found[0].theirs && claim.position == Position(4)),
        "{what}"
    );
    let at = Position(found[0].evidence.position);
    assert_eq!(scene.bob.state(scene.log.group).forked_at, Some(at), "{what}");
    assert_eq!(
        scene.bob.state(scene.log.group).status,
        GroupStatus::Active,
        "{what}"
    );

    scene.bob.send(scene.log.group, "and I?");
    scene.log.accept_all(&mut scene.bob);
    scene.log.deliver(&mut scene.alice);
    let kinds = scene.alice.events();
    assert_eq!(texts(&kinds).last(), Some(&"and I?"), "{what}");
    let found = forks(&kinds);
    assert_eq!(found.len(), 1, "{what}: {kinds:?}");
    assert_eq!(found[0].sender, scene.bob.peer(), "{what}");
}

#[test]
fn a_dropped_entry_is_noticed() {
    both_notice("dropped", |entries| drop(entries.remove(SECOND)));
}

#[test]
fn a_replayed_entry_is_noticed() {
    both_notice("replayed", |entries| {
        let mut again = entries[SECOND].clone();
        again.entry_id = vec![1; 8].into();
        entries.insert(SECOND + 1, again);
    });
}

#[test]
fn entries_in_another_order_are_noticed() {
    both_notice("reordered", |entries| entries.swap(SECOND, SECOND + 1));
}

#[test]
fn a_changed_entry_is_noticed_whatever_was_changed() {
    both_notice("time", |entries| {
        entries[SECOND].accepted_at.as_mut().unwrap().nanos = 1_000_000;
    });
    both_notice("id", |entries| entries[SECOND].entry_id = vec![1; 8].into());
    both_notice("sender", |entries| entries[SECOND].sender_device_id.clear());
    both_notice("epoch", |entries| entries[SECOND].epoch = 9);
    // It cannot be read, and is in the log nevertheless.
    both_notice("bytes", |entries| {
        let mut bytes = entries[SECOND].mls_message.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        entries[SECOND].mls_message = bytes.into();
    });
}

#[test]
fn a_joiner_who_was_told_another_beginning_is_noticed() {
    for what in ["time", "id", "place"] {
        let world = World::new();
        let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
        let mut log = alice.create_group("");
        let packages = vec![bob.package(false)];
        drop(alice.submit(log.group, Operation::Add { packages }));
        let commit = alice.upload();
        log.accept(&alice, &commit);
        log.deliver(&mut alice);
        let tree = alice.tree(log.group);
        let mut item = bob.welcome(&log, &commit);
        let Some(wire::inbox_item::Item::Welcome(welcome)) = &mut item.item else {
            panic!("a Welcome");
        };
        let commit = welcome.commit.as_mut().unwrap();
        match what {
            "id" => commit.entry_id = vec![1; 8].into(),
            "place" => commit.position += 1,
            _ => item.accepted_at.as_mut().unwrap().seconds += 1,
        }
        bob.engine
            .apply(vec![Arrival::Inbox(item, Some(Ok(tree)))])
            .unwrap();
        bob.events();
        alice.events();
        bob.send(log.group, "hello");
        log.accept_all(&mut bob);
        log.deliver(&mut alice);
        let kinds = alice.events();
        assert_eq!(texts(&kinds), ["hello"]);
        assert_eq!(forks(&kinds).len(), 1, "{what}");
    }
}

#[test]
fn a_commit_that_differs_is_merged_reported_and_begins_anew() {
    let mut scene = scene();
    let entries = {
        let mut entries = scene.log.entries.clone();
        entries[SECOND].accepted_at.as_mut().unwrap().seconds += 60;
        entries
    };
    let bobs = renumbered(&scene.log, entries);
    assert_eq!(
        forks(&scene.bob_is_shown(&bobs)),
        [],
        "nobody has referred to it yet"
    );
    scene.alice.done(&mut scene.log, Operation::SelfUpdate);
    let mut bobs = bobs;
    bobs.entries.push(scene.log.entries.last().unwrap().clone());
    let kinds = scene.bob_is_shown(&bobs);
    let found = forks(&kinds);
    assert_eq!(found.len(), 1, "{kinds:?}");
    assert_eq!(found[0].sender, scene.alice.peer());
    assert_eq!(found[0].evidence, *scene.log.entries.last().unwrap());
    assert_eq!(scene.bob.report(), Some(wire::CommitFault::DeliveryForked));
    let (a, b) = (
        scene.alice.state(scene.log.group),
        scene.bob.state(scene.log.group),
    );
    assert_eq!(a.epoch_authenticator, b.epoch_authenticator);
    assert_eq!(b.status, GroupStatus::Active);

    // Both begin the new epoch with the same commit: what was is told, and over.
    scene.alice_says("again");
    bobs.entries.push(scene.log.entries.last().unwrap().clone());
    let kinds = scene.bob_is_shown(&bobs);
    assert_eq!(texts(&kinds), ["again"]);
    assert_eq!(forks(&kinds), []);
    assert!(
        scene.bob.state(scene.log.group).forked_at.is_some(),
        "it is not forgotten"
    );
}

#[test]
fn an_alarm_comes_once_for_each_device_and_epoch() {
    let mut scene = scene();
    let mut bobs = scene.log.entries.clone();
    bobs.remove(SECOND);
    let mut entries = |scene: &mut Scene| {
        bobs.extend(scene.log.entries[bobs.len() + 1..].iter().cloned());
        let shown = renumbered(&scene.log, bobs.clone());
        scene.bob_is_shown(&shown)
    };
    let mut alarms = Vec::new();
    for n in 0..5 {
        scene.alice_says(&n.to_string());
        alarms.push(forks(&entries(&mut scene)).len());
    }
    assert_eq!(alarms, [1, 0, 0, 0, 0]);
    let log = &mut scene.log;
    log.deliver(&mut scene.carol);
    scene.carol.send(log.group, "me, too");
    log.accept_all(&mut scene.carol);
    let found = forks(&entries(&mut scene));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].sender, scene.carol.peer());

    // The log stays another one: the commit is of the epoch in which Alice's was told, and then there is a new one.
    scene.log.deliver(&mut scene.alice);
    scene.alice.done(&mut scene.log, Operation::SelfUpdate);
    assert_eq!(forks(&entries(&mut scene)), []);
    scene.alice_says("x");
    let found = forks(&entries(&mut scene));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].sender, scene.alice.peer());
}

#[test]
fn whoever_comes_back_to_another_beginning_is_noticed() {
    for (wrong, alarms) in [(0, 0), (1, 1)] {
        let mut scene = scene();
        let reason = Reason::PositionTrimmed.as_str();
        let group = scene.log.group;
        scene.bob.engine.group_ended(group, reason, Position(4)).unwrap();
        let mut current = scene.alice.current(&scene.log);
        current.commit_position += wrong;
        scene.bob.engine.rejoin_with(group, &current).unwrap();
        let upload = scene.bob.upload();
        scene.log.accept(&scene.bob, &upload);
        scene.bob.rejoined(&scene.log, &upload);
        scene.log.deliver(&mut scene.alice);
        let kinds = scene.alice.events();
        let found = forks(&kinds);
        assert_eq!(found.len(), alarms, "{kinds:?}");
        assert!(found.iter().all(|fork| fork.sender == scene.bob.peer()));
        assert!(
            kinds
                .iter()
                .any(|kind| matches!(kind, EventKind::CameBack { .. })),
            "it is merged all the same"
        );
    }
}
