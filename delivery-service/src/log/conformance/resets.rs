//! Groups that are ended, and go on as others.

use std::sync::Arc;

use tokio::task::JoinSet;
use valise_proto::{DeviceId, GroupId, Position};

use super::{Backend, accept, commit, device, effects, eventually, group, inbox_of, message, refuse, user};
use crate::log::{InboxContent, OrderedLog, Refused, Reset};

fn id() -> GroupId {
    GroupId::random(&mut rand::rng())
}

async fn told(log: &dyn OrderedLog, device: DeviceId) -> InboxContent {
    inbox_of(log, device, 1).await.swap_remove(0).content
}

pub(super) async fn a_reset_ends_a_group_and_tells_its_members_once(log: &dyn OrderedLog) {
    let (alice, bob, carol) = (device(), device(), device());
    let group = group(log, alice).await;
    let (bobs, carols) = (
        user(&format!("bob-{}", bob.as_uuid().simple())),
        user(&format!("carol-{}", carol.as_uuid().simple())),
    );
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = vec![(bobs.clone(), bob), (carols, carol)];
    accept(log, add).await;
    let mut remove = commit(group, alice, 1);
    effects(&mut remove).left = vec![carol];
    accept(log, remove).await;
    let sent = message(group, bob, 2, "the last one");
    let first = accept(log, sent.clone()).await;
    eventually("bob's list", async || {
        let groups = log.memberships(&bobs, bob, None, 9).await.unwrap();
        (groups.len() == 1).then_some(())
    })
    .await;

    let unknown = log.reset(id(), id(), 9_000).await.unwrap();
    assert_eq!(unknown, Err(Refused::GroupNotFound));
    assert_eq!(log.successor(group).await.unwrap(), None);
    let successor = id();
    let reset = Reset {
        group,
        successor,
        last: Position(3),
    };
    assert_eq!(log.reset(group, successor, 9_000).await.unwrap(), Ok(reset));
    // The first one counts, and nobody is told twice.
    assert_eq!(log.reset(group, id(), 9_001).await.unwrap(), Ok(reset));
    assert_eq!(log.successor(group).await.unwrap(), Some(successor));
    assert_eq!(log.predecessor(successor).await.unwrap(), Some(group));
    assert_eq!(log.predecessor(group).await.unwrap(), None);
    for member in [alice, bob] {
        assert_eq!(told(log, member).await, InboxContent::GroupReset(reset));
    }
    for (member, items) in [(alice, 1), (bob, 1), (carol, 0)] {
        assert_eq!(log.read_inbox(member, 0, 9).await.unwrap().len(), items);
    }

    // Nothing is appended any more, what is there stays, and a repeat is answered.
    for late in [
        message(group, bob, 2, "late"),
        commit(group, alice, 2),
        message(group, bob, 1, "old"),
    ] {
        assert_eq!(refuse(log, late).await, Refused::Reset);
    }
    let repeated = accept(log, sent).await;
    assert!(repeated.repeated && repeated.position == first.position && repeated.id == first.id);
    let head = log.head(group).await.unwrap().unwrap();
    assert!(head.reset && !head.frozen && head.position == Position(3));
    let entries = log.read(group, Position::NONE, 9, 1 << 20).await.unwrap();
    assert_eq!(entries.len(), 3);
    // Nobody comes into it any more.
    assert!(log.memberships(&bobs, bob, None, 9).await.unwrap().is_empty());
}

/// Of what goes on at the same time, the reset is somewhere: what it calls the last entry is the last one.
pub(super) async fn a_reset_and_appends_have_one_order(log: Arc<dyn OrderedLog>) {
    let alice = device();
    let group = group(&*log, alice).await;
    let mut tasks = JoinSet::new();
    for number in 0..40 {
        let log = Arc::clone(&log);
        tasks.spawn(async move {
            if number == 20 {
                log.reset(group, id(), 9_000).await.unwrap().unwrap();
                return true;
            }
            match log.append(message(group, alice, 0, "x")).await.unwrap() {
                Ok(_) => true,
                Err(refused) => {
                    assert_eq!(refused, Refused::Reset);
                    false
                }
            }
        });
    }
    let accepted = tasks.join_all().await.into_iter().filter(|done| *done).count() - 1;
    let InboxContent::GroupReset(reset) = told(&*log, alice).await else {
        panic!("not a reset");
    };
    assert_eq!(reset.last, Position(accepted as u64));
    let entries = log.read(group, Position::NONE, 99, 1 << 20).await.unwrap();
    assert_eq!(entries.len(), accepted);
}

pub(super) async fn resets_survive_reopening(backend: &mut impl Backend) {
    let alice = device();
    let group = group(&*backend.log(), alice).await;
    backend.log().reset(group, id(), 9_000).await.unwrap().unwrap();
    told(&*backend.log(), alice).await;
    backend.reopen().await;
    let log = backend.log();
    assert_eq!(
        refuse(&*log, message(group, alice, 0, "late")).await,
        Refused::Reset
    );
    assert!(log.head(group).await.unwrap().unwrap().reset);
    assert_eq!(log.read_inbox(alice, 0, 9).await.unwrap().len(), 1);
}
