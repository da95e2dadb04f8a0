//! Coming back by an external commit.

mod bad_commit;
mod frozen;

use super::people::{Log, Person, World};
use super::*;
use crate::ByItself;

/// Alice and Bob in a group with a name, and three messages that Bob has not read.
fn scene(world: &World) -> (Person, Person, Log) {
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    with(alice, bob)
}

fn with(mut alice: Person, mut bob: Person) -> (Person, Person, Log) {
    let mut log = alice.create_group("Budget");
    alice.add(&mut log, &mut [&mut bob]);
    log.deliver(&mut bob);
    for n in 0..3 {
        alice.send(log.group, &n.to_string());
    }
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    (alice, bob, log)
}

pub(super) fn lose(person: &mut Person, log: &Log) {
    person.events();
    let reason = Reason::PositionTrimmed.as_str();
    let first = Position(person.state(log.group).position.0 + 2);
    person.engine.group_ended(log.group, reason, first).unwrap();
}

/// The group as `member` has it is shown to `person`, whose external commit the service accepts.
pub(super) fn comes_back(person: &mut Person, member: &mut Person, log: &mut Log) {
    let current = member.current(log);
    person.engine.rejoin_with(log.group, &current).unwrap();
    let upload = person.upload();
    assert_eq!(upload.kind, UploadKind::ExternalCommit);
    log.accept(person, &upload);
    person.rejoined(log, &upload);
}

fn ask(person: &mut Person, group: GroupId) -> oneshot::Receiver<Result<Outcome, Error>> {
    let (answer, outcome) = oneshot::channel();
    person
        .engine
        .ask_rejoin(group, false, Span::none(), answer)
        .unwrap();
    outcome
}

fn agree(one: &mut Person, other: &mut Person, log: &mut Log) {
    one.send(log.group, "there?");
    other.send(log.group, "here");
    for person in [&mut *one, &mut *other] {
        log.deliver(person);
        log.accept_all(person);
    }
    for person in [&mut *one, &mut *other] {
        log.deliver(person);
        let texts = messages(person);
        assert!(
            texts.ends_with(&["there?".to_owned(), "here".to_owned()]),
            "{texts:?}"
        );
    }
    let (a, b) = (one.state(log.group), other.state(log.group));
    assert_eq!(
        (a.epoch, a.epoch_authenticator, a.members, a.position),
        (b.epoch, b.epoch_authenticator, b.members, b.position)
    );
}

#[test]
fn a_device_that_was_away_too_long_comes_back_and_goes_on() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = scene(&world);
    let before = bob.state(log.group).position;
    lose(&mut bob, &log);
    assert_eq!(bob.events(), [EventKind::Lost, EventKind::Rejoining]);
    assert_eq!(bob.state(log.group).status, GroupStatus::Rejoining);
    let mut waiting = bob.send(log.group, "I was away");
    assert!(bob.peek_kinds().is_empty(), "queued");
    assert_eq!(bob.engine.due_rejoins().unwrap(), [log.group]);
    assert!(bob.engine.cursors().unwrap().groups.is_empty());

    comes_back(&mut bob, &mut alice, &mut log);
    let state = bob.state(log.group);
    let back = Position(log.entries.len() as u64);
    assert_eq!((state.status, state.position), (GroupStatus::Active, back));
    assert_eq!(state.name, "Budget");
    let missed = Some((before.next(), Position(back.0 - 1)));
    assert_eq!(bob.events(), [EventKind::Rejoined { missed }]);

    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    assert!(matches!(waiting.try_recv().unwrap(), Ok(Outcome::Sent(_))));
    alice.events();
    log.deliver(&mut alice);
    let (epoch, peer) = (alice.state(log.group).epoch, bob.peer());
    let seen = alice.events();
    assert!(seen.contains(&EventKind::CameBack { peer, epoch }), "{seen:?}");
    assert!(
        !seen
            .iter()
            .any(|kind| matches!(kind, EventKind::MembersChanged { .. }))
    );
    log.accept_all(&mut alice);
    agree(&mut alice, &mut bob, &mut log);
}

