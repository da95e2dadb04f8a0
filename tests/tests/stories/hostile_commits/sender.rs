//! Commits that are not their sender's, or not of this group and epoch.

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, RatchetTreeIn,
};
use valise_client_sdk::Reason;
use valise_group_rules::{capabilities, join_config};
use valise_tests::raw::bytes::{Framed, flipped};
use valise_tests::raw::{Bundle, Device, Plan, bundle};

use crate::hostile_commits::scene::{Expected, MLS, Scene, commit_rule, info_rule, malformed};

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_are_not_the_committers() {
    let mut scene = Scene::new().await;
    let good = scene.good(Plan::self_update());
    let framed = Framed::commit(&good.commit);
    let commit = |commit: Vec<u8>| Bundle {
        commit,
        ..good.clone()
    };

    // The trailer: signature, confirmation tag, membership tag; before it the path.
    scene
        .refuses("a bit of the signature", commit(flipped(&good.commit, 70)), MLS)
        .await;
    scene
        .refuses("a bit of the path", commit(flipped(&good.commit, 140)), MLS)
        .await;
    scene
        .refuses(
            "a bit of the confirmation tag",
            commit(flipped(&good.commit, 40)),
            info_rule("confirmation_tag"),
        )
        .await;
    let mut unsigned = framed.clone();
    unsigned.aad = b"something else".to_vec();
    scene
        .refuses("other authenticated data", commit(unsigned.to_bytes()), MLS)
        .await;
    // The path's own signatures and hashes count too, not only the outer one.
    let mut path = framed.clone();
    path.path[40] ^= 1;
    let resigned = path.signed(&scene.group, &scene.alice.signer);
    scene
        .refuses(
            "a path that was changed and signed",
            commit(resigned.to_bytes()),
            MLS,
        )
        .await;

    let forged = framed.clone().signed(&scene.group, &scene.mallory.signer);
    scene
        .refuses("signed by somebody else", commit(forged.to_bytes()), MLS)
        .await;
    let mut others = framed.clone();
    others.leaf = 1;
    scene
        .refuses(
            "in another's name",
            commit(others.to_bytes()),
            commit_rule("sender"),
        )
        .await;
    let mut nobodys = framed.clone();
    nobodys.leaf = 77;
    scene
        .refuses(
            "of a leaf that is not there",
            commit(nobodys.to_bytes()),
            commit_rule("sender"),
        )
        .await;

    // What Bob made, with Alice's token; and what Alice made, with a stranger's.
    let bobs = scene.bob.commit(&mut scene.bobs, Plan::self_update());
    scene.bob.forget(&mut scene.bobs);
    scene
        .refuses("another member's commit", bobs, commit_rule("sender"))
        .await;
    let submitted = scene.mallory.submit(&good).await;
    scene
        .refused(
            "with a stranger's token",
            submitted,
            Expected(Reason::NotAMember, None),
        )
        .await;
    let submitted = scene.alice.submit_external(&good).await;
    scene
        .refused(
            "by the door for external commits",
            submitted,
            commit_rule("sender"),
        )
        .await;
    let info = scene
        .group
        .export_group_info(scene.alice.provider.crypto(), &scene.alice.signer, false)
        .unwrap();
    let external = external_commit(
        &scene.mallory,
        &info.tls_serialize_detached().unwrap(),
        &scene.group,
    );
    scene
        .refuses(
            "an external commit by the door for members",
            external.clone(),
            commit_rule("sender"),
        )
        .await;
    let submitted = scene.mallory.submit_external(&external).await;
    scene
        .refused(
            "a stranger's external commit",
            submitted,
            Expected(Reason::NotAMember, None),
        )
        .await;

    let mut wrong = framed.clone();
    wrong.epoch += 1;
    let ahead = wrong.clone().signed(&scene.group, &scene.alice.signer);
    scene
        .refuses(
            "of the next epoch",
            commit(ahead.to_bytes()),
            Expected(Reason::EpochAhead, None),
        )
        .await;
    wrong.epoch = 0;
    let stale = wrong.signed(&scene.group, &scene.alice.signer);
    scene
        .refuses(
            "of an epoch that has ended",
            commit(stale.to_bytes()),
            Expected(Reason::EpochConflict, None),
        )
        .await;
    let mut elsewhere = framed.clone();
    elsewhere.group = vec![7; 16];
    scene
        .refuses(
            "of no group",
            commit(elsewhere.to_bytes()),
            Expected(Reason::GroupNotFound, None),
        )
        .await;
    elsewhere.group = vec![7; 15];
    scene
        .refuses(
            "of what cannot be a group",
            commit(elsewhere.to_bytes()),
            malformed("group_id"),
        )
        .await;
    let (other, _) = scene.alice.group_with(&[&scene.bob]).await;
    elsewhere.group = other.group_id().as_slice().to_vec();
    scene
        .refuses("of another group", commit(elsewhere.to_bytes()), MLS)
        .await;
    assert_eq!(scene.refused, 18);
    scene.goes_on().await;
}

fn external_commit(device: &Device, info: &[u8], group: &MlsGroup) -> Bundle {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(info).unwrap();
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        unreachable!("a GroupInfo")
    };
    let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
    let (_, built) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact_bytes(&tree).unwrap())
        .with_config(join_config())
        .build_group(&device.provider, info, device.credential())
        .unwrap()
        .leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_capabilities(capabilities())
                .build(),
        )
        .load_psks(device.provider.storage())
        .unwrap()
        .create_group_info(true)
        .build(
            device.provider.rand(),
            device.provider.crypto(),
            &device.signer,
            |_| true,
        )
        .unwrap()
        .finalize(&device.provider)
        .unwrap();
    bundle(built)
}
