//! Servers with a service's settings for them, and its program.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SanType, SerialNumber};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use valise_local_stack::{Postgres, Redis};

/// How long anything may take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A Redis, a PostgreSQL with an empty database, and a folder for keys.
pub(crate) struct Deployment {
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    pub(crate) database: String,
    folder: TempDir,
}

/// What a replica is started with.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) redis: String,
    pub(crate) database: String,
    /// A key and its certificate: those of that name.
    pub(crate) identity: &'static str,
    /// More variables, or other values.
    pub(crate) more: Vec<(&'static str, String)>,
}

impl Deployment {
    pub(crate) async fn start() -> Self {
        let (redis, postgres) = tokio::join!(Redis::start(), Postgres::start());
        Self {
            redis,
            database: postgres.database("delivery").await,
            postgres,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// As they should be.
    pub(crate) fn settings(&self, identity: &'static str) -> Settings {
        Settings {
            redis: self.redis.url(),
            database: self.database.clone(),
            identity,
            more: Vec::new(),
        }
    }

    /// The files with a service's key and its certificate, made when they are first asked for.
    pub(crate) fn identity(&self, name: &str) -> (PathBuf, PathBuf) {
        let files = (self.file(name, "key"), self.file(name, "chain"));
        if !files.0.exists() {
            let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            std::fs::write(&files.0, key.serialize_pem()).unwrap();
            certify(&key, &files.1);
        }
        files
    }

    /// The same key with another certificate, by another name.
    pub(crate) fn recertify(&self, name: &str, new: &str) -> PathBuf {
        let pem = std::fs::read_to_string(self.identity(name).0).unwrap();
        let chain = self.file(new, "chain");
        certify(&KeyPair::from_pem(&pem).unwrap(), &chain);
        chain
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.{kind}.pem"))
    }

    fn program(&self, settings: &Settings, arguments: &[&str]) -> Command {
        let (key, chain) = self.identity(settings.identity);
        let mut command = Command::new(env!("CARGO_BIN_EXE_valise-delivery-service"));
        command
            .args(arguments)
            .env_clear()
            .env("VALISE_DELIVERY_KEY_FILE", key)
            .env("VALISE_DELIVERY_CHAIN_FILE", chain)
            .env("VALISE_DELIVERY_SERVER__LISTEN", "127.0.0.1:0")
            .env("VALISE_DELIVERY_DATABASE", &settings.database)
            .env("VALISE_DELIVERY_REDIS__MODE", "standalone")
            .env("VALISE_DELIVERY_REDIS__URLS", format!("[{:?}]", settings.redis))
            .envs(settings.more.iter().map(|(name, value)| (*name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn end(&self, settings: &Settings, arguments: &[&str]) -> Output {
        let ended = timeout(LONG, self.program(settings, arguments).output()).await;
        ended.expect("it did not end").unwrap()
    }

    /// The one line with which it does not start. What it logs is beside that.
    pub(crate) async fn refusal(&self, settings: &Settings) -> String {
        let output = self.end(settings, &[]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("hush") && !said.contains("stranger"), "{said}");
        let own = said
            .lines()
            .filter_map(|line| line.strip_prefix("valise-delivery-service: "));
        let own: Vec<_> = own.collect();
        let [line] = own[..] else { panic!("{said}") };
        line.to_owned()
    }

    /// The one line with which a command is done.
    pub(crate) async fn operate(&self, settings: &Settings, command: &str) -> String {
        let output = self.end(settings, &[command]).await;
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        said.trim_end().to_owned()
    }

    /// A replica that has no authentication service to follow: it opens its stores, and waits.
    pub(crate) fn begin(&self, settings: &Settings) -> Child {
        let mut program = self.program(settings, &[]);
        program.stderr(Stdio::null()).spawn().unwrap()
    }

    pub(crate) async fn execute(&self, statement: &str) {
        let mut connection = PgConnection::connect(&self.database).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .unwrap();
    }

    pub(crate) async fn count(&self, query: &str) -> i64 {
        let mut connection = PgConnection::connect(&self.database).await.unwrap();
        let counted = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut connection).await;
        counted.unwrap().get(0)
    }

    pub(crate) async fn text(&self, query: &str) -> String {
        let mut connection = PgConnection::connect(&self.database).await.unwrap();
        let found = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut connection).await;
        found.unwrap().get(0)
    }
}

fn certify(key: &KeyPair, chain_file: &Path) {
    let mut certificate = CertificateParams::default();
    let uri = "valise://valise.example/s/delivery-service".try_into().unwrap();
    certificate.subject_alt_names = vec![SanType::URI(uri)];
    // A key and its certificate's number make the whole certificate: the same twice would be the same certificate.
    let name = chain_file.file_name().unwrap().as_encoded_bytes();
    certificate.serial_number = Some(SerialNumber::from_slice(&name[..8]));
    std::fs::write(chain_file, certificate.self_signed(key).unwrap().pem()).unwrap();
}
