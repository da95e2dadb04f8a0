//! The service's proposals that come with a commit.

use std::sync::Arc;

use bytes::Bytes;
use valise_proto::{EntryId, Epoch, Position};

use super::{DEADLINE, accept, commit, device, effects, group, message, refuse, service_proposals, user};
use crate::log::{Append, Entry, EntryKind, News, OrderedLog, Refused, Window};

pub(super) async fn proposals_come_with_a_commit(log: &dyn OrderedLog) {
    let (alice, bob) = (device(), device());
    let group = group(log, alice).await;
    let mut news = log.news();
    accept(log, message(group, alice, 0, "before")).await;
    let brought = service_proposals(2);
    let mut back = Append {
        at: 7000,
        ..commit(group, bob, 0)
    };
    effects(&mut back).joined = vec![(user("bob"), bob)];
    effects(&mut back).proposals.clone_from(&brought);
    let accepted = accept(log, back.clone()).await;
    assert_eq!((accepted.position, accepted.epoch), (Position(2), Epoch(1)));
    let mut again = Append {
        id: EntryId::random(&mut rand::rng()),
        may_be_repeat: true,
        ..back
    };
    effects(&mut again).proposals = service_proposals(2);
    let again = accept(log, again).await;
    assert!(again.repeated && again.id == accepted.id, "the first answer");

    let head = log.head(group).await.unwrap().unwrap();
    assert_eq!((head.epoch, head.position), (Epoch(1), Position(4)));
    assert_eq!(
        (head.commit_position, head.proposal_position),
        (Position(2), Position(4))
    );
    assert_eq!(log.winner(group, Epoch(0)).await.unwrap(), Some(Position(2)));
    let info = log.group_info(group).await.unwrap().unwrap();
    assert_eq!(info, (Bytes::from_static(b"epoch 1"), Epoch(1), Position(2)));
    let window = Window {
        after: Position(2),
        until: None,
    };
    assert_eq!(log.windows(group, bob).await.unwrap(), [window]);

    // Entries like all others.
    let expected = brought.iter().zip(3..).map(|(proposal, position)| {
        Arc::new(Entry {
            group,
            position: Position(position),
            kind: EntryKind::Proposal,
            epoch: Epoch(1),
            accepted_at: 7000,
            id: proposal.id,
            sender: None,
            bytes: proposal.bytes.clone(),
        })
    });
    let expected: Vec<_> = expected.collect();
    let read = log.read(group, Position(2), 10, 1000).await.unwrap();
    assert_eq!(read, expected);
    let handshakes = log.handshakes(group, Position(2), 10).await.unwrap();
    assert_eq!(handshakes, read);
    let last = log.repeat(group, brought[1].key, None).await.unwrap();
    assert_eq!(last.unwrap().position, Position(4));
    let mut told = Vec::new();
    while told.len() < 4 {
        let next = tokio::time::timeout(DEADLINE, news.recv()).await;
        if let News::Entry { entry, .. } = next.expect("no more news").unwrap()
            && entry.group == group
        {
            told.push(entry.position.0);
        }
    }
    assert_eq!(told, [1, 2, 3, 4]);

    // The next commit must know all of them.
    let seen = |position| Append {
        seen_proposal: Some(Position(position)),
        ..commit(group, alice, 1)
    };
    let position = Position(4);
    assert_eq!(refuse(log, seen(3)).await, Refused::ProposalUnseen { position });
    let next = accept(log, seen(4)).await;
    assert_eq!((next.position, next.epoch), (Position(5), Epoch(2)));
}

pub(super) async fn a_commit_that_is_refused_brings_none(log: &dyn OrderedLog) {
    let alice = device();
    let group = group(log, alice).await;
    let with = |epoch| {
        let mut back = commit(group, alice, epoch);
        effects(&mut back).proposals = service_proposals(1);
        back
    };
    accept(log, with(0)).await;
    let before = log.head(group).await.unwrap();
    let ended = Refused::EpochEnded {
        current: Epoch(1),
        winner: Position(1),
    };
    assert_eq!(refuse(log, with(0)).await, ended);
    let position = Position(2);
    assert_eq!(refuse(log, with(1)).await, Refused::ProposalUnseen { position });
    assert_eq!(log.head(group).await.unwrap(), before);
    assert!(log.read(group, position, 9, 999).await.unwrap().is_empty());
}
