//! Who reads what, users' groups, and inboxes.

use bytes::Bytes;
use valise_proto::{DeviceId, Epoch, GroupId, Position, UserId};

use super::{accept, commit, device, effects, eventually, group, inbox_of, message, new_group, user};
use crate::log::{Created, InboxContent, Membership, NewGroup, Notice, OrderedLog, Standing, Window};

/// The groups of a user, once there are so many.
async fn groups_of(log: &dyn OrderedLog, user: &UserId, device: DeviceId, count: usize) -> Vec<Membership> {
    eventually("a user's groups", async || {
        let groups = log.memberships(user, device, None, 10).await.unwrap();
        (groups.len() == count).then_some(groups)
    })
    .await
}

pub(super) async fn windows_and_memberships(log: &dyn OrderedLog) {
    let (alice, bob, other) = (device(), device(), device());
    let group = group(log, alice).await;
    let name = format!("bob-{}", bob.as_uuid().simple());
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = vec![(user(&name), bob)];
    accept(log, add).await;
    accept(log, message(group, alice, 1, "x")).await;
    let mut remove = commit(group, alice, 1);
    effects(&mut remove).left = vec![bob];
    let before = groups_of(log, &user(&name), bob, 1).await;
    assert!(before[0].device_is_member && before[0].group == group);
    assert_eq!(before[0].epoch, Epoch(1));
    let of_other = log.memberships(&user(&name), other, None, 10).await.unwrap();
    assert!(of_other.len() == 1 && !of_other[0].device_is_member);
    accept(log, remove).await;
    assert!(
        log.memberships(&user(&name), bob, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    let first = Window {
        after: Position(1),
        until: Some(Position(3)),
    };
    assert_eq!(log.windows(group, bob).await.unwrap(), [first]);
    let mut again = commit(group, alice, 2);
    effects(&mut again).joined = vec![(user(&name), bob)];
    accept(log, again).await;
    let second = Window {
        after: Position(4),
        until: None,
    };
    assert_eq!(log.windows(group, bob).await.unwrap(), [first, second]);
    assert_eq!(log.windows(group, other).await.unwrap(), []);
    assert_eq!(
        log.windows(group, alice).await.unwrap(),
        [Window {
            after: Position(0),
            until: None
        }]
    );
    let back = groups_of(log, &user(&name), bob, 1).await;
    assert!(back[0].device_is_member && back[0].epoch == Epoch(3));
    let last = log.memberships(&user(&name), bob, Some(group), 10).await.unwrap();
    assert!(last.is_empty(), "pages go on after a group");
}

pub(super) async fn standings_are_what_is_known_of_each_group(log: &dyn OrderedLog) {
    let (alice, bob) = (device(), device());
    let (mut asked, mut expected) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let id = group(log, alice).await;
        let first = accept(log, message(id, alice, 0, "first")).await;
        if number % 2 == 0 {
            let mut add = commit(id, alice, 0);
            effects(&mut add).joined = vec![(user("bob"), bob)];
            accept(log, add).await;
        }
        // The id is asked for of every third one.
        let wanted = number % 3 == 0;
        asked.push((id, if wanted { first.position } else { Position::NONE }));
        expected.push(Standing {
            head: log.head(id).await.unwrap(),
            windows: log.windows(id, bob).await.unwrap(),
            id: wanted.then_some(first.id),
        });
    }
    let (nowhere, beyond) = (GroupId::random(&mut rand::rng()), asked[0].0);
    asked.extend([(nowhere, Position(1)), (beyond, Position(u64::MAX))]);
    expected.push(Standing {
        head: None,
        windows: Vec::new(),
        id: None,
    });
    expected.push(Standing {
        id: None,
        ..expected[0].clone()
    });
    assert_eq!(expected[0].windows[0].after, Position(2));
    assert_eq!(log.standings(bob, asked).await.unwrap(), expected);
    assert_eq!(log.standings(bob, Vec::new()).await.unwrap(), []);
}

pub(super) async fn memberships_come_in_pages(log: &dyn OrderedLog) {
    let alice = device();
    let name = format!("alice-{}", alice.as_uuid().simple());
    let mut groups = Vec::new();
    for _ in 0..7 {
        let group = GroupId::random(&mut rand::rng());
        let new = NewGroup {
            creator: (user(&name), alice),
            ..new_group(group, alice)
        };
        assert_eq!(log.create(new).await.unwrap(), Created::Yes);
        groups.push(group);
    }
    groups.sort_unstable();
    let listed: Vec<_> = groups_of(log, &user(&name), alice, 7)
        .await
        .iter()
        .map(|membership| membership.group)
        .collect();
    assert_eq!(listed, groups);
    let page = log
        .memberships(&user(&name), alice, Some(groups[1]), 3)
        .await
        .unwrap();
    let page: Vec<_> = page.iter().map(|membership| membership.group).collect();
    assert_eq!(page, groups[2..5]);
}

pub(super) async fn a_device_that_rejoins_has_two_windows(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    let mut rejoin = commit(group, alice, 0);
    effects(&mut rejoin).left = vec![alice, device()];
    effects(&mut rejoin).joined = vec![(user("alice"), alice)];
    accept(log, rejoin).await;
    let windows = [
        Window {
            after: Position(0),
            until: Some(Position(1)),
        },
        Window {
            after: Position(1),
            until: None,
        },
    ];
    assert_eq!(log.windows(group, alice).await.unwrap(), windows);
}

pub(super) async fn welcomes_and_notices(log: &dyn OrderedLog) {
    let (alice, bob, carol) = (device(), device(), device());
    let group = group(log, alice).await;
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = vec![(user("bob"), bob), (user("carol"), carol)];
    effects(&mut add).welcome = Some(Bytes::from_static(b"welcome"));
    let added = accept(log, add.clone()).await;
    accept(log, add).await;
    for joiner in [bob, carol] {
        let items = inbox_of(log, joiner, 1).await;
        let expected = InboxContent::Welcome {
            welcome: Bytes::from_static(b"welcome"),
            group,
            epoch: Epoch(1),
            commit: (added.position, added.id),
        };
        assert_eq!(items[0].content, expected);
    }
    let day = 24 * 3600 * 1000;
    let notice = |at| Notice {
        device: bob,
        deduplication_key: "low".to_owned(),
        cipher_suite: 1,
        one_time: 3,
        at,
    };
    log.notify(vec![notice(day), notice(day + 1)]).await.unwrap();
    let items = log.read_inbox(bob, 0, 10).await.unwrap();
    assert_eq!(items.len(), 2, "a repeat hands over nothing");
    let (first, newest) = (items[0].number, items[1].number);
    assert!(first < newest);
    assert_eq!(log.newest_inbox(bob).await.unwrap(), newest);
    assert_eq!(log.newest_inbox(alice).await.unwrap(), 0);
    log.acknowledge(bob, vec![(group, added.position)], first)
        .await
        .unwrap();
    let items = log.read_inbox(bob, 0, 10).await.unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(
        items[0].content,
        InboxContent::LowStock {
            cipher_suite: 1,
            one_time: 3
        }
    );
    assert_eq!(
        log.read_inbox(carol, 0, 10).await.unwrap().len(),
        1,
        "the Welcome is kept for others"
    );
    log.acknowledge(bob, Vec::new(), newest).await.unwrap();
    log.notify(vec![notice(day + 2)]).await.unwrap();
    assert!(
        log.read_inbox(bob, 0, 10).await.unwrap().is_empty(),
        "known for a day, applied or not"
    );
    log.notify(vec![notice(3 * day)]).await.unwrap();
    assert!(
        log.read_inbox(bob, 0, 10).await.unwrap()[0].number > newest,
        "numbers are never used twice"
    );
}
