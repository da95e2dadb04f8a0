//! Two replicas on one database (checklist K1, K2).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tonic_health::pb::health_check_response::ServingStatus;
use valise_proto::Reason;
use valise_proto::directory::v1::Claim;

use crate::people::Device;
use crate::replica::{Deployment, LONG, Replica};
use crate::scene::{Given, Scene, given};

const DEVICES: usize = 10;
/// One-time packages of each.
const PACKAGES: usize = 200;

/// Devices with their packages, published through both replicas.
async fn publish(scene: &Scene, replicas: &[&Replica]) -> Vec<(Device, Vec<u8>)> {
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let device = scene.device(&format!("target{number}"));
        let last_resort = device.last_resort();
        let replica = |turn: usize| replicas[turn % replicas.len()];
        let mut rest = device.packages(PACKAGES / 2);
        replica(number).publish(scene, &device, rest.split_off(1)).await;
        rest.extend(device.packages(PACKAGES / 2 - 1));
        replica(number + 1).publish(scene, &device, rest).await;
        let last = vec![device.package(), last_resort.clone()];
        replica(number).publish(scene, &device, last).await;
        devices.push((device, last_resort));
    }
    devices
}

/// What was handed out to all claims together.
#[derive(Default)]
struct Handed {
    one_time: HashSet<Vec<u8>>,
    last_resort: usize,
}

impl Handed {
    fn add(&mut self, claim: Claim, last_resorts: &HashMap<String, Vec<u8>>) {
        let device = claim.device_id.clone();
        match given(claim) {
            Given::OneTime(message) => assert!(self.one_time.insert(message), "handed out twice"),
            Given::LastResort(message) => {
                assert_eq!(message, last_resorts[&device]);
                self.last_resort += 1;
            }
            Given::Nothing(failure) => panic!("nothing: {failure}"),
        }
    }
}

fn last_resorts(devices: &[(Device, Vec<u8>)]) -> HashMap<String, Vec<u8>> {
    devices
        .iter()
        .map(|(device, message)| (device.id.to_string(), message.clone()))
        .collect()
}

/// Single claims and claims of all devices at once, from many callers, through both replicas in turn.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_race_ten_thousand_claims_and_none_gets_the_package_of_another() {
    const CALLERS: usize = 50;
    let mut deployment = Deployment::new().await;
    let replicas = Arc::new([deployment.replica().await, deployment.replica().await]);
    let devices = Arc::new(publish(&deployment.scene, &[&replicas[0], &replicas[1]]).await);
    let last_resorts = last_resorts(&devices);
    let bob = Arc::new(deployment.scene.device("bob"));
    let scene = Arc::new(deployment.scene);

    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (scene, replicas, devices, bob) = (
            Arc::clone(&scene),
            Arc::clone(&replicas),
            Arc::clone(&devices),
            Arc::clone(&bob),
        );
        callers.spawn(async move {
            let mut claims = Vec::new();
            for turn in 0..110 {
                let replica = &replicas[(caller + turn) % 2];
                let targets: Vec<_> = if turn % 11 == 0 {
                    devices.iter().map(|(device, _)| device).collect()
                } else {
                    vec![&devices[(caller + turn) % DEVICES].0]
                };
                claims.extend(replica.claim(&scene, &bob, &targets).await.unwrap());
            }
            claims
        });
    }
    let mut handed = Handed::default();
    while let Some(claims) = callers.join_next().await {
        claims
            .unwrap()
            .into_iter()
            .for_each(|claim| handed.add(claim, &last_resorts));
    }
    assert_eq!((handed.one_time.len(), handed.last_resort), (2_000, 8_000));

    // Both replicas may tell a device that its stock is low. To its inbox that is one notice.
    let mut told = HashMap::new();
    while told.len() < DEVICES {
        let notice = deployment.peers.notice().await;
        let key = told
            .entry(notice.device_id)
            .or_insert(notice.deduplication_key.clone());
        assert_eq!(*key, notice.deduplication_key);
    }
}

