//! What it was measured on.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;
use crate::report::percentile;

/// How long the disk takes to keep 4 KiB, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Disk {
    /// At the end of a file that grows: the file system has its own bookkeeping to do.
    pub(crate) growing_p50: f64,
    pub(crate) growing_p99: f64,
    /// In a file that has its size: what a write-ahead log pays once it is being reused.
    pub(crate) in_place_p50: f64,
    pub(crate) in_place_p99: f64,
}

impl Disk {
    pub(crate) fn measure(directory: &Path) -> Result<Self> {
        let path = directory.join("fsync");
        let file = File::create(&path)?;
        let mut growing = writes(&file, |number| number * 4096)?;
        let mut in_place = writes(&file, |number| (number % 64) * 4096)?;
        fs::remove_file(&path)?;
        Ok(Self {
            growing_p50: percentile(&mut growing, 50),
            growing_p99: percentile(&mut growing, 99),
            in_place_p50: percentile(&mut in_place, 50),
            in_place_p99: percentile(&mut in_place, 99),
        })
    }
}

fn writes(file: &File, offset: impl Fn(u64) -> u64) -> Result<Vec<f64>> {
    (0..300)
        .map(|number| {
            let began = Instant::now();
            file.write_all_at(&[0x5A; 4096], offset(number))?;
            file.sync_data()?;
            Ok(began.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}

/// The machine and the program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) version: &'static str,
    pub(crate) system: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) sqlite: &'static str,
    /// What the programs beside ours say of themselves, where they are there.
    pub(crate) programs: Vec<String>,
}

/// What can run at the same time; 1 where it is not known.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

impl Machine {
    pub(crate) fn look() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_once(':')
                .map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let kib = field("/proc/meminfo", "MemTotal");
        let kib: u64 = kib.trim_end_matches(" kB").parse().unwrap_or(0);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            system: format!(
                "{} {} {}",
                std::env::consts::OS,
                release.trim(),
                std::env::consts::ARCH
            ),
            processor: field("/proc/cpuinfo", "model name"),
            cores: cores(),
            memory_mib: kib / 1024,
            sqlite: rusqlite::version(),
            programs: Vec::new(),
        }
    }
}

/// What a program says of its version, shortened to what matters.
pub(crate) fn version_of(program: impl AsRef<OsStr>) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    // Some say it there, some here.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next()?;
    let end = line.find(" sha=").unwrap_or(line.len());
    Some(line[..end].to_owned())
}

/// Processor time of a process and of those that it has started, so far.
pub(crate) fn family_micros(process: u32) -> f64 {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().filter_map(|id| id.parse().ok());
    processor_micros(process) + children.map(processor_micros).sum::<f64>()
}

/// Processor time of a process so far, in microseconds; 0 where the system does not tell.
pub(crate) fn processor_micros(process: u32) -> f64 {
    // The kernel counts in hundredths of a second for programs (USER_HZ), whatever its own clock.
    const TICK_MICROS: f64 = 10_000.0;
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field, the name, may hold anything but a closing bracket.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() * TICK_MICROS
}

/// Processor time of a process's living threads so far, in microseconds, to the nanosecond: for what takes less than the hundredth of a
/// second in which [`processor_micros`] counts. 0 where the system does not tell.
pub(crate) fn exact_micros(process: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .map(|thread| run_micros(&thread.path().join("schedstat")))
        .sum()
}

/// The same of the thread that asks, which must not have changed since it last asked.
pub(crate) fn own_thread_micros() -> f64 {
    // Of a thread that runs the kernel tells what was true at its clock's last tick; of one that has just rested, what is.
    std::thread::sleep(Duration::from_micros(1));
    run_micros("/proc/thread-self/schedstat".as_ref())
}

fn run_micros(schedstat: &Path) -> f64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    let nanos = text
        .split_whitespace()
        .next()
        .and_then(|field| field.parse::<f64>().ok());
    nanos.unwrap_or(0.0) / 1000.0
}
