//! Benchmarks, row by row. See `docs/benchmarks.md`.
//!
//! The servers are the real programs in processes of their own. The load comes from here, without the SDK (but in B9 and B12, which measure it):
//! messages are encrypted before the clock starts. A row and its reference take turns, so that both see the same machine.

mod alone;
mod args;
mod b10_claims;
mod b11_replicas;
mod b12_large_group;
mod b13_start;
mod b14_fencing;
mod b1_durable_sends;
mod b2_embedded_sends;
mod b3_one_send;
mod b4_delivery;
mod b5_fan_out;
mod b6_group_size;
mod b8_commit;
mod b9_catch_up;
mod embedded;
mod group;
mod machine;
mod raw;
mod redis_reference;
mod reference;
mod report;
mod senders;
mod server;
mod stream;
mod subscribers;

use std::fmt::Debug;
use std::fs::File;
use std::io::Write;

use clap::Parser;
use serde::Serialize;

use args::{Args, Row, Store};
use machine::{Disk, Machine};
use raw::Administrator;
use report::Line;
use server::Server;
use subscribers::Nats;
use valise_local_stack::Postgres;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// For errors that only say what they are when debugged.
fn say(error: impl Debug) -> Error {
    format!("{error:?}").into()
}

/// What the rows share.
struct Bench {
    args: Args,
    data: tempfile::TempDir,
    server: Server,
    administrator: Administrator,
}

#[derive(Serialize)]
struct Results {
    machine: Machine,
    disk_before: Disk,
    disk_after: Disk,
    lines: Vec<Line>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let rows = args.rows()?;
    let mut out = std::io::stdout();
    let data = match &args.data {
        Some(directory) => tempfile::tempdir_in(directory)?,
        None => tempfile::tempdir()?,
    };
    let mut machine = Machine::look();
    if args.store == Store::Production {
        let programs = [
            "redis-server".into(),
            Postgres::program("postgres"),
            Nats::PROGRAM.into(),
        ];
        machine.programs = programs.iter().filter_map(machine::version_of).collect();
    }
    let disk_before = Disk::measure(data.path())?;
    print_machine(&mut out, &machine, &disk_before)?;

    let server = Server::start(&args, &data.path().join("server")).await?;
    let administrator = Administrator::enrol(&server).await?;
    let mut bench = Bench {
        args,
        data,
        server,
        administrator,
    };
    let mut lines = Vec::new();
    for row in rows {
        let new = match row {
            Row::B1 => b1_durable_sends::run(&mut bench).await?,
            Row::B2 => b2_embedded_sends::run(&mut bench).await?,
            Row::B3 => b3_one_send::run(&mut bench).await?,
            Row::B4 => b4_delivery::run(&mut bench).await?,
            Row::B5 => b5_fan_out::run(&mut bench).await?,
            Row::B6 => b6_group_size::run(&mut bench).await?,
            Row::B8 => b8_commit::run(&mut bench).await?,
            Row::B9 => b9_catch_up::run(&mut bench).await?,
            Row::B10 => b10_claims::run(&mut bench).await?,
            Row::B11 => b11_replicas::run(&mut bench).await?,
            Row::B12 => b12_large_group::run(&mut bench).await?,
            Row::B13 => b13_start::run(&bench).await?,
            Row::B14 => b14_fencing::run(&mut bench).await?,
        };
        for line in &new {
            line.print(&mut out)?;
        }
        lines.extend(new);
    }
    let Bench {
        args, data, server, ..
    } = bench;
    server.stop().await?;
    let disk_after = Disk::measure(data.path())?;
    if let Some(file) = &args.json {
        serde_json::to_writer_pretty(
            File::create(file)?,
            &Results {
                machine,
                disk_before,
                disk_after,
                lines,
            },
        )?;
    }
    Ok(())
}

fn print_machine(out: &mut impl Write, machine: &Machine, disk: &Disk) -> Result<()> {
    let Machine {
        version,
        system,
        processor,
        cores,
        memory_mib,
        sqlite,
        programs,
    } = machine;
    writeln!(
        out,
        "valise {version}, {system}, {processor}, {cores} cores, {memory_mib} MiB, SQLite {sqlite}"
    )?;
    for program in programs {
        writeln!(out, "{program}")?;
    }
    let Disk {
        growing_p50,
        growing_p99,
        in_place_p50,
        in_place_p99,
    } = disk;
    writeln!(
        out,
        "write + fsync of 4 KiB: in a growing file {growing_p50:.3} ms (p99 {growing_p99:.3}), \
         in place {in_place_p50:.3} ms (p99 {in_place_p99:.3})\n"
    )?;
    Ok(())
}
