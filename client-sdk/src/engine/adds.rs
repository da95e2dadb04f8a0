//! Adding users: one wish for all of them, from which commits for at most 256 devices each come, one batch after the other.
//!
//! 1. The wish is stored with all its users ([`Engine::begin_add`]).
//! 2. When the group is in use, and nothing of the wish is in the outbox, the key packages of the next users are claimed
//!    (`session/adds.rs`).
//! 3. One transaction takes these users off the list and puts what was claimed into the outbox, as commits of the wish
//!    ([`Engine::add_claimed`]).
//! 4. Whoever waits hears of each batch and of each commit. When nobody is left, the wish is done; if nobody waits any more, as after a crash,
//!    who could not be added is told by events.

use std::collections::{BTreeMap, HashSet};

use openmls::prelude::Ciphersuite;
use tokio::sync::mpsc;
use tracing::Span;
use valise_proto::directory::v1 as wire;
use valise_proto::{GroupId, Position, UserId};

use super::effects::{Chore, Effect};
use super::intents::Operation;
use super::outcome::cause;
use super::{Engine, Waiter};
use crate::store::{AddId, AddRow, FailedAdd, IntentRow};
use crate::{AddFailure, Added, Error, EventKind, GroupStatus, Peer, WhatNow, kill_point};

/// Most users of one claim, and most devices of one commit.
const BATCH: usize = 256;

/// What who waits for an add hears.
pub(crate) enum AddNews {
    /// What became of some.
    Part(Added),
    /// Why those that were told last failed.
    Failed(Error),
    /// The group stands still: what had left may be done or not.
    Suspended(Error),
    /// Nobody is left.
    Done,
}

/// Somebody who waits for an add.
pub(crate) struct Adder {
    pub(crate) span: Span,
    pub(crate) news: mpsc::UnboundedSender<AddNews>,
}

/// The next users of an add, whose key packages are to be claimed.
pub(crate) struct DueAdd {
    pub(crate) id: AddId,
    pub(crate) users: Vec<UserId>,
    pub(crate) suite: Ciphersuite,
    pub(crate) span: Span,
}

/// What there is to do for adds.
#[derive(Default)]
pub(crate) struct DueAdds {
    pub(crate) claims: Vec<DueAdd>,
    /// Some wait for what the engine does next.
    pub(crate) waiting: bool,
}

impl Engine {
    /// Stores the wish to add users.
    pub(crate) fn begin_add(&mut self, group: GroupId, users: &[UserId], adder: Adder) -> Result<(), Error> {
        self.check_add(group, users)?;
        self.suite(group)?;
        let id = self.transaction(|engine| engine.wish_add(group, users))?;
        self.await_add(id, adder);
        Ok(())
    }

    /// Makes a group, and stores the wish to add users to it, in one step.
    pub(super) fn create_group_with(
        &mut self,
        group: GroupId,
        name: &str,
        suite: Ciphersuite,
        users: &[UserId],
        waiter: Waiter,
        adder: Adder,
    ) -> Result<(), Error> {
        let id = self.transaction(|engine| {
            engine.new_group(group, name, suite, waiter)?;
            engine.wish_add(group, users)
        })?;
        self.await_add(id, adder);
        Ok(())
    }

    /// `None` where there is nobody to add.
    fn wish_add(&mut self, group: GroupId, users: &[UserId]) -> Result<Option<AddId>, Error> {
        if users.is_empty() {
            return Ok(None);
        }
        let id = self.db.put_new_add(group, users)?;
        kill_point::storing("wish_add");
        self.effects.push(Effect::Chore(Chore::AddUsers));
        Ok(Some(id))
    }

    /// The wish is durable; nothing has become of it yet.
    fn await_add(&mut self, id: Option<AddId>, adder: Adder) {
        match id {
            Some(id) => drop(self.adders.insert(id, adder)),
            // Whoever has stopped waiting does not have to hear it.
            None => drop(adder.news.send(AddNews::Done)),
        }
    }

