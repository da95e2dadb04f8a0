//! The log books, compared with each other and with the logs.

use std::collections::{BTreeMap, BTreeSet};

use valise_client_sdk::{Group, GroupId, Position};
use valise_local_stack::LocalStack;
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::EntryKind;

use super::{Crowd, Tally, door, read_log};
use crate::raw::Door;
use crate::raw::stream::cursor;
use crate::wait::{soon, until};

/// What became of the groups where logs may have gone back in time.
#[derive(Clone, Copy, Debug)]
pub struct Losses {
    /// Groups that the service has frozen, or of whose log a device was told that it is another one.
    pub noticed: usize,
    /// All others, in which nothing is missing.
    pub whole: Tally,
}

impl Crowd {
    /// Compares the log books with each other and with the logs, once all talk has stopped: every device was shown exactly what
    /// was acknowledged, in the order of the log, each once; a log has no gap, and one commit for each epoch.
    pub async fn judge(&self, stack: &LocalStack) -> Tally {
        let door = self.observer_at(stack).await;
        let mut tally = Tally::default();
        for (group, members) in &self.groups {
            self.judge_group(&door, *group, members, &mut tally).await;
        }
        let troubles = self.troubles();
        assert!(troubles.is_empty(), "{troubles:?}");
        tally
    }

    /// The same where logs went back in time, with those that certainly did: these are frozen, and no member goes on as if nothing had
    /// happened. Any other group is as [`judge`](Self::judge) wants it, unless its loss was noticed, too.
    pub async fn judge_losses(&self, stack: &LocalStack, lost: &BTreeSet<GroupId>) -> Losses {
        let door = self.observer_at(stack).await;
        for group in lost {
            until("a log that went back in time to be frozen", async || {
                standing(&door, *group).await?.frozen.then_some(())
            })
            .await;
        }
        self.speak().await;
        let (mut noticed, mut whole) = (0, Tally::default());
        for (group, members) in &self.groups {
            if self.is_noticed(&door, *group, members).await {
                noticed += 1;
            } else {
                self.judge_group(&door, *group, members, &mut whole).await;
            }
        }
        for (group, members) in self.groups.iter().filter(|(group, _)| lost.contains(group)) {
            for member in members {
                let troubles = self.members[*member].troubles_in(*group);
                assert!(!troubles.is_empty(), "{member} goes on in {group}");
            }
        }
        // Events come when they come.
        let mut alarmed = self.shared.alarmed.subscribe();
        let told = alarmed.wait_for(|alarmed| lost.is_subset(alarmed));
        soon(told).await.expect("whoever tells it is here");
        Losses { noticed, whole }
    }

    /// Was it noticed that the group's log went back in time? If not, all members have all of it.
    async fn is_noticed(&self, door: &Door, group: GroupId, members: &BTreeSet<usize>) -> bool {
        until("a group to be whole, or its loss to be noticed", async || {
            let standing = standing(door, group).await?;
            if standing.frozen || self.alarmed().contains(&group) {
                return Some(true);
            }
            for member in members {
                let state = self.group_of(*member, group).info().await.unwrap();
                if state.position.0 != standing.last_position {
                    return None;
                }
            }
            Some(false)
        })
        .await
    }

    async fn judge_group(&self, door: &Door, group: GroupId, members: &BTreeSet<usize>, tally: &mut Tally) {
        let mut commits = 0;
        let mut promised: BTreeMap<Position, String> = BTreeMap::new();
        for member in members {
            let book = self.members[*member].voice.log_book.lock();
            promised.extend(book.acknowledged.get(&group).into_iter().flatten().cloned());
            commits += book.commits.get(&group).copied().unwrap_or_default();
        }
        let log = read_log(door, group).await;
        let positions: Vec<u64> = log.iter().map(|entry| entry.position).collect();
        assert_eq!(positions, (1..=log.len() as u64).collect::<Vec<_>>(), "no gap");
        let of_kind = |kind| log.iter().filter(move |entry| entry.kind() == kind);
        let epochs: Vec<u64> = of_kind(EntryKind::Commit).map(|entry| entry.epoch).collect();
        let last = epochs.len() as u64;
        assert_eq!(epochs, (0..last).collect::<Vec<_>>(), "one commit an epoch");
        let messages: BTreeSet<Position> = of_kind(EntryKind::Application)
            .map(|entry| Position(entry.position))
            .collect();
        let unknown = promised.keys().find(|position| !messages.contains(position));
        assert_eq!(unknown, None, "acknowledged, and not in the log");
        // Besides them, it began with the one that added its members.
        let expected = promised.len() + commits + 1;
        assert!(log.len() >= expected, "{} of {expected} entries", log.len());

        let promised: Vec<(Position, String)> = promised.into_iter().collect();
        let mut authenticators = BTreeSet::new();
        for member in members {
            let (own, member) = (self.group_of(*member, group), &self.members[*member]);
            let state = until("a device has applied all entries", async || {
                let state = own.info().await.unwrap();
                let reached = state.position.0 >= log.len() as u64 || !member.troubles_in(group).is_empty();
                reached.then_some(state)
            })
            .await;
            let troubles = member.troubles_in(group);
            assert!(troubles.is_empty(), "{troubles:?}");
            assert_eq!(state.epoch.0, last, "all commits, and no others");
            authenticators.insert(state.epoch_authenticator);
            let shown = until("a device has shown all messages", async || {
                let book = member.voice.log_book.lock();
                let shown = book.shown.get(&group).map(Vec::as_slice).unwrap_or_default();
                (shown.len() >= promised.len()).then(|| shown.to_vec())
            })
            .await;
            assert_eq!(
                shown, promised,
                "all that was acknowledged and nothing else, each once, in order"
            );
            tally.shown += shown.len();
        }
        assert_eq!(authenticators.len(), 1, "all members have the same epoch");
        tally.messages += promised.len();
        tally.commits += commits;
        tally.entries += log.len();
    }

    fn group_of(&self, member: usize, group: GroupId) -> &Group {
        let mut groups = self.members[member].groups.iter();
        groups.find(|own| own.id() == group).unwrap()
    }

    /// The first replicas, with a token of the observer.
    async fn observer_at(&self, stack: &LocalStack) -> Door {
        let door = door(stack, 0).await;
        let token = until("a token for the observer", async || {
            self.observer.new_token_at(&door).await.ok()
        });
        door.with_token(&token.await)
    }
}

/// How a group's log stands, as the service says. A store that has just healed may need a moment.
async fn standing(door: &Door, group: GroupId) -> Option<wire::GetLogStandingResponse> {
    let request = wire::GetLogStandingRequest {
        group_id: group.to_vec().into(),
        cursor: cursor(group.as_bytes(), 0, &[]).cursor,
    };
    let answer = door.delivery().get_log_standing(request).await;
    answer.ok().map(tonic::Response::into_inner)
}