#[test]
fn a_crash_at_any_step_goes_on_there() {
    for step in 0..4 {
        let world = World::new();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::file(directory.path().join("bob.valise"), StoreKey::random());
        let (mut alice, mut bob, mut log) = with(world.person("alice"), world.person_in("bob", &store));
        let crash = |bob: Person, now: i32| {
            if step == now {
                world.reopen(bob.forget(), &store)
            } else {
                bob
            }
        };
        lose(&mut bob, &log);
        bob.send(log.group, "queued");
        bob = crash(bob, 0);
        assert_eq!(bob.engine.due_rejoins().unwrap(), [log.group], "step {step}");
        let current = alice.current(&log);
        bob.engine.rejoin_with(log.group, &current).unwrap();
        let built = bob.engine.db.prepared_intents(log.group).unwrap();
        bob = crash(bob, 1);
        let upload = bob.upload();
        assert_eq!(upload.repeat, step == 1);
        let stored = built[0].prepared.as_ref().unwrap();
        assert_eq!(
            (
                upload.prepared.key,
                &upload.prepared.message,
                &upload.prepared.group_info
            ),
            (stored.key, &stored.message, &stored.group_info),
            "the same bytes with the same key"
        );
        log.accept(&bob, &upload);
        let upload = if step == 2 {
            // The answer was lost with the process.
            bob = crash(bob, 2);
            let again = bob.upload();
            assert_eq!(again.prepared.message, upload.prepared.message);
            again
        } else {
            upload
        };
        bob.rejoined(&log, &upload);
        bob = crash(bob, 3);
        assert!(bob.engine.due_rejoins().unwrap().is_empty());
        assert_eq!(bob.peek_kinds(), [UploadKind::Message]);
        let kinds = bob.events();
        let count = kinds
            .iter()
            .filter(|kind| matches!(kind, EventKind::Rejoined { .. }));
        assert_eq!(count.count(), 1, "{kinds:?}");
        log.accept_all(&mut bob);
        log.deliver(&mut bob);
        log.deliver(&mut alice);
        log.accept_all(&mut alice);
        agree(&mut alice, &mut bob, &mut log);
    }
}

#[test]
fn who_is_too_late_builds_again_on_the_new_state() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = scene(&world);
    lose(&mut bob, &log);
    let old = alice.current(&log);
    bob.engine.rejoin_with(log.group, &old).unwrap();
    let loser = bob.upload();
    drop(alice.submit(log.group, Operation::SelfUpdate));
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    bob.refuse(&loser, Refusal::new(Reason::EpochConflict));
    assert_eq!(bob.state(log.group).status, GroupStatus::Rejoining);
    let rows: i64 = bob
        .engine
        .db
        .connection
        .query_row("SELECT count(*) FROM openmls_group_data", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0, "what was never accepted is deleted");
    assert_eq!(bob.engine.due_rejoins().unwrap(), [log.group]);
    // A late answer to the first bytes says nothing about the next.
    bob.rejoined(&log, &loser);
    assert_eq!(bob.state(log.group).status, GroupStatus::Rejoining);
    comes_back(&mut bob, &mut alice, &mut log);
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    agree(&mut alice, &mut bob, &mut log);
}

#[test]
fn it_happens_once_however_often_the_group_is_lost() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = scene(&world);
    lose(&mut bob, &log);
    lose(&mut bob, &log);
    let current = alice.current(&log);
    bob.engine.rejoin_with(log.group, &current).unwrap();
    bob.engine.rejoin_with(log.group, &current).unwrap();
    // Entries that come late, and another stream's end, change nothing any more.
    lose(&mut bob, &log);
    log.deliver(&mut bob);
    let upload = bob.upload();
    assert!(bob.peek_kinds().is_empty(), "S8");
    log.accept(&bob, &upload);
    bob.rejoined(&log, &upload);
    bob.rejoined(&log, &upload);
    bob.engine.rejoin_with(log.group, &current).unwrap();
    assert!(bob.peek_kinds().is_empty(), "S8");
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    agree(&mut alice, &mut bob, &mut log);
}

