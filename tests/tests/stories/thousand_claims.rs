//! 1,000 claims at the same time on a device with 200 one-time key packages: each of those is handed out exactly once, all
//! others get the last-resort package (checklist K1, K2).

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Barrier;
use valise_proto::Reason;
use valise_proto::directory::v1::{ClaimFailure, ClaimKeyPackagesRequest, GetStockRequest, claim};
use valise_tests::people::Town;
use valise_tests::raw::{Device, SUITE, refusal};
use valise_tests::service::Service;
use valise_tests::wait::all;

const ONE_TIME: usize = 200;
const CLAIMS: usize = 1_000;
/// A user may claim 60 packages of one device an hour.
const USERS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn none_is_handed_out_twice() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let target = Device::enrol(&service, &town.code("target").await).await;
    let published = target.publish(ONE_TIME).await;
    let last_resort = published.last().unwrap().clone();
    let one_time: HashSet<Vec<u8>> = published.into_iter().take(ONE_TIME).collect();
    assert_eq!(one_time.len(), ONE_TIME);

    let mut claimants = Vec::new();
    for number in 0..USERS {
        claimants.push(Device::enrol(&service, &town.code(&format!("user{number}")).await).await);
    }
    let at_once = Arc::new(Barrier::new(CLAIMS));
    let claims = (0..CLAIMS).map(|number| {
        let (mut directory, at_once) = (claimants[number % USERS].door.directory(), Arc::clone(&at_once));
        let request = request(&target);
        async move {
            at_once.wait().await;
            let claims = directory
                .claim_key_packages(request)
                .await
                .unwrap()
                .into_inner()
                .claims;
            let [claim] = <[_; 1]>::try_from(claims).unwrap();
            let Some(claim::Result::KeyPackage(package)) = claim.result else {
                unreachable!("{claim:?}")
            };
            (package, claim.last_resort)
        }
    });
    let claims = all(claims).await;

    let mut handed_out = HashSet::new();
    let mut last_resorts = 0;
    for (package, is_last_resort) in claims {
        if is_last_resort {
            assert!(package == last_resort);
            last_resorts += 1;
        } else {
            assert!(one_time.contains(&package));
            assert!(handed_out.insert(package), "handed out twice");
        }
    }
    assert_eq!((handed_out.len(), last_resorts), (ONE_TIME, CLAIMS - ONE_TIME));
    let stock = target
        .door
        .directory()
        .get_stock(GetStockRequest {})
        .await
        .unwrap()
        .into_inner()
        .stock;
    assert_eq!(
        (stock[0].one_time, stock[0].last_resort, stock[0].low),
        (0, true, true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_drains_a_device() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let target = Device::enrol(&service, &town.code("target").await).await;
    target.publish(100).await;
    let greedy = Device::enrol(&service, &town.code("greedy").await).await;
    // With a second device one is no other user.
    let second = Device::enrol(&service, &town.code("greedy").await).await;
    let mut had = 0;
    for number in 0..100 {
        let mut directory = if number % 2 == 0 {
            greedy.door.directory()
        } else {
            second.door.directory()
        };
        let claims = directory
            .claim_key_packages(request(&target))
            .await
            .unwrap()
            .into_inner()
            .claims;
        match claims[0].result {
            Some(claim::Result::KeyPackage(_)) => had += 1,
            Some(claim::Result::Failure(failure)) => {
                assert_eq!(failure, i32::from(ClaimFailure::RateLimited));
            }
            None => unreachable!("a claim has a result"),
        }
    }
    assert!((60..70).contains(&had), "{had} claims of one device");
    // Others are not made to wait for it.
    let other = Device::enrol(&service, &town.code("other").await).await;
    let claims = other
        .door
        .directory()
        .claim_key_packages(request(&target))
        .await
        .unwrap()
        .into_inner()
        .claims;
    assert!(matches!(claims[0].result, Some(claim::Result::KeyPackage(_))));

    // And a request for nobody in particular is none.
    let nobody = ClaimKeyPackagesRequest {
        cipher_suite: SUITE,
        ..ClaimKeyPackagesRequest::default()
    };
    let status = greedy
        .door
        .directory()
        .claim_key_packages(nobody)
        .await
        .unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::Malformed);
}

fn request(target: &Device) -> ClaimKeyPackagesRequest {
    ClaimKeyPackagesRequest {
        user_ids: vec![target.user.to_string()],
        device_ids: Vec::new(),
        cipher_suite: SUITE,
    }
}
