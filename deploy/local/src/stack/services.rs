//! The replicas of all services, from nothing to where they serve.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::StackOptions;
use super::replica::Replica;
use super::settings::{AUTHENTICATION, DELIVERY, DIRECTORY, Peers, identity, p256_identity};
use crate::folder::Ground;
use crate::programs;

#[derive(Debug)]
pub(super) struct Services {
    pub(super) authentication: Vec<Replica>,
    pub(super) directory: Vec<Replica>,
    pub(super) delivery: Vec<Replica>,
}

impl Services {
    /// With ports and folders; nothing runs yet.
    pub(super) fn prepare(ground: &Ground, options: &StackOptions) -> Self {
        let prepare = |program: &str, offset: u16, count: usize| -> Vec<Replica> {
            assert!(count > 0, "a stack has at least one replica of each service");
            let program = programs::own(program);
            let replica = |index| Replica::prepare(ground, &program, offset, index, &options.environment);
            (0..count).map(replica).collect()
        };
        Self {
            authentication: prepare(AUTHENTICATION, 1, options.authentication_replicas),
            directory: prepare(DIRECTORY, 11, options.directory_replicas),
            delivery: prepare(DELIVERY, 21, options.delivery_replicas),
        }
    }

    /// Writes their settings. Those that call another service are spread over its replicas.
    pub(super) fn configure(&self, peers: &Peers<'_>) {
        for replica in &self.authentication {
            replica.configure(&peers.authentication(replica));
        }
        for (index, replica) in self.directory.iter().enumerate() {
            let (tokens, notices) = (turn(&self.authentication, index), turn(&self.delivery, index));
            replica.configure(&peers.directory(replica, tokens, notices));
        }
        for (index, replica) in self.delivery.iter().enumerate() {
            replica.configure(&peers.delivery(replica, turn(&self.authentication, index)));
        }
    }

    /// What an operator does before the first start: schemas, certificates for the services that call others, and the
    /// first administrator's code, which is the answer until one has enrolled.
    pub(super) async fn set_up(&self, administrator: &str, identities: &Path) -> Option<String> {
        for replicas in [&self.authentication, &self.directory, &self.delivery] {
            must(&replicas[0], &["migrate"]).await;
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(identities);
        made.expect("cannot create the folder for certificates");
        let operator = &self.authentication[0];
        let files = [
            ("identity", DIRECTORY, identity(identities, DIRECTORY)),
            ("identity", DELIVERY, identity(identities, DELIVERY)),
            ("identity-p256", DELIVERY, p256_identity(identities)),
        ];
        for (command, program, (key, chain)) in files {
            let service = program.trim_start_matches("valise-");
            if !chain.exists() {
                // Of an attempt that was not finished.
                drop(fs::remove_file(&key));
                let (key, chain) = (key.display().to_string(), chain.display().to_string());
                must(operator, &[command, service, &key, &chain]).await;
            }
        }
        match operator.operate(&["bootstrap", administrator]).await {
            Ok(code) => Some(code),
            Err(complaint) if complaint.contains("an administrator has enrolled") => None,
            Err(complaint) => panic!("{complaint}"),
        }
    }

    /// Starts all, and waits until they serve.
    pub(super) async fn begin(&self) {
        for replica in self.all() {
            replica.begin().await;
        }
        for replica in self.all() {
            replica.serves().await;
        }
    }

    fn all(&self) -> impl Iterator<Item = &Replica> {
        self.authentication
            .iter()
            .chain(&self.directory)
            .chain(&self.delivery)
    }
}

async fn must(replica: &Replica, command: &[&str]) {
    if let Err(complaint) = replica.operate(command).await {
        panic!("{} {}: {complaint}", replica.name(), command[0]);
    }
}

/// One of them, by turns.
fn turn(replicas: &[Replica], index: usize) -> &Replica {
    &replicas[index % replicas.len()]
}
