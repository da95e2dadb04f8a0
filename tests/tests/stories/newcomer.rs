//! A newcomer pastes what `valise up` prints into a shell, whether `valise` is installed or was only built.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;
use valise_tests::command::{Running, binary, run};
use valise_tests::wait::soon;

/// A folder to work in, and where a shell looks for programs.
struct Terminal {
    folder: PathBuf,
    path: OsString,
}

impl Terminal {
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", self.folder.join("home"))
            .current_dir(&self.folder)
            .kill_on_drop(true);
        command
    }

    /// Starts the services, and runs all the lines that they print, in their order. What the lines said, one after the other.
    async fn follow(&self, program: &Path, called: &str) -> String {
        let mut up = self.command(program);
        up.args(["up", "--listen", "127.0.0.1:0"]);
        let mut up = Running::start(up);
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.contains(" chat ")) {
            let line = soon(up.line()).await.unwrap();
            if let Some(line) = line.strip_prefix("  ") {
                lines.push(line.to_owned());
            }
        }
        assert_eq!(lines.len(), 8, "{lines:?}");
        let mut said = String::new();
        for line in lines {
            assert!(line.starts_with(&format!("{called} ")), "{line}");
            let mut shell = self.command(Path::new("sh"));
            shell.args(["-c", &line]);
            let ended = run(shell).await;
            assert_eq!(ended.code, Some(0), "{line}: {}", ended.err);
            said.push_str(&ended.out);
        }
        up.terminate();
        assert_eq!(soon(up.rest()).await.1, Some(0));
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_works_when_pasted() {
    let path = std::env::var_os("PATH").unwrap();

    let workspace = tempfile::tempdir().unwrap();
    let built = workspace.path().join("target/release/valise");
    fs::create_dir_all(built.parent().unwrap()).unwrap();
    if fs::hard_link(binary(), &built).is_err() {
        fs::copy(binary(), &built).unwrap();
    }
    let terminal = Terminal {
        folder: workspace.path().to_owned(),
        path: path.clone(),
    };
    let said = terminal.follow(&built, "target/release/valise").await;
    assert!(said.contains("Bonjour"), "{said}");

    let home = tempfile::tempdir().unwrap();
    let directories = [binary().parent().unwrap().to_owned()];
    let path = directories.into_iter().chain(std::env::split_paths(&path));
    let terminal = Terminal {
        folder: home.path().to_owned(),
        path: std::env::join_paths(path).unwrap(),
    };
    let said = terminal.follow(binary(), "valise").await;
    assert!(said.contains("Bonjour"), "{said}");
}
