//! Offers of real devices, honest and not, and what a repair would make of them.

mod members;

use valise_proto::{EntryId, Position};

use self::members::{ARCHIVED, Doing, Scene};
use super::plan::{End, Plan};
use crate::log::Entry;

const ALL: [usize; 3] = [0, 1, 2];
const FAR: u64 = u64::MAX;

fn end(plan: &Plan) -> (End, u64) {
    (plan.end.unwrap(), plan.state.position_of_log.0)
}

/// The same place, another entry.
fn instead(entry: &Entry, change: impl FnOnce(&mut Entry)) -> Entry {
    let mut other = Entry {
        id: EntryId::from_bytes([0xee; 8]),
        ..entry.clone()
    };
    change(&mut other);
    other
}

#[test]
fn everything_that_all_agree_on_comes_back() {
    let mut scene = Scene::new();
    let first = scene.message(0, "one");
    let (commit, info, _) = scene.commit(1, &Doing::default());
    scene.apply(1, &commit, None);
    let last = scene.message(2, "two");
    let mut offered = [&first, &commit, &last].map(|entry| scene.offered(entry, &ALL));
    offered[1].group_info = Some(info.clone());
    let plan = scene.plan(&offered, FAR);
    assert_eq!(end(&plan), (End::Complete, ARCHIVED + 3));
    assert_eq!(plan.state.group.epoch().0, 2);
    assert_eq!((plan.least_agreeing, plan.offering.len()), (3, 3));
    let restored: Vec<_> = plan.restoration.entries.iter().map(|entry| entry.id).collect();
    assert_eq!(restored, [first.id, commit.id, last.id]);
    assert_eq!(plan.restoration.group_info, Some((info, Position(ARCHIVED + 2))));
    assert!(!plan.group_info_missing && plan.restoration.windows.is_empty());
}

#[test]
fn a_group_info_of_something_else_is_left_out() {
    let mut scene = Scene::new();
    let (stale, wrong, _) = scene.commit(0, &Doing::default());
    let position = stale.position;
    scene.members[0].forget_commit();
    let (commit, _, _) = scene.commit(1, &Doing::default());
    let commit = Entry { position, ..commit };
    let mut offered = scene.offered(&commit, &ALL);
    offered.group_info = Some(wrong);
    let plan = scene.plan(&[offered], FAR);
    assert_eq!(end(&plan), (End::Complete, ARCHIVED + 1));
    assert!(plan.group_info_missing && plan.restoration.group_info.is_none());
}

#[test]
fn forgeries_are_passed_over() {
    type Forge = fn(&mut Entry);
    let broken: [(&str, Forge); 7] = [
        ("size", |entry| entry.bytes = bytes::Bytes::new()),
        ("encoding", |entry| entry.bytes = vec![1, 2, 3].into()),
        ("accepted_at", |entry| entry.accepted_at = 1),
        ("accepted_at", |entry| entry.accepted_at += 3_600_000),
        ("epoch", |entry| entry.epoch = entry.epoch.next()),
        ("sender", |entry| entry.sender = None),
        ("mls_validation", |entry| {
            let mut bytes = entry.bytes.to_vec();
            let end = bytes.len() - 80;
            bytes[end] ^= 1;
            entry.bytes = bytes.into();
        }),
    ];
    for (rule, forge) in broken {
        let mut scene = Scene::new();
        let (commit, _, _) = scene.commit(1, &Doing::default());
        let forged = instead(&commit, forge);
        // Two honest ones against one, and a liar alone.
        let offered = [scene.offered(&commit, &[0, 1]), scene.offered(&forged, &[2])];
        let plan = scene.plan(&offered, FAR);
        assert_eq!(end(&plan), (End::Complete, ARCHIVED + 1), "{rule}");
        assert_eq!(plan.restoration.entries[0].id, commit.id);
        assert_eq!(plan.least_agreeing, 2);
        let mut scene = Scene::new();
        let (commit, _, _) = scene.commit(1, &Doing::default());
        let offered = scene.offered(&instead(&commit, forge), &[2]);
        let plan = scene.plan(&[offered], FAR);
        assert_eq!(end(&plan), (End::Refused, ARCHIVED), "{rule}");
        assert_eq!(plan.candidates[0].rule, Some(rule));
    }
}

#[test]
fn a_commit_in_the_name_of_another_is_passed_over() {
    let mut scene = Scene::new();
    let (commit, _, _) = scene.commit(1, &Doing::default());
    let alice = scene.members[0].device;
    let forged = instead(&commit, |entry| entry.sender = Some(alice));
    let offered = scene.offered(&forged, &[2]);
    let plan = scene.plan(&[offered], FAR);
    assert_eq!(end(&plan), (End::Refused, ARCHIVED));
    assert_eq!(plan.candidates[0].rule, Some("sender"));
}

#[test]
fn where_messages_differ_it_ends() {
    let mut scene = Scene::new();
    let (first, second) = (scene.message(0, "one"), scene.message(0, "two"));
    let other = instead(&second, |entry| entry.accepted_at += 1);
    let (bob, carol) = (scene.members[1].device, scene.members[2].device);
    let offered = [
        scene.offered(&first, &ALL),
        scene.offered(&second, &[0, 1]),
        scene.offered(&other, &[2]),
    ];
    let plan = scene.plan(&offered, FAR);
    assert_eq!(end(&plan), (End::Conflict, ARCHIVED + 1));
    let by = |device| plan.candidates.iter().find(|side| side.devices.contains(&device));
    assert_eq!(by(bob).unwrap().id, second.id);
    assert_eq!(by(carol).unwrap().id, other.id);
    assert_eq!(plan.restoration.entries.len(), 1);
}

