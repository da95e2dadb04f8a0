//! What is sent to a group and is no message for it, or is sent again.

use openmls::prelude::tls_codec::Serialize as _;
use valise_proto::Reason;
use valise_proto::delivery::v1 as wire;
use valise_tests::raw::bytes::{Framed, flipped};
use valise_tests::raw::{Plan, key};

use crate::hostile_requests::answers::{healthy, told};
use crate::hostile_requests::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_a_door_does_not_get_through_it() {
    let mut scene = Scene::new().await;
    let message = scene.alice.encrypt(&mut scene.group, b"hello");
    let bundle = scene.alice.commit(&mut scene.group, Plan::self_update());
    scene.alice.forget(&mut scene.group);
    let (proposal, _) = scene
        .group
        .propose_remove_member(
            &scene.alice.provider,
            &scene.alice.signer,
            scene.group.own_leaf_index(),
        )
        .unwrap();
    let proposal = proposal.tls_serialize_detached().unwrap();
    let package = valise_tests::raw::message(scene.alice.key_package());

    // A commit by the door for messages would go around every check.
    for (what, bytes, rule) in [
        ("a commit", bundle.commit.clone(), Some("wire_format")),
        ("a proposal", proposal.clone(), Some("wire_format")),
        ("a GroupInfo", bundle.group_info.clone(), Some("wire_format")),
        ("a key package", package.clone(), Some("wire_format")),
        ("nothing", Vec::new(), None),
        ("garbage", vec![0xa5; 200], Some("encoding")),
        (
            "half a message",
            message[..message.len() / 2].to_vec(),
            Some("encoding"),
        ),
        (
            "a byte too many",
            [message.as_slice(), &[0]].concat(),
            Some("encoding"),
        ),
    ] {
        let refused = scene.alice.send_bytes(bytes.clone()).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Malformed, "{what}");
        assert_eq!(refused.metadata.get("rule").map(String::as_str), rule, "{what}");
        let request = wire::SendEphemeralRequest {
            mls_message: bytes.into(),
        };
        let status = scene
            .alice
            .door
            .delivery()
            .send_ephemeral(request)
            .await
            .unwrap_err();
        assert_eq!(told(&status), refused, "{what}");
    }
    for (what, bytes, rule) in [
        ("a commit", bundle.commit.clone(), "content_type"),
        ("a message", message.clone(), "wire_format"),
        ("a key package", package.clone(), "wire_format"),
        ("garbage", vec![0xa5; 200], "encoding"),
    ] {
        let refused = scene.alice.propose_bytes(bytes).await.unwrap_err();
        assert_eq!(
            (refused.reason, refused.metadata["rule"].as_str()),
            (Reason::Malformed, rule),
            "{what}"
        );
    }
    let large = scene.alice.send_bytes(vec![0; 256 * 1024 + 1]).await.unwrap_err();
    assert_eq!(
        (large.reason, large.number("limit")),
        (Reason::MessageTooLarge, Some(256 * 1024))
    );
    let large = scene
        .alice
        .propose_bytes(vec![0; 64 * 1024 + 1])
        .await
        .unwrap_err();
    assert_eq!(
        (large.reason, large.number("limit")),
        (Reason::MessageTooLarge, Some(64 * 1024))
    );
    scene.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_another_groups_or_epochs_is_refused() {
    let mut scene = Scene::new().await;
    let message = scene.alice.encrypt(&mut scene.group, b"hello");
    // MLSMessage, PrivateMessage: 4 bytes, group_id<V>, epoch.
    let with = |group: &[u8], epoch: u64| {
        let mut message = message.clone();
        message[5..21].copy_from_slice(group);
        message[21..29].copy_from_slice(&epoch.to_be_bytes());
        message
    };
    let (foreign, _) = scene.mallory.group_with(&[]).await;
    let foreign = foreign.group_id().as_slice();
    for (what, bytes, expected) in [
        ("no group", with(&[7; 16], 1), Reason::GroupNotFound),
        ("a group of others", with(foreign, 0), Reason::NotAMember),
        (
            "a group of others, another epoch",
            with(foreign, 9),
            Reason::NotAMember,
        ),
        (
            "an epoch that has ended",
            with(&scene.id, 0),
            Reason::EpochConflict,
        ),
        (
            "an epoch that has not begun",
            with(&scene.id, 2),
            Reason::EpochAhead,
        ),
        (
            "the last epoch of all",
            with(&scene.id, u64::MAX),
            Reason::EpochAhead,
        ),
    ] {
        let refused = scene.alice.send_bytes(bytes.clone()).await.unwrap_err();
        assert_eq!(refused.reason, expected, "{what}");
        let request = wire::SendEphemeralRequest {
            mls_message: bytes.into(),
        };
        let status = scene
            .alice
            .door
            .delivery()
            .send_ephemeral(request)
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected, "{what}");
    }
    let refused = scene.alice.send_bytes(with(&scene.id, 0)).await.unwrap_err();
    assert_eq!(
        (refused.number("current_epoch"), refused.number("winner_position")),
        (Some(1), Some(1))
    );
    let refused = scene.mallory.send_bytes(message.clone()).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata.len()),
        (Reason::NotAMember, 0),
        "a stranger learns nothing"
    );

    let leave = scene
        .group
        .leave_group(&scene.alice.provider, &scene.alice.signer)
        .unwrap();
    let leave = leave.tls_serialize_detached().unwrap();
    let refused = scene.mallory.propose_bytes(leave.clone()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NotAMember);
    let refused = scene.alice.propose_bytes(flipped(&leave, 40)).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["rule"].as_str()),
        (Reason::InvalidProposal, "mls_validation")
    );
    for (epoch, expected) in [(0, Reason::EpochConflict), (2, Reason::EpochAhead)] {
        let mut old = leave.clone();
        old[21..29].copy_from_slice(&u64::to_be_bytes(epoch));
        assert_eq!(scene.alice.propose_bytes(old).await.unwrap_err().reason, expected);
    }
    scene.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_is_done_once() {
    let mut scene = Scene::new().await;
    let message = scene.alice.encrypt(&mut scene.group, b"once");
    let mut request = wire::SendMessageRequest {
        mls_message: message.clone().into(),
        idempotency_key: key(),
        may_be_repeat: false,
    };
    let mut delivery = scene.alice.door.delivery();
    let first = delivery.send_message(request.clone()).await.unwrap().into_inner();
    request.may_be_repeat = true;
    for _ in 0..3 {
        assert_eq!(
            delivery.send_message(request.clone()).await.unwrap().into_inner(),
            first
        );
    }
    let short = wire::SendMessageRequest {
        idempotency_key: vec![1; 15].into(),
        ..request.clone()
    };
    let status = delivery.send_message(short).await.unwrap_err();
    assert_eq!(told(&status).metadata["field"], "idempotency_key");
    // Another device with the same key gets no answer that is not its own.
    let status = scene
        .mallory
        .door
        .delivery()
        .send_message(request)
        .await
        .unwrap_err();
    assert_eq!(told(&status).reason, Reason::NotAMember);

    let bundle = scene.alice.commit(&mut scene.group, Plan::self_update());
    let mut request = wire::SubmitCommitRequest {
        commit: bundle.commit.clone().into(),
        group_info: bundle.group_info.clone().into(),
        welcome: bytes::Bytes::new(),
        idempotency_key: key(),
        may_be_repeat: false,
    };
    let first = delivery
        .submit_commit(request.clone())
        .await
        .unwrap()
        .into_inner();
    request.may_be_repeat = true;
    assert_eq!(
        delivery
            .submit_commit(request.clone())
            .await
            .unwrap()
            .into_inner(),
        first
    );
    // With another key it is a commit of an epoch that has ended, made by itself.
    request.idempotency_key = key();
    let conflict = told(&delivery.submit_commit(request).await.unwrap_err());
    assert_eq!(conflict.reason, Reason::EpochConflict);
    assert_eq!(
        conflict.number("winner_position"),
        Some(first.accepted.unwrap().position)
    );
    scene.group.merge_pending_commit(&scene.alice.provider).unwrap();
    // A message may be sent twice with two keys: to the service it is two; members tell a replay by themselves.
    assert_eq!(scene.alice.head(&scene.group).await, (3, 2));
    // What is signed can be taken apart and put together without a change.
    assert_eq!(Framed::commit(&bundle.commit).to_bytes(), bundle.commit);
    healthy(&scene.service, &scene.alice).await;
}
