//! Who is in a group after a commit: each device once, not too many, and nobody in another's place.

use openmls::prelude::LeafNodeIndex;
use valise_group_rules::{ExternalJoin, GroupLimits, Policy};

use crate::scene::{Device, Plan, Scene, VICTIM, external_commit, judge_as_service, new_id, outcome};

/// All devices of members come in by themselves.
fn open() -> Scene {
    Scene::new(Policy {
        external_join: ExternalJoin::MemberUsers,
        ..Policy::default()
    })
}

/// What becomes of a device that comes in by itself.
fn comes_in(limits: GroupLimits, scene: &Scene, device: &Device) -> Result<(), &'static str> {
    let message = external_commit(device, &scene.devices[0], &scene.groups[0]);
    outcome(&judge_as_service(limits, &scene.public(), &message))
}

fn added(scene: &mut Scene, limits: GroupLimits, devices: &[&Device]) -> Result<(), &'static str> {
    let plan = Plan {
        adds: devices.iter().map(|device| device.package()).collect(),
        ..Plan::default()
    };
    outcome(&scene.judge_within(limits, 0, plan))
}

fn at_most(members: usize) -> GroupLimits {
    GroupLimits {
        members,
        ..GroupLimits::default()
    }
}

#[test]
fn who_comes_in_takes_nobody_elses_place() {
    // The leaf with the key of who comes in goes: here it is another user's, or another device's.
    for name in ["moderator", "reader"] {
        let mut scene = open();
        scene.devices[1].becomes(&scene.authority, name, new_id());
        let judged = comes_in(GroupLimits::default(), &scene, &scene.devices[1]);
        assert_eq!(judged, Err("external_remove"), "{name}");
    }
}

#[test]
fn a_device_is_in_a_group_once() {
    let mut scene = open();
    let limits = GroupLimits::default();
    // Under another key: its old leaf stays.
    let again = Device::with_id(&scene.authority, "reader", scene.devices[1].id);
    assert_eq!(comes_in(limits, &scene, &again), Err("duplicate_device"));
    assert_eq!(added(&mut scene, limits, &[&again]), Err("duplicate_device"));
    let new = Device::new(&scene.authority, "newcomer");
    let twice = Device::with_id(&scene.authority, "newcomer", new.id);
    assert_eq!(added(&mut scene, limits, &[&new]), Ok(()));
    assert_eq!(
        added(&mut scene, limits, &[&new, &twice]),
        Err("duplicate_device")
    );
}

#[test]
fn a_commit_adds_only_so_many() {
    let mut scene = open();
    let limits = GroupLimits {
        adds_per_commit: 1,
        ..GroupLimits::default()
    };
    let (one, two) = (
        Device::new(&scene.authority, "one"),
        Device::new(&scene.authority, "two"),
    );
    assert_eq!(added(&mut scene, limits, &[&one]), Ok(()));
    assert_eq!(added(&mut scene, limits, &[&one, &two]), Err("too_many_adds"));
}

#[test]
fn a_group_has_only_so_many_members() {
    let mut scene = open();
    let full = scene.devices.len();
    let newcomer = Device::new(&scene.authority, "newcomer");
    assert_eq!(added(&mut scene, at_most(full + 1), &[&newcomer]), Ok(()));
    assert_eq!(
        added(&mut scene, at_most(full), &[&newcomer]),
        Err("too_many_members")
    );
    let in_exchange = Plan {
        adds: vec![newcomer.package()],
        removals: vec![LeafNodeIndex::new(VICTIM)],
        ..Plan::default()
    };
    let judged = scene.judge_within(at_most(full), 0, in_exchange);
    assert_eq!(outcome(&judged), Ok(()));
    let another = Device::new(&scene.authority, "reader");
    assert_eq!(comes_in(at_most(full), &scene, &another), Err("too_many_members"));
    // Who comes back takes its own place.
    assert_eq!(comes_in(at_most(full), &scene, &scene.devices[1]), Ok(()));
}

#[test]
fn from_a_group_with_too_many_members_they_can_only_go() {
    let mut scene = open();
    let limits = at_most(scene.devices.len() - 1);
    let path = Plan {
        path: true,
        ..Plan::default()
    };
    let judged = scene.judge_within(limits, 0, path);
    assert_eq!(outcome(&judged), Err("too_many_members"));
    let removal = Plan {
        removals: vec![LeafNodeIndex::new(VICTIM)],
        ..Plan::default()
    };
    assert_eq!(outcome(&scene.judge_within(limits, 0, removal)), Ok(()));
}
