//! What can be chosen on the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Rows of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Row {
    /// Durable sends of 50 devices on Redis, against the bare append script and against raw `XADD`.
    B1,
    /// The same on the embedded store, against inserts of one transaction each.
    B2,
    /// One send on an idle system, against one insert or one raw `XADD`.
    B3,
    /// From the send to the delivery, against the send alone.
    B4,
    /// Deliveries to a thousand devices, against `PUBLISH` of Redis and against NATS. Needs `nats-server` for the latter.
    B5,
    /// Sends a second against the size of the group.
    B6,
    /// A commit, against openmls alone.
    B8,
    /// A device with 200 groups and 20,000 missed messages, against reading and decrypting them alone.
    B9,
    /// Claims of key packages on PostgreSQL, against one `DELETE` by pgbench.
    B10,
    /// Processor time of a send through one, two and three replicas.
    B11,
    /// A group of 1,000 through the SDK, against openmls alone.
    B12,
    /// From start to healthy.
    B13,
    /// What it costs to wait for a replica of Redis.
    B14,
}

/// Where the services keep what they keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Store {
    /// `valise up`: one process, SQLite.
    Embedded,
    /// The three services as processes of their own, on Redis and PostgreSQL, which are started for the benchmark.
    Production,
}

/// Measures Valise on this machine. Every figure is a ratio against a reference of the same run.
#[derive(Clone, Parser, Debug)]
#[command(name = "valise-bench", version)]
pub(crate) struct Args {
    /// Which stores the services are to be measured with.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    pub(crate) store: Store,
    /// Rows to measure [default: all that this store has].
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Rounds: Valise and reference take turns.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Multiplies the work of each round.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) scale: u32,
    /// Largest group of B5, B6, B8 and B12 (at most 1,000 there). At 10,000 the group takes minutes to build.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub(crate) max_members: u32,
    /// Where the embedded store's databases go, in a new directory that is deleted at the end. It should be on the disk that
    /// is to be measured. (The servers of the production store keep theirs in TMPDIR.)
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// The `valise` program; by default the one beside this program, where the services' programs are, too.
    #[arg(long)]
    pub(crate) valise: Option<PathBuf>,
    /// Writes the results there as JSON, too.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

impl Args {
    /// The rows to measure, or which of them the store does not have.
    pub(crate) fn rows(&self) -> crate::Result<Vec<Row>> {
        let all: &[Row] = match self.store {
            Store::Embedded => &[
                Row::B2,
                Row::B3,
                Row::B4,
                Row::B6,
                Row::B8,
                Row::B9,
                Row::B12,
                Row::B13,
            ],
            Store::Production => &[
                Row::B1,
                Row::B3,
                Row::B4,
                Row::B5,
                Row::B6,
                Row::B8,
                Row::B9,
                Row::B10,
                Row::B11,
                Row::B12,
                Row::B14,
            ],
        };
        if let Some(other) = self.rows.iter().find(|row| !all.contains(row)) {
            return Err(format!("row {other:?} is of the other store: see --store").into());
        }
        Ok(if self.rows.is_empty() {
            all.to_vec()
        } else {
            self.rows.clone()
        })
    }

    /// Sizes of groups up to the largest.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let sizes = [10, 100, 1000, 10_000];
        sizes
            .into_iter()
            .filter(|size| *size <= self.max_members as usize)
            .collect()
    }

    /// That much work, scaled.
    pub(crate) fn times(&self, work: usize) -> usize {
        work * self.scale as usize
    }
}
