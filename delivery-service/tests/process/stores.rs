//! Stores that must not be used.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use valise_local_stack::{Port, Redis, RedisProgram};

use crate::deployment::{Deployment, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_redis_is_said_in_one_line() {
    let deployment = Deployment::start().await;
    let good = deployment.settings("one");
    deployment.operate(&good, "migrate").await;
    let place = format!("Redis at 127.0.0.1:{}", deployment.redis.port());
    let refused = async |redis: String, more: &[(&'static str, &str)], expected: &str| {
        let settings = Settings {
            redis,
            more: more
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
            ..good.clone()
        };
        let line = deployment.refusal(&settings).await;
        assert!(line.starts_with(expected), "{line}");
    };

    let nowhere = Port::free();
    let beginning = format!(
        "Redis at 127.0.0.1:{} cannot be reached (setting redis.urls): ",
        nowhere.number()
    );
    refused(format!("redis://127.0.0.1:{}", nowhere.number()), &[], &beginning).await;
    let stranger = format!("redis://stranger:hush@127.0.0.1:{}", deployment.redis.port());
    refused(
        stranger,
        &[],
        &format!("{place} refuses the connection (setting redis.urls): "),
    )
    .await;
    let not_redis = format!("redis://127.0.0.1:{}", deployment.postgres.port());
    refused(
        not_redis,
        &[],
        &format!("Redis at 127.0.0.1:{} ", deployment.postgres.port()),
    )
    .await;
    let secure = format!("rediss://127.0.0.1:{}", deployment.redis.port());
    refused(secure, &[], &place).await;
    let mode = [("VALISE_DELIVERY_REDIS__MODE", "cluster")];
    let wrong = format!("{place} runs as standalone, and the setting redis.mode is cluster");
    refused(deployment.redis.url(), &mode, &wrong).await;

    let old = Redis::start_with(RedisProgram::Outdated, &[]).await;
    let expected = format!(
        "Redis at 127.0.0.1:{} is Redis 6.2.14: Redis 7.0 or Valkey 8.0, or a newer one, is needed",
        old.port()
    );
    refused(old.url(), &[], &expected).await;
    let port = deployment.redis.port().to_string();
    let replica = Redis::start_with(RedisProgram::Redis, &["--replicaof", "127.0.0.1", &port]).await;
    let expected = format!(
        "Redis at 127.0.0.1:{} is a replica: name the primary in the setting redis.urls",
        replica.port()
    );
    refused(replica.url(), &[], &expected).await;

    for (setting, value, needed) in [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ] {
        let set = async |value: &str| {
            assert_eq!(
                deployment.redis.command(&["CONFIG", "SET", setting, value]).await,
                "OK"
            );
        };
        set(value).await;
        let expected =
            format!("{place} has {setting} {value}: an answered append may be lost; it must be {needed}");
        refused(deployment.redis.url(), &[], &expected).await;
        set(needed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_postgresql_is_said_in_one_line() {
    let mut deployment = Deployment::start().await;
    let good = deployment.settings("one");
    let refused = async |deployment: &Deployment, database: String, expected: &str| {
        let settings = Settings {
            database,
            ..good.clone()
        };
        let line = deployment.refusal(&settings).await;
        assert!(
            line.starts_with("setting database: PostgreSQL at 127.0.0.1:"),
            "{line}"
        );
        assert!(line.contains(expected), "{line}");
    };
    let database = deployment.database.clone();
    refused(
        &deployment,
        database.clone(),
        "has no schema, and this program needs schema version",
    )
    .await;
    deployment.operate(&good, "migrate").await;
    let nowhere = Port::free();
    let url = format!("postgres://stranger:hush@127.0.0.1:{}/delivery", nowhere.number());
    refused(&deployment, url, "cannot be reached: Connection refused").await;
    let url = format!(
        "postgres://stranger:hush@127.0.0.1:{}/delivery",
        deployment.postgres.port()
    );
    refused(&deployment, url, "refuses the connection: wrong user or password").await;
    refused(
        &deployment,
        format!("{database}?sslmode=require"),
        "server does not support TLS",
    )
    .await;

    deployment
        .execute("INSERT INTO _sqlx_migrations VALUES (9999, 'later', now(), TRUE, '', 0)")
        .await;
    refused(
        &deployment,
        database.clone(),
        "has schema version 9999, newer than this program's",
    )
    .await;
    deployment
        .execute("DELETE FROM _sqlx_migrations WHERE version > 1")
        .await;
    refused(
        &deployment,
        database.clone(),
        "has schema version 1, and this program needs schema version",
    )
    .await;

    deployment
        .postgres
        .restart_with(&["synchronous_commit=off"])
        .await;
    refused(&deployment, database.clone(), "has synchronous_commit = off").await;
    deployment.postgres.restart_with(&[]).await;
    deployment.postgres.restart_as_replica().await;
    refused(&deployment, database, "is a read-only replica: name the primary").await;
}

/// A certificate for 127.0.0.1 that vouches for itself, and its key, both readable by the owner of the folder alone.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let owner = folder.metadata().unwrap();
    let write = |kind: &str, pem: String| {
        let file = folder.join(format!("{name}.{kind}"));
        std::fs::write(&file, pem).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
        file
    };
    (
        write("crt", made.cert.pem()),
        write("key", made.signing_key.serialize_pem()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_nobody_known_vouches_for_is_said_in_one_line() {
    let mut deployment = Deployment::start().await;
    let data = deployment.postgres.folder().join("data");
    let (own, key) = certificate(&data, "own");
    let (other, _) = certificate(&data, "other");
    let tls = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", own.display()),
        format!("ssl_key_file={}", key.display()),
    ];
    deployment
        .postgres
        .restart_with(&tls.each_ref().map(String::as_str))
        .await;
    let with = |parameters: &str| Settings {
        database: format!("{}?{parameters}", deployment.database),
        ..deployment.settings("one")
    };
    let good = with(&format!("sslmode=verify-full&sslrootcert={}", own.display()));
    deployment.operate(&good, "migrate").await;
    for (wrong, expected) in [
        (
            format!("sslmode=verify-full&sslrootcert={}", other.display()),
            "certificate",
        ),
        ("sslmode=verify-full".to_owned(), "certificate"),
        ("sslmode=verify-full&sslrootcert=/nowhere/root.pem".to_owned(), ""),
    ] {
        let line = deployment.refusal(&with(&wrong)).await;
        assert!(
            line.starts_with("setting database: PostgreSQL at 127.0.0.1:"),
            "{line}"
        );
        assert!(line.contains(expected), "{line}");
    }
}
