//! Coming back into a group by an external commit (RFC 9420 §12.4.3.2).
//!
//! 1. The wish is an intent, and the group is [`GroupStatus::Rejoining`]: it is not followed any more. What was prepared in it is sent
//!    once more, as a repeat: only so it is known whether the log has it. What it has not goes back into the queue.
//! 2. When that is settled, and the device has caught up with all else, the group's current GroupInfo and tree are fetched
//!    (`session/rejoin.rs`). One transaction deletes the old state, builds the external commit (openmls applies it at once: the exception
//!    from RFC 9420 §14) and stores its exact bytes and idempotency key. Until its outcome is known nothing else of the group is applied.
//! 3. Accepted: the device is in the epoch that it began. Too late: the state is deleted, and 2 begins again.
//!
//! A crash at any point goes on where it was: the same bytes leave again with the same key, or it is built (again). Where the log is frozen,
//! all of this waits until it is open ([`super::regressed`]).

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, RatchetTreeIn};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::Span;
use uuid::Uuid;
use valise_proto::delivery::v1 as wire;
use valise_proto::{DeviceId, Epoch, GroupId, IdempotencyKey, Position, Reason, Refusal};

use super::delivery_chain::{Beginning, claim_of_joiner};
use super::effects::{Chore, Effect, Follow, UploadJob};
use super::inbox::{Fault, accepted_at};
use super::intents::{Operation, Outcome};
use super::live::{self, LiveGroup};
use super::outcome::cause;
use super::prepare::new_request;
use super::queries::cursor;
use super::{Engine, Waiter};
use crate::mls::{Provider, build_external_commit, judge_joined_context};
use crate::store::{GroupRow, IntentId, IntentRow, Prepared};
use crate::{ByItself, Error, EventKind, GroupStatus, kill_point};

const DOING: &str = "rejoining";
/// Who added a device that came in by itself.
const NOBODY: DeviceId = DeviceId::from_uuid(Uuid::nil());

/// What a rejoin has to know of the state that it leaves.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejoin {
    /// The group's status, to go back to where nothing can be built.
    before: String,
    /// State of an earlier epoch is refused: members that were removed since could read there.
    least_epoch: u64,
}

impl Rejoin {
    fn status(&self) -> GroupStatus {
        GroupStatus::from_text(&self.before).unwrap_or(GroupStatus::Lost)
    }

    /// The same, of a log that went back in time.
    pub(super) fn at_any_epoch(self) -> Self {
        Self {
            least_epoch: 0,
            ..self
        }
    }
}

impl Engine {
    /// The service no longer keeps what comes next.
    pub(super) fn lose(&mut self, row: &GroupRow) -> Result<(), Error> {
        let at = self.options.clock.unix_millis();
        self.emit(row.id, row.position, at, &EventKind::Lost)?;
        // Who has asked to leave does not come back.
        let comes_back = self.options.rejoin.lost == ByItself::Always && row.status != GroupStatus::Leaving;
        // A group that was reset leads nowhere but into its successor.
        if comes_back && self.db.reset(row.id)?.is_none() {
            let row = GroupRow {
                status: GroupStatus::Lost,
                ..row.clone()
            };
            return self.begin_rejoin(&row).map(drop);
        }
        self.stop(row.id, GroupStatus::Lost)
    }

    /// The app asks to come back, or, to a group `elsewhere`, to come in.
    pub(crate) fn ask_rejoin(
        &mut self,
        group: GroupId,
        elsewhere: bool,
        span: Span,
        answer: oneshot::Sender<Result<Outcome, Error>>,
    ) -> Result<(), Error> {
        if elsewhere {
            self.come_in(&[group])?;
        }
        let intent = self.transaction(|engine| {
            let row = engine.db.group(group)?.ok_or(Error::UnknownGroup(group))?;
            match row.status {
                GroupStatus::Creating | GroupStatus::Active => Ok(None),
                GroupStatus::Leaving | GroupStatus::Removed | GroupStatus::Reset => {
                    Err(Error::GroupNotActive(row.status))
                }
                GroupStatus::Rejoining => {
                    let intent = engine.db.intent_of_kind(group, Operation::REJOIN)?;
                    Ok(intent.map(|intent| intent.id))
                }
                GroupStatus::LogRegressed => match engine.rejoin_now(&row)? {
                    Some(intent) => Ok(Some(intent)),
                    None => engine.begin_rejoin(&row).map(Some),
                },
                GroupStatus::HeldByBadCommit
                | GroupStatus::Quarantined
                | GroupStatus::Lost
                | GroupStatus::WelcomeUnusable => engine.begin_rejoin(&row).map(Some),
            }
        })?;
        match intent {
            // Who has stopped waiting makes way.
            Some(intent)
                if self
                    .waiters
                    .get(&intent)
                    .is_some_and(|waiter| !waiter.answer.is_closed()) =>
            {
                return Err(Error::InvalidInput("the group is being rejoined already"));
            }
            Some(intent) => drop(self.waiters.insert(intent, Waiter { span, answer })),
            // Whoever asked may have gone.
            None => drop(answer.send(Ok(Outcome::Rejoined))),
        }
        Ok(())
    }