    /// The claims that can be made now, but for adds of which one is under way. Adds to groups that can no longer be used are given up.
    pub(crate) fn due_adds(&mut self, under_way: &HashSet<AddId>) -> Result<DueAdds, Error> {
        let mut due = DueAdds::default();
        for row in self.db.adds()? {
            if under_way.contains(&row.id) {
                due.waiting = true;
                continue;
            }
            let status = self.db.group(row.group)?.map(|group| group.status);
            let waits = match status {
                Some(GroupStatus::Creating | GroupStatus::Rejoining) => true,
                Some(GroupStatus::Active) => self.db.has_add_commits(row.id)?,
                _ => false,
            };
            due.waiting = true;
            // With nobody left to claim for, the last commits are under way.
            if waits || row.users.is_empty() {
                continue;
            }
            let users: Vec<UserId> = row.users.iter().take(BATCH).cloned().collect();
            // Before key packages are claimed: they are spent by that.
            let ready = self
                .check_add(row.group, &users)
                .and_then(|()| self.suite(row.group));
            match ready {
                Ok(suite) => due.claims.push(DueAdd {
                    id: row.id,
                    users,
                    suite,
                    span: self
                        .adders
                        .get(&row.id)
                        .map_or_else(Span::none, |adder| adder.span.clone()),
                }),
                Err(error) if error.stops_all() => return Err(error),
                Err(error) => self.give_up_add(row.id, &error)?,
            }
        }
        Ok(due)
    }

    /// The directory has answered about these users.
    pub(crate) fn add_claimed(
        &mut self,
        id: AddId,
        users: &[UserId],
        claims: Vec<wire::Claim>,
    ) -> Result<(), Error> {
        let Some(row) = self.db.add(id)? else {
            return Ok(());
        };
        // Nobody else is added, whatever the directory answers.
        let asked = |claim: &wire::Claim| users.iter().any(|user| user.as_str() == claim.user_id);
        let claims: Vec<_> = claims.into_iter().filter(asked).collect();
        let sifted = self.suite(row.group).and_then(|_| {
            self.check_add(row.group, users)?;
            self.sift_claims(row.group, claims)
        });
        let (packages, failed) = match sifted {
            Ok(sifted) => sifted,
            // They are claimed for again when it is back.
            Err(Error::GroupNotActive(GroupStatus::Rejoining)) => return Ok(()),
            Err(error) if error.stops_all() => return Err(error),
            Err(error) => return self.give_up_add(id, &error),
        };
        self.transaction(|engine| {
            let Some(mut row) = engine.db.add(id)? else {
                return Ok(());
            };
            row.users.retain(|user| !users.contains(user));
            let part = Added {
                devices: Vec::new(),
                failed,
            };
            engine.tell_part(&mut row, part, None)?;
            for packages in packages.chunks(BATCH) {
                let operation = Operation::Add {
                    packages: packages.to_vec(),
                };
                let intent = engine.queue(row.group, &operation, false)?;
                engine.db.put_add_commit(intent, id)?;
            }
            engine.pump(row.group)?;
            engine.end_add(id)
        })
    }

    /// Nobody else is added.
    pub(crate) fn give_up_add(&mut self, id: AddId, error: &Error) -> Result<(), Error> {
        self.transaction(|engine| {
            if let Some(mut row) = engine.db.add(id)? {
                engine.stop_add(&mut row, error)?;
            }
            engine.end_add(id)
        })
    }

    /// The group will not be. Whoever has asked for it with its users hears of it as one.
    pub(super) fn drop_adds(&mut self, group: GroupId, error: &Error) -> Result<(), Error> {
        for row in self.db.adds()? {
            if row.group == group {
                self.db.delete_add(row.id)?;
                self.effects
                    .push(Effect::Add(row.id, AddNews::Failed(error.clone())));
                self.effects.push(Effect::Add(row.id, AddNews::Done));
            }
        }
        Ok(())
    }

    fn stop_add(&mut self, row: &mut AddRow, error: &Error) -> Result<(), Error> {
        tracing::info!(group = %row.group, users = row.users.len(), %error, "users could not be added");
        let failure = AddFailure::CommitFailed(error.reason());
        let users = std::mem::take(&mut row.users);
        let part = Added {
            devices: Vec::new(),
            failed: users.into_iter().map(|user| (user, None, failure)).collect(),
        };
        self.tell_part(row, part, Some(error))
    }

