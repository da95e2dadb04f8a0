//! Authorities that come and go, and the service's certificates.

use valise_clock::Clock;
use valise_device_certificate::ServiceKey;
use valise_proto::delivery::v1::GetParametersResponse;

use super::people::{Person, YEAR, encoded_sender};
use super::*;

fn ders(bundle: &TrustBundle) -> Vec<Vec<u8>> {
    bundle.certificates().to_vec()
}

fn adopt(person: &mut Person, bundle: &TrustBundle) -> Result<(), Error> {
    person.engine.adopt_trust_bundle(ders(bundle))
}

#[test]
fn a_new_authority_is_trusted_once_the_service_says_so_and_after_a_restart() {
    let (world, newer) = (World::new(), World::new());
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("bob.valise"), StoreKey::random());
    let (mut alice, mut bob) = (world.person("alice"), world.person_in("bob", &store));
    let mut eve = newer.person("eve");
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let both = world.bundle_with(&newer);
    adopt(&mut alice, &both).unwrap();
    adopt(&mut bob, &both).unwrap();
    let mut bob = world.reopen(bob.forget(), &store);

    let packages = vec![eve.package(false)];
    alice.done(&mut log, Operation::Add { packages });
    log.deliver(&mut bob);
    let state = bob.state(log.group);
    assert_eq!((state.status, state.members), (GroupStatus::Active, 3));
}

#[test]
fn a_group_that_was_quarantined_for_an_unknown_authority_goes_on_when_it_is_known() {
    let (world, newer) = (World::new(), World::new());
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let mut eve = newer.person("eve");
    let mut log = alice.create_group("");
    alice.add(&mut log, &mut [&mut bob]);
    let both = world.bundle_with(&newer);
    adopt(&mut alice, &both).unwrap();
    let packages = vec![eve.package(false)];
    alice.done(&mut log, Operation::Add { packages });
    log.deliver(&mut bob);
    assert_eq!(bob.state(log.group).status, GroupStatus::Quarantined);
    bob.events();
    adopt(&mut bob, &both).unwrap();
    assert_eq!(bob.state(log.group).status, GroupStatus::Active);
    assert_eq!(bob.events(), [EventKind::QuarantineEnded]);
}

#[test]
fn authorities_that_do_not_trust_the_device_itself_change_nothing() {
    let (world, other) = (World::new(), World::new());
    let mut alice = world.person("alice");
    let refused = adopt(&mut alice, &other.bundle());
    assert!(
        matches!(refused, Err(Error::Rule("certificate_untrusted"))),
        "{refused:?}"
    );
    for hostile in [
        vec![],
        vec![vec![1, 2, 3]],
        vec![world.bundle().certificates()[0].clone(); 17],
    ] {
        assert!(alice.engine.adopt_trust_bundle(hostile).is_err());
    }
    assert_eq!(alice.engine.device.bundle, world.bundle());
    // One that has gone is not trusted any more.
    adopt(&mut alice, &world.bundle_with(&other)).unwrap();
    adopt(&mut alice, &world.bundle()).unwrap();
    assert_eq!(alice.engine.device.bundle, world.bundle());
}

fn told(external_sender: Vec<u8>) -> GetParametersResponse {
    GetParametersResponse {
        external_sender: external_sender.into(),
        retention: Some(prost_types::Duration {
            seconds: 7200,
            nanos: 0,
        }),
        ..GetParametersResponse::default()
    }
}

#[test]
fn the_services_renewed_certificate_is_taken_and_kept_and_groups_of_the_former_one_are_joined() {
    let now = Clock::system().now();
    let (world, first) = World::with_service(now - YEAR);
    let directory = tempfile::tempdir().unwrap();
    let store = Store::file(directory.path().join("bob.valise"), StoreKey::random());
    let (mut alice, mut bob) = (world.person("alice"), world.person_in("bob", &store));
    let renewed = encoded_sender(&world.certify_service(first.into_key(), now + YEAR));
    let expected = crate::mls::external_sender(&renewed).unwrap();
    assert_ne!(bob.engine.device.external_sender, expected);
    bob.engine.adopt_parameters(&told(renewed)).unwrap();
    let mut bob = world.reopen(bob.forget(), &store);
    assert_eq!(bob.engine.device.external_sender, expected);
    assert_eq!(bob.engine.device.retention, 7200, "nothing else is lost");

    // Alice has not heard of it yet.
    let mut hers = alice.create_group("");
    alice.add(&mut hers, &mut [&mut bob]);
    assert_eq!(bob.events(), [EventKind::Joined { by: alice.peer() }]);
    let mut his = bob.create_group("");
    bob.add(&mut his, &mut [&mut alice]);
    assert_eq!(alice.state(his.group).status, GroupStatus::Active);
}

#[test]
fn a_service_with_another_key_or_of_another_authority_is_not_the_one_that_a_device_knows() {
    let now = Clock::system().now();
    let (world, identity) = World::with_service(now + YEAR);
    let mut alice = world.person("alice");
    let known = alice.engine.device.external_sender.clone();
    let other_key = world.certify_service(ServiceKey::generate().unwrap(), now + YEAR);
    let other_authority = World::new().certify_service(identity.into_key(), now + YEAR);
    for (wrong, rule) in [
        (encoded_sender(&other_key), "external_senders"),
        (encoded_sender(&other_authority), "certificate_untrusted"),
        (vec![1, 2, 3], "external_senders"),
    ] {
        let refused = alice.engine.adopt_parameters(&told(wrong));
        assert!(
            matches!(&refused, Err(Error::Rule(found)) if *found == rule),
            "{refused:?}"
        );
        assert_eq!(alice.engine.device.external_sender, known);
        assert_eq!(alice.engine.device.retention, 7200, "the rest is taken");
    }
}
