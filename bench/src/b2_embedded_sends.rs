//! B2: durable sends of 50 devices at once, against inserts into the same table, one transaction each.

use std::time::Instant;

use crate::reference::Table;
use crate::report::{Goal, Line, Side, Spread};
use crate::senders::{SENDS, Senders};
use crate::{Bench, Result, machine};

const INSERTS: usize = 1000;
/// Where the disk takes longer for an fsync, in milliseconds, grouping sends pays more.
const SLOW_DISK: f64 = 1.0;

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut one = Senders::one_group(&mut bench.administrator, &bench.server).await?;
    let mut many = Senders::many_groups(&mut bench.administrator, &bench.server).await?;
    let mut table = Table::create(&bench.data.path().join("b2.db"))?;
    let sends = bench.args.times(SENDS);
    let mut reference = Vec::new();
    let mut fsync = Vec::new();
    for round in 0..=bench.args.rounds {
        one.round(&bench.server, sends).await?;
        reference.push(inserts(&mut table, &one.message()?, bench.args.times(INSERTS))?);
        many.round(&bench.server, sends).await?;
        let disk = machine::Disk::measure(bench.data.path())?;
        fsync.push(disk.growing_p50);
        if round == 0 {
            // Not counted: files grow to their size, statements and caches get warm.
            one.forget();
            many.forget();
            reference.clear();
            fsync.clear();
        }
    }
    let fsync = Spread::of(fsync);
    // The disk's own time: other programs on the machine only add to it.
    let goal = if fsync.min >= SLOW_DISK { 5.0 } else { 2.0 };
    let line = |senders: &Senders| {
        let reference = Side::new(
            "inserts into the same table, one transaction each",
            "1/s",
            reference.clone(),
        );
        let what = format!("durable sends, 1 KiB, {}", senders.what);
        let disk = format!(
            "fsync beside it {:.2} ms ({:.2} to {:.2})",
            fsync.median, fsync.min, fsync.max
        );
        Line::ratio("B2", what, senders.side(), reference, Goal::AtLeast(goal))
            .note(senders.note())
            .note(disk)
    };
    Ok(vec![line(&one), line(&many)])
}

fn inserts(table: &mut Table, message: &[u8], count: usize) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..count {
        table.insert(message)?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
