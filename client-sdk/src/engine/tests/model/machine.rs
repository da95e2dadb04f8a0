//! Real devices on the real service, beside the model: whatever is done is done in both, and compared.

use std::collections::BTreeSet;

use tokio::sync::oneshot;
use valise_proto::delivery::v1 as wire;
use valise_proto::{Epoch, GroupId, Position, Reason, Refusal};

use super::reference::{Change, Device, Model, Naming, OWNERS, Request, View};
use super::service::Service;
use super::{Fate, Op};
use crate::content::{GROUP_PROFILE, GROUP_RENAME};
use crate::engine::tests::people::{Person, World};
use crate::engine::{Arrival, Chore, Engine, Operation, Outcome, Upload, UploadKind};
use crate::transport::Failure;
use crate::{Content, Error, GroupStatus, Peer, SendStatus, Store};

pub(super) type Check = Result<(), String>;

/// A request between the outbox and its outcome.
struct InFlight {
    upload: Upload,
    request: Request,
    repeat: bool,
    /// On its way back.
    answer: Option<Result<wire::Accepted, Refusal>>,
}

pub(super) struct Actor {
    pub(super) person: Person,
    pub(super) peer: Peer,
    in_flight: Option<InFlight>,
    /// Epochs whose proposals it is to commit, if nobody else does.
    to_commit: BTreeSet<Epoch>,
    /// What its app waits for, and the text where it is one.
    pub(super) waiting: Vec<(Option<String>, Answer)>,
    /// Texts that were stored to be sent, before restarts too.
    pub(super) stored: Vec<String>,
}

/// Where an app hears of an operation's outcome.
type Answer = oneshot::Receiver<Result<Outcome, Error>>;

impl Actor {
    /// What the device's history says of a text that it was to send.
    pub(super) fn own_message(&mut self, group: GroupId, text: &str) -> Option<SendStatus> {
        let history = self.person.engine.history_page(group, None, 10_000).unwrap();
        let found = history.into_iter().find(|message| {
            let content = message.content.as_ref();
            message.sender == self.peer && content.and_then(Content::as_text) == Some(text)
        });
        found.map(|message| message.status)
    }
}

/// One group.
pub(super) struct Machine<'a> {
    pub(super) service: &'a mut Service,
    pub(super) group: GroupId,
    pub(super) actors: Vec<Actor>,
    pub(super) model: Model,
    texts: u32,
}

impl<'a> Machine<'a> {
    /// A group of the first device.
    pub(super) fn new(service: &'a mut Service) -> Self {
        let mut actors: Vec<Actor> = OWNERS
            .iter()
            .map(|user| {
                let person = service.world.person_in(&format!("user{user}"), &Store::memory());
                Actor {
                    peer: person.peer(),
                    person,
                    in_flight: None,
                    to_commit: BTreeSet::new(),
                    waiting: Vec::new(),
                    stored: Vec::new(),
                }
            })
            .collect();
        let founder = &mut actors[0];
        let group = GroupId::random(&mut rand::rng());
        let (answer, _) = oneshot::channel();
        let made = founder.person.engine.create_group(
            group,
            "first",
            crate::CipherSuite::default().mls(),
            tracing::Span::none(),
            answer,
        );
        made.unwrap();
        let upload = founder.person.upload();
        service.submit(&founder.peer, &upload, false).unwrap();
        founder.person.accepted(&upload, Position::NONE);
        Self {
            service,
            group,
            actors,
            model: Model::new(0, "first"),
            texts: 0,
        }
    }

    /// Does one thing.
    pub(super) fn apply(&mut self, op: &Op) -> Check {
        match *op {
            Op::Send(by) => self.send(by),
            Op::Add(by, whom) => {
                let package = self.actors[whom].person.package(false);
                self.ask(
                    by,
                    Operation::Add {
                        packages: vec![package],
                    },
                );
            }
            Op::Remove(by, whom) => {
                let devices = vec![self.actors[whom].peer.device];
                self.ask(by, Operation::Remove { devices });
            }
            Op::Leave(by) => self.ask(by, Operation::Leave),
            Op::SelfUpdate(by) => self.ask(by, Operation::SelfUpdate),
            Op::Rename(by) => {
                self.texts += 1;
                let payload = Content::group_rename(&format!("name {}", self.texts)).unwrap();
                self.ask(by, Operation::Rename { payload });
            }
            Op::SetRole(by, whom, role) => {
                let user = self.actors[whom].peer.user.clone();
                self.ask(by, Operation::SetRole { user, role });
            }
            Op::Revoke(whom) => self.revoke(whom),
            Op::Upload(by, fate) => return self.upload(by, fate).map(drop),
            Op::Read(by, count) => return self.read(by, count.into()).map(drop),
            Op::Inbox(by) => return self.inbox(by).map(drop),
            Op::CommitProposals(by) => self.commit_proposals(by),
            Op::Restart(by) => self.restart(by),
            Op::Trim => self.trim(),
            Op::Rejoin(by) => return self.rejoin(by).map(drop),
        }
        Ok(())
    }

