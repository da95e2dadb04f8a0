//! The README's example is the SDK's example, and does what it says.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::path::{Path, PathBuf};

use tokio::process::Command;
use valise_tests::command::{built, run};
use valise_tests::service::Service;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// The example's code, without its heading and what is for the linter alone.
fn example() -> String {
    let text = std::fs::read_to_string(repository("client-sdk/examples/readme.rs")).unwrap();
    let (_, code) = text.split_once("]\n\n").unwrap();
    code.to_owned()
}

#[test]
fn the_readme_shows_the_example() {
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    let blocks: Vec<_> = readme
        .split("```rust\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks, [example()]);
    assert!(example().lines().count() < 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_runs() {
    let service = Service::start().await;
    let (user, code) = service.first_user();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(built(
        "examples/readme",
        &["--package", "valise-client-sdk", "--example", "readme"],
    ));
    command
        .arg(service.url())
        .arg(code)
        .arg(folder.path().join("alice.valise"));
    assert_eq!(run(command).await.ok(), format!("{user}: Bonjour\n"));
    // Nothing of it can be read on the disk.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"Bonjour"));
        assert!(!bytes.starts_with(b"SQLite"));
    }
}
