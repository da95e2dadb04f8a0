//! The device's stream: what it brings goes to the engine, in order; what is durable is acknowledged.

mod others;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Status, Streaming};
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::subscribe_request::Message as Out;
use valise_proto::delivery::v1::subscribe_response::Message as In;
use valise_proto::{GroupId, Position, Reason, Refusal};

use self::others::Others;
use super::{Session, limits};
use crate::engine::{Applied, Arrival, Engine, Follow};
use crate::progress::Report;
use crate::transport::{Backoff, Failure};
use crate::{Connection, Error, OfflineReason, Work, kill_point};

const HEARTBEAT: Duration = Duration::from_secs(10);
/// The service speaks at least every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// Most messages of the stream that are applied with one transaction.
const BATCH: usize = 512;
/// Entries of one read.
const READ: u32 = 500;
/// A revoked device looks again this often: its user may be resumed.
const AFTER_REFUSAL: Duration = Duration::from_mins(1);

/// Why a stream ended.
enum End {
    /// Another client of this device took over.
    Displaced,
    /// The device may not.
    Refused(Reason),
    /// A new stream will do.
    Again,
    /// The service takes fewer groups on a stream than this device thought.
    TooManyGroups,
    /// The server cannot be reached, or the store not be written.
    Lost,
    /// The client is closed.
    Closed,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure.reason() {
            Some(Reason::Displaced) => Self::Displaced,
            Some(reason @ (Reason::DeviceRevoked | Reason::UserSuspended | Reason::UnknownDevice)) => {
                Self::Refused(reason)
            }
            Some(Reason::SlowReader | Reason::TokenExpired) => Self::Again,
            Some(Reason::MessageTooLarge) => Self::TooManyGroups,
            _ => Self::Lost,
        }
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::Closed => Self::Closed,
            Error::Refused(refusal) => Failure::Refused(refusal).into(),
            error => {
                tracing::error!(%error, "what the stream brought could not be applied");
                Self::Lost
            }
        }
    }
}

/// Keeps a stream open.
pub(super) async fn run(session: Arc<Session>, mut follows: mpsc::UnboundedReceiver<Follow>) {
    let new_backoff = || Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
    let mut backoff = new_backoff();
    loop {
        let Err(end) = Stream::open_and_follow(&session, &mut follows).await;
        if *session.connection.borrow() == Connection::Live {
            backoff = new_backoff();
        }
        let (reason, wait) = match end {
            End::Closed => {
                session.go_offline(OfflineReason::Closed);
                return;
            }
            End::Displaced => {
                tracing::warn!("another client of this device took over");
                session.go_offline(OfflineReason::Displaced);
                return;
            }
            End::Refused(reason) => (OfflineReason::Refused(reason), AFTER_REFUSAL),
            End::TooManyGroups => {
                // The next stream has as many as it says now.
                if let Err(error) = limits::ask(&session).await {
                    tracing::warn!(%error, "how many groups the service takes is not known");
                }
                (OfflineReason::Unreachable, backoff.step())
            }
            End::Again | End::Lost => (OfflineReason::Unreachable, backoff.step()),
        };
        session.go_offline(reason);
        tokio::time::sleep(wait).await;
    }
}

impl Session {
    fn go_offline(&self, reason: OfflineReason) {
        self.connection.send_replace(Connection::Offline { reason });
    }
}

struct Stream<'a> {
    session: &'a Session,
    out: mpsc::Sender<wire::SubscribeRequest>,
    /// The groups that are on the stream: at most so many.
    followed: HashSet<GroupId>,
    most: usize,
    others: Others,
    arrivals: Vec<Arrival>,
    /// Of what was missed, until it is caught up with.
    catching_up: Option<Report<'a>>,
}

