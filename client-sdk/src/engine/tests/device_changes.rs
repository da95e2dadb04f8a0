//! New devices of members are told, before anything else, to everybody; and they change safety numbers.

use super::rejoin::{comes_back, lose};
use super::*;
use crate::Peer;

/// Which devices were told as new, by whom, and where among the events.
fn told(events: &[EventKind]) -> Vec<(usize, Peer, Peer)> {
    let told = |(index, kind): (usize, &EventKind)| match kind {
        EventKind::DeviceAdded { user, device, by, .. } => {
            let peer = Peer {
                user: user.clone(),
                device: *device,
            };
            Some((index, peer, by.clone()))
        }
        _ => None,
    };
    events.iter().enumerate().filter_map(told).collect()
}

#[test]
fn a_new_device_of_a_member_is_told_before_it_can_read() {
    let world = World::new();
    let (mut alice, mut bob, mut ghost) = (world.person("alice"), world.person("bob"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    for person in [&mut alice, &mut bob] {
        assert_eq!(
            told(&person.events()),
            [],
            "a new user is no new device of a member"
        );
    }

    alice.add(&mut log, &mut [&mut ghost]);
    alice.send(log.group, "to all three");
    log.accept_all(&mut alice);
    let adder = alice.peer();
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
        let events = person.events();
        let (index, device, by) = told(&events).remove(0);
        assert_eq!((index, device, by), (0, ghost.peer(), adder.clone()));
        assert!(matches!(
            &events[1],
            EventKind::MembersChanged { added, epoch, .. } if *added == [ghost.peer()] && epoch.0 == 2
        ));
        assert!(matches!(&events[0], EventKind::DeviceAdded { epoch, .. } if epoch.0 == 2));
        assert!(matches!(&events[2], EventKind::Message { .. }));
        assert_eq!(events.len(), 3);
    }
}

#[test]
fn a_device_of_ones_own_user_that_somebody_else_adds_is_told() {
    let world = World::new();
    let (mut alice, mut bob, mut ghost) = (world.person("alice"), world.person("bob"), world.person("alice"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.events();
    log.deliver(&mut bob);
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    alice.events();
    log.deliver(&mut bob);
    bob.add(&mut log, &mut [&mut ghost]);
    log.deliver(&mut alice);
    let events = told(&alice.events());
    assert_eq!(events, [(0, ghost.peer(), bob.peer())]);
}

#[test]
fn a_device_that_comes_in_by_itself_is_told() {
    let world = World::new();
    let (mut alice, mut bob, mut ghost) = (world.person("alice"), world.person("bob"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    for person in [&mut alice, &mut bob] {
        person.events();
    }
    ghost.engine.come_in(&[log.group]).unwrap();
    comes_back(&mut ghost, &mut alice, &mut log);
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
        let events = person.events();
        assert_eq!(told(&events), [(0, ghost.peer(), ghost.peer())]);
        assert!(matches!(&events[1], EventKind::MembersChanged { added, .. } if *added == [ghost.peer()]));
    }
}

#[test]
fn a_device_that_comes_back_with_its_own_key_is_not_new() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    lose(&mut bob, &log);
    comes_back(&mut bob, &mut alice, &mut log);
    log.deliver(&mut alice);
    assert_eq!(told(&alice.events()), []);
    assert_eq!(alice.state(log.group).members, 2);
}

#[test]
fn a_new_user_with_two_devices_is_a_new_member_and_nothing_else() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let (mut phone, mut laptop) = (world.person("carol"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.add(&mut log, &mut [&mut phone, &mut laptop]);
    log.deliver(&mut bob);
    assert_eq!(told(&bob.events()), []);
    // Who comes back after all devices were gone is a new member as well.
    let devices = vec![phone.id(), laptop.id()];
    drop(alice.submit(log.group, Operation::Remove { devices }));
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    alice.add(&mut log, &mut [&mut world.person("carol")]);
    log.deliver(&mut bob);
    assert_eq!(told(&bob.events()), []);
}

fn shared(person: &mut Person, other: &Person) -> Option<SharedDevices> {
    let user = other.peer().user;
    person.engine.shared_devices(&user, None).unwrap()
}

#[test]
fn both_sides_know_the_same_devices_of_each_other() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut carol]);
    assert!(shared(&mut alice, &bob).is_none());
    alice.add(&mut log, &mut [&mut bob]);
    let (hers, his) = (
        shared(&mut alice, &bob).unwrap(),
        shared(&mut bob, &alice).unwrap(),
    );
    assert!(hers.own == his.others && hers.others == his.own);
    assert_eq!((hers.own.len(), hers.others.len()), (1, 1));

    // A group that bob is not in does not matter; a new device in the one that he is in does.
    let mut alone = alice.create_group("");
    alice.add(&mut alone, &mut [&mut world.person("alice")]);
    assert!(shared(&mut alice, &bob).unwrap().own == hers.own);
    alice.add(&mut log, &mut [&mut world.person("bob")]);
    log.deliver(&mut bob);
    let (hers, his) = (
        shared(&mut alice, &bob).unwrap(),
        shared(&mut bob, &alice).unwrap(),
    );
    assert!(hers.own == his.others && hers.others == his.own);
    assert_eq!((hers.own.len(), hers.others.len()), (1, 2));
    let user = bob.peer().user;
    let only = alice.engine.shared_devices(&user, Some(alone.group)).unwrap();
    assert!(only.is_none());
}

#[test]
fn devices_count_in_whichever_group_they_are() {
    let world = World::new();
    let (mut alice, mut phone, mut laptop) =
        (world.person("alice"), world.person("bob"), world.person("bob"));
    let mut first = alice.create_group("");
    alice.add(&mut first, &mut [&mut phone]);
    let mut second = alice.create_group("");
    alice.add(&mut second, &mut [&mut laptop]);
    assert_eq!(shared(&mut alice, &phone).unwrap().others.len(), 2);
}

#[test]
fn what_was_not_verified_does_not_count() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let user = bob.peer().user;
    for status in [
        GroupStatus::Quarantined,
        GroupStatus::HeldByBadCommit,
        GroupStatus::Lost,
    ] {
        alice.engine.db.put_status(log.group, status).unwrap();
        assert!(shared(&mut alice, &bob).is_none(), "{status}");
        assert!(
            alice.engine.shared_devices(&user, Some(log.group)).is_err(),
            "{status}"
        );
    }
    alice
        .engine
        .db
        .put_status(log.group, GroupStatus::Active)
        .unwrap();
    assert!(shared(&mut alice, &bob).is_some());
}
