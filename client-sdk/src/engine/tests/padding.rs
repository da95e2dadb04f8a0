//! What the length of a message's ciphertext tells about it.

use std::collections::{BTreeMap, BTreeSet};

use super::people::{Log, Person, World};
use super::rejoin::{comes_back, lose};
use crate::Content;

/// The bytes of a block (checklist S3).
const BLOCK: usize = 256;

/// Sends a text of so many bytes, and nothing else; says how long its ciphertext is.
fn length(person: &mut Person, log: &mut Log, text: usize) -> usize {
    person.say(log.group, &Content::text("x".repeat(text)));
    let before = log.entries.len();
    log.accept_all(person);
    log.deliver(person);
    assert_eq!(log.entries.len(), before + 1, "one message each");
    log.entries.last().unwrap().mls_message.len()
}

/// Texts of all lengths over three blocks: their ciphertexts have lengths that are whole blocks apart, and all that are between
/// two borders have one length.
#[test]
fn lengths_within_a_block_cannot_be_told_apart() {
    let world = World::new();
    let mut alice = world.person("alice");
    let mut log = alice.create_group("");
    // What is sent by payload length: the text and what MIMI content puts around it.
    let mut sent = BTreeMap::new();
    for text in 1..=3 * BLOCK {
        let payload = Content::text("x".repeat(text)).to_payload().unwrap().len();
        sent.insert(payload, length(&mut alice, &mut log, text));
    }
    let lengths: Vec<_> = sent.into_values().collect();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for length in lengths {
        match runs.last_mut() {
            Some((of, count)) if *of == length => *count += 1,
            _ => runs.push((length, 1)),
        }
    }
    for pair in runs.windows(2) {
        assert_eq!(pair[1].0 - pair[0].0, BLOCK, "{runs:?}");
    }
    assert!((3..=5).contains(&runs.len()), "{runs:?}");
    // Not counting the first and the last, which begin or end within a block; a header that grows takes a byte or two of a block.
    let whole = &runs[1..runs.len() - 1];
    assert!(
        whole
            .iter()
            .all(|(_, count)| *count > BLOCK - 8 && *count <= BLOCK),
        "{runs:?}"
    );
}

#[test]
fn who_was_invited_and_who_came_back_pad_too() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    lose(&mut carol, &log);
    comes_back(&mut carol, &mut alice, &mut log);
    log.deliver(&mut bob);
    for person in [&mut bob, &mut carol] {
        let lengths: BTreeSet<usize> = (1..=16).map(|text| length(person, &mut log, text)).collect();
        // A border between two blocks may be among them.
        assert!(lengths.len() <= 2, "{lengths:?}");
    }
}
