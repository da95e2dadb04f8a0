//! Groups of others, and groups that are none.

use openmls::prelude::tls_codec::Serialize as _;
use valise_proto::Reason;
use valise_proto::delivery::v1 as wire;
use valise_tests::raw::bytes::flipped;
use valise_tests::raw::key;

use crate::hostile_requests::answers::told;
use crate::hostile_requests::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_finds_every_door_closed() {
    let scene = Scene::new().await;
    let mut delivery = scene.mallory.door.delivery();
    for (group, expected) in [
        (scene.id.clone(), Reason::NotAMember),
        (vec![7; 16], Reason::GroupNotFound),
        (vec![7; 15], Reason::Malformed),
    ] {
        let group_id: bytes::Bytes = group.clone().into();
        assert_eq!(
            scene.mallory.read(&group, 0, 0).await.unwrap_err().reason,
            expected
        );
        let status = delivery
            .get_group_info(wire::GetGroupInfoRequest {
                group_id: group_id.clone(),
                ..wire::GetGroupInfoRequest::default()
            })
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected);
        let tree = wire::GetRatchetTreeRequest {
            group_id: group_id.clone(),
            epoch: 1,
        };
        let status = delivery.get_ratchet_tree(tree).await.unwrap_err();
        assert_eq!(told(&status).reason, expected);
        let fault = wire::CommitFault::PathSecret.into();
        let report = wire::ReportCommitRequest {
            group_id,
            position: 1,
            fault,
        };
        let status = delivery.report_commit(report).await.unwrap_err();
        assert_eq!(told(&status).reason, expected);
    }
    assert!(
        delivery
            .list_groups(wire::ListGroupsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .groups
            .is_empty()
    );
    // Limits of members too.
    let refused = scene.alice.read(&scene.id, 0, 1001).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["field"].as_str()),
        (Reason::Malformed, "max_entries")
    );
    let list = wire::ListGroupsRequest {
        page_size: 1001,
        ..wire::ListGroupsRequest::default()
    };
    let status = delivery.list_groups(list).await.unwrap_err();
    assert_eq!(told(&status).metadata["field"], "page_size");
    for (position, fault) in [(1, 0), (1, 99), (2, 1), (0, 1)] {
        let report = wire::ReportCommitRequest {
            group_id: scene.id.clone().into(),
            position,
            fault,
        };
        told(
            &scene
                .alice
                .door
                .delivery()
                .report_commit(report)
                .await
                .unwrap_err(),
        );
    }
    scene.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_are_none_are_not_made() {
    let scene = Scene::new().await;
    let fresh = scene.alice.new_group();
    let info = fresh
        .export_group_info(
            openmls::prelude::OpenMlsProvider::crypto(&scene.alice.provider),
            &scene.alice.signer,
            false,
        )
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let tree = fresh.export_ratchet_tree().tls_serialize_detached().unwrap();
    let create = |group_info: &[u8], ratchet_tree: &[u8]| wire::CreateGroupRequest {
        group_info: group_info.to_vec().into(),
        ratchet_tree: ratchet_tree.to_vec().into(),
        idempotency_key: key(),
    };
    let mut delivery = scene.alice.door.delivery();
    let other = scene
        .alice
        .new_group()
        .export_ratchet_tree()
        .tls_serialize_detached()
        .unwrap();
    let large = vec![0; 64 * 1024 + 1];
    for (what, request, expected) in [
        ("nothing", create(&[], &[]), Reason::Malformed),
        ("no tree", create(&info, &[]), Reason::Malformed),
        ("garbage", create(&[0xa5; 100], &tree), Reason::Malformed),
        ("a garbage tree", create(&info, &[0xa5; 100]), Reason::Malformed),
        (
            "a key package",
            create(&valise_tests::raw::message(scene.alice.key_package()), &tree),
            Reason::Malformed,
        ),
        (
            "another group's tree",
            create(&info, &other),
            Reason::InvalidGroupInfo,
        ),
        (
            "a bit of the signature",
            create(&flipped(&info, 3), &tree),
            Reason::InvalidGroupInfo,
        ),
        ("too large", create(&large, &tree), Reason::MessageTooLarge),
        ("too large a tree", create(&info, &large), Reason::MessageTooLarge),
    ] {
        let status = delivery.create_group(request).await.unwrap_err();
        assert_eq!(told(&status).reason, expected, "{what}");
    }
    // In another's name; of an epoch that is not the first; one that is there already.
    let status = scene
        .mallory
        .door
        .delivery()
        .create_group(create(&info, &tree))
        .await
        .unwrap_err();
    assert_eq!(told(&status).reason, Reason::InvalidGroupInfo);
    assert_eq!(
        scene.alice.register(&scene.group).await.unwrap_err().reason,
        Reason::InvalidGroupInfo
    );
    let request = create(&info, &tree);
    delivery.create_group(request.clone()).await.unwrap();
    delivery.create_group(request).await.unwrap();
    let status = delivery.create_group(create(&info, &tree)).await.unwrap_err();
    assert_eq!(told(&status).reason, Reason::GroupExists);
    scene.unchanged().await;
}
