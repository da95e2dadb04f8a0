//! One device's stream: one task, one struct; replay out of the log, then live out of the mailbox.

mod again;
mod inbox;
mod pump;
mod say;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{broadcast, mpsc};
use tokio::time::MissedTickBehavior;
use tonic::Streaming;
use valise_access_token::Revocation;
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::{subscribe_request, subscribe_response};
use valise_proto::{DeviceId, GroupId, Position, Reason, Refusal};

use self::inbox::Inbox;
use super::Subscriber;
use super::fan_out::{Letter, Mailbox};
use super::follow::{Followed, Start};
use super::stuck;
use super::window::Window;
use crate::grpc;
use crate::log::Entry;
use crate::service::Delivery;

/// The service's sign of life.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A device that says nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(90);
/// How often revocation, expiry and slowness are looked at, whatever else happens.
const WATCH: Duration = Duration::from_secs(1);
/// Acknowledgements are kept together, this often at most.
const KEEP_ACKNOWLEDGEMENTS: Duration = Duration::from_millis(500);

type Outgoing = mpsc::Sender<wire::SubscribeResponse>;

/// What must be acknowledged before `CaughtUp` is said.
#[derive(Default)]
struct Target {
    groups: HashMap<GroupId, Position>,
    inbox: u64,
}

/// What happens to a stream once, or hardly ever.
enum Rare {
    Stopping,
    Displaced,
    /// Somebody's; with where the next ones come from.
    Revocation(broadcast::Receiver<Revocation>),
}

pub(super) struct DeviceStream {
    delivery: Arc<Delivery>,
    subscriber: Subscriber,
    mailbox: Arc<Mailbox>,
    /// Until it is served.
    revocations: Option<broadcast::Receiver<Revocation>>,
    outgoing: Outgoing,
    groups: HashMap<GroupId, Followed>,
    window: Window,
    inbox: Inbox,
    target: Option<Target>,
    /// Acknowledged and not yet kept.
    unkept: HashMap<GroupId, Position>,
    unkept_inbox: u64,
    /// The device has not said anything since it opened the stream.
    silent: bool,
    last_progress: Instant,
    last_heard: Instant,
    last_said: Instant,
}

impl Drop for DeviceStream {
    fn drop(&mut self) {
        for (group, position) in self.count_unacknowledged() {
            stuck::report(self.subscriber.device, group, position);
        }
        self.delivery
            .fan_out
            .close(&self.mailbox, self.groups.keys().copied());
    }
}

impl DeviceStream {
    pub(super) fn open(delivery: Arc<Delivery>, subscriber: Subscriber, outgoing: Outgoing) -> Self {
        let now = Instant::now();
        let limits = delivery.limits;
        Self {
            mailbox: delivery.fan_out.open(subscriber.device),
            revocations: Some(delivery.verifier.revocations()),
            window: Window::new(limits.unacknowledged_entries, limits.unacknowledged_bytes),
            delivery,
            subscriber,
            outgoing,
            groups: HashMap::new(),
            inbox: Inbox::begin(0),
            target: None,
            unkept: HashMap::new(),
            unkept_inbox: 0,
            silent: true,
            last_progress: now,
            last_heard: now,
            last_said: now,
        }
    }

    /// Until the device goes (`Ok`) or the service ends the stream.
    pub(super) async fn run(
        mut self,
        start: wire::Start,
        mut requests: Streaming<wire::SubscribeRequest>,
    ) -> Result<(), Refusal> {
        self.inbox = Inbox::begin(start.inbox_cursor);
        self.unkept_inbox = self.inbox.acknowledged;
        self.add_groups(&start.groups).await?;
        let result = self.serve(&mut requests).await;
        self.keep_acknowledgements().await?;
        result
    }

