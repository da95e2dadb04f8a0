//! B3: one send on an idle system, until it is accepted, against what the store does alone: one insert, or one raw `XADD`.

use std::time::Instant;

use crate::group::Member;
use crate::reference::Bare;
use crate::report::{Goal, Line, Side, percentile};
use crate::{Bench, Result};

const SENDS: usize = 300;

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut device = bench
        .administrator
        .devices(&bench.server, 1)
        .await?
        .swap_remove(0);
    let mut member = Member::create(&device).await?;
    let mut bare = Bare::open(bench, "b3.db").await?;
    let (mut sends, mut inserts) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=bench.args.rounds {
        device.renew().await?;
        bench.server.settle().await;
        let messages = member.encrypt_many(&device.identity, bench.args.times(SENDS))?;
        let (mut send, mut insert) = (Vec::new(), Vec::new());
        for message in messages {
            let began = Instant::now();
            device.send(message.clone()).await?;
            send.push(micros(began));
            let began = Instant::now();
            bare.keep(&message).await?;
            insert.push(micros(began));
        }
        // The first warms up.
        if round > 0 {
            for (index, percent) in [50, 99].into_iter().enumerate() {
                sends[index].push(percentile(&mut send, percent));
                inserts[index].push(percentile(&mut insert, percent));
            }
        }
    }
    let line = |what: &str, sends: Vec<f64>, inserts: Vec<f64>, goal| {
        let valise = Side::new("send, accepted and durable", "us", sends);
        Line::ratio("B3", what, valise, Side::new(bare.what(), "us", inserts), goal)
    };
    let ([send_50, send_99], [insert_50, insert_99]) = (sends, inserts);
    Ok(vec![
        line("one send, idle, p50", send_50, insert_50, Goal::AtMost(3.0)),
        line("one send, idle, p99", send_99, insert_99, Goal::None),
    ])
}

pub(crate) fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
