//! Hand-offs to joiners, exactly once in effect.

use super::*;
use crate::log::InboxContent;
use crate::log::conformance::{accept, commit, device, effects, eventually, group, inbox_of, message, user};
use crate::log::redis::append::append_batch;
use crate::log::redis::keys::Keys;
use crate::log::redis::partition::Partition;
use crate::log::redis::relay::deliver;
use crate::log::redis::wire::{HandOff, InboxRow};

fn welcome(group: GroupId, alice: DeviceId, joined: &[DeviceId]) -> Append {
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = joined.iter().map(|device| (user_of(*device), *device)).collect();
    effects(&mut add).welcome = Some(Bytes::from_static(b"welcome"));
    add
}

fn user_of(device: DeviceId) -> UserId {
    user(&format!("u{}", device.as_uuid().simple()))
}

async fn records(server: &Redis, group: GroupId) -> String {
    let out = format!("{}out", Partition::of_group(&group).tag());
    server.command(&["XLEN", &out]).await
}

/// Waits until all joiners have their Welcome and no record is left; then each has one.
async fn all_have_one(server: &Redis, log: &Hot, group: GroupId, joined: &[DeviceId]) {
    for joiner in joined {
        let items = inbox_of(log, *joiner, 1).await;
        assert!(matches!(&items[0].content, InboxContent::Welcome { group: to, .. } if *to == group));
        let groups = eventually("the group on the list", async || {
            let groups = log
                .memberships(&user_of(*joiner), *joiner, None, 9)
                .await
                .unwrap();
            (!groups.is_empty()).then_some(groups)
        });
        assert_eq!(groups.await[0].group, group);
    }
    eventually("no record is left", async || {
        (records(server, group).await == "0").then_some(())
    })
    .await;
    for joiner in joined {
        assert_eq!(inbox_of(log, *joiner, 1).await.len(), 1, "exactly one");
    }
}

