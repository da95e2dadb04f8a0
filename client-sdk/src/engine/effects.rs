//! What leaves the engine once a transaction is durable.

use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tracing::Span;
use valise_proto::delivery::v1 as wire;
use valise_proto::{Epoch, GroupId, Position};

use super::Engine;
use super::adds::AddNews;
use super::intents::Outcome;
use crate::store::{AddId, IntentId, IntentRow, Prepared, ReportRow};
use crate::{Error, Event, EventId, EventKind};

/// A change that others must hear of.
pub(super) enum Effect {
    Answer(IntentId, Result<Outcome, Error>),
    Upload(UploadJob),
    Follow(Follow),
    Chore(Chore),
    Event(EventId),
    /// Keys that nobody needs any more were deleted: the write-ahead log is emptied before anything else is done.
    Scrub,
    Add(AddId, AddNews),
}

/// For the uploader.
pub(crate) enum UploadJob {
    /// Send this, after all before it in the same group.
    Send(Upload),
    /// Forget what is queued for this group: it is being built again.
    Clear(GroupId),
}

/// One request of an intent.
pub(crate) struct Upload {
    pub(crate) intent: IntentId,
    pub(crate) group: GroupId,
    /// Its name, for those who look into it.
    pub(crate) operation: &'static str,
    pub(crate) kind: UploadKind,
    pub(crate) prepared: Prepared,
    /// It may have been sent by a former run.
    pub(crate) repeat: bool,
    pub(crate) span: Span,
}

/// Which request it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum UploadKind {
    Create,
    Message,
    Commit,
    ExternalCommit,
    Proposal,
}

/// For the subscriber.
pub(crate) enum Follow {
    /// Follow this group from here.
    Add(wire::GroupCursor),
    /// No longer follow it.
    Drop(GroupId),
    /// The service has entries of this group that have not come yet.
    CatchUp(GroupId),
    /// The service has accepted something for this group: where it is on the stream, that comes by itself.
    Accepted(GroupId),
}

/// For the client's other tasks.
pub(crate) enum Chore {
    /// Commit the proposals of this epoch after that time, if nobody else has.
    CommitProposals {
        group: GroupId,
        epoch: Epoch,
        after: Duration,
    },
    /// Tell the service that an accepted commit cannot be processed (RFC 9420 §16.12).
    Report(ReportRow),
    /// Compare what the service gives to those who come in with what this device knows of the group, after that time.
    CompareGroupInfo { group: GroupId, after: Duration },
    /// New keys for this device in that group, after that time.
    UpdateKeys { group: GroupId, after: Duration },
    /// Some group is to be rejoined.
    Rejoin,
    /// Some group's log went back in time.
    Regressed,
    /// Some group was reset, or its successor made.
    FollowReset,
    /// Users are to be added.
    AddUsers,
    /// Publish key packages.
    TopUp,
    /// Some message expires, perhaps before all others.
    Expire,
    /// Secrets were deleted: the store's write-ahead log is to be emptied soon.
    Scrub,
}

/// Where effects go.
pub(crate) struct Outlets {
    pub(crate) uploads: mpsc::UnboundedSender<UploadJob>,
    pub(crate) follows: mpsc::UnboundedSender<Follow>,
    pub(crate) chores: mpsc::UnboundedSender<Chore>,
    pub(crate) ephemeral: broadcast::Sender<Event>,
    pub(crate) newest_event: watch::Sender<EventId>,
    /// Counts transactions: who waits for a state looks again at each.
    pub(crate) progress: watch::Sender<u64>,
}

/// The other ends of [`Outlets`].
pub(crate) struct OutletEnds {
    pub(crate) uploads: mpsc::UnboundedReceiver<UploadJob>,
    pub(crate) follows: mpsc::UnboundedReceiver<Follow>,
    pub(crate) chores: mpsc::UnboundedReceiver<Chore>,
    pub(crate) ephemeral: broadcast::Sender<Event>,
    pub(crate) newest_event: watch::Receiver<EventId>,
    pub(crate) progress: watch::Receiver<u64>,
}

impl Outlets {
    pub(crate) fn new() -> (Self, OutletEnds) {
        let (uploads, uploads_end) = mpsc::unbounded_channel();
        let (follows, follows_end) = mpsc::unbounded_channel();
        let (chores, chores_end) = mpsc::unbounded_channel();
        let (ephemeral, _) = broadcast::channel(256);
        let (newest_event, newest_event_end) = watch::channel(EventId::NONE);
        let (progress, progress_end) = watch::channel(0);
        let ends = OutletEnds {
            uploads: uploads_end,
            follows: follows_end,
            chores: chores_end,
            ephemeral: ephemeral.clone(),
            newest_event: newest_event_end,
            progress: progress_end,
        };
        (
            Self {
                uploads,
                follows,
                chores,
                ephemeral,
                newest_event,
                progress,
            },
            ends,
        )
    }
}

impl Engine {
    /// Called when a transaction is durable. A receiver that is gone belongs to a client that is being closed.
    pub(super) fn let_effects_out(&mut self) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Answer(intent, result) => {
                    if let Some(waiter) = self.waiters.remove(&intent) {
                        let _ = waiter.answer.send(result);
                    }
                }
                Effect::Upload(job) => drop(self.outlets.uploads.send(job)),
                Effect::Follow(follow) => drop(self.outlets.follows.send(follow)),
                Effect::Chore(chore) => drop(self.outlets.chores.send(chore)),
                Effect::Add(id, news) => self.tell_adder(id, news),
                Effect::Event(id) => drop(self.outlets.newest_event.send_replace(id)),
                Effect::Scrub => {
                    if let Err(error) = self.scrub() {
                        // The change itself is durable, and upkeep tries again.
                        tracing::warn!(%error, "the store's write-ahead log could not be emptied");
                    }
                }
            }
        }
        self.outlets.progress.send_modify(|count| *count += 1);
    }

    /// Stores an event. `at` is in milliseconds since 1970-01-01 UTC.
    pub(super) fn emit(
        &mut self,
        group: GroupId,
        position: Position,
        at: u64,
        kind: &EventKind,
    ) -> Result<(), Error> {
        self.emit_numbered(group, position, at, kind).map(drop)
    }

    /// The same, and says its number.
    pub(super) fn emit_numbered(
        &mut self,
        group: GroupId,
        position: Position,
        at: u64,
        kind: &EventKind,
    ) -> Result<Option<EventId>, Error> {
        let id = self.db.put_event(group, position, at, kind)?;
        self.effects.extend(id.map(Effect::Event));
        Ok(id)
    }

    /// Hands a prepared intent to the uploader.
    pub(super) fn upload(&mut self, intent: &IntentRow, repeat: bool) -> Result<(), Error> {
        let Some(prepared) = intent.prepared.clone() else {
            return Ok(());
        };
        let (operation, kind) = super::Operation::upload_kind(&intent.kind)?;
        let span = self.span_of(intent)?;
        let upload = Upload {
            intent: intent.id,
            group: intent.group,
            operation,
            kind,
            prepared,
            repeat,
            span,
        };
        self.effects.push(Effect::Upload(UploadJob::Send(upload)));
        Ok(())
    }
}
