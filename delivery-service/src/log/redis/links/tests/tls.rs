//! Servers that are spoken to by TLS.

use std::path::{Path, PathBuf};

use valise_local_stack::{Port, RedisProgram};

use super::*;

/// A certificate for 127.0.0.1, signed by itself, and its key.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (
        folder.join(format!("{name}.pem")),
        folder.join(format!("{name}.key")),
    );
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

#[tokio::test]
async fn only_a_server_that_a_known_authority_vouches_for_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path(), "own");
    let (other, _) = self::certificate(folder.path(), "other");
    let port = Port::free();
    let arguments = [
        "--tls-port",
        &port.number().to_string(),
        "--tls-cert-file",
        certificate.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-ca-cert-file",
        certificate.to_str().unwrap(),
        "--tls-auth-clients",
        "no",
    ];
    let server = Redis::start_with(RedisProgram::Redis, &arguments).await;
    let with = |url: String, authority: Option<&Path>| {
        let mut config = config(RedisMode::Standalone, &[url]);
        config.ca_certificate = authority.map(Path::to_owned);
        config
    };
    let url = format!("rediss://127.0.0.1:{}", port.number());
    let links = open(&with(url.clone(), Some(&certificate))).await;
    let mut heard = links.heard().unwrap();
    assert_eq!(
        links.call(partition(7), add(partition(7), "one")).await.unwrap(),
        Value::Int(1)
    );
    hear(&mut heard, &message(partition(7), "one")).await;

    let start = format!(
        "Redis at 127.0.0.1:{}: TLS fails (settings redis.urls and redis.ca_certificate): ",
        port.number()
    );
    for authority in [Some(other.as_path()), None] {
        let error = refused(&with(url.clone(), authority)).await;
        assert!(error.starts_with(&start), "{error}");
    }
    let garbage = folder.path().join("garbage.pem");
    std::fs::write(
        &garbage,
        "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(
        refused(&with(url, Some(&garbage)))
            .await
            .starts_with("setting redis.ca_certificate: ")
    );
    // TLS where there is none, and the other way round.
    let wrong = format!("rediss://127.0.0.1:{}", server.port());
    let error = refused(&with(wrong, Some(&certificate))).await;
    assert!(error.contains(&format!("127.0.0.1:{}", server.port())), "{error}");
    let wrong = format!("redis://127.0.0.1:{}", port.number());
    let error = refused(&with(wrong, None)).await;
    assert!(error.contains(&format!("127.0.0.1:{}", port.number())), "{error}");
}
