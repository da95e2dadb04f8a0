//! The command line as a process: what needs no service.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::process::{Command, Output};

fn valise(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_valise"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn it_says_its_version() {
    let output = valise(&["--version"]);
    assert!(output.status.success());
    assert_eq!(
        text(&output.stdout).trim_end(),
        concat!("valise ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn what_it_does_not_know_is_an_error() {
    for arguments in [&["up", "--port", "1"][..], &["dance"], &[]] {
        let output = valise(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(text(&output.stderr).contains("Usage: valise"), "{arguments:?}");
    }
}
