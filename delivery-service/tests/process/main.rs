//! The delivery service as a process: a start that cannot succeed says why in one line, and fails.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed set-up is a failed test"
)]

mod deployment;
mod identity;
mod stores;

use std::process::{Command, Output};

fn program(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_valise-delivery-service"))
        .args(arguments)
        .env_clear()
        .env("VALISE_DELIVERY_KEY_FILE", "key.pem")
        .env("VALISE_DELIVERY_CHAIN_FILE", "chain.pem")
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

fn refused(arguments: &[&str], settings: &[(&str, &str)], names: &str) {
    let output = program(arguments, settings);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(said.contains(names), "{names} in {said}");
    assert!(!said.contains("hush"), "{said}");
}

#[test]
fn what_cannot_work_is_said_in_one_line() {
    let redis = (
        "VALISE_DELIVERY_REDIS__URLS",
        "[\"redis://valise:hush@127.0.0.1:1\"]",
    );
    let mode = ("VALISE_DELIVERY_REDIS__MODE", "standalone");
    let file = ("VALISE_DELIVERY_DATABASE", "delivery.db");
    let server = (
        "VALISE_DELIVERY_DATABASE",
        "postgres://valise:hush@127.0.0.1:1/delivery",
    );
    refused(&["one", "two"], &[file], "migrate");
    refused(&["nowhere.toml"], &[file], "nowhere.toml");
    refused(&[], &[], "database");
    refused(&[], &[file, ("VALISE_DELIVERY_COLOUR", "red")], "colour");
    refused(&["migrate"], &[server, mode, redis], "127.0.0.1:1");
    // It needs no address of Redis, and no key.
    refused(&["migrate"], &[server, mode], "127.0.0.1:1");
    let (nowhere, unread) = ("nowhere/secret", "cannot read nowhere/secret");
    refused(&[], &[("VALISE_DELIVERY_DATABASE_FILE", nowhere)], unread);
    for secret in [
        "VALISE_DELIVERY_REDIS__URLS_FILE",
        "VALISE_DELIVERY_REDIS__PASSWORD_FILE",
    ] {
        refused(&[], &[file, mode, (secret, nowhere)], unread);
    }
}

#[test]
fn a_file_needs_no_migration() {
    let output = program(&["migrate"], &[("VALISE_DELIVERY_DATABASE", "delivery.db")]);
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("nothing to migrate")
    );
}
