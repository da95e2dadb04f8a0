//! Proposals, and the messages that are refused for them.

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
