//! People whose devices are profiles of the `valise` command, each in a directory of its own.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::command::{run, valise};
use crate::service::Service;

const ADMINISTRATOR: &str = "admin";

/// All profiles of a test.
pub struct Homes {
    folder: TempDir,
    url: String,
    domain: String,
}

impl Homes {
    /// With the administrator of a service that was just started.
    pub async fn of(service: &Service) -> Self {
        let (user, _) = service.first_user();
        let domain = user.split_once('@').unwrap().1.to_owned();
        let homes = Self {
            folder: tempfile::tempdir().unwrap(),
            url: service.url().to_owned(),
            domain,
        };
        homes
            .enrol_with(ADMINISTRATOR, service.administrator_code())
            .await;
        homes
    }

    /// The user id of somebody.
    pub fn user(&self, name: &str) -> String {
        format!("{name}@{}", self.domain)
    }

    /// `valise` with the profile of that person.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let profile = self.folder.path().join(name);
        let mut command = valise(["--profile".as_ref(), profile.as_os_str()]);
        command.args(arguments);
        command
    }

    /// A file with that content.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A profile for somebody, with a code from the administrator.
    pub async fn enrol(&self, name: &str) {
        let code = run(self.command(ADMINISTRATOR, &["admin", "code", &self.user(name), "--json"]))
            .await
            .ok();
        let code: Value = serde_json::from_str(&code).unwrap();
        self.enrol_with(name, code["code"].as_str().unwrap()).await;
    }

    async fn enrol_with(&self, name: &str, code: &str) {
        run(self.command(
            name,
            &[
                "enrol", "--server", &self.url, "--code", code, "--name", "terminal",
            ],
        ))
        .await
        .ok();
    }

    /// Makes a group and returns its id.
    pub async fn new_group(&self, name: &str, group: &str) -> String {
        let told = run(self.command(name, &["group", "new", group, "--json"]))
            .await
            .ok();
        let told: Value = serde_json::from_str(&told).unwrap();
        told["group"].as_str().unwrap().to_owned()
    }

    /// Adds people to a group.
    pub async fn add(&self, name: &str, group: &str, others: &[&str]) {
        let others: Vec<_> = others.iter().map(|other| self.user(other)).collect();
        let mut command = self.command(name, &["group", "add", group]);
        command.args(others);
        run(command).await.ok();
    }
}