    /// Into groups of the user's other devices. Those that are known here are passed over.
    pub(crate) fn come_in(&mut self, groups: &[GroupId]) -> Result<(), Error> {
        self.transaction(|engine| {
            for &id in groups {
                if engine.db.group(id)?.is_some() {
                    continue;
                }
                let row = GroupRow {
                    id,
                    status: GroupStatus::Lost,
                    name: String::new(),
                    suite: 0,
                    position: Position::NONE,
                    entry_id: Vec::new(),
                };
                engine.db.put_group(&row)?;
                engine.begin_rejoin(&row)?;
            }
            Ok(())
        })
    }

    /// Stores the wish.
    pub(super) fn begin_rejoin(&mut self, row: &GroupRow) -> Result<IntentId, Error> {
        let group = row.id;
        kill_point::storing("wish_rejoin");
        let rejoin = Rejoin {
            before: row.status.as_str().to_owned(),
            least_epoch: self.least_epoch(row)?.0,
        };
        // What is under way may be in the log where this device can never read it: its answers tell.
        self.effects.push(Effect::Upload(UploadJob::Clear(group)));
        for intent in self.db.prepared_intents(group)? {
            self.upload(&intent, true)?;
        }
        let intent = self.queue(group, &Operation::Rejoin(rejoin), true)?;
        self.db.put_status(group, GroupStatus::Rejoining)?;
        self.awaiting_proposal.remove(&group);
        self.ephemeral.remove(&group);
        self.effects.push(Effect::Follow(Follow::Drop(group)));
        self.effects.push(Effect::Chore(Chore::Rejoin));
        let at = self.options.clock.unix_millis();
        self.emit(group, row.position, at, &EventKind::Rejoining)?;
        Ok(intent)
    }

    fn least_epoch(&mut self, row: &GroupRow) -> Result<Epoch, Error> {
        if !row.status.has_keys() || row.status == GroupStatus::LogRegressed {
            return Ok(Epoch(0));
        }
        match live::get(&mut self.live, &self.db, row.id) {
            // The commit that cannot be processed has begun another one.
            Ok(live) if row.status == GroupStatus::HeldByBadCommit => Ok(live.epoch().next()),
            Ok(live) => Ok(live.epoch()),
            Err(Error::UnknownGroup(_)) => Ok(Epoch(0)),
            Err(error) => Err(error),
        }
    }

    /// The epoch that a Welcome must lead beyond: the one that this device is in or, once it is on its way back, may not come back
    /// before. A log that went back in time, as the service says, is no reason to go back by itself.
    pub(super) fn epoch_left(&mut self, row: &GroupRow) -> Result<Epoch, Error> {
        if row.status == GroupStatus::Rejoining {
            let intent = self.db.intent_of_kind(row.id, Operation::REJOIN)?;
            return Ok(match intent.as_ref().map(Operation::from_row).transpose()? {
                Some(Operation::Rejoin(rejoin)) => Epoch(rejoin.least_epoch),
                _ => Epoch(0),
            });
        }
        match live::get(&mut self.live, &self.db, row.id) {
            Ok(live) => Ok(live.epoch()),
            // A group that could not be rejoined has none.
            Err(Error::UnknownGroup(_)) => Ok(Epoch(0)),
            Err(error) => Err(error),
        }
    }

    /// After a restart: what is prepared goes out again, or the rest is to be done.
    pub(super) fn resume_rejoin(&mut self, group: GroupId) -> Result<(), Error> {
        let prepared = self.db.prepared_intents(group)?;
        if prepared.is_empty() {
            self.effects.push(Effect::Chore(Chore::Rejoin));
        }
        for intent in prepared {
            self.upload(&intent, true)?;
        }
        Ok(())
    }

    /// Groups of which the GroupInfo is needed now.
    pub(crate) fn due_rejoins(&mut self) -> Result<Vec<GroupId>, Error> {
        let mut due = Vec::new();
        for row in self.db.groups()? {
            if self.due_rejoin(row.id)?.is_some() {
                due.push(row.id);
            }
        }
        Ok(due)
    }

