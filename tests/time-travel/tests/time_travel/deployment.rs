//! All three services in this process, each on a socket of its own, as their programs run them; the delivery service on Redis and
//! `PostgreSQL`. They ask the wall clock, and so move with it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use valise_authentication_service as authentication;
use valise_client_sdk::{GroupId, Servers};
use valise_clock::Clock;
use valise_delivery_service as delivery;
use valise_delivery_service::log::redis::config::{RedisConfig, RedisMode};
use valise_device_certificate::{KeyKind, ServiceKey};
use valise_key_package_directory as directory;
use valise_key_package_directory::PeerConfig;
use valise_local_stack::{Postgres, Redis};
use valise_service_runtime::ServerConfig;
use valise_tests::raw::Door;
use valise_tests::wait::{soon, until};

pub(crate) const DOMAIN: &str = "interieur.example";
const DELIVERY: &str = "delivery-service";
const DIRECTORY: &str = "key-package-directory";

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub(crate) struct Deployment {
    folder: TempDir,
    redis: Redis,
    database: String,
    _postgres: Postgres,
    /// Of the authentication service, the directory, the delivery service.
    ports: [u16; 3],
    running: Vec<Running>,
    pub(crate) administrator_code: String,
}

impl Deployment {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (redis, postgres) = tokio::join!(Redis::start(), Postgres::start());
        let mut deployment = Self {
            database: postgres.database("delivery").await,
            folder,
            redis,
            _postgres: postgres,
            ports: [0; 3],
            running: Vec::new(),
            administrator_code: String::new(),
        };
        let service = authentication::Service::open(deployment.authentication(), Clock::system());
        let service = service.await.unwrap();
        for name in [DELIVERY, DIRECTORY] {
            let identity = service
                .issue_service_identity(name, KeyKind::Ed25519)
                .await
                .unwrap();
            let (key, chain) = deployment.identity(name);
            identity.save(&key, &chain).unwrap();
        }
        let administrator = format!("admin@{DOMAIN}").parse().unwrap();
        let made = service.bootstrap(&administrator).await.unwrap().unwrap();
        deployment.administrator_code = made.code.as_str().to_owned();
        service.stop().await;
        delivery::migrate(&deployment.delivery().database).await.unwrap();
        deployment.serve().await;
        deployment
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn identity(&self, service: &str) -> (PathBuf, PathBuf) {
        (
            self.file(&format!("{service}.key.pem")),
            self.file(&format!("{service}.chain.pem")),
        )
    }