/// Appends as a replica that dies before it hands anything over. Returns the hand-off.
async fn append_and_die(log: &Hot, add: &Append) -> HandOff {
    let store = &log.log.store;
    let partition = Partition::of_group(&add.group);
    let outcomes = append_batch(store, partition, &[add], SETTINGS.inbox_kept)
        .await
        .unwrap();
    let appended = outcomes[0].0.unwrap();
    HandOff {
        group: add.group,
        position: appended.position,
        epoch: appended.epoch,
        id: appended.id,
        accepted_at: appended.at,
        welcome: true,
        joined: add.commit.as_ref().unwrap().joined.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_completes_what_a_crash_between_two_joiners_left() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let (alice, bob, carol) = (device(), device(), device());
    let group = group(&*log, alice).await;
    // The creation's own record is not what this is about.
    eventually("no record is left", async || {
        (records(&server, group).await == "0").then_some(())
    })
    .await;
    log.log.stopping.cancel();
    let mut hand_off = append_and_die(&log, &welcome(group, alice, &[bob, carol])).await;
    hand_off.joined.truncate(1);
    deliver(&log.log.store, SETTINGS.inbox_kept, &hand_off)
        .await
        .unwrap();
    assert_eq!(log.read_inbox(bob, 0, 9).await.unwrap().len(), 1);
    assert_eq!(log.newest_inbox(carol).await.unwrap(), 0);
    assert_eq!(records(&server, group).await, "1");
    drop(log);

    let other = Hot::new(open(&server).await);
    all_have_one(&server, &other, group, &[bob, carol]).await;
}

/// It was ended, and the replica that did so with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_tells_of_a_reset_what_a_crash_left_untold() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let (alice, bob) = (device(), device());
    let group = group(&*log, alice).await;
    accept(&*log, welcome(group, alice, &[bob])).await;
    all_have_one(&server, &log, group, &[bob]).await;
    log.log.stopping.cancel();
    let successor = GroupId::random(&mut rand::rng());
    let reset = log.log.reset(group, successor, 9_000).await.unwrap().unwrap();
    assert_eq!(records(&server, group).await, "1");
    assert_eq!(log.newest_inbox(alice).await.unwrap(), 0);
    // Frozen and opened again, it is still over.
    for frozen in [true, false] {
        log.log.set_frozen(group, frozen).await.unwrap();
        let head = log.log.head(group).await.unwrap().unwrap();
        assert_eq!((head.frozen, head.reset), (frozen, true));
    }
    drop(log);

    let others = [Hot::new(open(&server).await), Hot::new(open(&server).await)];
    eventually("no record is left", async || {
        (records(&server, group).await == "0").then_some(())
    })
    .await;
    for (member, items) in [(alice, 1), (bob, 2)] {
        let told = inbox_of(&*others[0], member, items).await;
        assert_eq!(told.last().unwrap().content, InboxContent::GroupReset(reset));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_dropped_while_it_relays_leaves_nothing_undone() {
    let server = Redis::start().await;
    let joined: Vec<_> = (0..60).map(|_| device()).collect();
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    accept(&*log, welcome(group, alice, &joined)).await;
    drop(log);
    let other = Hot::new(open(&server).await);
    all_have_one(&server, &other, group, &joined).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_off_that_failed_is_done_later() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let (alice, bob) = (device(), device());
    let group = group(&*log, alice).await;
    eventually("no record is left", async || {
        (records(&server, group).await == "0").then_some(())
    })
    .await;
    // Where his inbox should be is something that nothing can be put into.
    let partition = Partition::of_device(&bob);
    let inbox = Keys::of(partition).inbox(&bob);
    let spoil = redis::cmd("SET").arg(&inbox).arg("x").take();
    log.log.store.ask(partition, spoil).await.unwrap();
    accept(&*log, welcome(group, alice, &[bob])).await;
    eventually("a try that fails", async || {
        (wrong_types(&server).await > 0).then_some(())
    })
    .await;
    let mend = redis::cmd("DEL").arg(&inbox).take();
    log.log.store.ask(partition, mend).await.unwrap();
    all_have_one(&server, &log, group, &[bob]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_relays_at_work_hand_over_once() {
    let server = Redis::start().await;
    let logs = [
        Hot::new(open(&server).await),
        Hot::new(open(&server).await),
        Hot::new(open(&server).await),
    ];
    let alice = device();
    let group = group(&*logs[0], alice).await;
    let joined: Vec<_> = (0..20).map(|_| device()).collect();
    let hand_off = append_and_die(&logs[0], &welcome(group, alice, &joined)).await;
    let deliveries = logs
        .iter()
        .map(|log| deliver(&log.log.store, SETTINGS.inbox_kept, &hand_off));
    for log in &logs {
        log.log.relay.look_at_once(Partition::of_group(&group));
    }
    for delivered in futures::future::join_all(deliveries).await {
        delivered.unwrap();
    }
    all_have_one(&server, &logs[1], group, &joined).await;
    // One that was slow comes after all is done and even applied.
    let newest = logs[0].newest_inbox(joined[0]).await.unwrap();
    logs[0].acknowledge(joined[0], Vec::new(), newest).await.unwrap();
    deliver(&logs[2].log.store, SETTINGS.inbox_kept, &hand_off)
        .await
        .unwrap();
    assert_eq!(logs[0].newest_inbox(joined[0]).await.unwrap(), newest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_welcome_goes_with_its_last_joiner_or_with_time() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let (alice, bob, carol) = (device(), device(), device());
    let group = group(&*log, alice).await;
    let added = accept(&*log, welcome(group, alice, &[bob, carol])).await;
    let partition = Partition::of_group(&group);
    let key = Keys::of(partition).welcome(&group, added.id);
    let ask = async |name: &str| {
        let command = redis::cmd(name).arg(&key).take();
        log.log.store.ask(partition, command).await.unwrap()
    };
    let left = ask("PTTL").await;
    assert!(matches!(left, redis::Value::Int(1..=3_600_000)), "{left:?}");
    for joiner in [bob, carol] {
        inbox_of(&*log, joiner, 1).await;
    }
    let newest = log.newest_inbox(bob).await.unwrap();
    log.acknowledge(bob, Vec::new(), newest).await.unwrap();
    eventually("the joiner is ticked off", async || {
        (ask("HLEN").await == redis::Value::Int(2)).then_some(())
    })
    .await;
    assert_eq!(inbox_of(&*log, carol, 1).await.len(), 1);
    let newest = log.newest_inbox(carol).await.unwrap();
    log.acknowledge(carol, Vec::new(), newest).await.unwrap();
    eventually("the welcome is gone", async || {
        (ask("EXISTS").await == redis::Value::Int(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_welcome_that_is_gone_is_passed_over() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let (alice, bob) = (device(), device());
    let group = group(&*log, alice).await;
    let added = accept(&*log, welcome(group, alice, &[bob])).await;
    inbox_of(&*log, bob, 1).await;
    let partition = Partition::of_group(&group);
    let command = redis::cmd("DEL")
        .arg(Keys::of(partition).welcome(&group, added.id))
        .take();
    log.log.store.ask(partition, command).await.unwrap();
    let notice = Notice {
        device: bob,
        deduplication_key: "low".to_owned(),
        cipher_suite: 1,
        one_time: 3,
        at: 3000,
    };
    log.notify(vec![notice]).await.unwrap();
    let items = log.read_inbox(bob, 0, 1).await.unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].number, log.newest_inbox(bob).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_nobody_takes_go_with_time() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let bob = device();
    let partition = Partition::of_device(&bob);
    let inbox = Keys::of(partition).inbox(&bob);
    let kept = u64::try_from(SETTINGS.inbox_kept.as_millis()).unwrap();
    let now = valise_clock::Clock::system().unix_millis();
    let row = InboxRow::LowStock {
        cipher_suite: 1,
        one_time: 3,
    };
    for age in [kept + 60_000, kept - 60_000] {
        let command = redis::cmd("XADD")
            .arg(&inbox)
            .arg(format!("{}-0", now - age))
            .arg("i")
            .arg(row.pack(3000))
            .take();
        log.log.store.ask(partition, command).await.unwrap();
    }
    assert_eq!(log.read_inbox(bob, 0, 9).await.unwrap().len(), 2);
    let notice = Notice {
        device: bob,
        deduplication_key: "low".to_owned(),
        cipher_suite: 2,
        one_time: 3,
        at: 3000,
    };
    log.notify(vec![notice]).await.unwrap();
    let numbers: Vec<u64> = log
        .read_inbox(bob, 0, 9)
        .await
        .unwrap()
        .iter()
        .map(|item| item.number)
        .collect();
    assert_eq!(numbers.len(), 2, "the oldest is gone");
    assert_eq!(numbers[0], now - kept + 60_000);
    // Without another item they all go.
    let command = redis::cmd("PTTL").arg(&inbox).take();
    let left = log.log.store.ask(partition, command).await.unwrap();
    assert!(matches!(left, redis::Value::Int(1..=3_600_000)), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_items_of_an_inbox_have_one_number_though_they_and_their_count_are_lost() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let bob = device();
    let notice = |suite| Notice {
        device: bob,
        deduplication_key: format!("low {suite}"),
        cipher_suite: suite,
        one_time: 3,
        at: 3000,
    };
    log.notify(vec![notice(1)]).await.unwrap();
    let partition = Partition::of_device(&bob);
    let (heads, inbox) = (Keys::of(partition).inbox_heads(), Keys::of(partition).inbox(&bob));
    let lose = async |keys: &[&Vec<u8>]| {
        let command = redis::cmd("DEL").arg(keys).take();
        log.log.store.ask(partition, command).await.unwrap();
    };
    lose(&[&heads]).await;
    log.notify(vec![notice(2)]).await.unwrap();
    let items = log.read_inbox(bob, 0, 9).await.unwrap();
    assert_eq!(items.len(), 2);
    assert!(items[0].number < items[1].number);
    lose(&[&heads, &inbox]).await;
    let clock = valise_clock::Clock::system();
    eventually("a later time", async || {
        (clock.unix_millis() > items[1].number).then_some(())
    })
    .await;
    log.notify(vec![notice(3)]).await.unwrap();
    let after = log.read_inbox(bob, items[1].number, 9).await.unwrap();
    assert_eq!(after.len(), 1, "it is new to who has seen the others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_left_goes_from_the_list_unless_joined_again() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let (alice, bob) = (device(), device());
    let group = group(&*log, alice).await;
    let list = Keys::of(Partition::of_user(&user_of(bob))).user_groups(&user_of(bob));
    let listed = async || {
        let command = redis::cmd("HGET").arg(&list).arg(group.as_bytes()).take();
        let partition = Partition::of_user(&user_of(bob));
        log.log.store.ask(partition, command).await.unwrap()
    };
    let position = |number: &str| redis::Value::BulkString(number.as_bytes().to_vec());
    accept(&*log, welcome(group, alice, &[bob])).await;
    eventually("listed", async || (listed().await == position("1")).then_some(())).await;
    let mut remove = commit(group, alice, 1);
    effects(&mut remove).left = vec![bob];
    accept(&*log, remove).await;
    let groups = log.memberships(&user_of(bob), bob, None, 9).await.unwrap();
    assert!(groups.is_empty());
    assert_eq!(listed().await, redis::Value::Nil);

    let mut again = welcome(group, alice, &[bob]);
    again.epoch = Epoch(2);
    accept(&*log, again).await;
    eventually("listed again", async || {
        (listed().await == position("3")).then_some(())
    })
    .await;
    // Somebody who has read the list before that now takes the group off it.
    log.log.drop_from_list(&user_of(bob), group, b"1".to_vec()).await;
    assert_eq!(listed().await, position("3"));
    accept(&*log, message(group, bob, 3, "here")).await;
    assert_eq!(
        log.memberships(&user_of(bob), bob, None, 9).await.unwrap().len(),
        1
    );
}