    fn due_rejoin(&self, group: GroupId) -> Result<Option<(GroupRow, IntentRow, Rejoin)>, Error> {
        let row = self.db.group(group)?;
        let Some(row) = row.filter(|row| row.status == GroupStatus::Rejoining) else {
            return Ok(None);
        };
        if self.db.count_prepared(group)?.0 > 0 {
            return Ok(None);
        }
        let Some(intent) = self.db.intent_of_kind(group, Operation::REJOIN)? else {
            return Ok(None);
        };
        let Operation::Rejoin(rejoin) = Operation::from_row(&intent)? else {
            return Ok(None);
        };
        Ok(Some((row, intent, rejoin)))
    }

    /// Is an external commit on its way?
    pub(super) fn is_coming_in(&self, group: GroupId) -> Result<bool, Error> {
        let intent = self.db.intent_of_kind(group, Operation::REJOIN)?;
        Ok(intent.is_some_and(|intent| intent.prepared.is_some()))
    }

    /// An invitation was faster.
    pub(super) fn needs_no_rejoin(&mut self, group: GroupId) -> Result<(), Error> {
        if let Some(intent) = self.db.intent_of_kind(group, Operation::REJOIN)? {
            self.db.delete_intent(intent.id)?;
            self.effects
                .push(Effect::Answer(intent.id, Ok(Outcome::Rejoined)));
        }
        Ok(())
    }

    /// Builds the external commit on the group's current state; if that cannot be used, the group stays what it was.
    pub(crate) fn rejoin_with(
        &mut self,
        group: GroupId,
        current: &wire::GetGroupInfoResponse,
    ) -> Result<(), Error> {
        self.transaction(|engine| {
            let Some((row, intent, rejoin)) = engine.due_rejoin(group)? else {
                return Ok(());
            };
            let before = engine.savepoint()?;
            match engine.build_rejoin(&row, &rejoin, current) {
                Ok(prepared) => {
                    engine.db.release()?;
                    engine.put_prepared(intent, prepared)
                }
                Err(error) if error.is_of_store() => Err(error),
                Err(error) => {
                    engine.roll_back(&before)?;
                    engine.live.remove(&group);
                    engine.give_up(&intent, rejoin.status(), &error)
                }
            }
        })
    }

