//! What can be chosen on the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Rows of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Row {
    /// Durable sends of 50 devices, against inserts of one transaction each.
    B2,
    /// One send on an idle system, against one insert.
    B3,
    /// From the send to the delivery, against the send alone.
    B4,
    /// Sends a second against the size of the group.
    B6,
    /// A commit, against openmls alone.
    B8,
    /// Claims of key packages on PostgreSQL, against one `DELETE` by pgbench. Needs `valise-key-package-directory` beside
    /// this program, and PostgreSQL.
    B10,
    /// From start to healthy.
    B13,
}

/// Measures Valise on this machine. Every figure is a ratio against a reference of the same run.
#[derive(Clone, Parser, Debug)]
#[command(name = "valise-bench", version)]
pub(crate) struct Args {
    /// Rows to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["b2", "b3", "b4", "b6", "b8", "b13"])]
    pub(crate) rows: Vec<Row>,
    /// Rounds: Valise and reference take turns.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Multiplies the work of each round.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) scale: u32,
    /// Largest group of B6 and B8. At 10,000 the group takes minutes to build.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub(crate) max_members: u32,
    /// Where the databases go, in a new directory that is deleted at the end. It should be on the disk that is to be measured.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// The `valise` program; by default the one beside this program.
    #[arg(long)]
    pub(crate) valise: Option<PathBuf>,
    /// Writes the results there as JSON, too.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

impl Args {
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