    pub(super) fn is_revoked(&self, device: Device) -> bool {
        self.model.revoked.contains(&device)
    }

    fn ask(&mut self, by: Device, operation: Operation) {
        self.ask_for(by, operation, None);
    }

    fn ask_for(&mut self, by: Device, operation: Operation, text: Option<String>) {
        let actor = &mut self.actors[by];
        let answer = actor.person.submit(self.group, operation);
        if let Some(text) = &text
            && actor.own_message(self.group, text).is_some()
        {
            actor.stored.push(text.clone());
        }
        actor.waiting.push((text, answer));
        self.chores(by);
    }

    pub(super) fn send(&mut self, by: Device) {
        self.texts += 1;
        let text = format!("text {}", self.texts);
        let payload = Content::text(&text).to_payload().unwrap();
        self.ask_for(by, Operation::Send { payload }, Some(text));
    }

    fn revoke(&mut self, whom: Device) {
        // Somebody is left to see what becomes of it.
        if self.is_revoked(whom) || self.model.revoked.len() > 1 {
            return;
        }
        self.model.revoked.insert(whom);
        self.service.revoke(&self.actors[whom].peer);
        self.service_proposes();
    }

    fn service_proposes(&mut self) {
        if self.model.propose_removals() {
            self.service.has_entry(self.group, self.model.end());
        }
    }

    /// Sends the next request of a device, or what is under way once more. Says whether there was anything.
    pub(super) fn upload(&mut self, by: Device, fate: Fate) -> Result<bool, String> {
        if self.is_revoked(by) {
            return Ok(false);
        }
        if self.actors[by].in_flight.is_none() {
            let person = &mut self.actors[by].person;
            if person.peek_kinds().is_empty() {
                return Ok(false);
            }
            let upload = person.upload();
            if person.engine.db.intent(upload.intent).unwrap().is_none() {
                // What became of it is known already: its entry has come back.
                return Ok(true);
            }
            let request = self.request(by, &upload)?;
            self.actors[by].in_flight = Some(InFlight {
                request,
                repeat: upload.repeat,
                upload,
                answer: None,
            });
        }
        let actor = &mut self.actors[by];
        let Some(mut flying) = actor.in_flight.take() else {
            return Ok(false);
        };
        if fate == Fate::RequestLost {
            flying.repeat = true;
            actor.in_flight = Some(flying);
            return Ok(true);
        }
        if flying.answer.is_none() {
            let answer = self.service.submit(&actor.peer, &flying.upload, flying.repeat);
            let found = answer.as_ref().map(|accepted| accepted.position);
            let found = found.map_err(|refusal| refusal.reason);
            let prepared = &flying.upload.prepared;
            self.model
                .submit(by, prepared.epoch.0, prepared.key, &flying.request, found)
                .map_err(|wrong| format!("device {by}, epoch {}: {wrong}", prepared.epoch))?;
            if matches!(flying.request, Request::External) && answer.is_ok() {
                self.service_proposes();
            }
            flying.answer = Some(answer);
        }
        match fate {
            Fate::AnswerLost => {
                flying.answer = None;
                flying.repeat = true;
                self.actors[by].in_flight = Some(flying);
            }
            Fate::AnswerHeld => self.actors[by].in_flight = Some(flying),
            Fate::Arrives | Fate::RequestLost => self.answer(by, flying)?,
        }
        Ok(true)
    }

    /// The answer to a request arrives.
    fn answer(&mut self, by: Device, mut flying: InFlight) -> Check {
        let actor = &mut self.actors[by];
        let (intent, key) = (flying.upload.intent, flying.upload.prepared.key);
        match flying.answer.take().ok_or("no answer")? {
            Ok(accepted) => {
                self.model.answered(by, &flying.request, accepted.position);
                let engine = &mut actor.person.engine;
                let stored = match flying.upload.kind {
                    UploadKind::ExternalCommit => engine.rejoined(intent, key, &accepted),
                    _ => {
                        let (position, epoch) = (Position(accepted.position), Epoch(accepted.epoch));
                        engine.accepted(intent, key, position, epoch)
                    }
                };
                stored.map_err(|error| error.to_string())?;
            }
            Err(refusal) if Failure::Refused(refusal.clone()).is_passing() => {
                return Err(format!("device {by} may try again for ever: {refusal:?}"));
            }
            Err(refusal) => {
                let refused = actor.person.engine.refused(intent, key, refusal);
                refused.map_err(|error| error.to_string())?;
            }
        }
        self.chores(by);
        Ok(())
    }

