//! `valise-local-stack up` and `down` as their user runs them.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use valise_local_stack::{LocalStack, RedisShape, StackOptions};

fn stack(command: &str, data: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_valise-local-stack"))
        .arg(command)
        .arg("--data")
        .arg(data)
        .args(more)
        .output()
        .unwrap()
}

fn done(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

fn refusal(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Stops what a failed test has left.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        stack("down", self.0, &[]);
    }
}

/// What `up` says, at ports that nobody has: below those from which other tests take theirs.
fn up(data: &Path) -> Value {
    loop {
        let port = 10_000 + RandomState::new().build_hasher().finish() % 32 * 60;
        let output = stack("up", data, &["--json", "--first-port", &port.to_string()]);
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).unwrap();
        }
        assert!(refusal(&output).ends_with("is in use\n"), "{output:?}");
        // The ports stay with the data.
        std::fs::remove_dir_all(data).unwrap();
    }
}

#[test]
fn what_is_up_goes_down_and_comes_up_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    // Its server has a user of its own.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let data = folder.path().join("data");
    let _down = Down(&data);
    let first = up(&data);
    for service in ["authentication", "directory", "delivery"] {
        assert_eq!(first[service].as_array().unwrap().len(), 2, "{first}");
    }
    assert_eq!(first["redis"].as_array().unwrap().len(), 6, "{first}");
    assert!(first["administrator_enrolment_code"].is_string(), "{first}");

    assert!(refusal(&stack("up", &data, &[])).contains("is up already"));
    assert!(refusal(&stack("up", &data, &["--first-port", "2000"])).contains("is up already"));
    let down = stack("down", &data, &[]);
    assert!(done(&down).starts_with("stopped 13 processes"), "{down:?}");
    let down = stack("down", &data, &[]);
    assert!(done(&down).starts_with("nothing runs"), "{down:?}");
    assert!(refusal(&stack("up", &data, &["--first-port", "2000"])).contains("leave out --first-port"));

    let second = stack("up", &data, &["--json"]);
    let second: Value = serde_json::from_str(done(&second)).unwrap();
    for name in ["authentication", "directory", "delivery", "redis", "postgres"] {
        assert_eq!(second[name], first[name], "{name}");
    }
    assert!(done(&stack("down", &data, &[])).starts_with("stopped 13 processes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_comes_back_and_the_other_serves_meanwhile() {
    let options = StackOptions {
        authentication_replicas: 1,
        directory_replicas: 1,
        redis: RedisShape::Standalone,
        ..StackOptions::default()
    };
    let stack = LocalStack::start(options).await;
    assert!(stack.administrator_code().is_some());
    let (one, other) = (stack.delivery(0), stack.delivery(1));
    one.kill().await;
    assert!(!one.is_serving().await);
    assert!(other.is_serving().await);
    one.restart().await;
    assert!(one.is_serving().await);
}
