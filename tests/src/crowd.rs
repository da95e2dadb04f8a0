//! Devices that talk in groups, and a log book for each: what it was promised and what it was shown. At the end the log books are
//! compared with each other and with the logs.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{RwLock, RwLockWriteGuard, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use valise_client_sdk::{
    Client, Error, Event, EventKind, Group, GroupId, GroupStatus, Position, Servers, Store,
};
use valise_local_stack::{LocalStack, Replica};
use valise_proto::delivery::v1 as wire;

use crate::people::{Town, options};
use crate::positions::Positions;
use crate::raw::{Device, Door, Plan, read};
use crate::wait::{all, soon, until, within};
pub use judge::Losses;

/// How long the devices may take, after everything has healed, until all that they were asked for is done.
const LIMIT: Duration = Duration::from_secs(400);
/// How much later than others a device may hear that a group's log went back in time. What it has asked for by then may stay without an
/// answer until the log is repaired.
const LATE: Duration = Duration::from_secs(10);

/// How many there are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Devices, each of another user.
    pub devices: usize,
    /// Groups, each of some of the devices.
    pub groups: usize,
    /// Devices of a group.
    pub members: usize,
    /// A device waits up to so long between an answer and its next operation.
    pub pause: Duration,
}

/// What a device was promised and what it was shown, by group.
#[derive(Default)]
struct LogBook {
    acknowledged: BTreeMap<GroupId, Vec<(Position, String)>>,
    shown: BTreeMap<GroupId, Vec<(Position, String)>>,
    /// How many of its commits were acknowledged.
    commits: BTreeMap<GroupId, usize>,
    /// What must not happen at all, and in which group.
    troubles: Vec<(GroupId, String)>,
}

/// What all devices share.
#[derive(Default)]
struct Shared {
    /// How many messages and commits have been acknowledged.
    acknowledged: watch::Sender<usize>,
    /// Groups of which a device was told that their log went back in time, or is not what others were shown.
    alarmed: watch::Sender<BTreeSet<GroupId>>,
    /// Every operation takes part in it; who has it alone has silence.
    turns: RwLock<()>,
}

impl Shared {
    fn alarm(&self, group: GroupId) {
        self.alarmed.send_modify(|alarmed| {
            alarmed.insert(group);
        });
    }

    /// Waits until a device has had long enough for an answer about a group whose log went back in time.
    async fn unanswered(&self, group: GroupId) {
        let mut alarmed = self.alarmed.subscribe();
        // Whoever tells it is here.
        drop(alarmed.wait_for(|alarmed| alarmed.contains(&group)).await);
        tokio::time::sleep(LATE).await;
    }
}

/// A device, and its groups.
struct Member {
    groups: Vec<Group>,
    voice: Voice,
    listening: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Devices in groups, and an observer: a device without the SDK that has made all groups, and reads their logs.
pub struct Crowd {
    members: Vec<Member>,
    groups: Vec<(GroupId, BTreeSet<usize>)>,
    observer: Device,
    town: Arc<Town>,
    shared: Arc<Shared>,
}

/// How much there was, and was found right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Messages that were acknowledged; each member of the group was shown each.
    pub messages: usize,
    /// Commits that were acknowledged.
    pub commits: usize,
    /// Messages shown, on all devices.
    pub shown: usize,
    /// Entries of all logs.
    pub entries: usize,
}

/// The URLs of a stack's services for a device: everybody shares the first replicas of all but the delivery service.
pub fn servers(stack: &LocalStack, delivery: impl Into<String>) -> Servers {
    Servers::each(stack.authentication(0).url(), stack.directory(0).url(), delivery)
}

impl Crowd {
    /// Enrols the devices, spread over these URLs of delivery services, and forms the groups.
    pub async fn gather(stack: &LocalStack, delivery: &[String], size: Size) -> Self {
        let code = stack.administrator_code().expect("the stack is new");
        let town = Arc::new(Town::at(servers(stack, &delivery[0]), code, stack.domain()).await);
        let door = door(stack, 0).await;
        let observer = Device::enrol_at(door, &town.code("observer").await).await;
        let devices = (0..size.devices).map(|number| {
            let servers = servers(stack, &delivery[number % delivery.len()]);
            let town = Arc::clone(&town);
            async move {
                let name = format!("user{number}");
                town.device_at(servers, &name, Store::memory(), options(size.groups))
                    .await
            }
        });
        let devices: Vec<Client> = all(devices).await;
        let groups = form_groups(&observer, &devices, size).await;
        let shared = Arc::new(Shared::default());
        let members = devices.into_iter().enumerate().map(|(number, device)| {
            let own = groups.iter().filter(|(_, members)| members.contains(&number));
            let own: Vec<GroupId> = own.map(|(group, _)| *group).collect();
            Member::begin(device, own, &shared)
        });
        Self {
            members: futures::future::join_all(members).await,
            groups,
            observer,
            town,
            shared,
        }
    }

