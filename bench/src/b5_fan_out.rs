//! B5: messages of one group to a thousand devices that listen, against `PUBLISH` of Redis and against NATS with as many
//! subscribers.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::group::Member;
use crate::raw::Device;
use crate::report::{Goal, Line, Side, Spread};
use crate::server::Used;
use crate::stream::Stream;
use crate::subscribers::{Count, Kind, Nats, Subscribers};
use crate::{Bench, Result};

/// Devices of the group.
const DEVICES: usize = 1000;
/// Messages in one round.
const MESSAGES: usize = 100;
/// And for the references, which are faster.
const PUBLISHED: usize = 400;
/// Messages under way at the same time.
const AT_ONCE: usize = 32;
/// A device acknowledges so many entries at once.
const ACKNOWLEDGED: usize = 10;
/// Streams that are opened at the same time.
const OPENING: usize = 20;

/// A group all of whose devices listen.
struct Live {
    sender: Device,
    member: Member,
    devices: usize,
    arrived: Count,
    rates: Vec<f64>,
    /// Of each delivery.
    used: Vec<Used>,
    /// They end with it.
    _listening: JoinSet<()>,
}

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let port = bench.server.redis()?.port();
    let mut live = Live::open(bench).await?;
    let mut redis = Subscribers::open(Kind::Redis, port, live.devices).await?;
    let nats_server = Nats::start().await?;
    let mut nats = match &nats_server {
        Some(server) => Some(Subscribers::open(Kind::Nats, server.port.number(), live.devices).await?),
        None => None,
    };
    let (mut of_redis, mut of_nats) = (Vec::new(), Vec::new());
    for round in 0..=bench.args.rounds {
        live.sender.renew().await?;
        bench.server.settle().await;
        live.round(bench).await?;
        bench.server.settle().await;
        let message = live.member.encrypt(&live.sender.identity)?;
        of_redis.push(redis.rate(&message, bench.args.times(PUBLISHED)).await?);
        if let Some(nats) = &mut nats {
            of_nats.push(nats.rate(&message, bench.args.times(PUBLISHED)).await?);
        }
        // The first warms up.
        if round == 0 {
            live.rates.clear();
            live.used.clear();
            of_redis.clear();
            of_nats.clear();
        }
    }
    let mut lines = live.lines(of_redis, of_nats);
    if nats.is_none()
        && let Some(line) = lines.pop()
    {
        let note = format!("{} is not on this machine: not compared with it", Nats::PROGRAM);
        lines.push(line.note(note));
    }
    Ok(lines)
}

impl Live {
    async fn open(bench: &mut Bench) -> Result<Self> {
        let size = DEVICES.min(bench.args.max_members as usize);
        let mut devices = bench.administrator.devices(&bench.server, size).await?;
        let mut sender = devices.pop().ok_or("no devices")?;
        let others: Vec<_> = devices.iter().map(|device| &device.identity).collect();
        let member = Member::create_with(&mut sender, &others).await?;
        let group: Arc<[u8]> = member.mls.group_id().as_slice().into();
        let arrived = Count::default();
        let (mut opening, mut streams) = (JoinSet::new(), Vec::new());
        for mut device in devices {
            if opening.len() == OPENING
                && let Some(stream) = opening.join_next().await
            {
                streams.push(stream??);
            }
            let (group, position) = (Arc::clone(&group), member.position);
            opening.spawn(async move {
                device.renew().await?;
                Stream::open(&device, &group, position).await
            });
        }
        while let Some(stream) = opening.join_next().await {
            streams.push(stream??);
        }
        streams.push(Stream::open(&sender, &group, member.position).await?);
        let mut listening = JoinSet::new();
        for stream in streams {
            let arrived = arrived.clone();
            listening.spawn(async move {
                // An error shows in that not all arrives.
                let _ = listen(stream, &arrived).await;
            });
        }
        Ok(Self {
            sender,
            member,
            devices: size,
            arrived,
            rates: Vec::new(),
            used: Vec::new(),
            _listening: listening,
        })
    }

    async fn round(&mut self, bench: &Bench) -> Result<()> {
        let messages = bench.args.times(MESSAGES);
        let outbox = self.member.encrypt_many(&self.sender.identity, messages)?;
        let (before, total) = (self.arrived.now(), messages * self.devices);
        let used = bench.server.used().await;
        let began = Instant::now();
        self.send(outbox).await?;
        self.arrived.reaches(before + total).await?;
        self.rates.push(total as f64 / began.elapsed().as_secs_f64());
        self.used
            .push(bench.server.used().await.since(used, total as f64));
        Ok(())
    }

    async fn send(&self, outbox: Vec<Bytes>) -> Result<()> {
        let mut sending = JoinSet::new();
        for message in outbox {
            if sending.len() == AT_ONCE
                && let Some(sent) = sending.join_next().await
            {
                sent??;
            }
            sending.spawn(self.sender.send(message));
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        Ok(())
    }

    fn lines(&self, of_redis: Vec<f64>, of_nats: Vec<f64>) -> Vec<Line> {
        let devices = self.devices;
        let what = format!("deliveries of 1 KiB to {devices} devices of one group");
        let side = || Side::new("deliveries", "1/s", self.rates.clone());
        let median = |part: fn(&Used) -> f64| Spread::of(self.used.iter().map(part).collect()).median;
        let note = format!(
            "processor time a delivery: service {:.1} us, Redis {:.1} us, load generator {:.1} us",
            median(|used| used.service),
            median(|used| used.redis),
            median(|used| used.own),
        );
        let redis = Side::new(
            format!("PUBLISH of Redis to {devices} subscribers"),
            "1/s",
            of_redis,
        );
        let mut lines = vec![Line::ratio("B5", what.clone(), side(), redis, Goal::AtLeast(0.5)).note(note)];
        if !of_nats.is_empty() {
            let nats = Side::new(format!("NATS to {devices} subscribers"), "1/s", of_nats);
            lines.push(Line::ratio("B5", what.clone(), side(), nats, Goal::AtLeast(0.5)));
        }
        let service = self.used.iter().map(|used| used.service).collect();
        let what = format!("processor time of the service for one of the {what}");
        let value = Side::new("processor time a delivery", "us", service);
        lines.push(Line::value("B5", what, value, Goal::AtMost(20.0)));
        lines
    }
}

/// Takes what comes, and acknowledges it now and then.
async fn listen(mut stream: Stream, arrived: &Count) -> Result<()> {
    let mut unacknowledged = 0;
    loop {
        let (_, position) = stream.next_entry().await?;
        arrived.add(1);
        unacknowledged += 1;
        if unacknowledged == ACKNOWLEDGED {
            unacknowledged = 0;
            stream.acknowledge(position).await?;
        }
    }
}
