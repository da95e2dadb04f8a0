//! Devices that send at the same time, as B1, B2, B11 and B14 want them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::Result;
use crate::group::{Joiner, Member};
use crate::raw::{Administrator, Device};
use crate::report::{Side, Spread};
use crate::server::{Server, Used};

/// How many.
pub(crate) const DEVICES: usize = 50;
/// Of one device in one round.
pub(crate) const SENDS: usize = 100;

/// Devices, each with its own group state.
pub(crate) struct Senders {
    pub(crate) what: &'static str,
    devices: Vec<Arc<Device>>,
    members: Vec<Member>,
    pub(crate) rates: Vec<f64>,
    /// Of each send.
    pub(crate) used: Vec<Used>,
}

impl Senders {
    /// All in the same group.
    pub(crate) async fn one_group(administrator: &mut Administrator, server: &Server) -> Result<Self> {
        let devices = administrator.devices(server, DEVICES).await?;
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
        Ok(Self::new("50 devices in one group", devices, members))
    }

    /// Each in one of its own.
    pub(crate) async fn many_groups(administrator: &mut Administrator, server: &Server) -> Result<Self> {
        let devices = administrator.devices(server, DEVICES).await?;
        let mut members = Vec::new();
        for device in &devices {
            members.push(Member::create(device).await?);
        }
        Ok(Self::new(
            "50 devices, each in a group of its own",
            devices,
            members,
        ))
    }

    fn new(what: &'static str, devices: Vec<Device>, members: Vec<Member>) -> Self {
        let devices = devices.into_iter().map(Arc::new).collect();
        Self {
            what,
            devices,
            members,
            rates: Vec::new(),
            used: Vec::new(),
        }
    }

    /// One of their messages, for a reference.
    pub(crate) fn message(&mut self) -> Result<Bytes> {
        let device = self.devices.first().ok_or("no devices")?;
        let member = self.members.first_mut().ok_or("no members")?;
        member.encrypt(&device.identity)
    }

    /// Spreads the devices over so many replicas.
    pub(crate) async fn spread(&mut self, server: &Server, replicas: usize) -> Result<()> {
        for (index, device) in self.devices.iter_mut().enumerate() {
            let device = Arc::get_mut(device).ok_or("a device is still sending")?;
            device.move_to(server, index % replicas).await?;
        }
        Ok(())
    }

    /// All of them send so many each, and the round counts.
    pub(crate) async fn round(&mut self, server: &Server, sends: usize) -> Result<()> {
        for device in &mut self.devices {
            Arc::get_mut(device)
                .ok_or("a device is still sending")?
                .renew()
                .await?;
        }
        let mut outbox = Vec::new();
        for (device, member) in self.devices.iter().zip(&mut self.members) {
            outbox.push((Arc::clone(device), member.encrypt_many(&device.identity, sends)?));
        }
        let total = (sends * outbox.len()) as f64;
        let before = server.used().await;
        let seconds = send_all(outbox).await?;
        self.used.push(server.used().await.since(before, total));
        self.rates.push(total / seconds);
        Ok(())
    }

    /// What was measured so far does not count.
    pub(crate) fn forget(&mut self) {
        self.rates.clear();
        self.used.clear();
    }

    /// Their side of a ratio.
    pub(crate) fn side(&self) -> Side {
        Side::new("sends, accepted and durable", "1/s", self.rates.clone())
    }

    /// Where the processor time went.
    pub(crate) fn note(&self) -> String {
        let median = |part: fn(&Used) -> f64| Spread::of(self.used.iter().map(part).collect()).median;
        format!(
            "processor time a send: service {:.0} us, Redis {:.0} us, PostgreSQL {:.0} us, load generator {:.0} us",
            median(|used| used.service),
            median(|used| used.redis),
            median(|used| used.postgres),
            median(|used| used.own),
        )
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