    /// Has every device send, and now and then commit, until that is stopped.
    pub fn talk(&self, seed: u64, pause: Duration) -> Talk {
        let stop = Arc::new(AtomicBool::new(false));
        let talking = self.members.iter().enumerate().map(|(number, member)| {
            let random = StdRng::seed_from_u64(seed.wrapping_mul(1000) + number as u64);
            let (voice, groups) = (member.voice.clone(), member.groups.clone());
            tokio::spawn(voice.talk(groups, random, pause, Arc::clone(&stop)))
        });
        Talk {
            talking: talking.collect(),
            stop,
        }
    }

    /// Has every device say one more thing in each of its groups. Returns when all have their answers.
    pub async fn speak(&self) {
        let speaking = self.members.iter().flat_map(|member| {
            member.groups.iter().map(move |group| {
                let text = format!("{} at last", member.voice.device);
                member.voice.say(group, Some(text))
            })
        });
        within(LIMIT, futures::future::join_all(speaking)).await;
    }

    /// Whoever talks is still as long as the guard lives, and has all answers by now.
    pub async fn silence(&self) -> RwLockWriteGuard<'_, ()> {
        soon(self.shared.turns.write()).await
    }

    /// How many messages and commits have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        *self.shared.acknowledged.borrow()
    }

    /// Waits until so many more messages and commits are acknowledged.
    pub async fn acknowledges(&self, more: usize) {
        let enough = self.acknowledged() + more;
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let reached = acknowledged.wait_for(|acknowledged| *acknowledged >= enough);
        soon(reached).await.expect("whoever counts is here");
    }

    /// How many messages were acknowledged after these positions.
    pub fn acknowledged_after(&self, positions: &Positions) -> usize {
        let books = self.members.iter().map(|member| member.voice.log_book.lock());
        books
            .map(|book| {
                let acknowledged = book.acknowledged.iter();
                let after = acknowledged.filter_map(|(group, all)| {
                    let last = positions.get(group)?;
                    Some(all.iter().filter(|(position, _)| position > last).count())
                });
                after.sum::<usize>()
            })
            .sum()
    }

    /// Groups of which a device was told that their log went back in time, or is not what others were shown.
    pub fn alarmed(&self) -> BTreeSet<GroupId> {
        self.shared.alarmed.borrow().clone()
    }

    /// What the devices have reported, beside messages and members.
    pub fn troubles(&self) -> Vec<String> {
        let books = self.members.iter().map(|member| member.voice.log_book.lock());
        let troubles = books.flat_map(|book| book.troubles.clone());
        troubles.map(|(_, trouble)| trouble).collect()
    }

    /// What was reported so far was meant to happen.
    pub fn forgive(&self) {
        for member in &self.members {
            member.voice.log_book.lock().troubles.clear();
        }
        self.shared.alarmed.send_replace(BTreeSet::new());
    }

    /// Where its devices are enrolled.
    pub fn town(&self) -> &Town {
        &self.town
    }

    /// The administrator's device.
    pub fn administrator(&self) -> &Client {
        self.town.administrator()
    }

    /// The device that has made all groups.
    pub fn observer(&self) -> &Device {
        &self.observer
    }

    /// The groups of a device.
    pub fn groups_of(&self, member: usize) -> &[Group] {
        &self.members[member].groups
    }
}

impl Member {
    /// Waits until the device is in all of its groups, and reads from then on.
    async fn begin(device: Client, own: Vec<GroupId>, shared: &Arc<Shared>) -> Self {
        let mut groups = Vec::new();
        for id in own {
            groups.push(
                until("a device is in its group", async || {
                    let group = device.group(id).await.unwrap()?;
                    let state = group.info().await.unwrap();
                    assert_ne!(state.status, GroupStatus::WelcomeUnusable);
                    (state.members > 0).then_some(group)
                })
                .await,
            );
        }
        let device = Arc::new(device);
        let voice = Voice {
            device: device.device().to_string(),
            log_book: Arc::default(),
            shared: Arc::clone(shared),
        };
        let listening = tokio::spawn(voice.clone().listen(Arc::clone(&device)));
        Self {
            groups,
            voice,
            listening,
        }
    }

    /// What must not have happened in this group.
    fn troubles_in(&self, group: GroupId) -> Vec<String> {
        let book = self.voice.log_book.lock();
        let troubles = book.troubles.iter().filter(|(of, _)| *of == group);
        troubles.map(|(_, trouble)| trouble.clone()).collect()
    }
}

/// Asks for what a device says, and keeps its log book.
#[derive(Clone)]
struct Voice {
    /// All that it says begins with it.
    device: String,
    log_book: Arc<Mutex<LogBook>>,
    shared: Arc<Shared>,
}

