//! Messages that are in no log.

use super::*;

#[test]
fn a_stored_message_is_read_however_many_ephemeral_ones_were_lost() {
    // So many a receiver skips at most.
    const SKIPPED: usize = 1000;
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let payload = Content::text("typing").to_payload().unwrap();
    let group = log.group;
    let type_on = |alice: &mut Person| alice.engine.encrypt_ephemeral(group, &payload).is_ok();
    let lost = (0..=SKIPPED).take_while(|_| type_on(&mut alice)).count();
    assert!(lost < SKIPPED, "nothing stops her");
    alice.send(group, "stored");
    assert!(type_on(&mut alice), "from then on there may be others");
    log.accept_all(&mut alice);
    log.deliver(&mut bob);
    assert_eq!(messages(&mut bob), ["stored"]);
}

#[test]
fn ephemeral_messages_do_not_move_the_logs_ratchets() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let mut heard = bob.ends.ephemeral.subscribe();
    for n in 0..100 {
        alice.send(log.group, &n.to_string());
    }
    let payload = Content::text("typing").to_payload().unwrap();
    for _ in 0..30 {
        let message = alice.engine.encrypt_ephemeral(log.group, &payload).unwrap();
        bob.engine.receive_ephemeral(log.group, &message).unwrap();
        bob.engine.receive_ephemeral(log.group, &message).unwrap();
    }
    let count = std::iter::from_fn(|| heard.try_recv().ok()).count();
    assert_eq!(count, 30, "each is heard once");
    while !alice.engine.outbox_is_empty().unwrap() {
        log.accept_all(&mut alice);
        log.deliver(&mut alice);
    }
    log.deliver(&mut bob);
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(messages(&mut bob), expected);
}
