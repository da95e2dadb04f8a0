//! What is no commit at all.

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{LeafNodeIndex, OpenMlsProvider as _, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY};
use valise_client_sdk::Reason;
use valise_group_rules::join_config;
use valise_tests::raw::{Bundle, Plan};

use crate::hostile_commits::scene::{Expected, Scene, malformed};

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_are_no_commits() {
    let mut scene = Scene::new().await;
    let good = scene.good(Plan::self_update());
    let commit = |commit: Vec<u8>| Bundle {
        commit,
        ..good.clone()
    };

    scene
        .refuses("nothing", commit(Vec::new()), Expected(Reason::Malformed, None))
        .await;
    scene
        .refuses("garbage", commit(vec![0xa5; 300]), malformed("encoding"))
        .await;
    for missing in [1, 40, 200, good.commit.len() - 5] {
        let truncated = good.commit[..good.commit.len() - missing].to_vec();
        scene
            .refuses("truncated", commit(truncated), malformed("encoding"))
            .await;
    }
    let trailing = [good.commit.as_slice(), &[0]].concat();
    scene
        .refuses("a byte too many", commit(trailing), malformed("encoding"))
        .await;
    let oversize = [good.commit.as_slice(), &vec![0; 2 * 1024 * 1024]].concat();
    scene
        .refuses(
            "oversize",
            commit(oversize),
            Expected(Reason::MessageTooLarge, None),
        )
        .await;
    scene
        .refuses(
            "a GroupInfo",
            commit(good.group_info.clone()),
            malformed("wire_format"),
        )
        .await;

    let message = scene.alice.encrypt(&mut scene.group, b"hello");
    scene
        .refuses("a message", commit(message), malformed("wire_format"))
        .await;
    let proposal = scene
        .group
        .propose_remove_member(&scene.alice.provider, &scene.alice.signer, LeafNodeIndex::new(2))
        .unwrap()
        .0
        .tls_serialize_detached()
        .unwrap();
    scene
        .group
        .clear_pending_proposals(scene.alice.provider.storage())
        .unwrap();
    scene
        .refuses("a proposal", commit(proposal), malformed("content_type"))
        .await;

    let encrypting = openmls::prelude::MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .build();
    scene
        .group
        .set_configuration(scene.alice.provider.storage(), &encrypting)
        .unwrap();
    let encrypted = scene.good(Plan::self_update());
    scene
        .group
        .set_configuration(scene.alice.provider.storage(), &join_config())
        .unwrap();
    scene
        .refuses("an encrypted commit", encrypted, malformed("wire_format"))
        .await;
    assert_eq!(scene.refused, 12);
    scene.goes_on().await;
}
