//! Of a group that was held by a bad commit when it was reset.

use super::*;
use crate::{AfterBadCommit, Policy};

#[test]
fn a_device_that_is_held_takes_the_end_from_what_a_member_signed() {
    let world = World::new();
    let (mut alice, mut bob, mut carol, mut log) = scene(&world);
    bad_commit(&mut alice, &mut log);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::HeldByBadCommit);
    bob.events();
    let current = alice.current(&log);
    let successor = reset(&log, &mut [&mut bob]);
    assert!(!old_of(&bob, &log).complete);

    // State of another group is not it, nor is one that nobody has signed.
    let other = carol.create_group("Other");
    let foreign = carol.current(&other);
    let mut forged = current.clone();
    let mut bytes = forged.group_info.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    forged.group_info = bytes.into();
    for bad in [&foreign, &forged] {
        assert!(bob.engine.make_successor(log.group, Some(bad)).is_err());
        assert!(bob.peek_kinds().is_empty() && step(&bob, &log) == ResetStep::Waiting);
    }

    bob.engine.make_successor(log.group, Some(&current)).unwrap();
    let upload = bob.upload();
    assert_eq!(upload.kind, UploadKind::Create);
    bob.accepted(&upload, Position::NONE);
    assert!(!has_keys(&bob, log.group), "it was only looked at");
    let behind = bob.engine.left_behind(log.group).unwrap().unwrap();
    assert_eq!(behind.devices, [carol.id(), alice.id()]);
    let members = bob.engine.members(successor).unwrap();
    assert_eq!(members.len(), 1);
}

#[test]
fn a_bad_commit_is_rejoined_after_where_the_groups_policy_says_so() {
    for rejoin in [false, true] {
        let world = World::new();
        let (mut alice, mut bob, _carol, mut log) = scene(&world);
        if rejoin {
            let policy = Policy {
                bad_commit: AfterBadCommit::Rejoin,
                ..Policy::default()
            };
            alice.done(&mut log, Operation::SetPolicy { policy });
            log.deliver(&mut bob);
        }
        bad_commit(&mut alice, &mut log);
        log.deliver(&mut bob);
        assert!(bob.reported());
        let expected = if rejoin {
            GroupStatus::Rejoining
        } else {
            GroupStatus::HeldByBadCommit
        };
        assert_eq!(bob.state(log.group).status, expected, "S7");
    }
}
