//! B6: sends a second against the size of the group.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::group::Member;
use crate::raw::Device;
use crate::report::{Goal, Line, Side};
use crate::{Bench, Result};

/// In one round.
const SENDS: usize = 5000;
/// Under way at the same time.
const AT_ONCE: usize = 50;

/// A group of which one member is live.
struct Sized {
    members: usize,
    device: Arc<Device>,
    member: Member,
    rates: Vec<f64>,
}

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut groups = Vec::new();
    for members in bench.args.sizes() {
        let others = bench.administrator.identities(members - 1).await?;
        let mut device = bench
            .administrator
            .devices(&bench.server, 1)
            .await?
            .swap_remove(0);
        let others: Vec<_> = others.iter().collect();
        let member = Member::create_with(&mut device, &others).await?;
        groups.push(Sized {
            members,
            device: Arc::new(device),
            member,
            rates: Vec::new(),
        });
    }
    let sends = bench.args.times(SENDS);
    for round in 0..=bench.args.rounds {
        for group in &mut groups {
            bench.server.settle().await;
            group.round(sends).await?;
            // The first warms up.
            if round == 0 {
                group.rates.clear();
            }
        }
    }
    let mut groups = groups.into_iter();
    let smallest = groups.next().ok_or("no sizes")?;
    let reference = Side::new(
        format!("sends to {} members", smallest.members),
        "1/s",
        smallest.rates,
    );
    Ok(groups
        .map(|group| {
            let what = format!(
                "sends to a group of {} members, one live, {AT_ONCE} at once",
                group.members
            );
            let valise = Side::new("sends, accepted and durable", "1/s", group.rates);
            Line::ratio("B6", what, valise, reference.clone(), Goal::AtLeast(0.9))
        })
        .collect())
}

impl Sized {
    async fn round(&mut self, sends: usize) -> Result<()> {
        Arc::get_mut(&mut self.device)
            .ok_or("the device is still sending")?
            .renew()
            .await?;
        let messages = self.member.encrypt_many(&self.device.identity, sends)?;
        let began = Instant::now();
        let mut sending = JoinSet::new();
        for part in messages.chunks(sends.div_ceil(AT_ONCE)) {
            let (device, part) = (Arc::clone(&self.device), part.to_vec());
            sending.spawn(async move {
                for message in part {
                    device.send(message).await?;
                }
                Result::Ok(())
            });
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        self.rates.push(sends as f64 / began.elapsed().as_secs_f64());
        Ok(())
    }
}