#[test]
fn two_good_commits_of_one_epoch_are_a_conflict() {
    let mut scene = Scene::new();
    let (one, _, _) = scene.commit(1, &Doing::default());
    let (two, _, _) = scene.commit(2, &Doing::default());
    let two = Entry {
        position: one.position,
        ..two
    };
    let offered = [scene.offered(&one, &[0, 1]), scene.offered(&two, &[2])];
    assert_eq!(end(&scene.plan(&offered, FAR)), (End::Conflict, ARCHIVED));
}

#[test]
fn it_ends_before_a_gap_and_where_the_administrator_says() {
    let mut scene = Scene::new();
    let entries: Vec<_> = (0..40)
        .map(|number| scene.message(0, &number.to_string()))
        .collect();
    let all: Vec<_> = entries.iter().map(|entry| scene.offered(entry, &ALL)).collect();
    let mut gap = all.clone();
    gap.remove(20);
    assert_eq!(end(&scene.plan(&gap, FAR)), (End::Missing, ARCHIVED + 20));

    let mut scene = Scene::new();
    let entries: Vec<_> = (0..40)
        .map(|number| scene.message(0, &number.to_string()))
        .collect();
    let all: Vec<_> = entries.iter().map(|entry| scene.offered(entry, &ALL)).collect();
    assert_eq!(end(&scene.plan(&all, ARCHIVED + 33)), (End::Limit, ARCHIVED + 33));
    assert_eq!(end(&Scene::new().plan(&[], FAR)), (End::Complete, ARCHIVED));
}

#[test]
fn a_message_does_not_come_back_twice() {
    let mut scene = Scene::new();
    let first = scene.message(0, "one");
    let again = instead(&first, |entry| {
        entry.position = entry.position.next();
        entry.accepted_at += 100;
    });
    let offered = [scene.offered(&first, &ALL), scene.offered(&again, &[2])];
    let plan = scene.plan(&offered, FAR);
    assert_eq!(end(&plan), (End::Refused, ARCHIVED + 1));
    assert_eq!(plan.candidates[0].rule, Some("repeated"));
}

#[test]
fn a_removal_that_two_replicas_proposed_comes_back_twice() {
    let mut scene = Scene::new();
    let removals = [scene.removal(2), scene.removal(2)];
    assert_eq!(removals[0].bytes, removals[1].bytes, "as from any replica");
    let offered = removals.each_ref().map(|entry| scene.offered(entry, &ALL));
    let plan = scene.plan(&offered, FAR);
    assert_eq!(end(&plan), (End::Complete, ARCHIVED + 2));
    assert_eq!(plan.state.group.pending.len(), 2);
}

#[test]
fn what_the_service_proposed_is_told_from_what_members_did() {
    let mut scene = Scene::new();
    let offered = [scene.removal(2), scene.proposal(1)].map(|entry| scene.offered(&entry, &ALL));
    let plan = scene.plan(&offered, FAR);
    let by_service = plan.state.group.pending.iter().map(|pending| pending.by_service);
    assert_eq!(by_service.collect::<Vec<_>>(), [true, false]);
}

#[test]
fn who_was_added_has_a_say_and_who_was_removed_has_none() {
    let mut scene = Scene::new();
    let before = scene.message(0, "before");
    let (commit, _, welcome) = scene.commit(
        0,
        &Doing {
            add: Some(3),
            remove: Some(2),
        },
    );
    scene.apply(0, &commit, welcome);
    let (heard, only) = (scene.message(1, "heard"), scene.message(3, "only"));
    let lie = instead(&heard, |entry| entry.accepted_at += 1);
    let (carol, dave) = (scene.members[2].device, scene.members[3].device);
    let offered = [
        // Dave was not there yet.
        scene.offered(&before, &[0, 1, 2, 3]),
        scene.offered(&commit, &ALL),
        scene.offered(&heard, &[0, 3]),
        // Carol is not there any more.
        scene.offered(&lie, &[2]),
        scene.offered(&only, &[3]),
    ];
    let plan = scene.plan(&offered, FAR);
    assert_eq!(end(&plan), (End::Complete, ARCHIVED + 4));
    assert_eq!(plan.least_agreeing, 1);
    assert!(plan.lets_in(dave) && !plan.lets_in(carol));
    assert!(plan.snapshot.is_some(), "it adds somebody");
    assert!(plan.group_info_missing);
    let mut windows: Vec<_> = plan.restoration.windows.iter().collect();
    windows.sort_by_key(|(_, device, _)| *device == dave);
    let position = commit.position;
    assert_eq!(windows[0].1, carol);
    assert_eq!(windows[0].2.last().unwrap().until, Some(position));
    assert_eq!((windows[1].1, windows[1].2[0].after), (dave, position));
}

#[test]
fn a_stranger_has_no_say() {
    let mut scene = Scene::new();
    let message = scene.message(0, "one");
    let offered = scene.offered(&message, &[3]);
    let plan = scene.plan(&[offered], FAR);
    assert_eq!(end(&plan), (End::Missing, ARCHIVED));
    assert!(plan.candidates.is_empty());
}

#[test]
fn what_a_commit_must_have_seen_binds_here_too() {
    let mut scene = Scene::new();
    let leaving = scene.proposal(2);
    let (commit, _, _) = scene.commit(1, &Doing::default());
    let offered = [scene.offered(&leaving, &ALL), scene.offered(&commit, &ALL)];
    let plan = scene.plan(&offered, FAR);
    assert_eq!(end(&plan), (End::Refused, ARCHIVED + 1));
    assert_eq!(plan.candidates[0].rule, Some("proposals_missing"));
}
