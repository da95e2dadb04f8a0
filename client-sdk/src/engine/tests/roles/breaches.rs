//! What devices do where a service lets a breach of the rules through.

use valise_group_rules::verify_key_package;

use super::*;
use crate::ChainValue;
use crate::delivery_chain::Claim;
use crate::engine::intents::AddPackage;
use crate::mls::{CommitPlan, build_commit};

/// A commit of a patched SDK, which a patched service accepts: nobody has asked the rules.
fn force_commit(person: &mut Person, log: &mut Log, plan: CommitPlan) -> wire::Entry {
    let engine = &mut person.engine;
    let live = live::get(&mut engine.live, &engine.db, log.group).unwrap();
    let provider = Provider::new(&engine.crypto, &engine.db.connection);
    let bundle = build_commit(&mut live.mls, &provider, &engine.device.signer, plan).unwrap();
    let message = bundle.into_messages().0.to_bytes().unwrap();
    let upload = sent_by(UploadKind::Commit, log.group, log.epoch, message);
    log.accept(person, &upload);
    log.entries.last().unwrap().clone()
}

fn adding(person: &Person, package: &AddPackage) -> CommitPlan {
    let engine = &person.engine;
    let verified = verify_key_package(
        &package.message,
        &engine.crypto,
        &engine.device.bundle,
        engine.now(),
        engine.package_policy(),
    );
    CommitPlan {
        adds: vec![verified.unwrap().key_package],
        ..CommitPlan::default()
    }
}

#[test]
fn what_an_entry_would_have_told_is_not_told_if_it_cannot_be_applied() {
    let (world, mut alice, mut bob, _carol, mut log) = three();
    let mut dave = world.person("dave");
    let plan = adding(&bob, &dave.package(false));
    // Bob says that he was shown another log.
    let value = ChainValue::from_bytes([9; 32]);
    let position = bob.state(log.group).position;
    let live = live::get(&mut bob.engine.live, &bob.engine.db, log.group).unwrap();
    live.mls.set_aad(Claim { position, value }.to_aad());
    force_commit(&mut bob, &mut log, plan);
    alice.chores();
    log.deliver(&mut alice);
    assert_eq!(alice.state(log.group).status, GroupStatus::HeldByBadCommit);
    let told = alice.events();
    assert!(
        !told
            .iter()
            .any(|kind| matches!(kind, EventKind::DeliveryForked { .. }))
    );
    let reports = alice.chores().into_iter().filter_map(|chore| match chore {
        Chore::Report(report) => wire::CommitFault::try_from(report.fault).ok(),
        _ => None,
    });
    assert_eq!(reports.collect::<Vec<_>>(), [wire::CommitFault::Policy]);
}

#[test]
fn a_commit_beyond_the_committers_role_holds_every_honest_member_alike() {
    let (world, mut alice, mut bob, mut carol, mut log) = three();
    let mut dave = world.person("dave");
    let plan = adding(&bob, &dave.package(false));
    let before = alice.state(log.group);
    let entry = force_commit(&mut bob, &mut log, plan);
    let mut after = Vec::new();
    for person in [&mut alice, &mut carol] {
        log.deliver(person);
        let kinds = person.events();
        assert_eq!(breaches(&kinds), [(Some(bob.peer()), "role_add", entry.clone())]);
        let held = EventKind::HeldByBadCommit {
            cause: "role_add".to_owned(),
            evidence: prost::Message::encode_to_vec(&entry),
        };
        assert_eq!(kinds.last(), Some(&held));
        assert_eq!(person.report(), Some(wire::CommitFault::Policy));
        let state = person.state(log.group);
        assert_eq!(state.status, GroupStatus::HeldByBadCommit);
        after.push((
            state.epoch,
            state.position,
            state.members,
            state.epoch_authenticator,
        ));
    }
    assert_eq!(after[0], after[1], "nobody forks");
    let unchanged = (
        before.epoch,
        before.position,
        before.members,
        before.epoch_authenticator,
    );
    assert_eq!(after[0], unchanged);
}

