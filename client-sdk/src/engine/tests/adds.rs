//! Adding more users than one claim has room for: what was wished is done, or has failed, for each of them, whatever happens meanwhile.

use tokio::sync::mpsc;
use valise_proto::directory::v1 as directory;
use valise_proto::{GroupId, UserId};

use super::people::Log;
use super::*;
use crate::{AddFailure, Added, Peer, WhatNow};

/// More than one claim has room for; Bob is the first, Carol the last, nobody knows the others.
fn crowd(bob: &Person, carol: &Person) -> Vec<UserId> {
    let strangers =
        (0..298).map(|number| -> UserId { format!("stranger-{number}@a.example").parse().unwrap() });
    let (first, last) = (bob.peer().user, carol.peer().user);
    std::iter::once(first)
        .chain(strangers)
        .chain(std::iter::once(last))
        .collect()
}

/// Stores the wish; the other end says what who waits hears.
fn wish(person: &mut Person, group: GroupId, users: &[UserId]) -> mpsc::UnboundedReceiver<AddNews> {
    let (news, heard) = mpsc::unbounded_channel();
    let span = tracing::Span::none();
    person
        .engine
        .begin_add(group, users, Adder { span, news })
        .unwrap();
    heard
}

/// The directory answers the one claim that is due: it knows one of the users. Says how many it was asked about.
fn claims(person: &mut Person, known: &mut Person) -> usize {
    let mut due = person.engine.due_adds(&HashSet::new()).unwrap().claims;
    assert_eq!(due.len(), 1);
    let due = due.remove(0);
    let claims = due.users.iter().map(|user| {
        let is_known = *user == known.peer().user;
        let result = if is_known {
            directory::claim::Result::KeyPackage(known.package(false).message)
        } else {
            directory::claim::Result::Failure(directory::ClaimFailure::UnknownUser.into())
        };
        directory::Claim {
            user_id: user.to_string(),
            device_id: if is_known {
                known.id().to_string()
            } else {
                String::new()
            },
            result: Some(result),
            last_resort: false,
        }
    });
    let claims = claims.collect();
    person.engine.add_claimed(due.id, &due.users, claims).unwrap();
    due.users.len()
}

fn commits(person: &mut Person, log: &mut Log) {
    log.accept_all(person);
    log.deliver(person);
}

fn added(events: &[EventKind]) -> Vec<Peer> {
    let added = events.iter().filter_map(|kind| match kind {
        EventKind::MembersChanged { added, .. } => Some(added.clone()),
        _ => None,
    });
    added.flatten().collect()
}

/// What who waits has heard, and whether that was all.
fn heard(news: &mut mpsc::UnboundedReceiver<AddNews>) -> (Added, bool) {
    let mut all = Added::default();
    while let Ok(news) = news.try_recv() {
        match news {
            AddNews::Part(part) => {
                all.devices.extend(part.devices);
                all.failed.extend(part.failed);
            }
            AddNews::Done => return (all, true),
            AddNews::Failed(error) | AddNews::Suspended(error) => panic!("{error}"),
        }
    }
    (all, false)
}

#[test]
fn who_waits_hears_of_everybody() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("");
    let users = crowd(&bob, &carol);
    let mut news = wish(&mut alice, log.group, &users);
    assert_eq!(claims(&mut alice, &mut bob), 256);
    let due = alice.engine.due_adds(&HashSet::new()).unwrap();
    assert!(due.claims.is_empty() && due.waiting, "one batch after the other");
    commits(&mut alice, &mut log);
    let (first, done) = heard(&mut news);
    assert_eq!(first.devices, [(bob.peer().user, bob.id())]);
    assert_eq!((first.failed.len(), done), (255, false));
    assert!(!alice.engine.outbox_is_empty().unwrap());

    assert_eq!(claims(&mut alice, &mut carol), 44);
    commits(&mut alice, &mut log);
    let (second, done) = heard(&mut news);
    assert_eq!(second.devices, [(carol.peer().user, carol.id())]);
    assert_eq!((second.failed.len(), done), (43, true));
    assert!(
        second
            .failed
            .iter()
            .all(|(.., failure)| *failure == AddFailure::UnknownUser)
    );
    assert!(!alice.engine.due_adds(&HashSet::new()).unwrap().waiting);
    assert!(alice.engine.outbox_is_empty().unwrap());
    let events = alice.events();
    assert!(
        !events
            .iter()
            .any(|kind| matches!(kind, EventKind::OperationFailed { .. })),
        "who waited has heard it: {events:?}"
    );
}

