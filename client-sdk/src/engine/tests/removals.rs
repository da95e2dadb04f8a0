//! Who is removed with a user, and what a removed device keeps: nothing.

use super::*;
use crate::store::IntentRow;

#[test]
fn a_device_that_the_user_got_meanwhile_is_removed_too() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let (mut carol, mut second) = (world.person("carol"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    log.deliver(&mut bob);

    let users = vec![carol.peer().user];
    let mut removed = alice.submit(log.group, Operation::RemoveUsers { users });
    let packages = vec![second.package(false)];
    drop(bob.submit(log.group, Operation::Add { packages }));
    let (loser, winner) = (alice.upload(), bob.upload());
    log.accept(&bob, &winner);
    alice.refuse(&loser, Refusal::new(Reason::EpochConflict));
    log.deliver(&mut alice);
    assert_eq!(alice.state(log.group).members, 4);

    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    let Ok(Outcome::Committed { removed, .. }) = removed.try_recv().unwrap() else {
        panic!("not removed")
    };
    assert_eq!(removed.len(), 2);
    assert!(removed.contains(&carol.peer()) && removed.contains(&second.peer()));
    assert_eq!(alice.state(log.group).members, 2);
}

#[test]
fn removals_that_an_earlier_version_stored_are_read() {
    let world = World::new();
    let (mut alice, bob) = (world.person("alice"), world.person("bob"));
    let log = alice.create_group("");
    let stored = |detail: String| IntentRow {
        id: IntentId(1),
        group: log.group,
        kind: "remove".to_owned(),
        payload: None,
        detail: Some(detail),
        prepared: None,
    };
    let devices = vec![bob.id()];
    let row = stored(format!("[\"{}\"]", bob.id()));
    assert!(Operation::from_row(&row).unwrap() == Operation::Remove { devices });
    let users = Operation::RemoveUsers {
        users: vec![bob.peer().user],
    };
    let row = stored(users.detail().unwrap().unwrap());
    assert!(Operation::from_row(&row).unwrap() == users);
}

#[test]
fn a_removed_device_forgets_the_group() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut waiting = bob.send(log.group, "never");
    drop(alice.submit(
        log.group,
        Operation::Remove {
            devices: vec![bob.id()],
        },
    ));
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    assert_eq!(
        bob.events().last(),
        Some(&EventKind::Removed { by: alice.peer() })
    );
    assert!(matches!(
        waiting.try_recv().unwrap(),
        Err(Error::GroupNotActive(GroupStatus::Removed))
    ));
    let rows: i64 = bob
        .engine
        .db
        .connection
        .query_row("SELECT count(*) FROM openmls_group_data", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0, "S4");
    assert!(matches!(
        bob.send(log.group, "x").try_recv().unwrap(),
        Err(Error::GroupNotActive(GroupStatus::Removed))
    ));
}

#[test]
fn a_removed_device_can_be_added_again() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    drop(alice.submit(
        log.group,
        Operation::Remove {
            devices: vec![bob.id()],
        },
    ));
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    // The second invitation overtakes the news of the removal: nothing may rely on the order between logs.
    alice.add(&mut log, &mut [&mut bob]);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
    alice.send(log.group, "again");
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(messages(&mut bob), ["again"]);
}
