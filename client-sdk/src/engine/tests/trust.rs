//! Authorities that come and go.

use super::people::Person;
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