impl<'a> Stream<'a> {
    async fn open_and_follow(
        session: &'a Session,
        follows: &mut mpsc::UnboundedReceiver<Follow>,
    ) -> Result<std::convert::Infallible, End> {
        // What they say is in the cursors by now.
        while follows.try_recv().is_ok() {}
        let cursors = session.engine.run(Engine::cursors).await?;
        let (out, messages) = mpsc::channel(256);
        let mut stream = Self {
            session,
            out,
            followed: cursors.groups.iter().filter_map(group_of).collect(),
            most: cursors.most,
            others: Others::new(cursors.others),
            arrivals: Vec::new(),
            catching_up: Some(session.long_work.begin(Work::CatchingUp, None)),
        };
        stream
            .say(Out::Start(wire::Start {
                groups: cursors.groups,
                inbox_cursor: cursors.inbox,
            }))
            .await?;
        let incoming = session.transport.subscribe(messages).await?;
        session.connection.send_replace(Connection::CatchingUp);
        let beating = beat(stream.out.clone());
        tokio::select! {
            end = stream.follow(incoming, follows) => end,
            end = beating => Err(end),
        }
    }

    async fn follow(
        &mut self,
        mut incoming: Streaming<wire::SubscribeResponse>,
        follows: &mut mpsc::UnboundedReceiver<Follow>,
    ) -> Result<std::convert::Infallible, End> {
        let mut token_ends = Instant::now() + self.token_time();
        let mut heard = Instant::now();
        let session = self.session;
        loop {
            let has_others = !self.others.is_empty();
            tokio::select! {
                message = incoming.message() => {
                    let first = read(message)?;
                    self.take_batch(first, &mut incoming).await?;
                    // That may have taken a while, in which the stream was not looked at.
                    heard = Instant::now();
                }
                follow = follows.recv() => match follow {
                    Some(follow) => self.change(follow).await?,
                    None => return Err(End::Closed),
                },
                () = std::future::ready(()), if self.others.any_due() => {
                    self.read_other().await?;
                    // What the stream has brought meanwhile was not looked at.
                    heard = Instant::now();
                }
                () = session.read_others.notified(), if has_others => self.others.look(),
                () = tokio::time::sleep_until(self.others.next_look), if has_others && self.catching_up.is_none() => {
                    self.others.look();
                }
                () = tokio::time::sleep_until(token_ends) => {
                    let access_token = self.session.transport.tokens_get().await?;
                    self.say(Out::RefreshToken(wire::RefreshToken { access_token })).await?;
                    token_ends = Instant::now() + self.token_time();
                }
                () = tokio::time::sleep_until(heard + SILENCE) => {
                    tracing::warn!("the stream is silent");
                    return Err(End::Lost);
                }
            }
        }
    }

    fn token_time(&self) -> Duration {
        Duration::from_secs(self.session.transport.token_seconds_left().max(1))
    }

    /// Takes what has arrived, applies it with few transactions, and acknowledges it.
    async fn take_batch(
        &mut self,
        first: In,
        incoming: &mut Streaming<wire::SubscribeResponse>,
    ) -> Result<(), End> {
        self.take(first).await?;
        for _ in 1..BATCH {
            match incoming.message().now_or_never() {
                Some(message) => self.take(read(message)?).await?,
                None => break,
            }
        }
        self.apply().await
    }

    async fn take(&mut self, message: In) -> Result<(), End> {
        match message {
            In::Entry(entry) => self.arrivals.push(Arrival::Entry(entry)),
            In::InboxItem(item) => self.take_inbox_item(item).await?,
            In::CaughtUp(wire::CaughtUp {}) => {
                self.apply().await?;
                self.catching_up = None;
                self.session.connection.send_replace(Connection::Live);
            }
            In::Heartbeat(wire::Heartbeat {}) => {}
            In::Ephemeral(ephemeral) => {
                self.apply().await?;
                if let Ok(group) = GroupId::try_from(&*ephemeral.group_id) {
                    let message = ephemeral.mls_message;
                    self.session
                        .engine
                        .run(move |engine| engine.receive_ephemeral(group, &message))
                        .await?;
                }
            }
            In::GroupEnded(ended) => {
                self.apply().await?;
                if let Ok(group) = GroupId::try_from(&*ended.group_id) {
                    let (reason, position) = (ended.reason, Position(ended.position));
                    let ended = self
                        .session
                        .engine
                        .run(move |engine| engine.group_ended(group, &reason, position))
                        .await?;
                    if ended {
                        self.followed.remove(&group);
                    }
                }
            }
        }
        Ok(())
    }