impl Voice {
    /// Sends and commits until it is told to stop. A group in which that does not go on is left alone.
    async fn talk(self, mut groups: Vec<Group>, mut random: StdRng, pause: Duration, stop: Arc<AtomicBool>) {
        let pause = pause.as_millis() as u64;
        for number in 0_u32.. {
            if stop.load(Ordering::Relaxed) || groups.is_empty() {
                return;
            }
            let chosen = random.random_range(0..groups.len());
            let commits = random.random_range(0..8) == 0;
            let text = (!commits).then(|| format!("{} {number}", self.device));
            if !self.say(&groups[chosen], text).await {
                groups.remove(chosen);
            }
            let pause = random.random_range(pause / 4..=pause);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Sends that text; without one, commits. Writes down what becomes of it, and says whether it was acknowledged.
    async fn say(&self, group: &Group, text: Option<String>) -> bool {
        let _turn = self.shared.turns.read().await;
        let trouble = tokio::select! {
            biased;
            outcome = self.ask(group, text) => outcome.err().map(|error| format!("{error:?}")),
            () = self.shared.unanswered(group.id()) => Some("others were told that the log is another one".to_owned()),
        };
        match trouble {
            Some(trouble) => {
                self.trouble(group.id(), &trouble);
                false
            }
            None => {
                self.shared
                    .acknowledged
                    .send_modify(|acknowledged| *acknowledged += 1);
                true
            }
        }
    }

    async fn ask(&self, group: &Group, text: Option<String>) -> Result<(), Error> {
        let Some(text) = text else {
            group.self_update().await?;
            *self.log_book.lock().commits.entry(group.id()).or_default() += 1;
            return Ok(());
        };
        let sent = group.send(text.as_str()).await?;
        let mut book = self.log_book.lock();
        let acknowledged = book.acknowledged.entry(group.id()).or_default();
        acknowledged.push((sent.position, text));
        Ok(())
    }

    /// Writes down what the device is shown, and confirms it then.
    async fn listen(self, device: Arc<Client>) {
        let mut events = device.events();
        while let Some(event) = events.next().await {
            self.note(&event);
            if let Err(error) = device.confirm(event.id).await {
                self.trouble(event.group, &format!("{error:?}"));
            }
        }
    }

    fn trouble(&self, group: GroupId, trouble: &str) {
        let trouble = format!("{}: {trouble}", self.device);
        self.log_book.lock().troubles.push((group, trouble));
    }

    fn note(&self, event: &Event) {
        match &event.kind {
            EventKind::Message { content, sender } => {
                let text = content.as_text().unwrap_or_default().to_owned();
                if !text.starts_with(&sender.device.to_string()) {
                    self.trouble(event.group, &format!("{text:?} from {sender:?}"));
                }
                let mut book = self.log_book.lock();
                let shown = book.shown.entry(event.group).or_default();
                shown.push((event.position, text));
            }
            EventKind::LogRegressed { .. } | EventKind::DeliveryForked { .. } => {
                self.trouble(event.group, &format!("{event:?}"));
                self.shared.alarm(event.group);
            }
            EventKind::HeldByBadCommit { .. }
            | EventKind::Quarantined { .. }
            | EventKind::WrongGroupInfo { .. }
            | EventKind::Rejoining
            | EventKind::Lost
            | EventKind::Unreadable { .. }
            | EventKind::OperationFailed { .. }
            | EventKind::WelcomeUnusable { .. }
            | EventKind::Removed { .. } => self.trouble(event.group, &format!("{event:?}")),
            _ => {}
        }
    }
}

/// Devices that are talking.
pub struct Talk {
    talking: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Talk {
    /// Returns when each has its last answer.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for device in self.talking {
            within(LIMIT, device).await.unwrap();
        }
    }
}

/// A stack's services, with that replica of the delivery service; without a token.
pub async fn door(stack: &LocalStack, delivery: usize) -> Door {
    Door::each(
        connect(stack.authentication(0)).await,
        connect(stack.directory(0)).await,
        connect(stack.delivery(delivery)).await,
    )
}

/// A connection to a replica, which is made anew when it was lost.
async fn connect(replica: &Replica) -> Channel {
    let endpoint = Endpoint::from_shared(replica.url()).unwrap();
    soon(endpoint.tcp_nodelay(true).connect()).await.unwrap()
}

/// The observer makes each group: it never speaks.
async fn form_groups(observer: &Device, devices: &[Client], size: Size) -> Vec<(GroupId, BTreeSet<usize>)> {
    let mut groups = Vec::new();
    for number in 0..size.groups {
        let members: BTreeSet<usize> = (0..size.members)
            .map(|step| (number + step * (1 + number % 3)) % devices.len())
            .collect();
        let users = members.iter().map(|member| devices[*member].user().to_string());
        let packages = observer.claim(users.collect()).await;
        assert_eq!(packages.len(), members.len());
        let mut group = observer.new_group();
        observer.register(&group).await.unwrap();
        let bundle = observer.commit(&mut group, Plan::add(packages));
        observer.submit(&bundle).await.unwrap();
        groups.push((group.group_id().as_slice().try_into().unwrap(), members));
    }
    groups
}

/// A log from its beginning to its end. A store that has just healed may need a moment.
pub async fn read_log(door: &Door, group: GroupId) -> Vec<wire::Entry> {
    let mut entries: Vec<wire::Entry> = Vec::new();
    loop {
        let from = entries.last().map_or(0, |entry| entry.position);
        let page = until("a page of the log", async || {
            read(door, group.as_bytes(), from, 1000).await.ok()
        });
        let page = page.await;
        if page.entries.is_empty() {
            return entries;
        }
        entries.extend(page.entries);
    }
}
