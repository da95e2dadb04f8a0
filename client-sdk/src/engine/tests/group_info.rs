//! What the service gives to those who come in, compared with what a member knows.

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn};
use valise_proto::delivery::v1 as wire;

use super::people::{Log, Person, World};
use super::*;

/// Alice and Bob in a group, in the same epoch.
fn scene() -> (Person, Person, Log) {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut log = alice.create_group("Budget");
    alice.add(&mut log, &mut [&mut bob]);
    for person in [&mut alice, &mut bob] {
        log.deliver(person);
        person.events();
        person.chores();
    }
    (alice, bob, log)
}

/// The same with one bit of `external_pub` changed; its signature is of no interest to a member.
fn with_another_key(mut current: wire::GetGroupInfoResponse) -> wire::GetGroupInfoResponse {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(&current.group_info).unwrap();
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        panic!("a GroupInfo")
    };
    let key = info
        .extensions()
        .external_pub()
        .unwrap()
        .external_pub()
        .as_slice();
    let mut bytes = current.group_info.to_vec();
    let at = bytes.windows(key.len()).position(|part| part == key).unwrap();
    bytes[at] ^= 1;
    current.group_info = bytes.into();
    current
}

fn compared(
    person: &mut Person,
    log: &Log,
    current: &wire::GetGroupInfoResponse,
) -> (Option<wire::CommitFault>, Vec<EventKind>) {
    person.engine.compare_group_info(log.group, current).unwrap();
    (person.report(), person.events())
}

#[test]
fn a_member_knows_the_right_one_from_a_wrong_one() {
    let (mut alice, mut bob, log) = scene();
    let right = alice.current(&log);
    assert_eq!(compared(&mut bob, &log, &right), (None, vec![]));

    let wrong = with_another_key(right.clone());
    let alarm = |evidence: &wire::GetGroupInfoResponse| EventKind::WrongGroupInfo {
        epoch: log.epoch,
        evidence: evidence.group_info.to_vec(),
    };
    let (fault, events) = compared(&mut bob, &log, &wrong);
    assert_eq!(fault, Some(wire::CommitFault::ExternalPub));
    assert_eq!(events, [alarm(&wrong)]);

    // The service made it up.
    let garbage = wire::GetGroupInfoResponse {
        group_info: vec![7; 100].into(),
        ..right
    };
    let (fault, events) = compared(&mut bob, &log, &garbage);
    assert_eq!(fault, Some(wire::CommitFault::Other));
    assert_eq!(events, [alarm(&garbage)]);
}

#[test]
fn of_another_epoch_or_group_nothing_is_said() {
    let (mut alice, mut bob, mut log) = scene();
    let old = with_another_key(alice.current(&log));
    alice.done(&mut log, Operation::SelfUpdate);
    let new = with_another_key(alice.current(&log));
    assert_eq!(compared(&mut bob, &log, &new), (None, vec![]), "Bob is behind");
    log.deliver(&mut bob);
    bob.chores();
    assert_eq!(
        compared(&mut bob, &log, &old),
        (None, vec![]),
        "the service was behind"
    );
    let none = wire::GetGroupInfoResponse {
        group_info: bytes::Bytes::new(),
        ..alice.current(&log)
    };
    assert_eq!(
        compared(&mut bob, &log, &none),
        (None, vec![]),
        "the service has none"
    );
    let carol = World::new();
    let mut carol = carol.person("carol");
    assert_eq!(
        compared(&mut carol, &log, &new),
        (None, vec![]),
        "she is no member"
    );
}

#[test]
fn who_hears_of_an_epoch_compares_and_who_made_it_does_not() {
    let (mut alice, mut bob, mut log) = scene();
    let id = log.group;
    let asked = |person: &mut Person| {
        let of_log = |chore: &Chore| matches!(chore, Chore::CompareGroupInfo { group, .. } if *group == id);
        person.chores().iter().filter(|chore| of_log(chore)).count()
    };
    assert_eq!((asked(&mut alice), asked(&mut bob)), (0, 0));
    alice.done(&mut log, Operation::SelfUpdate);
    log.deliver(&mut bob);
    assert_eq!((asked(&mut alice), asked(&mut bob)), (0, 1));
}
