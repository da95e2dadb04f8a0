//! Programs that run beside this one, each in a process group of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::programs;
use crate::record::Record;

/// How long anything may take on a busy machine before it counts as broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at whether something has come about.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// What to run, and how.
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) folder: PathBuf,
    /// Receives standard output and standard error, after what is in it.
    pub(crate) log: PathBuf,
    /// User and group to run as, where it is not our own.
    pub(crate) user: Option<(u32, u32)>,
    /// All that it finds in its environment beside PATH.
    pub(crate) environment: Vec<(String, String)>,
    /// What it is called in the record, if it is to run on when we are gone.
    pub(crate) record: Option<(Record, String)>,
    /// The signal that ends it: ours when we are gone, or that of who stops what is recorded.
    pub(crate) end: &'static str,
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    outlives: bool,
}

impl Launch {
    pub(crate) fn start(self) -> Process {
        let log = File::options().append(true).create(true).open(&self.log);
        let log = log.unwrap_or_else(|error| panic!("cannot open {}: {error}", self.log.display()));
        let errors = log.try_clone().expect("cannot share the log file");
        let mut command = match programs::in_path("setpriv") {
            // The kernel ends it when we are killed and cannot.
            Some(setpriv) if self.record.is_none() => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", self.end, "--"]).arg(&self.program);
                command
            }
            _ => Command::new(&self.program),
        };
        command
            .args(&self.arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.environment)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        let child =
            spawn(command).unwrap_or_else(|error| panic!("cannot run {}: {error}", self.program.display()));
        if let Some((record, name)) = &self.record {
            record.add(name, child.id(), self.end);
        }
        Process {
            child,
            log: self.log,
            outlives: self.record.is_some(),
        }
    }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("cannot ask for a program's end")
    }

    /// Sends a signal (`STOP`, `TERM`, ...) to it and what it has forked.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, &format!("-{}", self.id()));
    }

    /// SIGKILL, to it and what it has forked; returns once it is gone.
    pub(crate) async fn kill(&mut self) {
        self.end("KILL", PATIENCE).await;
    }

    /// Asks it with this signal, and kills it if it takes too long.
    pub(crate) async fn end(&mut self, name: &str, patience: Duration) {
        if self.ended().is_some() {
            return;
        }
        self.signal(name);
        let deadline = Instant::now() + patience;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                self.signal("KILL");
            }
            sleep(LOOK / 4).await;
        }
    }

    /// The same, where nobody can await.
    pub(crate) fn end_now(&mut self, name: &str, patience: Duration) {
        if self.ended().is_some() {
            return;
        }
        self.signal(name);
        let deadline = Instant::now() + patience;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                self.signal("KILL");
            }
            std::thread::sleep(LOOK / 4);
        }
    }

    /// The end of what it wrote.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.outlives && matches!(self.child.try_wait(), Ok(None)) {
            self.signal("KILL");
            drop(self.child.wait());
        }
    }
}

/// How long something may still take to come about.
pub(crate) struct Patience {
    what: String,
    deadline: Instant,
}

impl Patience {
    /// From now on, with a word for what it is about.
    pub(crate) fn with(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            deadline: Instant::now() + PATIENCE,
        }
    }

    /// Until the next look. `why` says how it stands.
    pub(crate) async fn look(&self, why: impl FnOnce() -> String) {
        assert!(
            Instant::now() < self.deadline,
            "waited for {} in vain: {}",
            self.what,
            why()
        );
        sleep(LOOK).await;
    }
}

/// Sends a signal to a process, or to a group where the id begins with `-`.
pub(crate) fn signal(name: &str, id: &str) {
    // The shell's own kill: the program of that name is not on every machine.
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$0\" -- \"$1\" 2>/dev/null", name, id])
        .status();
    // It does not matter whether the process was still there.
    status.expect("cannot run sh");
}

/// The processes that this one has started.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name in brackets: state, parent.
            let (_, rest) = stat.rsplit_once(") ")?;
            (rest.split(' ').nth(1)?.parse() == Ok(parent)).then_some(id)
        })
        .collect()
}

pub(crate) fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Runs a program to its end and returns what it says.
pub(crate) async fn output(command: Command) -> String {
    let program = command.get_program().to_owned();
    let outcome = try_output(command).await;
    outcome.unwrap_or_else(|complaint| panic!("{}: {complaint}", program.display()))
}

/// The same, or what it complains of where it fails.
pub(crate) async fn try_output(mut command: Command) -> Result<String, String> {
    let program = command.get_program().to_owned();
    let output = spawn_blocking(move || command.output())
        .await
        .expect("it does not panic");
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    let said = if output.status.success() {
        &output.stdout
    } else {
        &output.stderr
    };
    let said = String::from_utf8_lossy(said).trim_end().to_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts every program from one thread that never ends: `--pdeathsig` is about the thread that started it.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    drop(answer.send(command.spawn()));
                }
            })
            .expect("cannot start a thread");
        orders
    });
    let (answer, answered) = mpsc::channel();
    SPAWNER.send((command, answer)).expect("the spawner never ends");
    answered.recv().expect("the spawner answers")
}
