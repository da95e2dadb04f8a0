//! How long the archive keeps what nobody has acknowledged.

use std::time::Duration;

use bytes::Bytes;
use openmls::prelude::tls_codec::{Serialize as _, VLBytes};
use valise_clock::Clock;
use valise_group_rules::{Policy, ROLES_EXTENSION, Retention, Roles};
use valise_proto::{GroupId, Position};

use super::{Servers, positions, settings};
use crate::log::conformance::{accept, device, message, new_group, user};
use crate::log::{Append, Created, NewGroup, OrderedLog};

/// A GroupInfo of epoch 0 up to the end of its GroupContext (RFC 9420 §8.1), whose policy has that retention.
fn group_info(retention: Option<Retention>) -> Bytes {
    let policy = Policy {
        retention,
        ..Policy::default()
    };
    let roles = Roles::owned_by(user("alice")).with_policy(policy).to_bytes();
    let vector = |bytes: &[u8]| VLBytes::new(bytes.to_vec()).tls_serialize_detached().unwrap();
    let extension = [&ROLES_EXTENSION.to_be_bytes()[..], &vector(&roles)].concat();
    let bytes = [
        // Version and wire format of the MLSMessage, version and cipher suite of the context.
        &[0, 1, 0, 4, 0, 1, 0, 1][..],
        &vector(&[7; 16]),
        &0_u64.to_be_bytes(),
        &vector(&[7; 32]),
        &vector(&[]),
        &vector(&extension),
    ]
    .concat();
    Bytes::from(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_groups_policy_has_less_kept_and_never_more() {
    let servers = Servers::start().await;
    let replica = servers.replica(&settings()).await;
    let (clock, hand) = Clock::movable();
    let hours = |hours: u32| Retention::from_seconds(hours * 3600);
    let log = &*replica.log;
    let alice = device();
    let mut groups = Vec::new();
    for retention in [hours(1), None, hours(8000)] {
        let new = NewGroup {
            group_info: group_info(retention),
            ..new_group(GroupId::random(&mut rand::rng()), alice)
        };
        let group = new.group;
        assert_eq!(log.create(new).await.unwrap(), Created::Yes);
        for _ in 0..5 {
            let append = Append {
                at: clock.unix_millis(),
                ..message(group, alice, 0, "x")
            };
            accept(log, append).await;
        }
        groups.push(group);
    }
    let kept = async || {
        let mut kept = Vec::new();
        for group in &groups {
            let entries = log.archive.read(*group, Position::NONE, 9, 1 << 20).await;
            kept.push(positions(&entries.unwrap()));
        }
        kept
    };
    let all = vec![1, 2, 3, 4, 5];
    let mut archiver = replica.archiver_by(&clock).await;
    archiver.round().await.unwrap();
    hand.advance(Duration::from_mins(59));
    archiver.round().await.unwrap();
    assert_eq!(kept().await, [all.clone(), all.clone(), all.clone()]);
    hand.advance(Duration::from_mins(2));
    archiver.round().await.unwrap();
    assert_eq!(kept().await, [vec![5], all.clone(), all]);

    // The service keeps less than the third group would.
    archiver.retention = Duration::from_hours(3);
    hand.advance(Duration::from_hours(3));
    archiver.round().await.unwrap();
    assert_eq!(kept().await, [vec![5], vec![5], vec![5]]);
    drop(archiver);
    replica.stop().await;
}
