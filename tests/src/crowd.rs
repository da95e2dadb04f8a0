//! Devices that talk in groups, and a log book for each: what it was promised and what it was shown. At the end the log books are
//! compared with each other and with the logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use valise_client_sdk::{
    Client, Error, Event, EventKind, Group, GroupId, GroupStatus, Position, Servers, Store,
};
use valise_local_stack::{LocalStack, Replica};
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::EntryKind;

use crate::people::{Town, options};
use crate::raw::{Device, Door, Plan, read};
use crate::wait::{all, soon, until, within};

/// How long the devices may take, after everything has healed, until all that they were asked for is done.
const LIMIT: Duration = Duration::from_secs(400);

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
    commits: usize,
    /// What must not happen at all.
    troubles: Vec<String>,
}

/// A device, and its groups.
struct Member {
    device: Arc<Client>,
    groups: Vec<Group>,
    log_book: Arc<Mutex<LogBook>>,
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
        let members = devices.into_iter().enumerate().map(|(number, device)| {
            let own = groups.iter().filter(|(_, members)| members.contains(&number));
            let own: Vec<GroupId> = own.map(|(group, _)| *group).collect();
            Member::begin(device, own)
        });
        Self {
            members: futures::future::join_all(members).await,
            groups,
            observer,
            town,
        }
    }

    /// Has every device send, and now and then commit, until that is stopped.
    pub fn talk(&self, seed: u64, pause: Duration) -> Talk {
        let stop = Arc::new(AtomicBool::new(false));
        let talking = self.members.iter().enumerate().map(|(number, member)| {
            let random = StdRng::seed_from_u64(seed.wrapping_mul(1000) + number as u64);
            let (groups, log_book) = (member.groups.clone(), Arc::clone(&member.log_book));
            let device = member.device.device().to_string();
            tokio::spawn(talk(device, groups, random, pause, log_book, Arc::clone(&stop)))
        });
        Talk {
            talking: talking.collect(),
            stop,
        }
    }

    /// How many messages and commits have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        let books = self.members.iter().map(|member| member.log_book.lock());
        books
            .map(|book| book.commits + book.acknowledged.values().map(Vec::len).sum::<usize>())
            .sum()
    }

    /// Compares the log books with each other and with the logs, once all talk has stopped: every device was shown exactly what
    /// was acknowledged, in the order of the log, each once; a log has no gap, and one commit for each epoch.
    pub async fn judge(&self, stack: &LocalStack) -> Tally {
        let door = door(stack, 0).await;
        let token = until("a token for the observer", async || {
            self.observer.new_token_at(&door).await.ok()
        });
        let door = door.with_token(&token.await);
        let mut tally = Tally::default();
        for (group, members) in &self.groups {
            self.judge_group(&door, *group, members, &mut tally).await;
        }
        for member in &self.members {
            let book = member.log_book.lock();
            assert!(book.troubles.is_empty(), "{:?}", book.troubles);
            tally.commits += book.commits;
        }
        // Besides them, each group began with the one that added its members.
        let expected = tally.messages + tally.commits + self.groups.len();
        assert!(tally.entries >= expected, "{tally:?}");
        tally
    }

    async fn judge_group(&self, door: &Door, group: GroupId, members: &BTreeSet<usize>, tally: &mut Tally) {
        let promised: BTreeMap<Position, String> = members
            .iter()
            .flat_map(|member| {
                let book = self.members[*member].log_book.lock();
                book.acknowledged.get(&group).cloned().unwrap_or_default()
            })
            .collect();
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

        let promised: Vec<(Position, String)> = promised.into_iter().collect();
        let mut authenticators = BTreeSet::new();
        for member in members {
            let Member { groups, log_book, .. } = &self.members[*member];
            let own = groups.iter().find(|own| own.id() == group).unwrap();
            let state = until("a device has applied all entries", async || {
                let state = own.info().await.unwrap();
                let reached = state.position.0 >= log.len() as u64 || !log_book.lock().troubles.is_empty();
                reached.then_some(state)
            })
            .await;
            assert!(
                log_book.lock().troubles.is_empty(),
                "{:?}",
                log_book.lock().troubles
            );
            assert_eq!(state.epoch.0, last, "all commits, and no others");
            authenticators.insert(state.epoch_authenticator);
            let shown = until("a device has shown all messages", async || {
                let book = log_book.lock();
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
        tally.entries += log.len();
    }

    /// What the devices have reported, beside messages and members.
    pub fn troubles(&self) -> Vec<String> {
        let books = self.members.iter().map(|member| member.log_book.lock());
        books.flat_map(|book| book.troubles.clone()).collect()
    }

    /// What was reported so far was meant to happen.
    pub fn forgive(&self) {
        for member in &self.members {
            member.log_book.lock().troubles.clear();
        }
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
    async fn begin(device: Client, own: Vec<GroupId>) -> Self {
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
        let (device, log_book) = (Arc::new(device), Arc::default());
        let listening = tokio::spawn(listen(Arc::clone(&device), Arc::clone(&log_book)));
        Self {
            device,
            groups,
            log_book,
            listening,
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

/// Sends and commits until it is told to stop, and writes down what was acknowledged.
async fn talk(
    device: String,
    groups: Vec<Group>,
    mut random: StdRng,
    pause: Duration,
    log_book: Arc<Mutex<LogBook>>,
    stop: Arc<AtomicBool>,
) {
    let pause = pause.as_millis() as u64;
    for number in 0_u32.. {
        if stop.load(Ordering::Relaxed) || groups.is_empty() {
            return;
        }
        let group = &groups[random.random_range(0..groups.len())];
        let outcome: Result<(), Error> = if random.random_range(0..8) == 0 {
            let updated = group.self_update().await;
            log_book.lock().commits += usize::from(updated.is_ok());
            updated
        } else {
            let text = format!("{device} {number}");
            group.send(text.as_str()).await.map(|sent| {
                let mut book = log_book.lock();
                let acknowledged = book.acknowledged.entry(group.id()).or_default();
                acknowledged.push((sent.position, text));
            })
        };
        if let Err(error) = outcome {
            log_book.lock().troubles.push(format!("{device}: {error:?}"));
            return;
        }
        let pause = random.random_range(pause / 4..=pause);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// Writes down what the device is shown, and confirms it then.
async fn listen(device: Arc<Client>, log_book: Arc<Mutex<LogBook>>) {
    let mut events = device.events();
    while let Some(event) = events.next().await {
        note(&event, &mut log_book.lock());
        if let Err(error) = device.confirm(event.id).await {
            log_book.lock().troubles.push(format!("{error:?}"));
        }
    }
}

fn note(event: &Event, book: &mut LogBook) {
    match &event.kind {
        EventKind::Message { content, sender } => {
            let text = content.as_text().unwrap_or_default().to_owned();
            if !text.starts_with(&sender.device.to_string()) {
                book.troubles.push(format!("{text:?} from {sender:?}"));
            }
            let shown = book.shown.entry(event.group).or_default();
            shown.push((event.position, text));
        }
        EventKind::HeldByBadCommit { .. }
        | EventKind::Quarantined { .. }
        | EventKind::LogRegressed { .. }
        | EventKind::DeliveryForked { .. }
        | EventKind::WrongGroupInfo { .. }
        | EventKind::Rejoining
        | EventKind::Lost
        | EventKind::Unreadable { .. }
        | EventKind::OperationFailed { .. }
        | EventKind::WelcomeUnusable { .. }
        | EventKind::Removed { .. } => book.troubles.push(format!("{event:?}")),
        _ => {}
    }
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