    /// What a request asks for, in the model's words.
    fn request(&self, by: Device, upload: &Upload) -> Result<Request, String> {
        let person = &self.actors[by].person;
        let row = person
            .engine
            .db
            .intent(upload.intent)
            .unwrap()
            .ok_or("a request without an intent")?;
        let devices = |peers: Vec<valise_proto::DeviceId>| -> Vec<Device> {
            let number = |device| self.actors.iter().position(|actor| actor.peer.device == device);
            peers.into_iter().filter_map(number).collect()
        };
        let change = match Operation::from_row(&row).map_err(|error| error.to_string())? {
            Operation::Send { payload } | Operation::Rename { payload } => {
                let user = &person.peer().user;
                let content =
                    Content::from_payload(&payload, user, self.group, Position(1)).ok_or("a bad payload")?;
                let name = String::from_utf8_lossy(content.body()).into_owned();
                let naming = match content.content_type() {
                    GROUP_PROFILE => Some(Naming { name, new: false }),
                    GROUP_RENAME => Some(Naming { name, new: true }),
                    _ => None,
                };
                let text = content.as_text().filter(|_| naming.is_none()).map(str::to_owned);
                return Ok(Request::Message(text, naming));
            }
            Operation::Leave => return Ok(Request::Leave),
            Operation::Rejoin(_) => return Ok(Request::External),
            Operation::Add { packages } => Change {
                add: devices(packages.into_iter().map(|package| package.peer.device).collect()),
                ..Change::default()
            },
            Operation::Remove { devices: whom } => Change {
                remove: devices(whom),
                ..Change::default()
            },
            Operation::SetRole { user, role } => Change {
                role: self
                    .actors
                    .iter()
                    .position(|actor| actor.peer.user == user)
                    .map(|of| (OWNERS[of], role)),
                ..Change::default()
            },
            Operation::SelfUpdate | Operation::CommitProposals => Change::default(),
            Operation::Create | Operation::RemoveUsers { .. } | Operation::SetPolicy { .. } => {
                return Err("not asked for".to_owned());
            }
        };
        Ok(Request::Commit(change))
    }

    /// Reads at most so many entries. Says whether there were any.
    pub(super) fn read(&mut self, by: Device, count: u64) -> Result<bool, String> {
        let actor = &mut self.actors[by];
        let standing = actor.person.engine.standing(self.group).unwrap();
        let Some((status, position)) = standing else {
            return Ok(false);
        };
        if self.model.revoked.contains(&by) || !status.is_followed() {
            return Ok(false);
        }
        let page = self.service.read(
            &actor.peer,
            self.group,
            position,
            u32::try_from(count).unwrap_or(500),
        );
        self.model.read(by, count);
        let any = match page {
            Ok(entries) => {
                let any = !entries.is_empty();
                let arrivals = entries.into_iter().map(Arrival::Entry).collect();
                let applied = actor
                    .person
                    .engine
                    .apply(arrivals)
                    .map_err(|error| error.to_string())?;
                if !applied.gaps.is_empty() {
                    return Err(format!("device {by} sees a gap"));
                }
                any
            }
            Err(refusal) => {
                let first = Position(refusal.number("first_position").unwrap_or(u64::MAX));
                let reason = refusal.reason.as_str();
                let ended = actor.person.engine.group_ended(self.group, reason, first);
                ended.map_err(|error| error.to_string())?
            }
        };
        self.chores(by);
        self.compare_place(by)?;
        Ok(any)
    }

    fn compare_place(&mut self, by: Device) -> Check {
        let view = &self.model.views[by];
        let standing = self.actors[by].person.engine.standing(self.group).unwrap();
        let (status, position) = standing.ok_or("the group is not known")?;
        let expected = match view {
            View { inside: false, .. } => GroupStatus::Removed,
            View {
                lost: true,
                leaving: true,
                ..
            } => GroupStatus::Lost,
            View { lost: true, .. } => GroupStatus::Rejoining,
            View { leaving: true, .. } => GroupStatus::Leaving,
            _ => GroupStatus::Active,
        };
        // Who is alone leaves by itself, and the service never hears of it.
        let left_alone = status == GroupStatus::Removed && self.model.roster.iter().eq([&by]);
        if left_alone || (status, position.0) == (expected, view.cursor) {
            Ok(())
        } else {
            Err(format!(
                "device {by} is {status} at {position}, not {expected} at {}",
                view.cursor
            ))
        }
    }

