//! Directories as real processes on one PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use valise_key_package_directory::GRPC_SERVICES;
use valise_local_stack::{Port, Postgres};
use valise_proto::Refusal;
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;
use valise_proto::directory::v1::{
    Claim, ClaimKeyPackagesRequest, GetStockRequest, PublishKeyPackagesRequest, Stock,
};

use crate::fakes::{NAME, Peers};
use crate::people::{Device, SUITE};
use crate::scene::{ISSUER, Scene};

/// How long anything may take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Keys, tokens, the other services, and a database with the directory's schema.
pub(crate) struct Deployment {
    pub(crate) scene: Scene,
    pub(crate) peers: Peers,
    pub(crate) postgres: Postgres,
    pub(crate) database: String,
    folder: TempDir,
}

impl Deployment {
    pub(crate) async fn new() -> Self {
        let deployment = Self::without_schema().await;
        let migrated = deployment.once(&deployment.database, &["migrate"]).await;
        assert!(migrated.status.success(), "{migrated:?}");
        deployment
    }

    pub(crate) async fn without_schema() -> Self {
        let scene = Scene::closed(|_| {});
        let peers = Peers::start(&scene).await;
        let postgres = Postgres::start().await;
        let database = postgres.database("directory").await;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let identity = scene.authority.service(NAME);
        identity.save(&file("key.pem"), &file("chain.pem")).unwrap();
        Self {
            scene,
            peers,
            postgres,
            database,
            folder,
        }
    }

    /// Starts a replica and waits until it is ready.
    pub(crate) async fn replica(&self) -> Replica {
        let port = Port::free();
        let config = self.write_config(&self.database, port.number());
        let child = command(&[config.as_os_str().to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", port.number()))
            .unwrap()
            .connect_lazy();
        let replica = Replica {
            child: Some(child).into(),
            channel,
            _port: port,
        };
        replica.is(ServingStatus::Serving).await;
        replica
    }

    /// Runs the program to its end, with these arguments before the configuration's.
    pub(crate) async fn once(&self, database: &str, arguments: &[&str]) -> Output {
        let port = Port::free();
        let config = self.write_config(database, port.number());
        let arguments: Vec<_> = arguments.iter().copied().chain(config.to_str()).collect();
        let run = command(&arguments).output();
        tokio::time::timeout(LONG, run).await.unwrap().unwrap()
    }

    fn write_config(&self, database: &str, port: u16) -> PathBuf {
        let (url, folder) = (&self.peers.url, self.folder.path().display());
        let file = self.folder.path().join(format!("{port}.toml"));
        let text = format!(
            r#"
            database = "{database}"
            [server]
            listen = "127.0.0.1:{port}"
            [limits]
            publish = {{ requests = 1000000, seconds = 1 }}
            claim = {{ requests = 1000000, seconds = 1 }}
            claim_of_one_device = {{ requests = 1000000, seconds = 1 }}
            [peers]
            authentication = "{url}"
            issuer = "{ISSUER}"
            delivery = "{url}"
            key = "{folder}/key.pem"
            certificate = "{folder}/chain.pem"
            "#
        );
        std::fs::write(&file, text).unwrap();
        file
    }
}

/// The program.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_valise-key-package-directory")));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A running process, and the way to it.
pub(crate) struct Replica {
    child: parking_lot::Mutex<Option<Child>>,
    channel: Channel,
    _port: Port,
}

impl Replica {
    /// `kill -9`, once.
    pub(crate) async fn kill(&self) {
        let child = self.child.lock().take();
        if let Some(mut child) = child {
            child.kill().await.unwrap();
        }
    }

    /// Waits until it is ready, or is not.
    pub(crate) async fn is(&self, status: ServingStatus) {
        let request = || HealthCheckRequest {
            service: GRPC_SERVICES[0].to_owned(),
        };
        let reached = async {
            loop {
                // Until it listens, and until the service is known.
                let Ok(answer) = HealthClient::new(self.channel.clone()).watch(request()).await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let mut answers = answer.into_inner();
                while let Ok(Some(answer)) = answers.message().await {
                    if answer.status() == status {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(LONG, reached).await.unwrap();
    }

    fn client(&self) -> KeyPackageDirectoryServiceClient<Channel> {
        KeyPackageDirectoryServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub(crate) async fn publish(&self, scene: &Scene, by: &Device, key_packages: Vec<Vec<u8>>) {
        let request = scene.request(&by.caller(), PublishKeyPackagesRequest { key_packages });
        self.client().publish_key_packages(request).await.unwrap();
    }

    /// Claims a package of each of the devices. `None`: the outcome is unknown.
    pub(crate) async fn claim(
        &self,
        scene: &Scene,
        by: &Device,
        of: &[&Device],
    ) -> Result<Vec<Claim>, Option<Refusal>> {
        let request = ClaimKeyPackagesRequest {
            user_ids: Vec::new(),
            device_ids: of.iter().map(|device| device.id.to_string()).collect(),
            cipher_suite: SUITE,
        };
        let request = scene.request(&by.caller(), request);
        let answer = self.client().claim_key_packages(request).await;
        answer
            .map(|answer| answer.into_inner().claims)
            .map_err(|status| Refusal::from_status(&status))
    }

    pub(crate) async fn stock(&self, scene: &Scene, of: &Device) -> Vec<Stock> {
        let request = scene.request(&of.caller(), GetStockRequest {});
        self.client().get_stock(request).await.unwrap().into_inner().stock
    }
}
