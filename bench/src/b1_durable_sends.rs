//! B1: durable sends of 50 devices at once on Redis, against the script that appends and against raw `XADD`, on the same server.

use crate::redis_reference::{Scripts, xadd_rate};
use crate::report::{Goal, Line, Side, Spread};
use crate::senders::{SENDS, Senders};
use crate::{Bench, Result, machine};

/// Calls of the script in one round.
const APPENDS: usize = 10_000;
/// Raw `XADD`s in one round.
const ADDS: usize = 20_000;

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let redis = bench.server.redis()?;
    let (url, port, id) = (redis.url(), redis.port(), redis.id().unwrap_or(0));
    let mut one = Senders::one_group(&mut bench.administrator, &bench.server).await?;
    let mut many = Senders::many_groups(&mut bench.administrator, &bench.server).await?;
    let scripts = Scripts::open(&url).await?;
    let sends = bench.args.times(SENDS);
    let (mut appended, mut added, mut script_micros) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=bench.args.rounds {
        bench.server.settle().await;
        one.round(&bench.server, sends).await?;
        bench.server.settle().await;
        let (before, count) = (machine::processor_micros(id), bench.args.times(APPENDS));
        appended.push(scripts.rate(&one.message()?, count).await?);
        script_micros.push((machine::processor_micros(id) - before) / count as f64);
        added.push(xadd_rate(port, bench.args.times(ADDS)).await?);
        many.round(&bench.server, sends).await?;
        if round == 0 {
            // Not counted: connections and caches get warm.
            one.forget();
            many.forget();
            for values in [&mut appended, &mut added, &mut script_micros] {
                values.clear();
            }
        }
    }
    let alone = format!(
        "processor time of Redis for a call of the script alone: {:.0} us",
        Spread::of(script_micros).median
    );
    let mut lines = Vec::new();
    for senders in [&one, &many] {
        let what = format!("durable sends, 1 KiB, Redis, {}", senders.what);
        let script = Side::new(
            "the append script alone, unbatched, 50 callers on one connection",
            "1/s",
            appended.clone(),
        );
        let raw = Side::new(
            "raw XADD by redis-benchmark, 50 connections",
            "1/s",
            added.clone(),
        );
        lines.push(
            Line::ratio("B1", what.clone(), senders.side(), script, Goal::AtLeast(1.0))
                .note(senders.note())
                .note(alone.clone()),
        );
        lines.push(Line::ratio("B1", what, senders.side(), raw, Goal::AtLeast(0.4)));
    }
    Ok(lines)
}
