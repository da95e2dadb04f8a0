//! Replicas with different keys, and with different certificates for the same one.

use std::time::Duration;

use openmls::prelude::ExternalSender;
use openmls::prelude::tls_codec::Serialize as _;
use sha2::{Digest as _, Sha256};
use tokio::time::{sleep, timeout};
use valise_device_certificate::ServiceIdentity;
use valise_group_rules::credential;

use crate::deployment::{Deployment, LONG, Settings};

/// Waits until a replica has said who they all are.
async fn kept(deployment: &Deployment) {
    let kept = async {
        while deployment.count("SELECT count(*) FROM identity").await == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, kept)
        .await
        .expect("no replica has opened its stores");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_key_does_not_start_until_an_operator_says_so() {
    let deployment = Deployment::start().await;
    let (one, other) = (deployment.settings("one"), deployment.settings("other"));
    deployment.operate(&one, "migrate").await;
    let mut first = deployment.begin(&one);
    kept(&deployment).await;

    let is_other = async |settings: &Settings| {
        let line = deployment.refusal(settings).await;
        let beginning =
            "settings key_file and chain_file: the replicas of this deployment have another key or name";
        assert!(
            line.starts_with(beginning) && line.contains("replace-identity"),
            "{line}"
        );
    };
    is_other(&other).await;
    assert!(first.try_wait().unwrap().is_none(), "the first one goes on");
    first.kill().await.unwrap();

    let line = deployment.operate(&other, "replace-identity").await;
    assert!(line.starts_with("the replicas' fingerprint is "), "{line}");
    is_other(&one).await;
    let replaced = deployment.count("SELECT count(*) FROM identity").await;
    assert_eq!(replaced, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_for_the_same_key_is_the_same_service() {
    let deployment = Deployment::start().await;
    let one = deployment.settings("one");
    deployment.operate(&one, "migrate").await;
    let mut first = deployment.begin(&one);
    kept(&deployment).await;
    let fingerprint = "SELECT encode(fingerprint, 'hex') FROM identity";
    let before = deployment.text(fingerprint).await;

    let chain = deployment.recertify("one", "renewed");
    let (key, _) = deployment.identity("one");
    let identity = ServiceIdentity::load(&key, &chain).unwrap();
    let renewed = Settings {
        more: vec![("VALISE_DELIVERY_CHAIN_FILE", chain.display().to_string())],
        ..one.clone()
    };
    let said = deployment.operate(&renewed, "replace-identity").await;
    assert_eq!(deployment.text(fingerprint).await, before, "{said}");

    // Fingerprints were once of the whole certificate: the first replica that starts with that one writes the other kind.
    let sender = ExternalSender::new(
        identity.public_key().to_vec().into(),
        credential(identity.chain()),
    );
    let former = format!("{:x}", Sha256::digest(sender.tls_serialize_detached().unwrap()));
    deployment
        .execute(&format!(
            "UPDATE identity SET fingerprint = decode('{former}', 'hex')"
        ))
        .await;
    let mut second = deployment.begin(&renewed);
    let written = async {
        while deployment.text(fingerprint).await != before {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, written).await.expect("it was refused");
    for replica in [&mut first, &mut second] {
        assert!(replica.try_wait().unwrap().is_none(), "both go on");
        replica.kill().await.unwrap();
    }
}
