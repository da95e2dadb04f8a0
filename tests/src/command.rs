//! The `valise` binary as processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::wait::soon;

/// The binary, beside the test's own executable (`target/<profile>/deps/<test>` and `target/<profile>/valise`).
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("valise", &["--package", "valise-cli"]))
}

/// Something else that is built with the workspace. Where it is not there, cargo builds it with these arguments.
pub fn built(path: &str, arguments: &[&str]) -> PathBuf {
    let profile = profile_folder();
    let binary = profile.join(path);
    if !binary.exists() {
        eprintln!("building {}", binary.display());
        let mut build = std::process::Command::new(env!("CARGO"));
        build.arg("build").args(arguments);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "{path} cannot be built");
    }
    binary
}

/// `target/<profile>`: what this test was built with. Tests in documentation lie elsewhere.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    match test.parent() {
        Some(folder) if folder.ends_with("deps") => folder.parent().unwrap().to_owned(),
        _ => {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
            let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
            workspace.join(target).join("debug")
        }
    }
}

/// A `valise` command that is killed when it is dropped. Nothing of the caller's environment gets into it but `PATH`.
pub fn valise<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_clear().kill_on_drop(true);
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    // Where tests are looked into, with more words.
    command.envs(std::env::var_os("RUST_LOG").map(|filter| ("RUST_LOG", filter)));
    command
}

/// Tells a process to end (SIGTERM).
pub(crate) fn terminate(process: u32) {
    let kill = std::process::Command::new("kill")
        .args(["-TERM", &process.to_string()])
        .status();
    assert!(kill.unwrap().success());
}

/// What a command that has ended left behind.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ended {
    /// Its standard output, where it succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }
}

/// Runs a command to its end.
pub async fn run(mut command: Command) -> Ended {
    let output = soon(command.stdin(Stdio::null()).output()).await.unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command at work, with pipes to it.
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts a command.
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it is running")
    }

    /// Writes to its standard input.
    pub async fn write(&mut self, text: &str) {
        let input = self.input.as_mut().expect("its input is open");
        input.write_all(text.as_bytes()).await.unwrap();
        input.flush().await.unwrap();
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// The next line of its standard output; `None` at its end.
    pub async fn line(&mut self) -> Option<String> {
        self.output.next_line().await.unwrap()
    }

    /// The next line of its standard output for which that holds; a panic with what it said on standard error where
    /// none comes.
    pub async fn line_that(&mut self, holds: impl Fn(&str) -> bool) -> String {
        let found = tokio::time::timeout(crate::wait::SOON, async {
            while let Some(line) = self.line().await {
                if holds(&line) {
                    return Some(line);
                }
            }
            None
        });
        match found.await {
            Ok(Some(line)) => line,
            Ok(None) => panic!("no such line came: {}", self.complaint().await),
            Err(_) => {
                self.child.start_kill().unwrap();
                panic!("no such line came in time: {}", self.complaint().await)
            }
        }
    }

    /// All that is left on its standard output, and its exit code.
    pub async fn rest(mut self) -> (Vec<String>, Option<i32>) {
        let complaining = self.child.stderr.take().map(|mut err| {
            tokio::spawn(async move {
                let mut text = String::new();
                // Lines that are not UTF-8 are of no interest here.
                let _ = err.read_to_string(&mut text).await;
                text
            })
        });
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        let code = self.child.wait().await.unwrap().code();
        if let Some(complaining) = complaining
            && code != Some(0)
        {
            eprintln!("{}", complaining.await.unwrap());
        }
        (lines, code)
    }

    /// Tells it to end (SIGTERM).
    pub fn terminate(&self) {
        terminate(self.id());
    }

    async fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(err) = &mut self.child.stderr {
            // What it had said so far, if it goes on saying things.
            let _ =
                tokio::time::timeout(std::time::Duration::from_secs(1), err.read_to_string(&mut text)).await;
        }
        text
    }
}