    fn build_rejoin(
        &mut self,
        row: &GroupRow,
        rejoin: &Rejoin,
        current: &wire::GetGroupInfoResponse,
    ) -> Result<Prepared, Error> {
        let unreadable = |error: openmls::prelude::tls_codec::Error| Error::mls(DOING)(&error);
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&current.group_info).map_err(unreadable)?;
        let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
            return Err(Error::Rule("wire_format"));
        };
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(&current.ratchet_tree).map_err(unreadable)?;
        let context = info.group_context().clone();
        if context.group_id().as_slice() != row.id.as_bytes() {
            return Err(Error::Rule("group_info_group"));
        }
        let epoch = Epoch(context.epoch().as_u64());
        if epoch.0 != current.epoch || epoch.0 < rejoin.least_epoch {
            return Err(Error::Rule("group_info_epoch"));
        }
        let suite = u16::from(context.ciphersuite());
        if context.ciphersuite().signature_algorithm() != self.device.signer.signature_scheme() {
            return Err(Error::Rule("cipher_suite"));
        }
        if row.suite != 0 && row.suite != suite {
            return Err(Error::Rule("cipher_suite"));
        }
        judge_joined_context(&context, &self.device.external_sender, &self.device.user)?;

        live::delete(&mut self.live, &self.db, row.id)?;
        let provider = Provider::new(&self.crypto, &self.db.connection);
        let credential = self.device.credential.clone();
        let claim = claim_of_joiner(current.commit_position, &context)?;
        // This checks the GroupInfo's signature by a leaf of the tree, and the tree against the context's hash.
        let (mls, bundle) =
            build_external_commit(&provider, &self.device.signer, credential, info, tree, claim)?;
        // Nothing has left yet: who is in there is judged now, as after a Welcome (RFC 9420 §5.3.1).
        let now = self.now();
        for member in mls.members() {
            self.judge_member(&member, now)?;
        }
        // Each device once: an old leaf of this device under another key would be a second one.
        LiveGroup::new(mls)?;
        self.db.put_group(&GroupRow { suite, ..row.clone() })?;
        let bytes = |message: MlsMessageOut| message.to_bytes().map_err(|error| Error::mls(DOING)(&error));
        let (commit, _, group_info) = bundle.into_messages();
        let mut prepared = new_request(epoch, bytes(commit)?);
        prepared.group_info = group_info.map(bytes).transpose()?;
        Ok(prepared)
    }

    /// The service has accepted the external commit: this is its place in the log.
    pub(crate) fn rejoined(
        &mut self,
        intent: IntentId,
        key: IdempotencyKey,
        accepted: &wire::Accepted,
    ) -> Result<(), Error> {
        let Some(intent) = self.current(intent, key)? else {
            return Ok(());
        };
        self.transaction(|engine| engine.is_back(&intent, accepted))
    }

    fn is_back(&mut self, intent: &IntentRow, accepted: &wire::Accepted) -> Result<(), Error> {
        let group = intent.group;
        kill_point::applying(&intent.kind);
        let Some(row) = self.db.group(group)? else {
            return Ok(());
        };
        self.db.delete_intent(intent.id)?;
        let position = Position(accepted.position);
        let at = accepted_at(accepted.accepted_at.as_ref());
        let believed = self.believed_at(at, self.db.newest_accepted_at(group)?);
        self.db
            .put_cursor(group, position, &accepted.entry_id, believed)?;
        self.keep_own_way_in(intent, accepted)?;
        self.db.put_status(group, GroupStatus::Active)?;
        // The group may have another name by now: whoever may rename and tells it is heard.
        self.db.put_added_by(group, Some(NOBODY))?;
        self.begin_chain(
            group,
            Beginning {
                position,
                accepted_at: at,
                entry_id: &accepted.entry_id,
            },
        )?;
        if row.name.is_empty()
            && let Some(name) = self.inherited_name(group)?
        {
            self.db.put_name(group, &name)?;
        }
        self.epoch_began(group).map_err(plain)?;
        self.effects.push(Effect::Follow(Follow::Add(cursor(
            group,
            position,
            &accepted.entry_id,
        ))));
        let (first, last) = (row.position.next(), Position(position.0.saturating_sub(1)));
        let missed = (first <= last).then_some((first, last));
        self.emit(group, position, at, &EventKind::Rejoined { missed })?;
        let own = self.device.peer();
        self.went_on(group, &own)?;
        self.effects
            .push(Effect::Answer(intent.id, Ok(Outcome::Rejoined)));
        self.pump(group)
    }

    /// The service refused the external commit. openmls has applied it already: that state is of an epoch that never was.
    pub(super) fn rejoin_refused(&mut self, intent: &IntentRow, refusal: &Refusal) -> Result<(), Error> {
        let group = intent.group;
        live::delete(&mut self.live, &self.db, group)?;
        match refusal.reason {
            Reason::EpochConflict | Reason::EpochTooOld | Reason::EpochAhead | Reason::ProposalsMissing => {
                self.db.unprepare_one(intent.id)?;
                self.effects.push(Effect::Chore(Chore::Rejoin));
                return Ok(());
            }
            Reason::LogRegressed => {
                let row = self.db.group(group)?;
                // Of a group that it was never in, this device has nothing that could be missing.
                if let Some(row) = row.filter(|row| row.position > Position::NONE) {
                    self.db.unprepare_one(intent.id)?;
                    return self.rejoin_later(&row, intent);
                }
            }
            _ => {}
        }
        self.give_up(intent, GroupStatus::Lost, &Error::Refused(refusal.clone()))
    }

    /// The service does not show the group's current state.
    pub(crate) fn rejoin_denied(&mut self, group: GroupId, refusal: Refusal) -> Result<(), Error> {
        self.transaction(|engine| match engine.due_rejoin(group)? {
            Some((_, intent, rejoin)) => engine.give_up(&intent, rejoin.status(), &Error::Refused(refusal)),
            None => Ok(()),
        })
    }

    pub(super) fn give_up(
        &mut self,
        intent: &IntentRow,
        status: GroupStatus,
        error: &Error,
    ) -> Result<(), Error> {
        let group = intent.group;
        let cause = cause(error);
        tracing::error!(%group, cause, "the group could not be rejoined");
        self.db.delete_intent(intent.id)?;
        self.effects.push(Effect::Answer(intent.id, Err(error.clone())));
        let Some(row) = self.db.group(group)? else {
            return Ok(());
        };
        let at = self.options.clock.unix_millis();
        self.emit(group, row.position, at, &EventKind::RejoinFailed { cause })?;
        if row.suite == 0 && row.position == Position::NONE {
            // It was never in there: it may be tried another time.
            self.fail_all(group, status)?;
            return self.db.delete_group(group);
        }
        if error.reason() == Some(Reason::NotAMember) {
            // No device of this user is in it any more.
            return self.drop_membership(group);
        }
        if status != GroupStatus::LogRegressed {
            return self.stop(group, status);
        }
        if live::load(&self.db, group)?.is_none() {
            // It could not go on where it was.
            return self.stop(group, GroupStatus::Lost);
        }
        self.effects.push(Effect::Chore(Chore::Regressed));
        self.stop(group, status)
    }
}

pub(super) fn plain(fault: Fault) -> Error {
    match fault {
        Fault::Error(error) => error,
        fault => Error::mls(DOING)(&fault.at_fault().0),
    }
}
