//! The directory as a process of its own, and what it does by itself.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::sync::CancellationToken;
use valise_key_package_directory::{Config, PeerConfig, Service, StartError, run};
use valise_proto::Reason;
use valise_proto::directory::v1::PublishKeyPackagesRequest;
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;

use crate::fakes::{NAME, Peers};
use crate::people::DAY;
use crate::replica::command;
use crate::scene::{ISSUER, Scene, channel, listen, refusal};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_the_authentication_service_serves_and_ends() {
    let scene = Scene::closed(|_| {});
    let peers = Peers::start(&scene).await;
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name: &str| folder.path().join(name);
    scene
        .authority
        .service(NAME)
        .save(&in_folder("key.pem"), &in_folder("chain.pem"))
        .unwrap();
    let mut config = Config {
        database: in_folder("directory.db").into(),
        ..Config::default()
    };
    config.server.graceful_shutdown = Duration::ZERO;
    config.peers = Some(PeerConfig {
        authentication: peers.url.clone(),
        issuer: ISSUER.into(),
        delivery: Some(peers.url.clone()),
        ca_certificate: None,
        key: in_folder("key.pem"),
        certificate: in_folder("chain.pem"),
    });
    let (listener, address) = listen().await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(run(config, listener, shutdown.clone()));

    let alice = scene.device("alice");
    let mut client = KeyPackageDirectoryServiceClient::new(channel(address));
    let published = async {
        loop {
            let message = PublishKeyPackagesRequest {
                key_packages: alice.packages(1),
            };
            match client
                .publish_key_packages(scene.request(&alice.caller(), message))
                .await
            {
                Ok(response) => return response.into_inner().stock,
                // Until the revocation feed is caught up with, nobody is let in.
                Err(status) => assert_eq!(refusal(&status).reason, Reason::StoreUnavailable),
            }
        }
    };
    let stock = tokio::time::timeout(LONG, published).await.unwrap();
    assert_eq!(stock[0].one_time, 1);
    shutdown.cancel();
    tokio::time::timeout(LONG, running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_that_its_certificate_is_to_be_renewed() {
    let scene = Scene::closed(|_| {});
    let peers = Peers::start(&scene).await;
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name: &str| folder.path().join(name);
    for (left, said) in [
        (DAY / 4, "the service's certificate is to be renewed"),
        (0, "the service's certificate has ended"),
    ] {
        let until = scene.clock.unix_seconds() + left;
        let identity = scene.authority.service_until(NAME, until);
        identity
            .save(&in_folder("key.pem"), &in_folder("chain.pem"))
            .unwrap();
        let mut program = command(&[])
            .current_dir(folder.path())
            .env_clear()
            .env("VALISE_DIRECTORY_SERVER__LISTEN", "127.0.0.1:0")
            .env("VALISE_DIRECTORY_PEERS__AUTHENTICATION", &peers.url)
            .env("VALISE_DIRECTORY_PEERS__ISSUER", ISSUER)
            .env("VALISE_DIRECTORY_PEERS__KEY", "key.pem")
            .env("VALISE_DIRECTORY_PEERS__CERTIFICATE", "chain.pem")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(program.stderr.take().unwrap()).lines();
        let told = async {
            while let Some(line) = log.next_line().await.unwrap() {
                if line.contains(said) {
                    return;
                }
            }
            panic!("it ended without a word of it");
        };
        tokio::time::timeout(LONG, told).await.unwrap();
        program.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_one_line() {
    let scene = Scene::closed(|_| {});
    let open = async |config: Config| {
        let opened = Service::open(config, scene.verifier.clone(), scene.clock.clone(), None).await;
        opened.unwrap_err().to_string()
    };
    let mut config = Config::default();
    config.packages.capacity = 0;
    assert_eq!(
        open(config).await,
        "configuration: packages.capacity must be at least 1"
    );
    let config = Config {
        database: PathBuf::from("/no/such/folder/directory.db").into(),
        ..Config::default()
    };
    let problem = "cannot open the key-package store /no/such/folder/directory.db: it cannot be opened";
    assert_eq!(open(config).await, problem);
    let (listener, _) = listen().await;
    let error = run(Config::default(), listener, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Config(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_cannot_be_handed_out_any_more_are_swept() {
    let scene = Scene::with(|config| config.store.sweep_interval = Duration::from_millis(10)).await;
    let alice = scene.device("alice");
    scene
        .publish(&alice, vec![alice.package_for(40 * DAY), alice.package()])
        .await
        .unwrap();
    let database = SqlitePool::connect(&format!("sqlite://{}", scene.file().display()))
        .await
        .unwrap();
    let stored = async || {
        let count = sqlx::query_scalar("SELECT count(*) FROM key_package").fetch_one(&database);
        count.await.map(|count: i64| count).unwrap()
    };
    assert_eq!(stored().await, 2);
    scene.hand.advance(Duration::from_secs(10 * DAY));
    let swept = async {
        while stored().await != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, swept).await.unwrap();
    assert_eq!(scene.stock(&alice).await.stock[0].one_time, 1);
}
