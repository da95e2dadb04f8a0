//! How long key packages must live, and how long their private keys do.

use std::time::Duration;

use valise_clock::Clock;
use valise_proto::directory::v1 as directory;

use super::*;
use crate::AddFailure;
use crate::engine::intents::AddPackage;

/// A package that ends before the service forgets a commit with it, which it keeps for an hour.
fn short_lived(person: &mut Person) -> AddPackage {
    // The first hour of it is over already.
    person.engine.options.key_packages.lifetime = Duration::from_mins(90);
    person.package(false)
}

#[test]
fn a_claimed_package_must_live_as_long_as_entries_are_kept() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let log = alice.create_group("");
    let claim = directory::Claim {
        user_id: bob.peer().user.to_string(),
        device_id: bob.id().to_string(),
        result: Some(directory::claim::Result::KeyPackage(
            short_lived(&mut bob).message,
        )),
        last_resort: false,
    };
    let (packages, failed) = alice.engine.sift_claims(log.group, vec![claim]).unwrap();
    assert!(packages.is_empty(), "K4");
    let why = AddFailure::BadKeyPackage("lifetime_too_short");
    assert_eq!(failed, [(bob.peer().user, Some(bob.id()), why)]);
}

#[test]
fn a_package_that_does_not_live_as_long_as_entries_are_kept_is_not_added() {
    let world = World::new();
    let (mut alice, mut bob) = (world.person("alice"), world.person("bob"));
    let log = alice.create_group("");
    let packages = vec![short_lived(&mut bob)];
    let mut outcome = alice.submit(log.group, Operation::Add { packages });
    assert!(alice.peek_kinds().is_empty(), "K4");
    let error = outcome.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, Error::Rule("lifetime_too_short")), "{error}");
}

#[test]
fn a_package_lives_no_longer_than_the_directory_takes() {
    const WEEK: u64 = 7 * 24 * 3600;
    let world = World::new();
    let mut bob = world.person("bob");
    bob.engine.limit_lifetimes(WEEK);
    let suite = Options::default().cipher_suite.mls();
    bob.engine.make_key_packages(suite, 1, true).unwrap();
    let packages = bob.engine.key_packages_to_publish(9).unwrap();
    assert_eq!(packages.len(), 2);
    let latest = bob.engine.now() + WEEK;
    assert!(packages.iter().all(|package| package.not_after <= latest));
}

#[test]
fn private_keys_are_kept_as_long_as_somebody_can_be_added_with_them() {
    let world = World::new();
    let mut bob = world.person("bob");
    let (clock, hand) = Clock::movable();
    bob.engine.options.clock = clock;
    let lifetime = bob.engine.options.key_packages.lifetime;
    bob.package(false);
    let keys = |bob: &Person| -> i64 {
        let counted = "SELECT (SELECT count(*) FROM openmls_key_packages)
            + (SELECT count(*) FROM openmls_encryption_keys)";
        let connection = &bob.engine.db.connection;
        connection.query_row(counted, [], |row| row.get(0)).unwrap()
    };
    // It has been valid for an hour, and for an hour after its end a Welcome with it may be read.
    hand.advance(lifetime.saturating_sub(Duration::from_mins(1)));
    bob.engine.sweep_key_packages().unwrap();
    assert_eq!(keys(&bob), 1);
    hand.advance(Duration::from_mins(2));
    bob.engine.sweep_key_packages().unwrap();
    assert_eq!(keys(&bob), 0);
}