    /// Takes up what is in a device's inbox. Says whether there was anything.
    pub(super) fn inbox(&mut self, by: Device) -> Result<bool, String> {
        if self.is_revoked(by) {
            return Ok(false);
        }
        let after = self.actors[by].person.engine.cursors().unwrap().inbox;
        let items = self.service.inbox(&self.actors[by].peer, after);
        let any = !items.is_empty();
        for item in items {
            let Some(wire::inbox_item::Item::Welcome(welcome)) = item.item.clone() else {
                continue;
            };
            let position = welcome.commit.clone().unwrap_or_default().position;
            let actor = &mut self.actors[by];
            let tree = self.service.tree(&actor.peer, &welcome);
            let engine = &mut actor.person.engine;
            if engine.is_coming_in(self.group).unwrap() {
                self.model
                    .welcomes
                    .retain(|known| (known.0, known.2) != (by, position));
            } else {
                self.model.join(by, position);
            }
            let applied = engine.apply(vec![Arrival::Inbox(item, Some(tree))]);
            applied.map_err(|error| error.to_string())?;
            self.chores(by);
        }
        Ok(any)
    }

    pub(super) fn commit_proposals(&mut self, by: Device) {
        let actor = &mut self.actors[by];
        for epoch in std::mem::take(&mut actor.to_commit) {
            actor.person.engine.commit_proposals(self.group, epoch).unwrap();
        }
        self.chores(by);
    }

    /// Its process dies; what is in its store is there again.
    fn restart(&mut self, by: Device) {
        let actor = self.actors.remove(by);
        let Actor {
            person, peer, stored, ..
        } = actor;
        let Engine { db, .. } = person.engine;
        let mut person = World::start(db);
        person.engine.resume().unwrap();
        let actor = Actor {
            person,
            peer,
            in_flight: None,
            to_commit: BTreeSet::new(),
            waiting: Vec::new(),
            stored,
        };
        self.actors.insert(by, actor);
        self.chores(by);
    }

    /// Old entries go, but none of those that an invitation leads to.
    fn trim(&mut self) {
        let last = self.model.last_add;
        let needed = self.model.welcomes.iter().any(|welcome| welcome.2 < last);
        if last > 0 && !needed {
            self.service.has_snapshot(self.group, last);
            self.model.first = self.service.trim(self.group);
        }
    }

    /// A device that has read all else comes back. Says whether it had to.
    pub(super) fn rejoin(&mut self, by: Device) -> Result<bool, String> {
        if self.is_revoked(by) {
            return Ok(false);
        }
        self.inbox(by)?;
        let actor = &mut self.actors[by];
        let engine = &mut actor.person.engine;
        if engine.due_rejoins().unwrap().is_empty() || engine.is_coming_in(self.group).unwrap() {
            return Ok(false);
        }
        let result = match self.service.group_info(&actor.peer, self.group) {
            Ok(current) => engine.rejoin_with(self.group, &current),
            Err(refusal) => {
                if refusal.reason != Reason::NotAMember {
                    return Err(format!("device {by} may not come back: {refusal:?}"));
                }
                self.model.denied(by)?;
                engine.rejoin_denied(self.group, refusal)
            }
        };
        result.map_err(|error| error.to_string())?;
        self.chores(by);
        Ok(true)
    }

    fn chores(&mut self, by: Device) {
        let actor = &mut self.actors[by];
        for chore in actor.person.chores() {
            match chore {
                Chore::CommitProposals { epoch, .. } => {
                    actor.to_commit.insert(epoch);
                }
                // A difference would be reported, and that is next.
                Chore::CompareGroupInfo { group, .. } => {
                    if let Ok(current) = self.service.group_info(&actor.peer, group) {
                        actor.person.engine.compare_group_info(group, &current).unwrap();
                    }
                }
                Chore::Report(report) => panic!("device {by} reports the commit at {}", report.position),
                Chore::Rejoin
                | Chore::Regressed
                | Chore::FollowReset
                | Chore::AddUsers
                | Chore::UpdateKeys { .. }
                | Chore::TopUp
                | Chore::Expire
                | Chore::Scrub => {}
            }
        }
    }
}