#[test]
fn what_was_under_way_is_neither_lost_nor_sent_twice() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = scene(&world);
    log.deliver(&mut bob);
    let mut accepted = bob.send(log.group, "the log has it");
    let mut refused = bob.send(log.group, "the log has it not");
    let first = bob.upload();
    log.accept(&bob, &first);
    let place = Position(log.entries.len() as u64);
    drop(alice.submit(log.group, Operation::SelfUpdate));
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);

    lose(&mut bob, &log);
    assert!(bob.engine.due_rejoins().unwrap().is_empty(), "first its outcome");
    let again = bob.upload();
    assert!(again.repeat);
    assert_eq!(again.prepared.message, first.prepared.message);
    bob.accepted(&again, place);
    assert!(matches!(accepted.try_recv().unwrap(), Ok(Outcome::Sent(sent)) if sent.position == place));
    let second = bob.upload();
    bob.refuse(&second, Refusal::new(Reason::EpochConflict));
    assert!(refused.try_recv().is_err());
    comes_back(&mut bob, &mut alice, &mut log);
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    assert!(matches!(refused.try_recv().unwrap(), Ok(Outcome::Sent(_))));
    assert_eq!(messages(&mut bob), ["the log has it", "the log has it not"]);
    log.deliver(&mut alice);
    let texts = messages(&mut alice);
    assert_eq!(texts[texts.len() - 2..], ["the log has it", "the log has it not"]);
}

#[test]
fn state_that_is_not_the_groups_is_not_used() {
    let (world, elsewhere) = (World::new(), World::new());
    let (mut alice, mut bob, log) = scene(&world);
    let (mut eve, _, other) = scene(&elsewhere);
    let before = bob.state(log.group);
    let good = alice.current(&log);
    let mut forged = good.clone();
    let mut bytes = forged.group_info.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    forged.group_info = bytes.into();
    let mut of_another = eve.current(&other);
    let mut without_tree = good.clone();
    without_tree.ratchet_tree = of_another.ratchet_tree.clone();
    let mut later = good.clone();
    later.epoch += 1;
    of_another.epoch = good.epoch;
    for (what, current) in [
        ("a wrong signature", forged),
        ("another group", of_another),
        ("another tree", without_tree),
        ("another epoch than it says", later),
        (
            "nothing",
            valise_proto::delivery::v1::GetGroupInfoResponse::default(),
        ),
    ] {
        bob.engine.options.rejoin.lost = ByItself::Never;
        lose(&mut bob, &log);
        let mut outcome = ask(&mut bob, log.group);
        bob.engine.rejoin_with(log.group, &current).unwrap();
        assert!(outcome.try_recv().unwrap().is_err(), "{what}");
        assert!(bob.peek_kinds().is_empty(), "{what}");
        assert!(
            matches!(bob.events().last(), Some(EventKind::RejoinFailed { .. })),
            "{what}"
        );
        let after = bob.state(log.group);
        assert_eq!(after.status, GroupStatus::Lost, "{what}");
        assert_eq!(after.epoch_authenticator, before.epoch_authenticator, "{what}");
    }
}

#[test]
fn a_group_with_a_member_of_another_authority_is_not_rejoined() {
    let (world, elsewhere) = (World::new(), World::new());
    let (mut alice, mut bob, mut log) = scene(&world);
    let mut eve = elsewhere.person("eve");
    alice.engine.device.bundle = world.bundle_with(&elsewhere);
    drop(alice.submit(
        log.group,
        Operation::Add {
            packages: vec![eve.package(false)],
        },
    ));
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    lose(&mut bob, &log);
    let current = alice.current(&log);
    bob.engine.rejoin_with(log.group, &current).unwrap();
    let cause = "rule broken: certificate_untrusted".to_owned();
    assert_eq!(
        bob.events().last(),
        Some(&EventKind::RejoinFailed { cause }),
        "C1"
    );
    assert!(bob.peek_kinds().is_empty());
}

