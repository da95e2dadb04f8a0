//! Verifiable delivery: what devices say of what they were shown, and what they do about a difference.

mod forks;

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{MlsMessageIn, ProtocolMessage};
use prost::Message as _;
use valise_proto::delivery::v1 as wire;

use super::people::{Log, Person, World};
use super::*;
use crate::delivery_chain::{Claim, Said};
use crate::engine::live;
use crate::{ChainValue, Peer};

/// What an alarm says.
#[derive(Clone, PartialEq, Debug)]
struct Fork {
    sender: Peer,
    position: Position,
    ours: Option<ChainValue>,
    theirs: ChainValue,
    evidence: wire::Entry,
}

fn forks(kinds: &[EventKind]) -> Vec<Fork> {
    kinds
        .iter()
        .filter_map(|kind| match kind {
            EventKind::DeliveryForked {
                sender,
                position,
                theirs,
                ours,
                evidence,
            } => Some(Fork {
                sender: sender.clone(),
                position: *position,
                ours: *ours,
                theirs: *theirs,
                evidence: wire::Entry::decode(evidence.as_slice()).unwrap(),
            }),
            _ => None,
        })
        .collect()
}

fn texts(kinds: &[EventKind]) -> Vec<&str> {
    kinds
        .iter()
        .filter_map(|kind| match kind {
            EventKind::Message { content, .. } => content.as_text(),
            _ => None,
        })
        .collect()
}

fn head(person: &mut Person, log: &Log) -> Option<ChainValue> {
    let position = person.state(log.group).position;
    person.engine.db.chain_value(log.group, position).unwrap()
}

/// What an application message says of its sender's chain.
fn claim(entry: &wire::Entry) -> Said {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(&entry.mls_message).unwrap();
    match message.try_into_protocol_message().unwrap() {
        ProtocolMessage::PrivateMessage(message) => Claim::read(message.aad()),
        ProtocolMessage::PublicMessage(_) => panic!("a handshake"),
    }
}

/// A log with other entries, as another device is shown it: with positions 1, 2, 3….
fn renumbered(log: &Log, entries: Vec<wire::Entry>) -> Log {
    let numbered = (1..).zip(entries).map(|(position, mut entry)| {
        entry.position = position;
        entry
    });
    Log {
        group: log.group,
        entries: numbered.collect(),
        epoch: log.epoch,
    }
}

/// A group of Alice, Bob and Carol in which Carol has said three things that Alice has read and nobody else has.
struct Scene {
    alice: Person,
    bob: Person,
    carol: Person,
    log: Log,
}

fn scene() -> Scene {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    for text in ["one", "two", "three"] {
        carol.send(log.group, text);
    }
    log.accept_all(&mut carol);
    for person in [&mut alice, &mut carol] {
        log.deliver(person);
        person.events();
    }
    bob.events();
    Scene {
        alice,
        bob,
        carol,
        log,
    }
}

impl Scene {
    /// Alice sends, having read everything.
    fn alice_says(&mut self, text: &str) {
        self.alice.send(self.log.group, text);
        self.log.accept_all(&mut self.alice);
        self.log.deliver(&mut self.alice);
    }

    /// Bob is shown that log instead. Says what he hears.
    fn bob_is_shown(&mut self, log: &Log) -> Vec<EventKind> {
        log.deliver(&mut self.bob);
        self.bob.events()
    }
}

#[test]
fn devices_that_were_shown_the_same_agree_and_say_so() {
    let mut scene = scene();
    scene.alice_says("seen");
    let Scene {
        mut alice,
        mut bob,
        mut carol,
        mut log,
    } = scene;
    let said = claim(log.entries.last().unwrap());
    let Said::Claim(said) = said else {
        panic!("{said:?}");
    };
    assert_eq!(said.position, Position(4), "the last entry before it");
    for person in [&mut bob, &mut carol] {
        log.deliver(person);
        let own = person.engine.db.chain_value(log.group, Position(4)).unwrap();
        assert_eq!(own, Some(said.value));
    }
    assert!(head(&mut alice, &log).is_some());
    assert_eq!(head(&mut alice, &log), head(&mut bob, &log));

    // Encrypted at one place, accepted later: others were faster.
    bob.send(log.group, "late");
    let late = bob.upload();
    for n in 0..70 {
        alice.send(log.group, &n.to_string());
    }
    while !alice.engine.outbox_is_empty().unwrap() {
        log.accept_all(&mut alice);
        log.deliver(&mut alice);
    }
    log.accept(&bob, &late);
    for person in [&mut alice, &mut bob, &mut carol] {
        log.deliver(person);
        let kinds = person.events();
        assert!(texts(&kinds).ends_with(&["late"]));
        assert_eq!(forks(&kinds), []);
        assert_eq!(person.state(log.group).forked_at, None);
    }
}