    async fn serve(&mut self, requests: &mut Streaming<wire::SubscribeRequest>) -> Result<(), Refusal> {
        let mailbox = Arc::clone(&self.mailbox);
        let stopping = self.delivery.lifecycle.stopping().clone();
        // Polled only when one of them has happened: to look at what all streams share with every entry costs each of them.
        let mut rare = FuturesUnordered::<BoxFuture<'_, Rare>>::new();
        rare.push(stopping.cancelled().map(|()| Rare::Stopping).boxed());
        rare.push(mailbox.displaced.cancelled().map(|()| Rare::Displaced).boxed());
        rare.extend(self.revocations.take().map(|from| next(from).boxed()));
        let mut watch = tokio::time::interval(WATCH);
        let mut keep = tokio::time::interval(KEEP_ACKNOWLEDGEMENTS);
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pump().await?;
            tokio::select! {
                biased;
                Some(rarely) = rare.next() => match rarely {
                    Rare::Stopping => return Err(Reason::StoreUnavailable.into()),
                    Rare::Displaced => return Err(Reason::Displaced.into()),
                    Rare::Revocation(from) => {
                        rare.push(next(from).boxed());
                        self.judge_subscriber()?;
                    }
                },
                request = requests.message() => match request {
                    Ok(Some(request)) => self.hear(request).await?,
                    // The device has gone, politely or not.
                    Ok(None) | Err(_) => return Ok(()),
                },
                () = mailbox.arrived() => self.open_mailbox().await?,
                _ = keep.tick(), if self.has_unkept() => self.keep_acknowledgements().await?,
                _ = watch.tick() => self.watch().await?,
            }
        }
    }

    /// What a device says.
    async fn hear(&mut self, request: wire::SubscribeRequest) -> Result<(), Refusal> {
        self.last_heard = Instant::now();
        let message = request.message.ok_or_else(|| Refusal::malformed("message"))?;
        if std::mem::take(&mut self.silent) || matches!(message, subscribe_request::Message::Heartbeat(_)) {
            self.announce();
        }
        match message {
            subscribe_request::Message::Start(_) => Err(Refusal::malformed("start")),
            subscribe_request::Message::Heartbeat(_) => Ok(()),
            subscribe_request::Message::Ack(ack) => self.acknowledge(&ack).await,
            subscribe_request::Message::ChangeGroups(change) => {
                for group in &change.drop_group_ids {
                    self.drop_group(crate::door::group_id("drop_group_ids", group)?);
                }
                self.add_groups(&change.add).await
            }
            subscribe_request::Message::RefreshToken(refresh) => {
                let token = self.delivery.verifier.verify(&refresh.access_token)?;
                let renewed = Subscriber::of(&token)?;
                if renewed.device != self.subscriber.device {
                    return Err(Reason::TokenInvalid.into());
                }
                self.subscriber.expires_at = renewed.expires_at;
                Ok(())
            }
        }
    }

    /// Tells the other replicas of this stream, until it is known that they were told. Only now that the device has answered: one that
    /// waited for this replica in vain may be on another one by now, and keeps its stream there.
    fn announce(&self) {
        if !self.mailbox.is_announced() && !self.mailbox.displaced.is_cancelled() {
            self.delivery
                .log
                .announce_stream(self.subscriber.device, self.mailbox.stream);
        }
    }

    /// Follow first, then read: what comes in between is in the mailbox, and dropped if it was read.
    async fn add_groups(&mut self, cursors: &[wire::GroupCursor]) -> Result<(), Refusal> {
        // Each once, however often it is named: where it was named last.
        let mut starts = BTreeMap::new();
        for cursor in cursors {
            let start = Start::read(cursor)?;
            starts.insert(start.group, start);
        }
        let added = starts.keys().filter(|group| !self.groups.contains_key(*group));
        let most = self.delivery.limits.groups_per_device;
        if cursors.len() > most || self.groups.len() + added.count() > most {
            return Err(Refusal::too_large("groups", most));
        }
        let starts: Vec<Start> = starts.into_values().collect();
        let mut target = self.target.take().unwrap_or_default();
        for start in &starts {
            self.drop_group(start.group);
            target.groups.remove(&start.group);
            self.delivery.fan_out.follow(&self.mailbox, start.group);
        }
        let device = self.subscriber.device;
        let verdicts = match self.delivery.start_following(device, &starts).await {
            Ok(verdicts) => verdicts,
            Err(refusal) => {
                for start in &starts {
                    self.delivery.fan_out.unfollow(&self.mailbox, start.group);
                }
                return Err(refusal);
            }
        };
        let mut ended = Vec::new();
        for (start, verdict) in starts.iter().zip(verdicts) {
            match verdict {
                Ok((followed, up_to)) => {
                    if followed.acknowledged < up_to {
                        target.groups.insert(start.group, up_to);
                    }
                    self.groups.insert(start.group, followed);
                }
                Err((reason, position)) => {
                    self.delivery.fan_out.unfollow(&self.mailbox, start.group);
                    ended.push(grpc::group_ended(start.group, reason, position));
                }
            }
        }
        for message in ended {
            self.say(message).await?;
        }
        let newest = self.delivery.log.newest_inbox(device).await?;
        target.inbox = target.inbox.max(newest);
        self.target = Some(target);
        self.judge_target().await
    }

    fn drop_group(&mut self, group: GroupId) {
        if let Some(mut followed) = self.groups.remove(&group) {
            self.window.forget(&mut followed.unacknowledged);
            self.delivery.fan_out.unfollow(&self.mailbox, group);
        }
        if let Some(target) = &mut self.target {
            target.groups.remove(&group);
        }
    }

    async fn acknowledge(&mut self, ack: &wire::Ack) -> Result<(), Refusal> {
        for cursor in &ack.groups {
            let group = crate::door::group_id("group_id", &cursor.group_id)?;
            let position = cursor.cursor.as_ref().map_or(0, |cursor| cursor.position);
            let Some(followed) = self.groups.get_mut(&group) else {
                continue;
            };
            let position = Position(position);
            if position > followed.sent {
                return Err(Refusal::malformed("position"));
            }
            if self.window.acknowledged(&mut followed.unacknowledged, position) {
                self.last_progress = Instant::now();
            }
            if position > followed.acknowledged {
                followed.acknowledged = position;
                self.unkept.insert(group, position);
            }
        }
        if self.inbox.acknowledge(ack.inbox_number)? {
            self.unkept_inbox = ack.inbox_number;
            self.last_progress = Instant::now();
        }
        self.judge_target().await
    }

    /// `CaughtUp`, once everything that was missed is acknowledged, not merely sent.
    async fn judge_target(&mut self) -> Result<(), Refusal> {
        let Some(target) = &mut self.target else {
            return Ok(());
        };
        let groups = &self.groups;
        target.groups.retain(|group, up_to| {
            groups
                .get(group)
                .is_some_and(|followed| followed.acknowledged < *up_to)
        });
        // Items that were acknowledged on an earlier stream are not there any more.
        let has_inbox = self.inbox.acknowledged >= target.inbox || self.inbox.is_empty();
        if target.groups.is_empty() && has_inbox {
            self.target = None;
            self.say(subscribe_response::Message::CaughtUp(wire::CaughtUp {}))
                .await?;
        }
        Ok(())
    }

    async fn open_mailbox(&mut self) -> Result<(), Refusal> {
        let letters = self.mailbox.take();
        if letters.missed {
            self.inbox.news = true;
            for followed in self.groups.values_mut() {
                followed.behind = true;
            }
        }
        for group in letters.other_logs {
            self.judge_again(group).await?;
        }
        for letter in letters.queue {
            match letter {
                Letter::Behind(group) => {
                    if let Some(followed) = self.groups.get_mut(&group) {
                        followed.behind = true;
                    }
                }
                Letter::Inbox => self.inbox.news = true,
                Letter::Ephemeral { group, epoch, bytes } => {
                    // From a position that the device has not reached it could not be read.
                    if self
                        .groups
                        .get(&group)
                        .is_some_and(|followed| followed.until.is_none())
                    {
                        self.say(grpc::ephemeral(group, epoch, bytes)).await?;
                    }
                }
                Letter::Entry { entry, left } => self.live(&entry, &left).await?,
            }
        }
        Ok(())
    }

    /// The next entry goes out at once; any other one says that the log has more.
    async fn live(&mut self, entry: &Entry, left: &[DeviceId]) -> Result<(), Refusal> {
        let Some(followed) = self.groups.get_mut(&entry.group) else {
            return Ok(());
        };
        followed.known = followed.known.max(entry.position);
        if left.contains(&self.subscriber.device) && entry.position > followed.sent {
            followed.until = Some(entry.position);
        }
        if entry.position <= followed.sent {
            return Ok(());
        }
        if followed.behind || entry.position != followed.sent.next() || !self.window.is_open() {
            followed.behind = true;
            return Ok(());
        }
        self.send_entry(entry).await
    }

    async fn send_entry(&mut self, entry: &Entry) -> Result<(), Refusal> {
        let Some(followed) = self.groups.get_mut(&entry.group) else {
            return Ok(());
        };
        followed.sent = entry.position;
        followed.sent_id = Some(entry.id);
        self.window
            .sent(&mut followed.unacknowledged, entry.position, entry.bytes.len());
        let last = followed.until.is_some_and(|until| entry.position >= until);
        self.say(subscribe_response::Message::Entry(grpc::entry(entry)))
            .await?;
        if last {
            self.drop_group(entry.group);
            self.say(grpc::group_ended(entry.group, Reason::NotAMember, entry.position))
                .await?;
            self.judge_target().await?;
        }
        Ok(())
    }

    fn has_unkept(&self) -> bool {
        !self.unkept.is_empty() || self.unkept_inbox > 0
    }

    async fn keep_acknowledgements(&mut self) -> Result<(), Refusal> {
        if !self.has_unkept() {
            return Ok(());
        }
        let groups = self.unkept.drain().collect();
        let inbox = std::mem::take(&mut self.unkept_inbox);
        Ok(self
            .delivery
            .log
            .acknowledge(self.subscriber.device, groups, inbox)
            .await?)
    }

    /// May the device still be told anything?
    fn judge_subscriber(&self) -> Result<(), Refusal> {
        let Subscriber {
            user,
            device,
            expires_at,
        } = &self.subscriber;
        if let Some(reason) = self.delivery.verifier.refusal_for(user, *device) {
            return Err(reason.into());
        }
        if self.delivery.clock.now() >= *expires_at {
            return Err(Reason::TokenExpired.into());
        }
        Ok(())
    }

    /// What this stream sent in vain, now that it ends, is counted. These are the entries that the device has failed on too often.
    fn count_unacknowledged(&self) -> Vec<(GroupId, Position)> {
        let count = |(group, followed): (&GroupId, &Followed)| {
            let stuck = self.delivery.stuck_entries.stream_ended(
                self.subscriber.device,
                *group,
                followed.acknowledged,
                followed.unacknowledged.first(),
            );
            stuck.map(|position| (*group, position))
        };
        self.groups.iter().filter_map(count).collect()
    }

    async fn watch(&mut self) -> Result<(), Refusal> {
        self.judge_subscriber()?;
        if self.last_heard.elapsed() > SILENCE {
            return Err(Reason::SlowReader.into());
        }
        if self.window.is_open() {
            self.last_progress = Instant::now();
        } else if self.last_progress.elapsed() > self.delivery.limits.slow_reader() {
            return Err(Reason::SlowReader.into());
        }
        if self.last_said.elapsed() >= HEARTBEAT {
            self.say(subscribe_response::Message::Heartbeat(wire::Heartbeat {}))
                .await?;
        }
        Ok(())
    }
}

/// Waits until somebody is revoked, whoever it is: is this device still welcome?
async fn next(mut from: broadcast::Receiver<Revocation>) -> Rare {
    // One that was missed is one as well.
    let _ = from.recv().await;
    Rare::Revocation(from)
}
