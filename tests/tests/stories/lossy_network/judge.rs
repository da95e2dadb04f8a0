//! What must be true when the network has healed.

use std::collections::{BTreeMap, BTreeSet};

use valise_client_sdk::{GroupId, GroupState, GroupStatus, Position, UserId};
use valise_tests::embedded::Services;
use valise_tests::wait::until;

use crate::lossy_network::book::Window;
use crate::lossy_network::log;
use crate::lossy_network::phone::Phone;

/// Compares the devices with each other and with the log. Says how often what happened.
pub(crate) async fn judge(services: &Services, group: GroupId, phones: &[Phone]) -> BTreeMap<String, usize> {
    let members = until("all are where they belong", async || {
        converged(services, group, phones).await
    })
    .await;
    let log = log::read(services, group);
    let positions: Vec<u64> = log.iter().map(|entry| entry.position.0).collect();
    assert_eq!(positions, (1..=log.len() as u64).collect::<Vec<_>>(), "no gap");
    let epochs: Vec<u64> = log
        .iter()
        .filter(|entry| entry.is_commit)
        .map(|entry| entry.epoch)
        .collect();
    assert_eq!(
        epochs,
        (0..epochs.len() as u64).collect::<Vec<_>>(),
        "one commit an epoch"
    );
    let said = histories(group, phones).await;
    outcomes(phones, &said);
    in_order(phones, &said);
    let mut counted = BTreeMap::new();
    for phone in phones {
        for (what, times) in phone.proxy.counted() {
            *counted.entry(what.to_owned()).or_default() += times;
        }
        for (what, times) in &phone.book.lock().deeds {
            *counted.entry(what.clone()).or_default() += times;
        }
    }
    counted.insert("messages".to_owned(), said.len());
    counted.insert("commits".to_owned(), epochs.len());
    counted.insert("members at the end".to_owned(), members);
    counted
}

/// The number of members, once all of them are at the end of the log and in one epoch, and all others know that they are not.
async fn converged(services: &Services, group: GroupId, phones: &[Phone]) -> Option<usize> {
    for phone in phones {
        phone.settled().await;
        let troubles = &phone.book.lock().troubles;
        assert!(troubles.is_empty(), "{}: {troubles:?}", phone.user);
    }
    let mut members = BTreeSet::new();
    let mut states: Vec<GroupState> = Vec::new();
    let mut roster: BTreeSet<UserId> = BTreeSet::new();
    for phone in phones {
        let here = phone.client().group(group).await.unwrap().unwrap();
        let state = here.info().await.unwrap();
        match state.status {
            GroupStatus::Active => {
                members.insert(phone.user.clone());
                states.push(state);
                let seen = here.members().await.unwrap();
                roster.extend(seen.into_iter().map(|member| member.user));
            }
            GroupStatus::Removed => {}
            // Somebody still has to commit that it leaves.
            GroupStatus::Leaving => return None,
            status => panic!("{} is {status}", phone.user),
        }
    }
    let end = log::read(services, group).last().map(|entry| entry.position);
    let together = states
        .windows(2)
        .all(|two| two[0].epoch == two[1].epoch && two[0].epoch_authenticator == two[1].epoch_authenticator);
    let there = states.iter().all(|state| Some(state.position) == end);
    (roster == members && together && there).then_some(members.len())
}

/// Everybody has seen what was said while they were in the group, in the order of the log, each message once. Says what that was.
async fn histories(group: GroupId, phones: &[Phone]) -> BTreeMap<Position, String> {
    let mut said = BTreeMap::new();
    for phone in phones {
        for (position, text) in &phone.book.lock().shown {
            let other = said.insert(*position, text.clone()).filter(|other| other != text);
            assert_eq!(other, None, "two texts at {position} of {group}");
        }
    }
    let texts: BTreeSet<&String> = said.values().collect();
    assert_eq!(texts.len(), said.len(), "a message is in the log twice: {said:?}");
    for phone in phones {
        until("a device has shown all messages", async || {
            let book = phone.book.lock();
            (book.shown.len() >= for_whom(&book.windows, &said).len()).then_some(())
        })
        .await;
        let book = phone.book.lock();
        let expected = for_whom(&book.windows, &said);
        assert_eq!(book.shown, expected, "{} with {:?}", phone.user, book.windows);
    }
    said
}

fn for_whom(windows: &[Window], said: &BTreeMap<Position, String>) -> Vec<(Position, String)> {
    let mut seen = Vec::new();
    for window in windows {
        let to = window.to.unwrap_or(Position(u64::MAX));
        let inside = said
            .iter()
            .filter(|(position, _)| **position > window.after && **position <= to);
        seen.extend(inside.map(|(position, text)| (*position, text.clone())));
    }
    seen
}

/// What a device was to send is in the log in the order in which it was.
fn in_order(phones: &[Phone], said: &BTreeMap<Position, String>) {
    for phone in phones {
        let own: Vec<usize> = said.values().filter_map(|text| phone.number_of(text)).collect();
        assert!(own.is_sorted(), "{}: {own:?}", phone.user);
    }
}

/// What was acknowledged is where it was said to be; what was stored is there or its failure was told; what failed is not there.
fn outcomes(phones: &[Phone], said: &BTreeMap<Position, String>) {
    let texts: BTreeSet<&String> = said.values().collect();
    for phone in phones {
        let book = phone.book.lock();
        for (text, position) in &book.acknowledged {
            assert_eq!(said.get(position), Some(text), "acknowledged, and lost");
        }
        for text in &book.failed {
            assert!(!texts.contains(text), "failed, and sent all the same: {text}");
        }
        let missing = book.queued.iter().filter(|text| !texts.contains(text)).count();
        let told = book
            .failures
            .iter()
            .filter(|operation| *operation == "send")
            .count();
        assert!(
            missing <= told,
            "{}: {missing} lost, {told} told: {book:?}",
            phone.user
        );
    }
}