#[test]
fn an_own_message_that_is_shown_again_accuses_nobody() {
    let mut scene = scene();
    scene.alice_says("seen");
    let last = scene.log.entries.last().unwrap();
    let Said::Claim(said) = claim(last) else {
        panic!("no claim")
    };
    let (aad, mut message) = (said.to_aad(), last.mls_message.to_vec());
    let at = message.windows(aad.len()).position(|bytes| bytes == aad).unwrap();
    // The last byte of the value, which is in clear.
    message[at + aad.len() - 1] ^= 1;
    let forged = wire::Entry {
        position: last.position + 1,
        entry_id: vec![9; 8].into(),
        mls_message: message.into(),
        ..last.clone()
    };
    let Said::Claim(changed) = claim(&forged) else {
        panic!("no claim")
    };
    assert_ne!(changed.value, said.value);
    let Scene { mut alice, log, .. } = scene;
    alice.events();
    alice.engine.apply(vec![Arrival::Entry(forged)]).unwrap();
    assert_eq!(alice.events(), []);
    let state = alice.state(log.group);
    assert_eq!((state.forked_at, state.position), (None, Position(6)));
}

#[test]
fn nothing_that_members_do_looks_like_a_fork() {
    let world = World::new();
    let (mut alice, mut bob, mut carol) = (world.person("alice"), world.person("bob"), world.person("carol"));
    let mut dave = world.person("dave");
    let mut log = alice.create_group("Budget");
    alice.send(log.group, "alone");
    log.accept_all(&mut alice);
    log.deliver(&mut alice);
    alice.add(&mut log, &mut [&mut bob, &mut carol]);
    for person in [&mut bob, &mut carol] {
        log.deliver(person);
    }
    // Commits of two, and a proposal.
    alice.set_role(&mut log, &bob, crate::Role::Moderator);
    log.deliver(&mut bob);
    bob.add(&mut log, &mut [&mut dave]);
    log.deliver(&mut carol);
    drop(carol.submit(log.group, Operation::Leave));
    log.accept_all(&mut carol);
    for person in [&mut alice, &mut bob, &mut carol, &mut dave] {
        log.deliver(person);
    }
    alice.send(log.group, "after the proposal's commit");
    for _ in 0..2 {
        log.accept_all(&mut alice);
        log.deliver(&mut alice);
    }
    for person in [&mut bob, &mut carol, &mut dave] {
        log.deliver(person);
    }
    assert_eq!(carol.state(log.group).status, GroupStatus::Removed);
    assert_eq!(carol.engine.db.chain_start(log.group).unwrap(), None);
    // One comes back by an external commit.
    let reason = Reason::PositionTrimmed.as_str();
    let first = Position(dave.state(log.group).position.0 + 2);
    dave.engine.group_ended(log.group, reason, first).unwrap();
    let current = alice.current(&log);
    assert!(current.commit_position > 0);
    dave.engine.rejoin_with(log.group, &current).unwrap();
    let upload = dave.upload();
    assert_eq!(upload.kind, UploadKind::ExternalCommit);
    log.accept(&dave, &upload);
    dave.rejoined(&log, &upload);
    for person in [&mut alice, &mut bob, &mut dave] {
        log.deliver(person);
        person.send(log.group, "there");
        log.accept_all(person);
    }
    for person in [&mut alice, &mut bob, &mut dave] {
        log.deliver(person);
        log.accept_all(person);
    }
    let end = log.entries.len() as u64;
    let mut heads = Vec::new();
    for person in [&mut alice, &mut bob, &mut dave] {
        log.deliver(person);
        assert_eq!(person.state(log.group).position, Position(end));
        heads.push(head(person, &log));
    }
    assert!(heads[0].is_some());
    assert!(heads.iter().all(|head| *head == heads[0]), "{heads:?}");
    for person in [&mut alice, &mut bob, &mut carol, &mut dave] {
        assert_eq!(forks(&person.events()), []);
    }
}

#[test]
fn the_chain_goes_on_after_a_crash() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("bob.valise"), StoreKey::random());
    let (mut alice, mut bob) = (world.person("alice"), world.person_in("bob", &store));
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    for text in ["one", "two"] {
        alice.send(log.group, text);
        log.accept_all(&mut alice);
        log.deliver(&mut alice);
        log.deliver(&mut bob);
        bob = world.reopen(bob.forget(), &store);
    }
    assert_eq!(head(&mut alice, &log), head(&mut bob, &log));
    bob.send(log.group, "three");
    let first = bob.upload();
    let mut bob = world.reopen(bob.forget(), &store);
    assert_eq!(bob.upload().prepared.message, first.prepared.message);
    log.accept(&bob, &first);
    assert!(matches!(claim(log.entries.last().unwrap()), Said::Claim(_)));
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
        assert_eq!(forks(&person.events()), []);
    }
    assert_eq!(head(&mut alice, &log), head(&mut bob, &log));
}