    /// An intent has ended. Says whether it was a commit of an add: then whoever has to hear of it does.
    pub(super) fn add_commit_ended(
        &mut self,
        intent: &IntentRow,
        ended: Result<&[Peer], &Error>,
    ) -> Result<bool, Error> {
        let Some(id) = self.db.add_of(intent.id)? else {
            return Ok(false);
        };
        self.db.delete_add_commit(intent.id)?;
        let (Some(mut row), Operation::Add { packages }) = (self.db.add(id)?, Operation::from_row(intent)?)
        else {
            return Ok(true);
        };
        let added = ended.unwrap_or_default();
        let failure = match ended {
            Ok(_) => AddFailure::AlreadyMember,
            Err(error) => AddFailure::CommitFailed(error.reason()),
        };
        let part = Added {
            devices: added
                .iter()
                .map(|peer| (peer.user.clone(), peer.device))
                .collect(),
            failed: packages
                .into_iter()
                .map(|package| package.peer)
                .filter(|peer| !added.contains(peer))
                .map(|peer| (peer.user, Some(peer.device), failure))
                .collect(),
        };
        self.tell_part(&mut row, part, ended.err())?;
        if let Err(error) = ended
            && row.added == 0
            && !row.users.is_empty()
        {
            // The others would hardly fare better, and their key packages would be spent.
            self.stop_add(&mut row, error)?;
        }
        self.end_add(id)?;
        Ok(true)
    }

    /// The group stands still. Whoever waits for an add with this commit hears it now; the commit stays.
    pub(super) fn suspend_add(&mut self, intent: &IntentRow, error: &Error) -> Result<(), Error> {
        if let Some(id) = self.db.add_of(intent.id)? {
            self.effects
                .push(Effect::Add(id, AddNews::Suspended(error.clone())));
        }
        Ok(())
    }

    fn tell_part(&mut self, row: &mut AddRow, part: Added, error: Option<&Error>) -> Result<(), Error> {
        row.added = row
            .added
            .saturating_add(i64::try_from(part.devices.len()).unwrap_or(i64::MAX));
        for (user, _, failure) in &part.failed {
            // Who is in the group anyway is what was asked for.
            if *failure != AddFailure::AlreadyMember {
                let (cause, what_now) = match error {
                    Some(error) => (cause(error), error.what_now()),
                    None => (failure.cause().to_owned(), failure.what_now()),
                };
                row.failed.push(FailedAdd::new(user.clone(), cause, what_now));
            }
        }
        self.db.put_add(row)?;
        self.effects.push(Effect::Add(row.id, AddNews::Part(part)));
        if let Some(error) = error {
            self.effects
                .push(Effect::Add(row.id, AddNews::Failed(error.clone())));
        }
        Ok(())
    }

    /// If nobody is left, it is done.
    fn end_add(&mut self, id: AddId) -> Result<(), Error> {
        let Some(row) = self.db.add(id)? else {
            return Ok(());
        };
        if !row.users.is_empty() || self.db.has_add_commits(id)? {
            return Ok(());
        }
        self.db.delete_add(id)?;
        self.effects.push(Effect::Add(id, AddNews::Done));
        if self.adders.get(&id).is_some_and(|adder| !adder.news.is_closed()) {
            return Ok(());
        }
        let mut causes: BTreeMap<String, (WhatNow, Vec<UserId>)> = BTreeMap::new();
        for failed in row.failed {
            let what_now = failed.what_now();
            let (_, users) = causes.entry(failed.cause).or_insert((what_now, Vec::new()));
            users.push(failed.user);
        }
        let at = self.options.clock.unix_millis();
        for (cause, (what_now, mut users)) in causes {
            users.sort_unstable();
            users.dedup();
            let event = EventKind::OperationFailed {
                operation: "add".to_owned(),
                cause,
                what_now,
                message: None,
                users,
            };
            self.emit(row.group, Position::NONE, at, &event)?;
        }
        Ok(())
    }

    /// Called when a transaction is durable.
    pub(super) fn tell_adder(&mut self, id: AddId, news: AddNews) {
        let last = matches!(news, AddNews::Suspended(_) | AddNews::Done);
        if let Some(adder) = self.adders.get(&id) {
            // Whoever has stopped waiting does not have to hear it.
            let _ = adder.news.send(news);
        }
        if last {
            self.adders.remove(&id);
        }
    }

    /// In which whoever asked for it waits.
    pub(super) fn span_of(&self, intent: &IntentRow) -> Result<Span, Error> {
        if let Some(waiter) = self.waiters.get(&intent.id) {
            return Ok(waiter.span.clone());
        }
        let add = self.db.add_of(intent.id)?;
        let adder = add.and_then(|id| self.adders.get(&id));
        Ok(adder.map_or_else(Span::none, |adder| adder.span.clone()))
    }
}