/// A claim whose replica dies may have taken a package: that one nobody gets. All others are handed out once.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_in_the_middle_loses_and_doubles_nothing() {
    const CALLERS: usize = 20;
    let deployment = Deployment::new().await;
    let [steady, mortal] = [deployment.replica().await, deployment.replica().await];
    let devices = Arc::new(publish(&deployment.scene, &[&steady, &mortal]).await);
    let last_resorts = last_resorts(&devices);
    let bob = Arc::new(deployment.scene.device("bob"));
    let (steady, mortal) = (Arc::new(steady), Arc::new(mortal));
    let scene = Arc::new(deployment.scene);
    let (answered, unknown) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));

    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (scene, devices, bob) = (Arc::clone(&scene), Arc::clone(&devices), Arc::clone(&bob));
        let (steady, mortal) = (Arc::clone(&steady), Arc::clone(&mortal));
        let (answered, unknown) = (Arc::clone(&answered), Arc::clone(&unknown));
        callers.spawn(async move {
            let mut claims = Vec::new();
            for turn in 0..60 {
                let target = [&devices[(caller + turn) % DEVICES].0];
                if turn % 2 == 0 {
                    match mortal.claim(&scene, &bob, &target).await {
                        Ok(claim) => claims.extend(claim),
                        Err(_) => {
                            unknown.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                } else {
                    claims.extend(steady.claim(&scene, &bob, &target).await.unwrap());
                }
                if answered.fetch_add(1, Ordering::SeqCst) == 400 {
                    mortal.kill().await;
                }
            }
            claims
        });
    }
    let mut handed = Handed::default();
    while let Some(claims) = callers.join_next().await {
        claims
            .unwrap()
            .into_iter()
            .for_each(|claim| handed.add(claim, &last_resorts));
    }
    assert_eq!(handed.last_resort, 0, "there was enough for all");
    let unknown = unknown.load(Ordering::SeqCst);
    assert!(unknown > 0, "the replica died in the middle");
    let mut left = 0;
    for (device, _) in devices.iter() {
        left += steady.stock(&scene, device).await[0].one_time as usize;
    }
    let total = DEVICES * PACKAGES;
    let lost = total - left - handed.one_time.len();
    // One call each was on its way when it died; the later ones found nobody.
    assert!(lost <= CALLERS.min(unknown), "{lost} packages are missing");
    for (device, _) in devices.iter() {
        while !matches!(steady.stock(&scene, device).await[0].one_time, 0) {
            let claims = steady.claim(&scene, &bob, &[device]).await.unwrap();
            for claim in claims {
                handed.add(claim, &last_resorts);
            }
        }
    }
    assert_eq!(
        handed.one_time.len() + lost,
        total,
        "what was left is handed out once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_store_goes_away_says_so_and_recovers_by_itself() {
    let mut deployment = Deployment::new().await;
    let replica = deployment.replica().await;
    let scene = &deployment.scene;
    let (alice, bob) = (scene.device("alice"), scene.device("bob"));
    replica.publish(scene, &alice, alice.packages(3)).await;
    deployment.postgres.stop().await;
    let refused = replica.claim(scene, &bob, &[&alice]).await.unwrap_err().unwrap();
    assert_eq!(refused.reason, Reason::StoreUnavailable);
    replica.is(ServingStatus::NotServing).await;
    deployment.postgres.restart().await;
    replica.is(ServingStatus::Serving).await;
    let claims = replica.claim(scene, &bob, &[&alice]).await.unwrap();
    assert!(matches!(given(claims[0].clone()), Given::OneTime(_)));

    // Connections stay, and nobody answers.
    deployment.postgres.pause();
    replica.is(ServingStatus::NotServing).await;
    deployment.postgres.resume();
    replica.is(ServingStatus::Serving).await;
    let claim = async {
        loop {
            match replica.claim(scene, &bob, &[&alice]).await {
                Ok(claims) => return claims,
                Err(refused) => assert_eq!(refused.unwrap().reason, Reason::StoreUnavailable),
            }
        }
    };
    let claims = tokio::time::timeout(LONG, claim).await.unwrap();
    assert!(matches!(given(claims[0].clone()), Given::OneTime(_)));
}