#[test]
fn a_store_of_an_older_version_takes_part_from_the_next_commit_on() {
    let mut scene = scene();
    scene.log.deliver(&mut scene.bob);
    scene.bob.engine.db.delete_chain(scene.log.group).unwrap();
    scene.bob.send(scene.log.group, "old");
    scene.log.accept_all(&mut scene.bob);
    assert_eq!(claim(scene.log.entries.last().unwrap()), Said::Nothing);
    scene.log.deliver(&mut scene.alice);
    scene.alice_says("new");
    scene.log.deliver(&mut scene.bob);
    assert_eq!(head(&mut scene.bob, &scene.log), None);
    scene.alice.done(&mut scene.log, Operation::SelfUpdate);
    scene.log.deliver(&mut scene.bob);
    scene.bob.send(scene.log.group, "newer");
    scene.log.accept_all(&mut scene.bob);
    assert!(matches!(claim(scene.log.entries.last().unwrap()), Said::Claim(_)));
    for person in [&mut scene.alice, &mut scene.bob] {
        scene.log.deliver(person);
        assert_eq!(forks(&person.events()), []);
    }
}

/// A message of Alice's whose authenticated data is that.
fn with_aad(scene: &mut Scene, aad: Vec<u8>, text: &str) {
    let payload = Content::text(text).to_payload().unwrap();
    let group = scene.log.group;
    let engine = &mut scene.alice.engine;
    let live = live::get(&mut engine.live, &engine.db, group).unwrap();
    live.mls.set_aad(aad);
    let provider = crate::mls::Provider::new(&engine.crypto, &engine.db.connection);
    let message = live
        .mls
        .create_message(&provider, &engine.device.signer, &payload)
        .unwrap();
    let last = scene.log.entries.last().unwrap().clone();
    scene.log.entries.push(wire::Entry {
        position: last.position + 1,
        mls_message: message.to_bytes().unwrap().into(),
        entry_id: rand::random::<[u8; 8]>().to_vec().into(),
        sender_device_id: scene.alice.id().to_string(),
        ..last
    });
}

#[test]
fn whatever_a_member_claims_the_message_is_shown() {
    let mut scene = scene();
    scene.log.deliver(&mut scene.bob);
    scene.bob.events();
    let claim = |position, value| {
        let position = Position(position);
        let value = ChainValue::from_bytes([value; 32]);
        Claim { position, value }.to_aad()
    };
    let [none, foreign, long] = [vec![], b"of another client".to_vec(), vec![0xFF; 60_000]];
    let cut = claim(4, 0)[..20].to_vec();
    for aad in [none, foreign, long, cut] {
        with_aad(&mut scene, aad, "no claim");
        let log = renumbered(&scene.log, scene.log.entries.clone());
        let kinds = scene.bob_is_shown(&log);
        assert_eq!(texts(&kinds), ["no claim"]);
        assert_eq!(forks(&kinds), []);
    }
    // Nobody has read what is not there: before the epoch, at the message itself, and at the end of all numbers.
    for (position, ours) in [(4, true), (0, false), (9, false), (u64::MAX, false)] {
        let mut scene = self::scene();
        scene.log.deliver(&mut scene.bob);
        scene.bob.events();
        with_aad(&mut scene, claim(position, 7), "a lie");
        let log = renumbered(&scene.log, scene.log.entries.clone());
        let kinds = scene.bob_is_shown(&log);
        assert_eq!(texts(&kinds), ["a lie"]);
        let found = forks(&kinds);
        assert_eq!(found.len(), 1, "{position}");
        assert_eq!(found[0].position, Position(position));
        assert_eq!(found[0].ours.is_some(), ours, "{position}");
    }
}

#[test]
fn what_is_too_long_ago_cannot_be_compared() {
    let mut scene = scene();
    scene.log.deliver(&mut scene.bob);
    scene.bob.events();
    let sql = "DELETE FROM delivery_chain WHERE position = 3";
    scene.bob.engine.db.connection.execute(sql, []).unwrap();
    let value = ChainValue::from_bytes([7; 32]);
    let position = Position(3);
    with_aad(&mut scene, Claim { position, value }.to_aad(), "long ago");
    let log = renumbered(&scene.log, scene.log.entries.clone());
    let kinds = scene.bob_is_shown(&log);
    assert_eq!(texts(&kinds), ["long ago"]);
    assert_eq!(forks(&kinds), []);
}

/// Where Carol's second message is, in a list of entries.
const SECOND: usize = 2;

#[test]
fn an_event_of_a_fork_survives_as_it_was() {
    let mut scene = scene();
    scene.alice_says("x");
    let mut entries = scene.log.entries.clone();
    entries.remove(SECOND);
    let bobs = renumbered(&scene.log, entries);
    let first = scene.bob_is_shown(&bobs);
    let again = scene.bob.engine.events_after(crate::EventId::NONE, 1000).unwrap();
    let again: Vec<_> = again.into_iter().map(|event| event.kind).collect();
    assert!(again.ends_with(&first));
    let fork = again
        .iter()
        .position(|kind| matches!(kind, EventKind::DeliveryForked { .. }))
        .unwrap();
    assert!(
        matches!(again[fork + 1], EventKind::Message { .. }),
        "the alarm comes before what it warns of"
    );
}
