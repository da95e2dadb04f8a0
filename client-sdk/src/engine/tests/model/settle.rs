//! The end of a case: everybody is in touch, and everything is as the model says.

use std::collections::BTreeSet;

use valise_proto::Reason;

use super::Fate;
use super::machine::{Check, Machine};
use super::reference::{Device, OWNERS};
use crate::engine::Outcome;
use crate::{EventId, EventKind, GroupStatus, Role, SendStatus};

/// Rounds after which devices that are in touch must agree.
const ROUNDS: usize = 60;

impl Machine<'_> {
    /// Everybody is in touch: all must agree soon, everybody can say something, and everything is as the model says.
    pub(super) fn finish(mut self) -> Check {
        self.settle()?;
        for (by, owner) in OWNERS.into_iter().enumerate().take(self.actors.len()) {
            let may = self.model.role(owner) >= Role::Member;
            let active = self.model.views[by].inside && !self.model.views[by].lost;
            if may && active && !self.is_revoked(by) {
                self.send(by);
            }
        }
        self.settle()?;
        if self.model.is_stalled() {
            return Err("a removal that nobody commits".to_owned());
        }
        let mut authenticators = BTreeSet::new();
        for by in 0..self.actors.len() {
            if !self.is_revoked(by) {
                self.compare(by, &mut authenticators)
                    .map_err(|wrong| format!("device {by}: {wrong}"))?;
            }
        }
        if authenticators.len() > 1 {
            return Err("the group is forked".to_owned());
        }
        Ok(())
    }

    fn settle(&mut self) -> Check {
        for _ in 0..ROUNDS {
            let mut any = false;
            for by in 0..self.actors.len() {
                any |= self.inbox(by)?;
                while self.read(by, 500)? {
                    any = true;
                }
                self.commit_proposals(by);
                any |= self.rejoin(by)?;
                while self.upload(by, Fate::Arrives)? {
                    any = true;
                }
            }
            if !any {
                return Ok(());
            }
        }
        Err("the devices do not come to an end".to_owned())
    }

    fn compare(&mut self, by: Device, authenticators: &mut BTreeSet<Vec<u8>>) -> Check {
        let view = &self.model.views[by];
        let actor = &mut self.actors[by];
        let events = actor.person.engine.events_after(EventId::NONE, 10_000).unwrap();
        let mut seen = Vec::new();
        for event in events {
            match &event.kind {
                EventKind::Message { content, .. } => {
                    seen.push((event.position.0, content.as_text().unwrap_or_default().to_owned()));
                }
                EventKind::RejoinFailed { cause } if cause == Reason::NotAMember.as_str() => {}
                EventKind::Unreadable { .. }
                | EventKind::RuleBreach { .. }
                | EventKind::WelcomeUnusable { .. }
                | EventKind::HeldByBadCommit { .. }
                | EventKind::Quarantined { .. }
                | EventKind::RejoinFailed { .. }
                | EventKind::LogRegressed { .. } => return Err(format!("{:?}", event.kind)),
                _ => {}
            }
        }
        same("what it has read", &seen, &view.seen)?;
        self.compare_outcomes(by)?;
        self.compare_history(by)?;
        let view = &self.model.views[by];
        let actor = &mut self.actors[by];
        if !view.inside || view.lost {
            let is_member = self.model.roster.contains(&by);
            // Who was the last to leave, and who is lost on its way out, need nothing more.
            return if is_member && !view.leaving && view.inside {
                Err("a member is left behind".to_owned())
            } else {
                Ok(())
            };
        }
        let state = actor
            .person
            .engine
            .group_state(self.group)
            .map_err(|error| error.to_string())?;
        if state.status == GroupStatus::Removed && self.model.roster.len() == 1 {
            return Ok(());
        }
        same("its epoch", &state.epoch.0, &self.model.epoch)?;
        same("its place", &state.position.0, &self.model.end())?;
        same("the group's name", &state.name, &view.name)?;
        authenticators.insert(state.epoch_authenticator);
        let engine = &mut actor.person.engine;
        if !engine.outbox_is_empty().unwrap() {
            return Err("something is left in its outbox".to_owned());
        }
        let members = engine.members(self.group).map_err(|error| error.to_string())?;
        let number = |device| self.actors.iter().position(|actor| actor.peer.device == device);
        let mut found: Vec<_> = members
            .iter()
            .map(|member| (number(member.device), member.role))
            .collect();
        found.sort_unstable();
        let role = |&device: &Device| (Some(device), self.model.role(OWNERS[device]));
        let expected: Vec<_> = self.model.roster.iter().map(role).collect();
        same("the roster", &found, &expected)
    }

    /// Each operation has one outcome, and the log agrees.
    fn compare_outcomes(&mut self, by: Device) -> Check {
        for (text, answer) in &mut self.actors[by].waiting {
            let outcome = answer
                .try_recv()
                .map_err(|_| format!("{text:?} has no outcome"))?;
            let Some(text) = text else { continue };
            let places = self.model.places(text);
            match outcome {
                Ok(Outcome::Sent(sent)) if places.contains(&sent.position.0) => {}
                // An answer that was lost, to a request that is not kept: it cannot be known.
                Err(_) if places.is_empty() || self.model.first > 1 => {}
                outcome => {
                    return Err(format!(
                        "{text} is in the log at {places:?}, and the app hears {outcome:?}"
                    ));
                }
            }
            if places.len() > 1 && self.model.first == 1 {
                return Err(format!("{text} is in the log at {places:?}"));
            }
        }
        Ok(())
    }

    /// Nothing that was stored to be sent is forgotten, whatever restarts came between.
    fn compare_history(&mut self, by: Device) -> Check {
        let actor = &mut self.actors[by];
        for text in actor.stored.clone() {
            let places = self.model.places(&text);
            match actor.own_message(self.group, &text) {
                Some(SendStatus::Accepted { position }) if places.contains(&position.0) => {}
                // An answer that was lost, to a request that is not kept: it cannot be known.
                Some(SendStatus::Failed { .. }) if places.is_empty() || self.model.first > 1 => {}
                found => {
                    return Err(format!(
                        "{text} is in the log at {places:?}, and in the history {found:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Check {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, and should be {expected:?}"))
    }
}
