//! News between replicas, and what happens to them when something is lost.

use super::*;
use crate::log::conformance::{accept, commit, device, effects, eventually, group, message, user};
use crate::log::redis::keys::Keys;
use crate::log::redis::partition::Partition;

const DEADLINE: Duration = Duration::from_secs(30);

async fn next(news: &mut broadcast::Receiver<News>) -> News {
    let next = tokio::time::timeout(DEADLINE, news.recv()).await;
    next.expect("no more news").unwrap()
}

/// Waits until it is told to read that group, or gets an entry of it.
async fn told_of(news: &mut broadcast::Receiver<News>, group: GroupId) -> Option<Arc<Entry>> {
    loop {
        match next(news).await {
            News::Entry { entry, .. } if entry.group == group => return Some(entry),
            News::Behind(behind) if behind == group => return None,
            _ => {}
        }
    }
}

/// Waits until it gets that entry of the group.
async fn told_of_position(news: &mut broadcast::Receiver<News>, group: GroupId, position: u64) {
    while told_of(news, group).await.map(|entry| entry.position) != Some(Position(position)) {}
}

async fn told_of_inbox(news: &mut broadcast::Receiver<News>, device: DeviceId) {
    while !matches!(next(news).await, News::Inbox(of) if of == device) {}
}

/// A log whose sweeps come too late for a test.
pub(super) async fn without_sweeps(server: &Redis) -> Arc<Hot> {
    let urls = vec![server.url().parse().unwrap()];
    let links = Links::open(&RedisConfig::new(RedisMode::Standalone, urls))
        .await
        .unwrap();
    let settings = Settings {
        sweep: Duration::from_secs(3600),
        ..SETTINGS
    };
    Hot::new(RedisLog::open(Arc::new(links), settings).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_replicas_hear_of_streams_in_one_order() {
    let server = Redis::start().await;
    let (here, there) = (Hot::new(open(&server).await), Hot::new(open(&server).await));
    let mut heard = [here.news(), there.news()];
    let of = device();
    for stream in 0..20 {
        here.announce_stream(of, stream);
        there.announce_stream(of, 100 + stream);
    }
    let mut orders = Vec::new();
    for news in &mut heard {
        let mut order = Vec::new();
        while order.len() < 40 {
            if let News::Stream { device, stream } = next(news).await {
                assert_eq!(device, of);
                order.push(stream);
            }
        }
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_see_each_others_news() {
    let server = Redis::start().await;
    let (here, there) = (Hot::new(open(&server).await), Hot::new(open(&server).await));
    let (alice, bob) = (device(), device());
    let group = group(&*here, alice).await;
    for (one, other) in [(&here, &there), (&there, &here)] {
        let mut news = other.news();
        let appended = accept(&**one, message(group, alice, 0, "hello")).await;
        let entry = told_of(&mut news, group).await.unwrap();
        assert_eq!(
            (entry.position, entry.bytes.as_ref()),
            (appended.position, b"hello".as_ref())
        );
        let read = one
            .read(group, Position(appended.position.0 - 1), 1, 0)
            .await
            .unwrap();
        assert_eq!(entry, read[0]);
    }
    let mut news = there.news();
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = vec![(user("bob"), bob)];
    effects(&mut add).welcome = Some(Bytes::from_static(b"welcome"));
    accept(&*here, add).await;
    told_of_inbox(&mut news, bob).await;
    here.publish_ephemeral(group, Epoch(1), alice, Bytes::from_static(b"typing"));
    loop {
        if let News::Ephemeral {
            sender, bytes, epoch, ..
        } = next(&mut news).await
        {
            assert_eq!(
                (sender, bytes.as_ref(), epoch),
                (alice, b"typing".as_ref(), Epoch(1))
            );
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_entry_is_told_in_order() {
    let server = Redis::start().await;
    let (here, there) = (Hot::new(open(&server).await), Hot::new(open(&server).await));
    let alice = device();
    let group = group(&*here, alice).await;
    let mut news = there.news();
    let appends = (0..300).map(|_| accept(&*here, message(group, alice, 0, "x")));
    futures::future::join_all(appends).await;
    for position in 1..=300 {
        let entry = told_of(&mut news, group).await.expect("nothing was lost");
        assert_eq!(entry.position, Position(position));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_subscription_is_made_up_for() {
    let server = Redis::start().await;
    let (here, there) = (without_sweeps(&server).await, without_sweeps(&server).await);
    let alice = device();
    let group = group(&*here, alice).await;
    let mut news = there.news();
    for round in 1..=5 {
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        accept(&*here, message(group, alice, 0, "while away")).await;
        loop {
            match told_of(&mut news, group).await {
                Some(entry) if entry.position < Position(round) => {}
                Some(_) => break,
                None if there.head(group).await.unwrap().unwrap().position == Position(round) => break,
                None => {}
            }
        }
    }
    // And entries themselves come again.
    eventually("entries come again", async || {
        accept(&*here, message(group, alice, 0, "live")).await;
        told_of(&mut news, group).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_a_channel_is_read() {
    let server = Redis::start().await;
    let (here, there) = (without_sweeps(&server).await, without_sweeps(&server).await);
    let alice = device();
    let group = group(&*here, alice).await;
    let mut news = there.news();
    for (size, position) in [(4096, 1), (4097, 2), (4096, 3)] {
        accept(&*here, message(group, alice, 0, &"x".repeat(size))).await;
        let told = told_of(&mut news, group).await.map(|entry| entry.position);
        assert_eq!(told, (size <= 4096).then_some(Position(position)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_be_told_of_stands_and_is_found() {
    let server = Redis::start().await;
    let mute = [
        "ACL",
        "SETUSER",
        "mute",
        "on",
        ">hush",
        "~*",
        "&*",
        "+@all",
        "-spublish",
    ];
    assert_eq!(server.command(&mute).await, "OK");
    let url = format!("redis://mute:hush@127.0.0.1:{}", server.port());
    let here = Hot::new(open_on(RedisMode::Standalone, &[url], 0).await);
    let there = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*here, alice).await;
    let mut news = there.news();
    for position in 1..=3 {
        let appended = accept(&*here, message(group, alice, 0, "untold")).await;
        assert_eq!(
            (appended.position, appended.repeated),
            (Position(position), false)
        );
        assert_eq!(told_of(&mut news, group).await, None);
    }
}

/// A change of a group of which no message tells: as if that had been lost on its way.
async fn change_silently(log: &Hot, group: GroupId, device: DeviceId) {
    let partition = Partition::of_group(&group);
    let keys = Keys::of(partition);
    let next = log.log.sequence(partition).await.unwrap() + 1;
    let commands = [
        redis::cmd("ZADD")
            .arg(keys.changes())
            .arg(next)
            .arg(group.as_bytes())
            .take(),
        redis::cmd("ZADD")
            .arg(keys.inbox_changes())
            .arg(next)
            .arg(device.as_uuid().as_bytes())
            .take(),
        redis::cmd("HSET").arg(keys.heads()).arg("seq").arg(next).take(),
    ];
    log.log.store.ask_all(partition, commands).await.unwrap();
}

/// Two groups of one partition.
async fn two_groups(log: &Hot, alice: DeviceId) -> (GroupId, GroupId) {
    let first = group(log, alice).await;
    loop {
        let second = GroupId::random(&mut rand::rng());
        if Partition::of_group(&second) == Partition::of_group(&first) {
            let new = crate::log::conformance::new_group(second, alice);
            log.create(new).await.unwrap();
            return (first, second);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_finds_what_no_message_told() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    let mut news = log.news();
    for _ in 0..3 {
        change_silently(&log, group, alice).await;
        assert_eq!(told_of(&mut news, group).await, None);
        told_of_inbox(&mut news, alice).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_message_shows_a_gap() {
    let server = Redis::start().await;
    let log = without_sweeps(&server).await;
    let alice = device();
    let (first, second) = two_groups(&log, alice).await;
    accept(&*log, message(second, alice, 0, "before")).await;
    let mut news = log.news();
    accept(&*log, message(second, alice, 0, "heard")).await;
    while told_of(&mut news, second).await.unwrap().position < Position(2) {}
    change_silently(&log, first, alice).await;
    accept(&*log, message(second, alice, 0, "after")).await;
    let mut seen = (false, false);
    while seen != (true, true) {
        match next(&mut news).await {
            News::Entry { entry, .. } => {
                assert_eq!((entry.group, entry.position), (second, Position(3)));
                seen.0 = true;
            }
            News::Behind(group) if group == first => seen.1 = true,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_and_could_not_be_read_is_read_later() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let (first, second) = two_groups(&log, alice).await;
    let mut news = log.news();
    accept(&*log, message(second, alice, 0, "heard")).await;
    told_of_position(&mut news, second, 1).await;
    // No message tells of a change, and the indexes of changes cannot be read.
    let partition = Partition::of_group(&first);
    let keys = Keys::of(partition);
    let next = log.log.sequence(partition).await.unwrap() + 1;
    let commands = [
        redis::cmd("SET").arg(keys.inbox_changes()).arg("x").take(),
        redis::cmd("ZADD")
            .arg(keys.changes())
            .arg(next)
            .arg(first.as_bytes())
            .take(),
        redis::cmd("HSET").arg(keys.heads()).arg("seq").arg(next).take(),
    ];
    log.log.store.ask_all(partition, commands).await.unwrap();
    // The next message shows that something was missed, and is itself the newest that was heard.
    accept(&*log, message(second, alice, 0, "after")).await;
    told_of_position(&mut news, second, 2).await;
    let failed = wrong_types(&server).await;
    eventually("more tries that fail", async || {
        (wrong_types(&server).await >= failed + 2).then_some(())
    })
    .await;
    let mend = redis::cmd("DEL").arg(keys.inbox_changes()).take();
    log.log.store.ask(partition, mend).await.unwrap();
    assert_eq!(told_of(&mut news, first).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_went_back_is_followed_on() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    let mut news = log.news();
    for _ in 0..20 {
        accept(&*log, message(group, alice, 0, "x")).await;
        told_of(&mut news, group).await;
    }
    let partition = Partition::of_group(&group);
    let keys = Keys::of(partition);
    let commands = [
        redis::cmd("HSET").arg(keys.heads()).arg("seq").arg(3).take(),
        redis::cmd("ZADD")
            .arg(keys.changes())
            .arg(3)
            .arg(group.as_bytes())
            .take(),
    ];
    log.log.store.ask_all(partition, commands).await.unwrap();
    assert_eq!(told_of(&mut news, group).await, None);
    change_silently(&log, group, alice).await;
    assert_eq!(told_of(&mut news, group).await, None);
}