/// What Bob commits, in a group of Alice's.
type Breach = fn(&Person, &mut Person, GroupId) -> CommitPlan;

#[test]
fn every_breaking_commit_is_named_by_its_rule() {
    let cases: [(&str, Breach); 3] = [
        ("role_remove", |alice, bob, group| {
            let live = live::get(&mut bob.engine.live, &bob.engine.db, group).unwrap();
            CommitPlan {
                removals: vec![live.roster.device(alice.id()).unwrap().leaf],
                ..CommitPlan::default()
            }
        }),
        ("role_change", |_, bob, group| {
            let user = user(bob);
            let live = live::get(&mut bob.engine.live, &bob.engine.db, group).unwrap();
            CommitPlan {
                extensions: crate::engine::roles::with_role(live, user, Role::Owner).unwrap(),
                ..CommitPlan::default()
            }
        }),
        ("context_extensions", |_, bob, group| {
            let live = live::get(&mut bob.engine.live, &bob.engine.db, group).unwrap();
            let mut extensions = live.mls.extensions().clone();
            extensions.remove(openmls::prelude::ExtensionType::ExternalSenders);
            CommitPlan {
                extensions: Some(extensions),
                ..CommitPlan::default()
            }
        }),
    ];
    for (rule, plan) in cases {
        let (_world, mut alice, mut bob, mut carol, mut log) = three();
        let plan = plan(&alice, &mut bob, log.group);
        let entry = force_commit(&mut bob, &mut log, plan);
        for person in [&mut alice, &mut carol] {
            log.deliver(person);
            assert_eq!(
                breaches(&person.events()),
                [(Some(bob.peer()), rule, entry.clone())]
            );
            assert_eq!(person.state(log.group).status, GroupStatus::HeldByBadCommit);
        }
    }
}

#[test]
fn what_a_reader_sends_is_not_shown() {
    let (_world, mut alice, mut bob, mut carol, mut log) = three();
    alice.set_role(&mut log, &bob, Role::Reader);
    for person in [&mut bob, &mut carol] {
        log.deliver(person);
    }
    let changed = EventKind::RolesChanged {
        users: vec![(user(&bob), Role::Reader)],
        policy: None,
        by: alice.peer(),
        epoch: Epoch(2),
    };
    assert_eq!(bob.events(), std::slice::from_ref(&changed));
    assert_eq!(carol.events(), [changed]);
    let payload = Content::text("psst").to_payload().unwrap();
    let send = Operation::Send { payload };
    assert_eq!(denied(&mut bob, log.group, send), "role_send");
    assert!(matches!(
        bob.engine
            .encrypt_ephemeral(log.group, &Content::text("…").to_payload().unwrap()),
        Err(Error::Rule("role_send"))
    ));

    let payload = Content::text("psst").to_payload().unwrap();
    let entry = force_message(&mut bob, &mut log, &payload);
    carol.send(log.group, "what was that?");
    log.accept_all(&mut carol);
    log.deliver(&mut carol);
    let kinds = carol.events();
    assert_eq!(breaches(&kinds), [(Some(bob.peer()), "role_send", entry)]);
    assert_eq!(
        kinds.len(),
        2,
        "the alarm instead of the message, and the group goes on"
    );
    assert_eq!(carol.state(log.group).status, GroupStatus::Active);

    let mut heard = carol.ends.ephemeral.subscribe();
    let engine = &mut bob.engine;
    let live = live::get(&mut engine.live, &engine.db, log.group).unwrap();
    let provider = Provider::new(&engine.crypto, &engine.db.connection);
    let ephemeral = live
        .mls
        .create_message(&provider, &engine.device.signer, &payload)
        .unwrap();
    carol
        .engine
        .receive_ephemeral(log.group, &ephemeral.to_bytes().unwrap())
        .unwrap();
    assert!(matches!(
        heard.try_recv().unwrap().kind,
        EventKind::RuleBreach { by: Some(by), rule, .. } if by == bob.peer() && rule == "role_send"
    ));
}