    fn url(&self, service: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[service])
    }

    fn issuer() -> String {
        format!("valise://{DOMAIN}")
    }

    fn server() -> ServerConfig {
        ServerConfig {
            graceful_shutdown: Duration::from_secs(5),
            ..ServerConfig::default()
        }
    }

    fn authentication(&self) -> authentication::Config {
        let mut config =
            authentication::Config::new(self.file("authentication.db"), DOMAIN, vec![DOMAIN.to_owned()]);
        config.server = Self::server();
        config
    }

    fn directory(&self) -> directory::Config {
        let (key, certificate) = self.identity(DIRECTORY);
        directory::Config {
            database: self.file("directory.db").into(),
            server: Self::server(),
            peers: Some(PeerConfig {
                authentication: self.url(0),
                issuer: Self::issuer(),
                delivery: Some(self.url(2)),
                ca_certificate: None,
                key,
                certificate,
            }),
            ..directory::Config::default()
        }
    }

    fn delivery(&self) -> delivery::Config {
        let (key, chain) = self.identity(DELIVERY);
        let database: valise_sql_database::Database = self.database.parse().unwrap();
        let redis = RedisConfig::new(RedisMode::Standalone, vec![self.redis.url().parse().unwrap()]);
        delivery::Config {
            redis: Some(redis),
            archive: delivery::ArchiveConfig {
                hot_entries: 1,
                hot_seconds: 10,
                sweep_milliseconds: 100,
                retention_sweep_seconds: 1,
                ..delivery::ArchiveConfig::default()
            },
            authentication_url: self.url(0),
            token_issuer: Self::issuer(),
            server: Self::server(),
            ..delivery::Config::new(database, key, chain)
        }
    }

    /// Starts all of them, on the ports of before where there were any.
    async fn serve(&mut self) {
        let mut listeners = Vec::new();
        for port in &mut self.ports {
            let listener = TcpListener::bind(("127.0.0.1", *port)).await.unwrap();
            *port = listener.local_addr().unwrap().port();
            listeners.push(listener);
        }
        let listeners: [TcpListener; 3] = listeners.try_into().unwrap();
        let [first, second, third] = listeners;
        let stop = CancellationToken::new();
        let running = [
            tokio::spawn({
                let (config, stop) = (self.authentication(), stop.clone());
                async move { authentication::run(config, first, stop).await.unwrap() }
            }),
            tokio::spawn({
                let (config, stop) = (self.directory(), stop.clone());
                async move { directory::run(config, second, stop).await.unwrap() }
            }),
            tokio::spawn({
                let (config, stop) = (self.delivery(), stop.clone());
                async move { delivery::run(config, third, stop).await.unwrap() }
            }),
        ];
        for task in running {
            let stop = stop.clone();
            self.running.push(Running { stop, task });
        }
        for service in 0..3 {
            until("the service answers", async || self.connect(service).await.ok()).await;
        }
    }

    /// Ends all of them and starts them again: what they know is what they have stored.
    pub(crate) async fn restart(&mut self) {
        self.end().await;
        self.serve().await;
    }

    /// The same, and in between an operator renews the services' certificates.
    pub(crate) async fn restart_renewed(&mut self) {
        self.end().await;
        self.renew_certificates().await;
        self.serve().await;
    }

    async fn end(&mut self) {
        for running in &self.running {
            running.stop.cancel();
        }
        for running in self.running.drain(..) {
            soon(running.task).await.unwrap();
        }
    }

    async fn renew_certificates(&self) {
        let service = authentication::Service::open(self.authentication(), Clock::system());
        let service = service.await.unwrap();
        for name in [DELIVERY, DIRECTORY] {
            let (key, chain) = self.identity(name);
            let key = ServiceKey::load(&key).unwrap();
            let renewed = service.certify_service_key(name, key).await.unwrap();
            renewed.save_chain(&chain).unwrap();
        }
        service.stop().await;
    }

    async fn connect(&self, service: usize) -> Result<Channel, tonic::transport::Error> {
        Endpoint::from_shared(self.url(service)).unwrap().connect().await
    }

    pub(crate) fn servers(&self) -> Servers {
        Servers::each(self.url(0), self.url(1), self.url(2))
    }

    /// For a device without the SDK.
    pub(crate) async fn door(&self) -> Door {
        Door::each(
            self.connect(0).await.unwrap(),
            self.connect(1).await.unwrap(),
            self.connect(2).await.unwrap(),
        )
    }

    /// Redis deletes invitations when they are as old as entries get. It is another process, in which no time has passed.
    pub(crate) async fn forgets_invitations(&self) {
        const DELETE: &str =
            "for _, key in ipairs(redis.call('KEYS', '*welcome:*')) do redis.call('DEL', key) end";
        self.redis.command(&["EVAL", DELETE, "0"]).await;
    }

    /// Waits until nothing is kept of a group's messages up to that position.
    pub(crate) async fn has_forgotten(&self, group: GroupId, position: u64) {
        // Hexadecimal, without the hyphens of a UUID.
        let group = group.to_string().replace('-', "");
        let question = format!(
            "SELECT deleted FROM groups WHERE group_id = decode('{group}', 'hex') AND trimmed >= {position}"
        );
        until("old entries are gone", async || {
            let mut psql = Command::new(Postgres::program("psql"));
            psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--dbname"]);
            let answer = psql
                .arg(&self.database)
                .args(["--command", &question])
                .output()
                .unwrap();
            let deleted: Option<u64> = String::from_utf8_lossy(&answer.stdout).trim().parse().ok();
            deleted.filter(|deleted| *deleted >= position)
        })
        .await;
    }
}
