//! B12: a group of 1,000 devices is made and its first message sent, with the SDK on all sides, from the call to the last device
//! having joined and read it; against openmls alone doing the same MLS work on as many threads as there are cores.

use std::sync::Mutex;
use std::time::Instant;

use tokio::task::JoinSet;
use valise_client_sdk::{Client, EventKind, Events, Group, KeyPackageOptions, Options, Store, UserId};

use crate::alone::Alone;
use crate::group::Joiner;
use crate::raw::Identity;
use crate::report::{Goal, Line, Side};
use crate::{Bench, Result, machine};

/// The largest group that is made; less where `--max-members` says so.
const MEMBERS: usize = 1000;
/// A round takes a minute or more, and each costs everybody a key package.
const MOST_ROUNDS: u32 = 3;
/// Enrolments at once.
const AT_ONCE: usize = 16;

/// A device that waits to be added.
struct Waiting {
    client: Client,
    events: Events,
}

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let members = MEMBERS.min(bench.args.max_members as usize);
    let rounds = bench.args.rounds.min(MOST_ROUNDS);
    let mut waiting = enrol(bench, members - 1, rounds as usize + 1).await?;
    let creator = enrol(bench, 1, 1).await?.swap_remove(0).client;
    let users: Vec<UserId> = waiting
        .iter()
        .map(|device| device.client.user().clone())
        .collect();
    let identities = bench.administrator.identities(members).await?;

    let (mut ours, mut alone, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        bench.server.settle().await;
        let before = bench.server.used().await;
        let (took, group, members) = made(&creator, &users, waiting, &format!("round {round}")).await?;
        let used = bench.server.used().await.since(before, 1.0);
        // A group of a thousand takes memory on each of them, and time to leave.
        waiting = if round + 1 < rounds {
            left(&group, &users, members).await?
        } else {
            for device in members {
                device.client.close().await;
            }
            Vec::new()
        };
        cpu.push(used.own / 1e6);
        ours.push(took);
        bench.server.settle().await;
        alone.push(reference(&identities)?);
    }
    let note = format!(
        "processor time of all {members} devices until then: {:.1} s in the last round, on {} cores",
        cpu.last().copied().unwrap_or_default(),
        machine::cores()
    );
    let what = format!("a group of {members} is made, and its first message read by all");
    let valise = Side::new("create_group, add, send; until the last has read it", "s", ours);
    let reference = Side::new("the same MLS work by openmls, all cores", "s", alone);
    let line = Line::ratio("B12", what, valise, reference, Goal::AtMost(1.5)).note(note);
    Ok(vec![line])
}

/// So many devices with that many key packages each.
async fn enrol(bench: &mut Bench, count: usize, one_time: usize) -> Result<Vec<Waiting>> {
    let servers = bench.server.client_urls();
    let mut devices = Vec::with_capacity(count);
    let mut enrolling = JoinSet::new();
    for _ in 0..count {
        if enrolling.len() == AT_ONCE
            && let Some(device) = enrolling.join_next().await
        {
            devices.push(device??);
        }
        let (_, code) = bench.administrator.code().await?;
        let servers = servers.clone();
        enrolling.spawn(async move {
            let mut options = Options::default();
            options.history = false;
            options.key_packages = KeyPackageOptions {
                one_time,
                ..KeyPackageOptions::default()
            };
            let client = Client::enrol_with(servers, &code, "", Store::memory(), options).await?;
            Result::Ok(Waiting {
                events: client.events(),
                client,
            })
        });
    }
    while let Some(device) = enrolling.join_next().await {
        devices.push(device??);
    }
    Ok(devices)
}

/// Seconds until the last device has read the first message.
async fn made(
    creator: &Client,
    users: &[UserId],
    waiting: Vec<Waiting>,
    text: &str,
) -> Result<(f64, Group, Vec<Waiting>)> {
    let mut reading = JoinSet::new();
    for mut device in waiting {
        let text = text.to_owned();
        reading.spawn(async move {
            let is_it = |kind: &EventKind| {
                matches!(kind, EventKind::Message { content, .. } if content.as_text() == Some(&*text))
            };
            until(&mut device, is_it).await?;
            Result::Ok((Instant::now(), device))
        });
    }
    let began = Instant::now();
    let group = creator.create_group("").await?;
    let added = group.add(users).await?;
    if let Some((_, _, failure)) = added.failed.first() {
        return Err(format!("not added: {failure:?}").into());
    }
    group.send(text).await?;
    let (mut last, mut back) = (began, Vec::new());
    while let Some(read) = reading.join_next().await {
        let (at, device) = read??;
        last = last.max(at);
        back.push(device);
    }
    Ok(((last - began).as_secs_f64(), group, back))
}

/// All that were added are out again.
async fn left(group: &Group, users: &[UserId], members: Vec<Waiting>) -> Result<Vec<Waiting>> {
    group.remove(users).await?;
    let mut leaving = JoinSet::new();
    for mut device in members {
        leaving.spawn(async move {
            until(&mut device, |kind| matches!(kind, EventKind::Removed { .. })).await?;
            Result::Ok(device)
        });
    }
    let mut back = Vec::new();
    while let Some(left) = leaving.join_next().await {
        back.push(left??);
    }
    Ok(back)
}

async fn until(device: &mut Waiting, wanted: impl Fn(&EventKind) -> bool) -> Result<()> {
    loop {
        let event = device.events.next().await.ok_or("a device has ended")?;
        if wanted(&event.kind) {
            return Ok(device.client.confirm(event.id).await?);
        }
    }
}

/// Seconds.
fn reference(identities: &[Identity]) -> Result<f64> {
    let (creator, others) = identities.split_first().ok_or("nobody")?;
    let joiners: Vec<_> = others.iter().map(Joiner::new).collect::<Result<_>>()?;
    let began = Instant::now();
    let script = Alone::make(creator, &joiners)?;
    let queue = Mutex::new(joiners.into_iter().enumerate());
    let work = || -> Result<()> {
        loop {
            let next = queue.lock().map_err(|_| "a thread panicked")?.next();
            let Some((number, joiner)) = next else {
                return Ok(());
            };
            script.follow(number, joiner)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..machine::cores()).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })?;
    Ok(began.elapsed().as_secs_f64())
}
