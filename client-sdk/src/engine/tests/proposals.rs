//! Proposals: who commits them and when, and the messages that are refused for them.

use super::*;

#[test]
fn a_proposal_that_was_faster_than_the_refusal_is_committed_at_once() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    alice.send(log.group, "hello");
    let early = alice.upload();
    drop(bob.submit(log.group, Operation::Leave));
    log.accept_all(&mut bob);
    log.deliver(&mut alice);
    let position = log.entries.len();
    alice.refuse(
        &early,
        Refusal::new(Reason::ProposalsMissing).with("position", position),
    );
    assert_eq!(alice.peek_kinds(), [UploadKind::Commit]);
}

#[test]
fn a_message_refused_for_a_proposal_waits_for_it() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut sent = alice.send(log.group, "hello");
    let early = alice.upload();
    drop(bob.submit(log.group, Operation::Leave));
    log.accept_all(&mut bob);
    let position = log.entries.len();
    alice.refuse(
        &early,
        Refusal::new(Reason::ProposalsMissing).with("position", position),
    );
    assert!(
        alice.peek_kinds().is_empty(),
        "nothing goes out before the proposal has come"
    );
    log.deliver(&mut alice);
    assert_eq!(alice.peek_kinds(), [UploadKind::Commit]);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    assert!(sent.try_recv().unwrap().is_ok());
}

#[test]
fn members_commit_a_proposal_after_a_delay_by_rank() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    drop(alice.submit(log.group, Operation::Leave));
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    log.deliver(&mut carol);
    // Alice, who leaves, does not count.
    assert_eq!(bob.commit_delay(), Some(std::time::Duration::ZERO));
    assert_eq!(carol.commit_delay(), Some(Options::default().commit_delay));
    assert_eq!(alice.commit_delay(), None);
    let epoch = bob.state(log.group).epoch;
    bob.engine.commit_proposals(log.group, epoch).unwrap();
    log.accept_all(&mut bob);
    for person in [&mut alice, &mut bob, &mut carol] {
        log.deliver(person);
    }
    carol.engine.commit_proposals(log.group, epoch).unwrap();
    assert!(carol.peek_kinds().is_empty(), "somebody else was faster");
    assert_eq!(carol.state(log.group).members, 2);
    assert_eq!(alice.state(log.group).status, GroupStatus::Removed);
}
