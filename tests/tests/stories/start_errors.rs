//! A start that cannot succeed says why in one line, and fails.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rusqlite::Connection;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tonic::transport::Endpoint;
use valise_local_stack::other_user;
use valise_proto::authentication::v1::EnrolRequest;
use valise_proto::authentication::v1::enrol_request::Proof;
use valise_tests::command::{Ended, Running, binary, run, valise};
use valise_tests::raw::{Door, new_signer, request_of};
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

const DATABASES: [&str; 3] = ["authentication.db", "directory.db", "delivery.db"];

async fn up(listen: &str, data: &Path) -> Ended {
    let mut command = valise(["up", "--json", "--listen", listen, "--data"]);
    command.arg(data);
    run(command).await
}

/// One line that names what is wrong; nothing that only a developer understands.
fn assert_refused(ended: &Ended, names: &[&str]) {
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert_eq!(ended.err.trim_end().lines().count(), 1, "one line: {}", ended.err);
    for name in names {
        assert!(ended.err.contains(name), "{name} in {}", ended.err);
    }
    for internal in ["panicked", "Error {", "Err(", "SqliteFailure", "backtrace"] {
        assert!(!ended.err.contains(internal), "{}", ended.err);
    }
}

/// The data of a service that ran once and was killed.
async fn used_data() -> TempDir {
    let mut service = Service::start().await;
    service.kill().await;
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(service.data()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    assert_refused(&up(&address, data.path()).await, &[&address]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    fs::write(&file, "not a directory").unwrap();
    for data in [
        file.as_path(),
        &file.join("below"),
        Path::new("/proc/valise"),
        Path::new("/dev/null/data"),
    ] {
        assert_refused(&up("127.0.0.1:0", data).await, &[data.to_str().unwrap()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_must_not_be_written() {
    let used = used_data().await;
    let folder = Folder::with(used.path());
    let data = folder.data();
    assert_refused(&run(folder.up()).await, &[data.to_str().unwrap()]);
    folder.allow();
    for database in DATABASES {
        let file = data.join(database);
        set_mode(&file, 0o444);
        assert_refused(&run(folder.up()).await, &[database, "written"]);
        set_mode(&file, 0o644);
    }
    // Nothing is lost by it.
    starts(folder.up()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_another_process_uses() {
    let service = Service::start().await;
    let data = service.data();
    assert_refused(
        &up("127.0.0.1:0", &data).await,
        &[data.to_str().unwrap(), "in use"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_are_none() {
    let used = used_data().await;
    for database in DATABASES {
        let as_directory = tempfile::tempdir().unwrap();
        fs::create_dir(as_directory.path().join(database)).unwrap();
        assert_refused(&up("127.0.0.1:0", as_directory.path()).await, &[database]);

        let garbage = tempfile::tempdir().unwrap();
        fs::write(
            garbage.path().join(database),
            b"this is not a database, whatever it is called ".repeat(100),
        )
        .unwrap();
        assert_refused(&up("127.0.0.1:0", garbage.path()).await, &[database]);

        // The beginning of the file is as it was; something in the middle is not.
        let damaged = copy_of(used.path());
        let path = damaged.path().join(database);
        checkpoint(&path);
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let pages = file.metadata().unwrap().len() / 4096;
        for page in 1..pages {
            file.seek(SeekFrom::Start(page * 4096)).unwrap();
            file.write_all(&[0xa5; 512]).unwrap();
        }
        drop(file);
        assert_refused(&up("127.0.0.1:0", damaged.path()).await, &[database]);
    }
    // None of it has touched what is good.
    let mut command = valise(["up", "--json", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(used.path());
    starts(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_newer_version() {
    let used = used_data().await;
    for database in DATABASES {
        let newer = copy_of(used.path());
        let connection = Connection::open(newer.path().join(database)).unwrap();
        let by_sqlx = "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
             VALUES (99999999999999, 'of the future', CURRENT_TIMESTAMP, TRUE, x'00', 0)";
        if connection.execute(by_sqlx, []).is_err() {
            connection.pragma_update(None, "user_version", 99).unwrap();
        }
        drop(connection);
        assert_refused(&up("127.0.0.1:0", newer.path()).await, &[database, "newer"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_the_services() {
    let used = used_data().await;
    let mut keys = 0;
    for entry in fs::read_dir(used.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.to_lowercase().ends_with(".pem") {
            continue;
        }
        keys += 1;
        let broken = copy_of(used.path());
        fs::write(broken.path().join(&name), "-----BEGIN NONSENSE-----\n").unwrap();
        let ended = up("127.0.0.1:0", broken.path()).await;
        // A chain and its key are told of together, by the key's name.
        assert_refused(&ended, &[".pem"]);
    }
    assert!(keys >= 2, "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_an_error() {
    for arguments in [
        &["up", "--lisen", "127.0.0.1:0"][..],
        &["up", "--listen", "nowhere"],
        &["up", "more"],
        &["uo"],
        &["listen", "group", "--count", "-1"],
        &["admin", "code", "not a user"],
        &[],
    ] {
        let ended = run(valise(arguments)).await;
        assert_eq!(
            (ended.code, ended.out.as_str()),
            (Some(2), ""),
            "{arguments:?}: {ended:?}"
        );
        assert!(!ended.err.is_empty());
    }
    let data = tempfile::tempdir().unwrap();
    let mut command = valise([
        "up",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--domain",
        "no domain",
        "--data",
    ]);
    command.arg(data.path());
    assert_refused(&run(command).await, &["no domain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_asked_for_is_a_success() {
    let data = tempfile::tempdir().unwrap();
    let mut command = valise(["up", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(data.path());
    let mut running = Running::start(command);
    running.line_that(|line| line.contains("http://127.0.0.1:")).await;
    running.terminate();
    assert_eq!(soon(running.rest()).await.1, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_must_look_at_is_said_without_being_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = valise(["up", "--json", "--listen", "127.0.0.1:0", "--data"]);
    command
        .arg(folder.path().join("data"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log).unwrap());
    let mut running = command.spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let line = soon(lines.next_line()).await.unwrap().unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    let url = told["address"].as_str().unwrap().to_owned();
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let door = Door::open(channel);
    let request = EnrolRequest {
        proof: Some(Proof::EnrolmentCode("0000-0000-0000-0000-0000-0000".to_owned())),
        certification_request: request_of(&new_signer()),
        device_name: String::new(),
    };
    let said = until("many failed enrolments are noticed", async || {
        door.authentication().enrol(request.clone()).await.unwrap_err();
        let said = fs::read_to_string(&log).unwrap();
        said.contains("many enrolments fail").then_some(said)
    })
    .await;
    assert!(!said.contains("INFO"), "{said}");
}

/// It starts, and ends when it is asked to.
async fn starts(command: Command) {
    let mut running = Running::start(command);
    running.line_that(|line| line.contains("address")).await;
    running.terminate();
    assert_eq!(soon(running.rest()).await.1, Some(0));
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Data of somebody who may do what the modes of the files allow, and no more: root may do everything. At first nothing of it may be
/// written.
struct Folder {
    folder: TempDir,
    user: Option<(u32, u32)>,
}

impl Folder {
    fn with(data: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let folder = Self {
            folder,
            user: other_user(),
        };
        set_mode(folder.folder.path(), 0o755);
        // They may not reach the folder that it was built in.
        let copied = std::process::Command::new("cp")
            .arg(binary())
            .arg(folder.program())
            .status();
        assert!(copied.unwrap().success());
        fs::create_dir(folder.data()).unwrap();
        for entry in fs::read_dir(data).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.data().join(entry.file_name())).unwrap();
        }
        folder.each(0o444, 0o555);
        folder
    }

    /// Everything may be written.
    fn allow(&self) {
        self.each(0o644, 0o755);
    }

    fn each(&self, files: u32, directory: u32) {
        let own = |path: &Path, mode| {
            let (user, group) = self.user.unzip();
            chown(path, user, group).unwrap();
            set_mode(path, mode);
        };
        for entry in fs::read_dir(self.data()).unwrap() {
            own(&entry.unwrap().path(), files);
        }
        own(&self.data(), directory);
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("valise")
    }

    /// `valise up` as they start it.
    fn up(&self) -> Command {
        let mut command = Command::new(self.program());
        command
            .args(["up", "--json", "--listen", "127.0.0.1:0", "--data"])
            .arg(self.data())
            .env_clear()
            .kill_on_drop(true);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

fn copy_of(data: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// Everything into the file itself.
fn checkpoint(database: &Path) {
    let connection = Connection::open(database).unwrap();
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
}
