//! B4: from the send to its delivery on another device's stream, against the send alone.

use std::time::{Duration, Instant};

use crate::b3_one_send::micros;
use crate::group::{Joiner, Member};
use crate::report::{Goal, Line, Side, percentile};
use crate::stream::Stream;
use crate::{Bench, Result};

const SENDS: usize = 300;
/// Without a delivery for so long, something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut devices = bench.administrator.devices(&bench.server, 2).await?;
    let (mut receiver, mut sender) = (devices.swap_remove(1), devices.swap_remove(0));
    let mut member = Member::create(&sender).await?;
    let joiner = Joiner::new(&receiver.identity)?;
    member.add(&sender, &[joiner]).await?;

    let mut position = member.position;
    let (mut alone, mut delivered) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=bench.args.rounds {
        bench.server.settle().await;
        sender.renew().await?;
        receiver.renew().await?;
        let sends = bench.args.times(SENDS);
        let (mut send, mut delivery) = (Vec::new(), Vec::new());
        for message in member.encrypt_many(&sender.identity, sends)? {
            let began = Instant::now();
            sender.send(message).await?;
            send.push(micros(began));
            position += 1;
        }
        let messages = member.encrypt_many(&sender.identity, sends)?;
        let mut stream = Stream::open(&receiver, member.mls.group_id().as_slice(), position).await?;
        for message in messages {
            let began = Instant::now();
            let sent = tokio::spawn(sender.send(message));
            let (arrived, at) = tokio::time::timeout(PATIENCE, stream.next_entry()).await??;
            stream.acknowledge(at).await?;
            delivery.push((arrived - began).as_secs_f64() * 1e6);
            sent.await??;
            position += 1;
        }
        // The first warms up.
        if round > 0 {
            for (index, percent) in [50, 99].into_iter().enumerate() {
                alone[index].push(percentile(&mut send, percent));
                delivered[index].push(percentile(&mut delivery, percent));
            }
        }
    }
    let line = |what: &str, delivered: Vec<f64>, alone: Vec<f64>, goal| {
        let valise = Side::new("send to delivery", "us", delivered);
        Line::ratio("B4", what, valise, Side::new("send, accepted", "us", alone), goal)
    };
    let ([alone_50, alone_99], [delivered_50, delivered_99]) = (alone, delivered);
    Ok(vec![
        line(
            "delivery to one device, idle, p50",
            delivered_50,
            alone_50,
            Goal::AtMost(1.5),
        ),
        line(
            "delivery to one device, idle, p99",
            delivered_99,
            alone_99,
            Goal::None,
        ),
    ])
}