#[test]
fn a_crash_at_any_step_leaves_nobody_out_and_adds_nobody_twice() {
    // How far it has come: wished, claimed, in the log, applied.
    for step in 0..4 {
        let world = World::new();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
        let mut alice = world.person_in("alice", &store);
        let (mut bob, mut carol) = (world.person("bob"), world.person("carol"));
        let mut log = alice.create_group("");
        let users = crowd(&bob, &carol);
        drop(wish(&mut alice, log.group, &users));
        if step > 0 {
            claims(&mut alice, &mut bob);
        }
        if step > 1 {
            log.accept_all(&mut alice);
        }
        if step > 2 {
            log.deliver(&mut alice);
        }
        let mut alice = world.reopen(alice.forget(), &store);
        let pending = alice.engine.pending(log.group).unwrap();
        let waiting: usize = pending.iter().map(|pending| pending.users.len()).sum();
        assert_eq!(waiting, [300, 45, 45, 44][step], "step {step}: {pending:?}");
        if step == 0 {
            claims(&mut alice, &mut bob);
        }
        if step < 2 {
            log.accept_all(&mut alice);
        }
        if step == 2 {
            // The service has it already, and would say so.
            drop(alice.upload());
        }
        log.deliver(&mut alice);
        assert_eq!(claims(&mut alice, &mut carol), 44, "step {step}");
        commits(&mut alice, &mut log);

        let events = alice.events();
        assert_eq!(added(&events), [bob.peer(), carol.peer()], "step {step}");
        let Some(EventKind::OperationFailed {
            operation,
            cause,
            what_now,
            users: failed,
            ..
        }) = events.last()
        else {
            panic!("step {step}: {events:?}");
        };
        assert_eq!((operation.as_str(), cause.as_str()), ("add", "UNKNOWN_USER"));
        assert_eq!((*what_now, failed.len()), (WhatNow::Denied, 298));
        assert_eq!(alice.state(log.group).members, 3, "step {step}");
        assert_eq!(alice.engine.pending(log.group).unwrap(), []);
        assert!(alice.engine.outbox_is_empty().unwrap());
    }
}

#[test]
fn a_group_is_stored_with_those_whom_it_is_for() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("alice.valise"), StoreKey::random());
    let (mut alice, mut bob) = (world.person_in("alice", &store), world.person("bob"));
    let group = GroupId::random(&mut rand::rng());
    let (answer, _) = oneshot::channel();
    let (news, _) = mpsc::unbounded_channel();
    let span = tracing::Span::none();
    let waiter = Waiter {
        span: span.clone(),
        answer,
    };
    let suite = Options::default().cipher_suite.mls();
    alice
        .engine
        .create_group_with(
            group,
            "Budget",
            suite,
            &[bob.peer().user],
            waiter,
            Adder { span, news },
        )
        .unwrap();
    let mut alice = world.reopen(alice.forget(), &store);
    let due = alice.engine.due_adds(&HashSet::new()).unwrap();
    assert!(due.claims.is_empty() && due.waiting, "the group first");
    let create = alice.upload();
    alice.accepted(&create, Position::NONE);
    assert_eq!(claims(&mut alice, &mut bob), 1);
    let mut log = Log {
        group,
        entries: Vec::new(),
        epoch: valise_proto::Epoch(0),
    };
    commits(&mut alice, &mut log);
    assert_eq!(added(&alice.events()), [bob.peer()]);
}

#[test]
fn who_may_not_add_any_more_claims_for_nobody_else() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut dave = world.person("dave");
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    log.deliver(&mut bob);
    let users = crowd(&dave, &carol);
    let mut news = wish(&mut bob, log.group, &users);
    claims(&mut bob, &mut dave);
    commits(&mut bob, &mut log);
    assert_eq!(heard(&mut news).0.devices.len(), 1);
    log.deliver(&mut alice);
    alice.set_role(&mut log, &bob, crate::Role::Member);
    log.deliver(&mut bob);

    assert!(bob.engine.due_adds(&HashSet::new()).unwrap().claims.is_empty());
    let Ok(AddNews::Part(rest)) = news.try_recv() else {
        panic!("who could not be added");
    };
    assert_eq!(rest.failed.len(), 44);
    assert!(rest.failed.iter().any(|(user, ..)| *user == carol.peer().user));
    assert!(matches!(news.try_recv(), Ok(AddNews::Failed(Error::Rule(_)))));
    assert!(matches!(news.try_recv(), Ok(AddNews::Done)));
    assert!(bob.engine.outbox_is_empty().unwrap());
    assert_eq!(carol.events(), []);
}
