//! Replicas with different keys.

use std::time::Duration;

use tokio::time::{sleep, timeout};

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
        let beginning = "settings key_file and chain_file: the replicas of this deployment have another key or certificate";
        assert!(
            line.starts_with(beginning) && line.contains("replace-identity"),
            "{line}"
        );
    };
    is_other(&other).await;
    // The key alone is not enough: groups name the certificate, too.
    let chain = deployment.recertify("one", "renewed").display().to_string();
    let renewed = Settings {
        more: vec![("VALISE_DELIVERY_CHAIN_FILE", chain)],
        ..one.clone()
    };
    is_other(&renewed).await;
    assert!(first.try_wait().unwrap().is_none(), "the first one goes on");
    first.kill().await.unwrap();

    let line = deployment.operate(&other, "replace-identity").await;
    assert!(line.starts_with("the replicas' fingerprint is "), "{line}");
    is_other(&one).await;
    let replaced = deployment.count("SELECT count(*) FROM identity").await;
    assert_eq!(replaced, 1);
}
