//! Groups with a member whose certificate does not stand the test.

use valise_proto::delivery::v1::CommitFault;

use super::*;

#[test]
fn a_group_with_a_member_of_another_authority_is_quarantined() {
    let (world, elsewhere) = (World::new(), World::new());
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut eve = elsewhere.person("eve");
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    // Of those who are in it, only Alice trusts both.
    alice.engine.device.bundle = world.bundle_with(&elsewhere);
    let packages = vec![eve.package(false)];
    alice.done(&mut log, Operation::Add { packages });
    let waiting = bob.send(log.group, "never");
    log.deliver(&mut bob);

    let (a, b) = (alice.state(log.group), bob.state(log.group));
    assert_eq!(b.status, GroupStatus::Quarantined);
    assert_eq!(
        (b.epoch, b.epoch_authenticator),
        (a.epoch, a.epoch_authenticator),
        "who refused what others have merged would fork the group"
    );
    let rule = "certificate_untrusted".to_owned();
    assert_eq!(bob.events().last(), Some(&EventKind::Quarantined { rule }));
    assert_eq!(bob.report(), Some(CommitFault::Policy));
    for mut refused in [waiting, bob.send(log.group, "nor this")] {
        assert!(matches!(
            refused.try_recv().unwrap(),
            Err(Error::GroupNotActive(GroupStatus::Quarantined))
        ));
    }
}

#[test]
fn a_time_that_cannot_be_true_quarantines_no_group() {
    const YEAR: i64 = 365 * 24 * 3600;
    let now = Options::default().clock.unix_seconds().cast_signed();
    // None at all, before there were certificates, and after all key packages have ended.
    for said in [None, Some(YEAR), Some(now + YEAR)] {
        let world = World::new();
        let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
        let mut carol = world.person("carol");
        let mut log = alice.create_group("");
        alice.add(&mut log, &mut [&mut bob]);
        alice.send(log.group, "now");
        log.accept_all(&mut alice);
        for person in [&mut alice, &mut bob] {
            log.deliver(person);
        }
        let packages = vec![carol.package(false)];
        drop(alice.submit(log.group, Operation::Add { packages }));
        log.accept_all(&mut alice);
        let commit = log.entries.last_mut().unwrap();
        commit.accepted_at = said.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
        log.deliver(&mut bob);
        let state = bob.state(log.group);
        assert_eq!(
            (state.status, state.members),
            (GroupStatus::Active, 3),
            "{said:?}"
        );
    }
}
