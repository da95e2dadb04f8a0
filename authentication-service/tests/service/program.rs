//! The program itself: what it is started with, what it says when it cannot start, and two of it at the same time.

use std::process::{Output, Stdio};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use valise_device_certificate::ServiceIdentity;
use valise_local_stack::{Port, Postgres};
use valise_proto::Reason;
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::authentication::v1::enrol_request::Proof;
use valise_proto::authentication::v1::{EnrolRequest, GetJwksRequest, GetTrustBundleRequest};

use crate::support::{Key, reason};

const DEADLINE: Duration = Duration::from_secs(120);

fn program(database: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valise-authentication-service"));
    command
        .args(arguments)
        .env("VALISE_AUTHENTICATION_DATABASE", database)
        .env("VALISE_AUTHENTICATION_TRUST_DOMAIN", "valise.example")
        .env("VALISE_AUTHENTICATION_DOMAINS", r#"["interieur.example"]"#)
        .env("VALISE_AUTHENTICATION_SERVER__LISTEN", "127.0.0.1:0")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn output(database: &str, arguments: &[&str]) -> Output {
    let ended = timeout(DEADLINE, program(database, arguments).output()).await;
    ended.expect("it did not end").unwrap()
}

/// The one line with which it refuses.
async fn refusal(database: &str, arguments: &[&str]) -> String {
    let output = output(database, arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    for secret in ["hush", "valise@", "stranger"] {
        assert!(!text.contains(secret), "{text}");
    }
    let text = text.strip_prefix("valise-authentication-service: ").unwrap();
    text.trim_end().to_owned()
}

/// The one line with which it is done.
async fn done(database: &str, arguments: &[&str]) -> String {
    let output = output(database, arguments).await;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

async fn execute(url: &str, statement: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn wrong_arguments_and_settings_are_said_in_one_line() {
    for wrong in [
        &["--help"][..],
        &["a.toml", "b.toml"],
        &["migrate", "a.toml", "b.toml"],
        &["bootstrap"],
        &["bootstrap", "nobody"],
    ] {
        let text = refusal("a.db", wrong).await;
        assert!(
            text.starts_with("usage: valise-authentication-service [migrate |"),
            "{text}"
        );
    }
    for (wrong, problem) in [
        (
            "mysql://stranger:hush@db/a",
            "neither the path of a file nor a postgres:// URL",
        ),
        ("postgres://stranger:hush@db:no/a", "not a URL of the form"),
        (
            "postgres://stranger:hush@db/a?sslmod=verify-full",
            "a URL with an unknown parameter",
        ),
    ] {
        for arguments in [&[][..], &["migrate"]] {
            let text = refusal(wrong, arguments).await;
            assert!(text.contains(problem), "{text}");
            let setting = ": database (environment variable VALISE_AUTHENTICATION_DATABASE)";
            assert!(
                text.starts_with("configuration: ") && text.ends_with(setting),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn a_file_needs_no_migration() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.db");
    let text = done(file.to_str().unwrap(), &["migrate"]).await;
    assert!(text.starts_with("nothing to migrate"), "{text}");
    assert!(!file.exists());
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_said_in_one_line() {
    let mut server = Postgres::start().await;
    let database = server.database("a").await;
    let place = format!("127.0.0.1:{}", server.port());
    let refused = async |database: &str, expected: &str| {
        let text = refusal(database, &[]).await;
        let beginning = "setting database: PostgreSQL at ";
        let text = text.strip_prefix(beginning).unwrap_or_else(|| panic!("{text}"));
        assert!(text.contains(expected), "{text}");
    };
    let nowhere = Port::free();
    let nowhere = format!("postgres://stranger:hush@127.0.0.1:{}/a", nowhere.number());
    refused(&nowhere, "cannot be reached: Connection refused").await;
    let stranger = format!("postgres://stranger:hush@{place}/a");
    refused(&stranger, "refuses the connection: wrong user or password").await;
    let other = format!("postgres://valise:hush@{place}/b");
    refused(&other, "refuses the connection: there is no such database").await;
    let unsafe_line = format!("{database}?sslmode=require");
    refused(&unsafe_line, "server does not support TLS").await;
    refused(
        &database,
        "has no schema, and this program needs schema version 2: run it with `migrate`",
    )
    .await;

    let migrated = "the database has the schema of this program";
    assert_eq!(done(&database, &["migrate"]).await, migrated);
    assert_eq!(done(&database, &["migrate"]).await, migrated);
    execute(
        &database,
        "INSERT INTO _sqlx_migrations VALUES (9999, 'later', now(), TRUE, '', 0)",
    )
    .await;
    let newer = "has schema version 9999, newer than this program's (2): use a newer program";
    refused(&database, newer).await;
    assert!(refusal(&database, &["migrate"]).await.ends_with(newer));
    execute(&database, "DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    execute(&database, "UPDATE _sqlx_migrations SET checksum = ''").await;
    refused(&database, "migration 1 is not the one that this program knows").await;

    let rules = server.folder().join("data/pg_hba.conf");
    let trusting = std::fs::read_to_string(&rules).unwrap();
    execute(&database, "CREATE ROLE guarded LOGIN PASSWORD 'right'").await;
    std::fs::write(&rules, format!("host all guarded all scram-sha-256\n{trusting}")).unwrap();
    server.restart_with(&["fsync=off"]).await;
    let guarded = format!("postgres://guarded:hush@{place}/a");
    refused(&guarded, "refuses the connection: wrong user or password").await;
    refused(&database, "has fsync = off").await;
    assert!(refusal(&database, &["migrate"]).await.contains("has fsync = off"));
    server.restart_as_replica().await;
    refused(&database, "is a read-only replica: name the primary").await;
    server.pause();
    refused(&database, "cannot be reached: no answer within 5 s").await;
}

#[tokio::test]
async fn an_operator_makes_what_a_deployment_begins_with() {
    let server = Postgres::start().await;
    let database = server.database("a").await;
    done(&database, &["migrate"]).await;
    let root = "root@interieur.example";
    let mut replica = Replica::start(&database).await;
    let (void, code) = (
        done(&database, &["bootstrap", root]).await,
        done(&database, &["bootstrap", root]).await,
    );
    let mut enrol = async |code: &str| {
        let request = EnrolRequest {
            proof: Some(Proof::EnrolmentCode(code.to_owned())),
            certification_request: Key::generate().request(),
            device_name: String::new(),
        };
        replica.client.enrol(request).await
    };
    assert_eq!(reason(enrol(&void).await), Reason::InvalidEnrolmentProof);
    enrol(&code).await.unwrap();
    let enrolled = refusal(&database, &["bootstrap", root]).await;
    assert_eq!(enrolled, "an administrator has enrolled: ask one for a code");
    let elsewhere = refusal(&database, &["bootstrap", "root@elsewhere.example"]).await;
    assert!(elsewhere.contains("[rule=domain]"), "{elsewhere}");

    let directory = tempfile::tempdir().unwrap();
    let (key, chain) = (
        directory.path().join("key.pem"),
        directory.path().join("chain.pem"),
    );
    let identity = |service| {
        [
            "identity",
            service,
            key.to_str().unwrap(),
            chain.to_str().unwrap(),
        ]
    };
    let unknown = refusal(&database, &identity("mail-service")).await;
    assert!(unknown.contains("[field=service_name]"), "{unknown}");
    done(&database, &identity("delivery-service")).await;
    let loaded = ServiceIdentity::load(&key, &chain).unwrap();
    assert_eq!(loaded.name(), "delivery-service");

    // Another time the same key gets another certificate; and nothing else is ever written over.
    let renewed = done(&database, &identity("delivery-service")).await;
    assert!(renewed.contains("new certificate"), "{renewed}");
    let found = ServiceIdentity::load(&key, &chain).unwrap();
    assert_eq!(found.public_key(), loaded.public_key());
    assert_ne!(found.chain(), loaded.chain());
    let mut of_another_kind = identity("delivery-service");
    of_another_kind[0] = "identity-p256";
    for wrong in [of_another_kind, identity("key-package-directory")] {
        let refused = refusal(&database, &wrong).await;
        assert!(
            refused.starts_with("the files for the key and the certificate exist already"),
            "{refused}"
        );
    }
    let kept = ServiceIdentity::load(&key, &chain).unwrap();
    assert_eq!(kept.chain(), found.chain());
}

/// A process, and a way to call it.
struct Replica {
    process: Child,
    client: AuthenticationServiceClient<Channel>,
    _port: Port,
}

impl Replica {
    async fn start(database: &str) -> Self {
        let port = Port::free();
        let at = format!("127.0.0.1:{}", port.number());
        let process = program(database, &[])
            .env("VALISE_AUTHENTICATION_SERVER__LISTEN", &at)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let endpoint = Channel::from_shared(format!("http://{at}")).unwrap();
        let connected = async {
            loop {
                match endpoint.connect().await {
                    Ok(channel) => break channel,
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let channel = timeout(DEADLINE, connected).await.expect("it does not listen");
        Self {
            process,
            client: AuthenticationServiceClient::new(channel),
            _port: port,
        }
    }

    async fn published(&mut self) -> (String, Vec<Vec<u8>>) {
        let keys = self.client.get_jwks(GetJwksRequest {}).await.unwrap();
        let bundle = self
            .client
            .get_trust_bundle(GetTrustBundleRequest {})
            .await
            .unwrap();
        let bundle = bundle.into_inner().trust_bundle.unwrap();
        (keys.into_inner().jwks_json, bundle.certificates)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_together_make_the_keys_once() {
    let server = Postgres::start().await;
    let database = server.database("a").await;
    // Their migrations run together too.
    tokio::join!(done(&database, &["migrate"]), done(&database, &["migrate"]));
    let (mut one, mut two, mut three) = tokio::join!(
        Replica::start(&database),
        Replica::start(&database),
        Replica::start(&database)
    );
    let published = one.published().await;
    assert_eq!(two.published().await, published);
    assert_eq!(three.published().await, published);

    // One is gone without a word, one is asked to end, and the next one is like them.
    one.process.kill().await.unwrap();
    let id = two.process.id().unwrap().to_string();
    let asked = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(asked.unwrap().success());
    let ended = timeout(DEADLINE, two.process.wait())
        .await
        .expect("it did not end");
    assert!(ended.unwrap().success());
    assert_eq!(three.published().await, published);
    assert_eq!(Replica::start(&database).await.published().await, published);
}
