//! A good commit with another GroupInfo or Welcome than its own.

use openmls::prelude::OpenMlsProvider as _;
use openmls::prelude::tls_codec::Serialize as _;
use valise_client_sdk::Reason;
use valise_tests::raw::bytes::{Info, flipped, vector};
use valise_tests::raw::{Bundle, Plan};

use crate::hostile_commits::scene::{Expected, Scene, info_rule, malformed};

#[tokio::test(flavor = "multi_thread")]
async fn group_infos_of_something_else() {
    let mut scene = Scene::new().await;
    let good = scene.good(Plan::self_update());
    let other = scene.good(Plan::self_update());
    let before = scene
        .group
        .export_group_info(scene.alice.provider.crypto(), &scene.alice.signer, false)
        .unwrap();
    let info = Info::read(&good.group_info);
    let with = |group_info: Vec<u8>| Bundle {
        group_info,
        ..good.clone()
    };

    scene
        .refuses("none", with(Vec::new()), Expected(Reason::Malformed, None))
        .await;
    scene
        .refuses("garbage", with(vec![0xa5; 300]), info_rule("encoding"))
        .await;
    scene
        .refuses("a commit", with(good.commit.clone()), info_rule("wire_format"))
        .await;
    let oversize = with(vec![0; 2 * 1024 * 1024 + 1]);
    scene
        .refuses("oversize", oversize, Expected(Reason::MessageTooLarge, None))
        .await;
    let stale = before.tls_serialize_detached().unwrap();
    scene
        .refuses(
            "that of the epoch before",
            with(stale),
            info_rule("group_context"),
        )
        .await;
    // Its context differs in the transcript.
    scene
        .refuses(
            "that of another commit",
            with(other.group_info),
            info_rule("group_context"),
        )
        .await;
    scene
        .refuses(
            "a bit of the signature",
            with(flipped(&good.group_info, 3)),
            info_rule("signature"),
        )
        .await;

    let (foreign, _) = scene.mallory.group_with(&[]).await;
    let foreign = foreign
        .export_group_info(scene.mallory.provider.crypto(), &scene.mallory.signer, false)
        .unwrap();
    let foreign = foreign.tls_serialize_detached().unwrap();
    scene
        .refuses("that of another group", with(foreign), info_rule("group_context"))
        .await;

    let mut without = info.clone();
    without.extensions = Vec::new();
    let without = without.signed(&scene.alice.signer).to_bytes();
    scene
        .refuses("without external_pub", with(without), info_rule("external_pub"))
        .await;
    let tree = scene
        .group
        .export_ratchet_tree()
        .tls_serialize_detached()
        .unwrap();
    let mut with_tree = info.clone();
    with_tree.extensions = [&[0, 2][..], &vector(&tree), &with_tree.extensions].concat();
    let with_tree = with_tree.signed(&scene.alice.signer).to_bytes();
    scene
        .refuses("with a tree", with(with_tree), info_rule("ratchet_tree"))
        .await;
    let mut tag = info.clone();
    tag.confirmation_tag[0] ^= 1;
    let tag = tag.signed(&scene.alice.signer).to_bytes();
    scene
        .refuses("with another tag", with(tag), info_rule("confirmation_tag"))
        .await;
    let mut bobs = info.clone();
    bobs.signer = 1;
    let bobs = bobs.signed(&scene.bob.signer).to_bytes();
    scene
        .refuses("signed by another member", with(bobs), info_rule("signer"))
        .await;
    let forged = info.clone().signed(&scene.mallory.signer).to_bytes();
    scene
        .refuses("signed by a stranger", with(forged), info_rule("signature"))
        .await;
    assert_eq!(scene.refused, 13);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn welcomes_for_others_than_those_added() {
    let mut scene = Scene::new().await;
    let (dave, mallory) = (scene.dave.key_package(), scene.mallory.key_package());
    let good = scene.good(Plan::add(vec![dave.clone(), mallory.clone()]));
    let for_dave = scene.good(Plan::add(vec![dave])).welcome;
    let nobody = scene.good(Plan::self_update());
    let mismatch = || Expected(Reason::WelcomeMismatch, None);
    let with = |welcome: Vec<u8>| Bundle {
        welcome,
        ..good.clone()
    };

    scene.refuses("none", with(Vec::new()), mismatch()).await;
    scene.refuses("one joiner less", with(for_dave), mismatch()).await;
    // A last-resort package would be the same in both; these are other packages of the same devices.
    let others = vec![scene.dave.key_package(), scene.mallory.key_package()];
    let foreign = scene.good(Plan::add(others)).welcome;
    scene.refuses("other packages", with(foreign), mismatch()).await;
    let unasked = Bundle {
        welcome: good.welcome.clone(),
        ..nobody
    };
    scene.refuses("nobody is added", unasked, mismatch()).await;
    scene
        .refuses("garbage", with(vec![0xa5; 300]), malformed("encoding"))
        .await;
    scene
        .refuses(
            "a GroupInfo",
            with(good.group_info.clone()),
            malformed("wire_format"),
        )
        .await;
    let oversize = with(vec![0; 2 * 1024 * 1024 + 1]);
    scene
        .refuses("oversize", oversize, Expected(Reason::MessageTooLarge, None))
        .await;
    assert_eq!(scene.refused, 7);
    scene.goes_on().await;
}