#[test]
fn another_device_of_a_member_comes_in_and_is_told_the_name() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = scene(&world);
    log.deliver(&mut bob);
    let mut phone = world.person("bob");
    phone.engine.come_in(&[log.group]).unwrap();
    assert_eq!(phone.state(log.group).status, GroupStatus::Rejoining);
    comes_back(&mut phone, &mut alice, &mut log);
    alice.events();
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
    }
    for person in [&mut alice, &mut bob] {
        log.accept_all(person);
    }
    for person in [&mut alice, &mut bob, &mut phone] {
        log.deliver(person);
    }
    let epoch = alice.state(log.group).epoch;
    let came = EventKind::MembersChanged {
        added: vec![phone.peer()],
        removed: Vec::new(),
        by: phone.peer(),
        epoch,
    };
    let seen = alice.events();
    assert!(seen.contains(&came), "{seen:?}");
    assert_eq!(phone.state(log.group).name, "Budget");
    assert_eq!(phone.state(log.group).members, 3);
    agree(&mut alice, &mut phone, &mut log);
}

#[test]
fn an_invitation_may_be_faster_until_the_commit_has_left() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = scene(&world);
    lose(&mut bob, &log);
    drop(alice.submit(
        log.group,
        Operation::Remove {
            devices: vec![bob.id()],
        },
    ));
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    let packages = vec![bob.package(false)];
    drop(alice.submit(log.group, Operation::Add { packages }));
    let commit = alice.upload();
    log.accept(&alice, &commit);
    log.deliver(&mut alice);
    let tree = alice.tree(log.group);
    bob.join(&log, &commit, tree);
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
    assert!(bob.engine.due_rejoins().unwrap().is_empty());
    assert!(bob.engine.outbox_is_empty().unwrap());
    log.accept_all(&mut alice);
    agree(&mut alice, &mut bob, &mut log);
}

#[test]
fn who_has_stopped_waiting_keeps_nobody_from_asking() {
    let world = World::new();
    let (mut alice, mut bob, mut log) = scene(&world);
    lose(&mut bob, &log);
    let first = ask(&mut bob, log.group);
    let (answer, _second) = oneshot::channel();
    let again = bob.engine.ask_rejoin(log.group, false, Span::none(), answer);
    assert!(matches!(again, Err(Error::InvalidInput(_))));
    drop(first);
    let mut third = ask(&mut bob, log.group);
    comes_back(&mut bob, &mut alice, &mut log);
    assert_eq!(third.try_recv().unwrap().unwrap(), Outcome::Rejoined);
}

#[test]
fn who_is_no_member_any_more_is_told_so() {
    let world = World::new();
    let (_, mut bob, log) = scene(&world);
    lose(&mut bob, &log);
    let mut waiting = bob.send(log.group, "never");
    bob.engine
        .rejoin_denied(log.group, Reason::NotAMember.into())
        .unwrap();
    assert_eq!(bob.state(log.group).status, GroupStatus::Removed);
    let cause = "NOT_A_MEMBER".to_owned();
    assert_eq!(bob.events().last(), Some(&EventKind::RejoinFailed { cause }));
    assert!(waiting.try_recv().unwrap().is_err());
    assert!(bob.engine.outbox_is_empty().unwrap());
}

#[test]
fn an_external_commit_that_is_refused_for_good_leaves_no_keys() {
    let world = World::new();
    let (mut alice, mut bob, log) = scene(&world);
    lose(&mut bob, &log);
    let current = alice.current(&log);
    bob.engine.rejoin_with(log.group, &current).unwrap();
    let upload = bob.upload();
    bob.refuse(&upload, Refusal::new(Reason::PolicyDenied));
    let state = bob.state(log.group);
    assert_eq!((state.status, state.members), (GroupStatus::Lost, 0));
    assert!(bob.engine.members(log.group).unwrap().is_empty());
    // It may be asked for again.
    drop(ask(&mut bob, log.group));
    assert_eq!(bob.engine.due_rejoins().unwrap(), [log.group]);
}

#[test]
fn who_has_asked_to_leave_does_not_come_back() {
    let world = World::new();
    let (_, mut bob, mut log) = scene(&world);
    log.deliver(&mut bob);
    drop(bob.submit(log.group, Operation::Leave));
    log.accept_all(&mut bob);
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Leaving);
    lose(&mut bob, &log);
    assert_eq!(bob.state(log.group).status, GroupStatus::Lost);
    assert!(bob.engine.due_rejoins().unwrap().is_empty());
}