    async fn take_inbox_item(&mut self, item: wire::InboxItem) -> Result<(), End> {
        let tree = match &item.item {
            Some(wire::inbox_item::Item::Welcome(welcome)) => {
                self.apply().await?;
                // Whoever was removed and added again may hear of that first. What it may still read comes before: once it is in the
                // group anew, it is beyond it.
                if let Ok(group) = GroupId::try_from(&*welcome.group_id) {
                    self.catch_up(group).await?;
                }
                Some(self.ratchet_tree(welcome).await?)
            }
            _ => None,
        };
        self.arrivals.push(Arrival::Inbox(item, tree));
        Ok(())
    }

    /// The tree that a Welcome needs, or why there is none. A passing failure ends the stream: the item comes again.
    async fn ratchet_tree(&self, welcome: &wire::WelcomeItem) -> Result<Result<Bytes, Refusal>, End> {
        let mut backoff = Backoff::of_requests();
        let mut tries = 0;
        loop {
            let failure = match self
                .session
                .transport
                .ratchet_tree(welcome.group_id.clone(), welcome.epoch)
                .await
            {
                Ok(tree) => return Ok(Ok(tree)),
                Err(failure) => failure,
            };
            match failure {
                Failure::Refused(refusal) if !Failure::Refused(refusal.clone()).is_passing() => {
                    return match Failure::Refused(refusal.clone()).into() {
                        end @ (End::Refused(_) | End::Displaced) => Err(end),
                        _ => Ok(Err(refusal)),
                    };
                }
                failure if tries == 4 => return Err(failure.into()),
                _ => {}
            }
            tries += 1;
            tokio::time::sleep(backoff.step()).await;
        }
    }

    async fn apply(&mut self) -> Result<(), End> {
        if self.arrivals.is_empty() {
            return Ok(());
        }
        let arrivals = std::mem::take(&mut self.arrivals);
        let count = arrivals.len() as u64;
        let applied = self
            .session
            .engine
            .run(move |engine| engine.apply(arrivals))
            .await?;
        self.caught_up_with(count);
        let gaps = applied.gaps.clone();
        self.acknowledge(applied).await?;
        for group in gaps {
            self.catch_up(group).await?;
        }
        Ok(())
    }

    fn caught_up_with(&mut self, entries: u64) {
        if let Some(report) = &mut self.catching_up {
            report.advance(entries);
        }
    }

    async fn acknowledge(&mut self, applied: Applied) -> Result<(), End> {
        let mut groups = applied.cursors;
        groups.retain(|cursor| group_of(cursor).is_some_and(|group| self.followed.contains(&group)));
        if groups.is_empty() && applied.inbox == 0 {
            return Ok(());
        }
        self.say(Out::Ack(wire::Ack {
            groups,
            inbox_number: applied.inbox,
        }))
        .await?;
        kill_point::acknowledged();
        Ok(())
    }

