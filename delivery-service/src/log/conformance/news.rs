//! What those who wait are told.

use bytes::Bytes;
use tokio::sync::broadcast;
use valise_proto::{DeviceId, Epoch, GroupId, Position};

use super::{DEADLINE, accept, commit, device, effects, group, inbox_of, message, refuse, user};
use crate::log::{Append, News, Notice, OrderedLog};

/// What was told of a group and a device.
#[derive(Default, PartialEq, Debug)]
struct Told {
    entries: Vec<(Position, Vec<DeviceId>)>,
    behind: usize,
    inbox: usize,
    ephemerals: usize,
}

impl Told {
    /// Takes the next news; those of other groups and devices may still be under way.
    async fn listen(&mut self, news: &mut broadcast::Receiver<News>, group: GroupId, device: DeviceId) {
        let next = tokio::time::timeout(DEADLINE, news.recv()).await;
        match next.expect("no more news").unwrap() {
            News::Entry { entry, left } if entry.group == group => {
                self.entries.push((entry.position, left.to_vec()));
            }
            News::Behind(behind) if behind == group => self.behind += 1,
            News::Inbox(of) if of == device => self.inbox += 1,
            News::Ephemeral { group: of, bytes, .. } if of == group => {
                assert_eq!(bytes, "typing");
                self.ephemerals += 1;
            }
            _ => {}
        }
    }
}

pub(super) async fn news_come_after_the_fact(log: &dyn OrderedLog) {
    let (alice, bob) = (device(), device());
    let group = group(log, alice).await;
    let mut news = log.news();
    let mut add = commit(group, alice, 0);
    effects(&mut add).joined = vec![(user("bob"), bob)];
    effects(&mut add).left = vec![alice];
    effects(&mut add).welcome = Some(Bytes::from_static(b"welcome"));
    accept(log, add.clone()).await;
    refuse(log, message(group, alice, 0, "refused")).await;
    accept(log, add).await;
    inbox_of(log, bob, 1).await;
    log.publish_ephemeral(group, Epoch(1), bob, Bytes::from_static(b"typing"));
    let mut told = Told::default();
    while told.entries.is_empty() || told.inbox == 0 || told.ephemerals == 0 {
        told.listen(&mut news, group, bob).await;
    }
    // Nothing else is told before what follows.
    accept(log, message(group, bob, 1, "last")).await;
    let notice = Notice {
        device: bob,
        deduplication_key: "low".to_owned(),
        cipher_suite: 1,
        one_time: 3,
        at: 3000,
    };
    log.notify(vec![notice]).await.unwrap();
    while told.entries.len() < 2 || told.inbox < 2 {
        told.listen(&mut news, group, bob).await;
    }
    let entries = vec![(Position(1), vec![alice]), (Position(2), vec![])];
    assert_eq!(told.entries, entries, "no news of refusals and repeats");
    assert_eq!((told.inbox, told.ephemerals), (2, 1));
}

pub(super) async fn large_entries_are_news(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    let mut news = log.news();
    let mut told = Told::default();
    for (position, size) in [(1, 3000), (2, 300_000)] {
        let append = Append {
            bytes: Bytes::from(vec![7; size]),
            ..message(group, alice, 0, "")
        };
        accept(log, append.clone()).await;
        let read = log.read(group, Position(position - 1), 1, 0).await.unwrap();
        assert_eq!(read[0].bytes, append.bytes);
        // The entry, or that there is one to read.
        while told.entries.len() + told.behind < position as usize {
            told.listen(&mut news, group, alice).await;
        }
    }
    assert_eq!(told.entries[0].0, Position(1));
}
