//! The local stack as a command: servers and services that run until another command stops them.

mod report;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::folder::{Ground, Kept};
use crate::record::Record;
use crate::stack::{LocalStack, StackOptions};
use report::Report;

/// The first of the 57 ports, unless somebody says otherwise. `valise up` is on 7400.
const FIRST_PORT: u16 = 7410;

/// A Redis Cluster, PostgreSQL, and two replicas of each service of Valise, on this machine, without containers.
#[derive(Debug, Parser)]
#[command(name = "valise-local-stack", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything; it runs on when this command has ended.
    Up(UpArguments),
    /// Stop everything; the data stays.
    Down {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct UpArguments {
    #[command(flatten)]
    place: Place,
    /// The ports are this one and those up to 60 above it; they stay with the data [default: 7410].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    first_port: Option<u16>,
    /// Once everything answers, print one JSON object on one line instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Place {
    /// Folder for everything that is kept; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "./valise-local-data")]
    data: PathBuf,
}

/// Why the local stack does not start or stop. One line, and where a server or service has ended, what it last said.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The folder cannot be made or written to.
    #[error("cannot write in {}: {source}", data.display())]
    NotWritable {
        /// The folder.
        data: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another such command is at work in it.
    #[error("another command is at work in {}", .0.display())]
    InUse(PathBuf),
    /// It runs.
    #[error("{} is up already: `valise-local-stack down` stops it", .0.display())]
    IsUp(PathBuf),
    /// Its clients know it by other ports.
    #[error("{} has its ports from {found} on: leave out --first-port, or choose another --data", data.display())]
    OtherPort {
        /// The folder.
        data: PathBuf,
        /// Its first port.
        found: u16,
    },
    /// Something did not start.
    #[error("{0}")]
    Start(String),
    /// It was told to stop before everything had started.
    #[error("interrupted; what had started was stopped")]
    Interrupted,
}

/// Does what it is told to, and returns what there is to say about it.
pub async fn run(arguments: Arguments) -> Result<String, UpError> {
    match arguments.command {
        Command::Up(arguments) => up(arguments).await,
        Command::Down { place } => down(&place.data).await,
    }
}

async fn up(arguments: UpArguments) -> Result<String, UpError> {
    let data = arguments.place.data;
    let not_writable = |source| UpError::NotWritable {
        data: data.clone(),
        source,
    };
    fs::create_dir_all(&data).map_err(not_writable)?;
    let data = data.canonicalize().map_err(not_writable)?;
    let _lock = lock(&data)?;
    let record = Record::in_folder(&data);
    if record.count() > 0 {
        return Err(UpError::IsUp(data));
    }
    record.forget();
    let first_port = first_port(&data, arguments.first_port)?;
    let ground = Ground::Kept(Kept {
        data: data.clone(),
        first_port,
        record: record.clone(),
    });
    match start(ground, data.join("identities")).await {
        Ok(stack) => {
            let report = Report::of(&stack, &data);
            Ok(if arguments.json {
                report.json()
            } else {
                report.story()
            })
        }
        Err(error) => {
            record.stop().await;
            Err(error)
        }
    }
}

async fn start(ground: Ground, identities: PathBuf) -> Result<LocalStack, UpError> {
    // What it says is the error, and needs no second place.
    std::panic::set_hook(Box::new(|_| {}));
    let mut starting =
        tokio::spawn(
            async move { LocalStack::start_on(&ground, &identities, StackOptions::default()).await },
        );
    let started = tokio::select! {
        started = &mut starting => started,
        _ = tokio::signal::ctrl_c() => {
            starting.abort();
            // It is over once it has been told so at an await.
            drop(starting.await);
            return Err(UpError::Interrupted);
        }
    };
    started.map_err(|error| {
        let said = error.into_panic();
        let said = said.downcast::<String>().map_or_else(
            |said| {
                said.downcast_ref::<&str>()
                    .map_or("something went wrong", |said| said)
                    .to_owned()
            },
            |said| *said,
        );
        UpError::Start(said)
    })
}

async fn down(data: &Path) -> Result<String, UpError> {
    if !data.is_dir() {
        return Ok(format!("nothing runs in {}", data.display()));
    }
    let _lock = lock(data)?;
    let count = Record::in_folder(data).stop().await;
    let data = data.display();
    Ok(match count {
        0 => format!("nothing runs in {data}"),
        count => format!("stopped {count} processes; the data stays in {data}"),
    })
}

/// One command at a time.
fn lock(data: &Path) -> Result<File, UpError> {
    let not_writable = |source| UpError::NotWritable {
        data: data.to_owned(),
        source,
    };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(data.join("lock"));
    let file = file.map_err(not_writable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(UpError::InUse(data.to_owned())),
        Err(TryLockError::Error(source)) => Err(not_writable(source)),
    }
}

/// The ports stay with the data: the nodes of the cluster know each other by them, and clients the services.
fn first_port(data: &Path, asked: Option<u16>) -> Result<u16, UpError> {
    let file = data.join("first-port");
    let found = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match (found, asked) {
        (Some(found), Some(asked)) if found != asked => Err(UpError::OtherPort {
            data: data.to_owned(),
            found,
        }),
        (Some(found), _) => Ok(found),
        (None, asked) => {
            let port = asked.unwrap_or(FIRST_PORT);
            fs::write(file, format!("{port}\n")).map_err(|source| UpError::NotWritable {
                data: data.to_owned(),
                source,
            })?;
            Ok(port)
        }
    }
}