    /// Reads what is missing of a group, until nothing is.
    async fn catch_up(&mut self, group: GroupId) -> Result<(), End> {
        loop {
            let standing = self
                .session
                .engine
                .run(move |engine| engine.standing(group))
                .await?;
            let Some((_, position)) = standing.filter(|(status, _)| status.is_followed()) else {
                return Ok(());
            };
            let page = match self.session.transport.entries_after(group, position, READ).await {
                Ok(page) => page,
                Err(Error::Refused(refusal)) if !Failure::Refused(refusal.clone()).is_passing() => {
                    let reason = refusal.reason.as_str();
                    let first = Position(refusal.number("first_position").unwrap_or(u64::MAX));
                    self.session
                        .engine
                        .run(move |engine| engine.group_ended(group, reason, first))
                        .await?;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            if page.entries.is_empty() {
                return Ok(());
            }
            let count = page.entries.len() as u64;
            let arrivals = page.entries.into_iter().map(Arrival::Entry).collect();
            let applied = self
                .session
                .engine
                .run(move |engine| engine.apply(arrivals))
                .await?;
            self.caught_up_with(count);
            let stuck = applied.gaps.contains(&group);
            self.acknowledge(applied).await?;
            if stuck {
                tracing::error!(%group, "the log has a gap");
                return Err(End::Lost);
            }
        }
    }

    /// Reads one of the groups that are not on the stream. Where that fails, it is read with the next look; the stream goes on.
    async fn read_other(&mut self) -> Result<(), End> {
        let Some(group) = self.others.next_due() else {
            return Ok(());
        };
        match self.catch_up(group).await {
            Err(End::Again | End::Lost) => {
                tracing::warn!(%group, "a group that is not on the stream could not be read");
                self.others.look_soon();
                Ok(())
            }
            read => read,
        }
    }

    async fn change(&mut self, follow: Follow) -> Result<(), End> {
        match follow {
            Follow::CatchUp(group) => self.catch_up(group).await,
            Follow::Accepted(group) => {
                self.others.has_news(group);
                Ok(())
            }
            Follow::Add(cursor) => {
                let Some(group) = group_of(&cursor) else {
                    return Ok(());
                };
                if self.followed.contains(&group) {
                    return Ok(());
                }
                if self.followed.len() >= self.most {
                    self.others.add(group);
                    return Ok(());
                }
                self.others.remove(group);
                self.followed.insert(group);
                self.say(Out::ChangeGroups(wire::ChangeGroups {
                    add: vec![cursor],
                    drop_group_ids: Vec::new(),
                }))
                .await
            }
            Follow::Drop(group) => {
                self.others.remove(group);
                if !self.followed.remove(&group) {
                    return Ok(());
                }
                let drop_group_ids = vec![group.to_vec().into()];
                self.say(Out::ChangeGroups(wire::ChangeGroups {
                    add: Vec::new(),
                    drop_group_ids,
                }))
                .await
            }
        }
    }

    async fn say(&self, message: Out) -> Result<(), End> {
        say(&self.out, message).await
    }
}

async fn say(out: &mpsc::Sender<wire::SubscribeRequest>, message: Out) -> Result<(), End> {
    let message = wire::SubscribeRequest {
        message: Some(message),
    };
    match tokio::time::timeout(SILENCE, out.send(message)).await {
        // If the stream has ended, its other direction tells why.
        Ok(_) => Ok(()),
        Err(_) => Err(End::Lost),
    }
}

/// Tells the service that the device is there, also while it is busy with what the stream brought: to join a large group may take it minutes.
async fn beat(out: mpsc::Sender<wire::SubscribeRequest>) -> End {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        heartbeat.tick().await;
        if let Err(end) = say(&out, Out::Heartbeat(wire::Heartbeat {})).await {
            return end;
        }
    }
}

fn read(message: Result<Option<wire::SubscribeResponse>, Status>) -> Result<In, End> {
    match message {
        Ok(Some(wire::SubscribeResponse {
            message: Some(message),
        })) => Ok(message),
        // Of a newer service.
        Ok(Some(wire::SubscribeResponse { message: None })) => Ok(In::Heartbeat(wire::Heartbeat {})),
        Ok(None) => Err(End::Lost),
        Err(status) => {
            tracing::debug!(code = ?status.code(), "the stream ended");
            Err(Failure::of(&status).into())
        }
    }
}

fn group_of(cursor: &wire::GroupCursor) -> Option<GroupId> {
    GroupId::try_from(&*cursor.group_id).ok()
}
