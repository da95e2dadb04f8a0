//! A cluster whose nodes die and whose slots move, under load.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::log::conformance::{accept, commit, device, effects, eventually, group, message, user};
use crate::log::redis::partition::Partition;

const GROUPS: usize = 8;
/// Between two appends of a writer.
const PAUSE: Duration = Duration::from_millis(20);

/// What a writer was answered: position and bytes; and whom it has added.
#[derive(Default)]
struct Written {
    entries: Vec<(Position, Bytes)>,
    added: Vec<DeviceId>,
}

/// Appends one after the other, each until it is answered; every tenth is a commit that adds a device.
async fn write(log: Arc<Hot>, group: GroupId, name: String, enough: CancellationToken) -> (GroupId, Written) {
    let (mut written, mut epoch, mut number) = (Written::default(), 0, 0);
    let alice = device();
    while !enough.is_cancelled() {
        number += 1;
        let text = format!("{name} {number}");
        let mut append = message(group, alice, epoch, &text);
        let joiner = device();
        if number % 10 == 0 {
            append = Append {
                bytes: append.bytes,
                ..commit(group, alice, epoch)
            };
            effects(&mut append).joined = vec![(user(&format!("u{}", joiner.as_uuid().simple())), joiner)];
            effects(&mut append).welcome = Some(Bytes::from(text.clone()));
        }
        match until_answered(&log, &append).await {
            Ok(appended) => {
                epoch = appended.epoch.0;
                written.entries.push((appended.position, append.bytes));
                if append.commit.is_some() {
                    written.added.push(joiner);
                }
            }
            Err(Refused::EpochEnded { current, .. }) => epoch = current.0,
            Err(refused) => panic!("{refused:?}"),
        }
        // A load, not a flood.
        tokio::time::sleep(PAUSE).await;
    }
    (group, written)
}

/// Each try goes on for 8 s.
const TRIES: usize = 8;

async fn until_answered(log: &Hot, append: &Append) -> Result<Appended, Refused> {
    let mut last = None;
    for _ in 0..TRIES {
        match log.append(append.clone()).await {
            Ok(outcome) => return outcome,
            Err(error) => last = Some(error),
        }
    }
    panic!("the store does not come back: {last:?}");
}

async fn until_read(log: &Hot, group: GroupId, after: Position) -> Vec<Arc<Entry>> {
    for _ in 0..TRIES {
        if let Ok(entries) = log.read(group, after, 100_000, 1 << 30).await {
            return entries;
        }
    }
    panic!("the store does not come back");
}

/// What a replica shows: entries in order, as a stream would send them.
type Shown = Arc<Mutex<HashMap<GroupId, Vec<Arc<Entry>>>>>;

/// Shows what is told, and reads what is not.
async fn show(log: Arc<Hot>, mut news: broadcast::Receiver<News>, shown: Shown) {
    loop {
        let (group, entry) = match news.recv().await {
            Ok(News::Entry { entry, .. }) => (entry.group, Some(entry)),
            Ok(News::Behind(group)) => (group, None),
            Ok(_) => continue,
            Err(error) => panic!("{error}"),
        };
        let last = last_shown(&shown, group);
        match entry {
            Some(entry) if entry.position <= last => {}
            Some(entry) if entry.position == last.next() => {
                shown.lock().entry(group).or_default().push(entry);
            }
            _ => {
                let more = until_read(&log, group, last).await;
                shown.lock().entry(group).or_default().extend(more);
            }
        }
    }
}

fn last_shown(shown: &Shown, group: GroupId) -> Position {
    let shown = shown.lock();
    let last = shown.get(&group).and_then(|entries| entries.last());
    last.map_or(Position::NONE, |entry| entry.position)
}

async fn injure(cluster: &mut RedisCluster, groups: &[GroupId]) {
    let slot = |group: &GroupId| Partition::of_group(group).slot();
    for round in 0..2 {
        let primary = cluster.primary_of_slot(slot(&groups[round])).await;
        cluster.node_mut(primary).kill().await;
        cluster.settled().await;
        cluster.node_mut(primary).restart().await;
        cluster.settled().await;
        let from = cluster.primary_of_slot(slot(&groups[round + 2])).await;
        let primaries = cluster.primaries().await;
        let to = primaries.into_iter().find(|node| *node != from).unwrap();
        cluster.migrate_slot(slot(&groups[round + 2]), to).await;
        cluster.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_and_shown_survives_failovers_and_migrations() {
    let mut cluster = RedisCluster::start(3, 1).await;
    let logs = [
        Hot::new(open_on(RedisMode::Cluster, &cluster.urls(), 1).await),
        Hot::new(open_on(RedisMode::Cluster, &cluster.urls(), 1).await),
    ];
    let mut groups = Vec::new();
    for _ in 0..GROUPS {
        groups.push(group(&*logs[0], device()).await);
    }
    let shown: Vec<Shown> = logs.iter().map(|_| Shown::default()).collect();
    let (mut shows, mut writers) = (JoinSet::new(), JoinSet::new());
    let enough = CancellationToken::new();
    for (number, log) in logs.iter().enumerate() {
        shows.spawn(show(Arc::clone(log), log.news(), Arc::clone(&shown[number])));
        for group in &groups {
            let name = format!("writer {number}");
            writers.spawn(write(Arc::clone(log), *group, name, enough.clone()));
        }
    }
    injure(&mut cluster, &groups).await;
    enough.cancel();

    let (mut answered, mut added) = (0, Vec::new());
    while let Some(written) = writers.join_next().await {
        let (group, written) = written.unwrap();
        let log = logs[0]
            .read(group, Position::NONE, 100_000, 1 << 30)
            .await
            .unwrap();
        for (index, entry) in log.iter().enumerate() {
            assert_eq!(entry.position, Position(index as u64 + 1), "no gap");
        }
        for (position, bytes) in &written.entries {
            assert_eq!(
                log[position.0 as usize - 1].bytes,
                bytes,
                "nothing answered is lost"
            );
            let copies = log.iter().filter(|entry| entry.bytes == bytes).count();
            assert_eq!(copies, 1, "nothing is there twice");
        }
        answered += written.entries.len();
        added.extend(written.added);
    }
    assert!(answered > 100, "{answered}");
    for (log, shown) in logs.iter().zip(&shown) {
        for group in &groups {
            accept(
                &**log,
                message(
                    *group,
                    device(),
                    log.head(*group).await.unwrap().unwrap().epoch.0,
                    "end",
                ),
            )
            .await;
        }
        for group in &groups {
            let kept = log.read(*group, Position::NONE, 100_000, 1 << 30).await.unwrap();
            eventually("all is shown", async || {
                (last_shown(shown, *group) >= kept.last().unwrap().position).then_some(())
            })
            .await;
            let shown = shown.lock()[group].clone();
            assert_eq!(shown[..kept.len()], kept[..], "nobody was shown anything else");
        }
    }
    for joiner in added {
        eventually("the welcome", async || {
            (logs[0].newest_inbox(joiner).await.unwrap() > 0).then_some(())
        })
        .await;
        assert_eq!(logs[0].newest_inbox(joiner).await.unwrap(), 1, "once");
    }
    shows.abort_all();
}
