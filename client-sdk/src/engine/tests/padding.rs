//! What the length of a message's ciphertext tells about it.

use std::collections::BTreeMap;

use super::World;
use crate::Content;

/// The bytes of a block (checklist S3).
const BLOCK: usize = 256;

/// Texts of all lengths over three blocks: their ciphertexts have lengths that are whole blocks apart, and all that are between
/// two borders have one length.
#[test]
fn lengths_within_a_block_cannot_be_told_apart() {
    let world = World::new();
    let mut alice = world.person("alice");
    let mut log = alice.create_group("");
    // What is sent by payload length: the text and what MIMI content puts around it.
    let mut sent = BTreeMap::new();
    for length in 1..=3 * BLOCK {
        let content = Content::text("x".repeat(length));
        let payload = content.to_payload().unwrap().len();
        alice.say(log.group, &content);
        log.accept_all(&mut alice);
        log.deliver(&mut alice);
        assert_eq!(log.entries.len(), length, "one message each");
        sent.insert(payload, log.entries.last().unwrap().mls_message.len());
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
