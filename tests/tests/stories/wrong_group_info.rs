//! A member's commit comes with a GroupInfo whose `external_pub` is not the epoch's. The service cannot know (RFC 9420 §12.4.3.2): the other members
//! notice, tell their apps and the administrators, and go on.

use valise_client_sdk::{Client, CommitFault, EventKind, GroupId};
use valise_tests::people::{Town, event, hears, joined};
use valise_tests::raw::bytes::Info;
use valise_tests::raw::{Device, Plan};
use valise_tests::service::Service;
use valise_tests::wait::until;

/// The epoch and the evidence that an app is told of.
async fn alarm(client: &Client, group: GroupId) -> (u64, Vec<u8>) {
    let mut events = client.events();
    event(client, &mut events, |event| match &event.kind {
        EventKind::WrongGroupInfo { epoch, evidence } if event.group == group => {
            Some((epoch.0, evidence.clone()))
        }
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn members_notice_and_administrators_are_told() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let (anna, ben) = (town.device("anna").await, town.device("ben").await);
    let mallory = Device::enrol(&service, &town.code("mallory").await).await;
    mallory.publish(5).await;
    let group = anna.create_group("Budget").await.unwrap();
    let id = group.id();
    group.add(&[ben.user()]).await.unwrap();
    group.add(&[&mallory.user]).await.unwrap();
    let bens = joined(&ben, id).await;
    let (mut mallorys, _stream) = mallory.invited().await;

    let mut bundle = mallory.commit(&mut mallorys, Plan::self_update());
    let mut info = Info::read(&bundle.group_info);
    *info.extensions.last_mut().unwrap() ^= 1;
    bundle.group_info = info.signed(&mallory.signer).to_bytes();
    let position = mallory.submit(&bundle).await.unwrap().position;
    mallorys.merge_pending_commit(&mallory.provider).unwrap();
    let epoch = mallorys.epoch().as_u64();
    for client in [&anna, &ben] {
        assert_eq!(alarm(client, id).await, (epoch, bundle.group_info.clone()));
    }
    let administration = town.administrator().administration();
    let report = until("both have reported it", async || {
        let mut reports = administration.commit_reports(Some(id)).await.unwrap();
        let faults = reports.first().map(|report| report.faults.clone());
        (faults? == [(CommitFault::ExternalPub, 2)]).then(|| reports.remove(0))
    })
    .await;
    assert_eq!((report.position.0, report.sender), (position, Some(mallory.id)));

    // Nobody is stopped by it.
    bens.send("and now?").await.unwrap();
    hears(&anna, "and now?").await;
}
