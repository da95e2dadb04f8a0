//! B2: durable sends of 50 devices at once, against inserts into the same table, one transaction each.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::group::{Joiner, Member};
use crate::raw::Device;
use crate::reference::Table;
use crate::report::{Goal, Line, Side, Spread};
use crate::{Bench, Result, machine};

const DEVICES: usize = 50;
/// Of one device in one round.
const SENDS: usize = 100;
const INSERTS: usize = 1000;
/// Where the disk takes longer for an fsync, in milliseconds, grouping sends pays more.
const SLOW_DISK: f64 = 1.0;

/// Devices that send, each with its own group state.
struct Senders {
    what: &'static str,
    devices: Vec<Arc<Device>>,
    members: Vec<Member>,
    rates: Vec<f64>,
    server_micros: Vec<f64>,
    own_micros: Vec<f64>,
}

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut one = one_group(bench).await?;
    let mut many = many_groups(bench).await?;
    let mut table = Table::create(&bench.data.path().join("b2.db"))?;
    let mut reference = Vec::new();
    let mut fsync = Vec::new();
    for round in 0..=bench.args.rounds {
        one.round(bench).await?;
        let message = one.members[0].encrypt(&one.devices[0].identity)?;
        reference.push(inserts(&mut table, &message, bench.args.times(INSERTS))?);
        many.round(bench).await?;
        let disk = machine::Disk::measure(bench.data.path())?;
        fsync.push(disk.growing_p50);
        if round == 0 {
            // Not counted: files grow to their size, statements and caches get warm.
            for rates in [&mut one.rates, &mut many.rates, &mut reference, &mut fsync] {
                rates.clear();
            }
        }
    }
    let fsync = Spread::of(fsync);
    // The disk's own time: other programs on the machine only add to it.
    let goal = if fsync.min >= SLOW_DISK { 5.0 } else { 2.0 };
    let line = |senders: Senders| {
        let reference = Side::new(
            "inserts into the same table, one transaction each",
            "1/s",
            reference.clone(),
        );
        let note = format!(
            "processor time a send: server {:.0} us, load generator {:.0} us; fsync beside it {:.2} ms ({:.2} to {:.2})",
            Spread::of(senders.server_micros).median,
            Spread::of(senders.own_micros).median,
            fsync.median,
            fsync.min,
            fsync.max,
        );
        let valise = Side::new("sends, accepted and durable", "1/s", senders.rates);
        Line::ratio("B2", senders.what, valise, reference, Goal::AtLeast(goal)).note(note)
    };
    Ok(vec![line(one), line(many)])
}

async fn one_group(bench: &mut Bench) -> Result<Senders> {
    let devices = bench.administrator.devices(&bench.server, DEVICES).await?;
    let (first, others) = devices.split_first().ok_or("no devices")?;
    let mut member = Member::create(first).await?;
    let joiners = others
        .iter()
        .map(|device| Joiner::new(&device.identity))
        .collect::<Result<Vec<_>>>()?;
    let added = member.add(first, &joiners).await?;
    let mut members = vec![member];
    for joiner in joiners {
        members.push(joiner.join(&added)?);
    }
    Ok(Senders::new(
        "durable sends, 1 KiB, 50 devices in one group",
        devices,
        members,
    ))
}

async fn many_groups(bench: &mut Bench) -> Result<Senders> {
    let devices = bench.administrator.devices(&bench.server, DEVICES).await?;
    let mut members = Vec::new();
    for device in &devices {
        members.push(Member::create(device).await?);
    }
    Ok(Senders::new(
        "durable sends, 1 KiB, 50 devices, each in a group of its own",
        devices,
        members,
    ))
}

impl Senders {
    fn new(what: &'static str, devices: Vec<Device>, members: Vec<Member>) -> Self {
        let devices = devices.into_iter().map(Arc::new).collect();
        Self {
            what,
            devices,
            members,
            rates: Vec::new(),
            server_micros: Vec::new(),
            own_micros: Vec::new(),
        }
    }

    async fn round(&mut self, bench: &Bench) -> Result<()> {
        for device in &mut self.devices {
            Arc::get_mut(device)
                .ok_or("a device is still sending")?
                .renew()
                .await?;
        }
        let sends = bench.args.times(SENDS);
        let mut outbox = Vec::new();
        for (device, member) in self.devices.iter().zip(&mut self.members) {
            outbox.push((Arc::clone(device), member.encrypt_many(&device.identity, sends)?));
        }
        let total = (sends * outbox.len()) as f64;
        let own = std::process::id();
        let (server_before, own_before) = (bench.server.processor_micros(), machine::processor_micros(own));
        let seconds = send_all(outbox).await?;
        self.rates.push(total / seconds);
        self.server_micros
            .push((bench.server.processor_micros() - server_before) / total);
        self.own_micros
            .push((machine::processor_micros(own) - own_before) / total);
        Ok(())
    }
}

/// All devices at once, each one message after the other.
async fn send_all(outbox: Vec<(Arc<Device>, Vec<Bytes>)>) -> Result<f64> {
    let began = Instant::now();
    let mut sending = JoinSet::new();
    for (device, messages) in outbox {
        sending.spawn(async move {
            for message in messages {
                device.send(message).await?;
            }
            Result::Ok(())
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok(began.elapsed().as_secs_f64())
}

fn inserts(table: &mut Table, message: &[u8], count: usize) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..count {
        table.insert(message)?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
