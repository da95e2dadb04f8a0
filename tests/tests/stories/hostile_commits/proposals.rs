//! Commits whose proposals groups do not take, or that leave out one which they must have.

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{
    Ciphersuite, Extension, Extensions, GroupContext, OpenMlsProvider as _, PreSharedKeyProposal, Proposal,
};
use openmls::schedule::psk::{ExternalPsk, PreSharedKeyId, Psk};
use valise_client_sdk::Reason;
use valise_tests::raw::bytes::{Framed, inline, vector};
use valise_tests::raw::{Bundle, Plan};

use crate::hostile_commits::scene::{Expected, MLS, Scene, commit_rule, with_context};

#[tokio::test(flavor = "multi_thread")]
async fn proposals_that_groups_do_not_take() {
    let mut scene = Scene::new().await;
    let psk = PreSharedKeyId::new(
        Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
        scene.alice.provider.rand(),
        Psk::External(ExternalPsk::new(b"a secret".to_vec())),
    )
    .unwrap();
    psk.store(&scene.alice.provider, &[7; 32]).unwrap();
    let psk = scene.with_proposal(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))));
    scene
        .refuses("a pre-shared key", psk, commit_rule("proposal_type"))
        .await;

    // group_id<V>, version, cipher_suite, extensions<V>.
    let reinit = [vector(&[9; 16]), vec![0, 1, 0, 1], vector(&[])].concat();
    let reinit = scene.with_raw_proposals(inline(5, &reinit));
    scene
        .refuses("ReInit", reinit, commit_rule("proposal_type"))
        .await;
    let external_init = scene.with_raw_proposals(inline(6, &vector(&[1; 32])));
    scene
        .refuses("ExternalInit of a member", external_init, MLS)
        .await;
    let custom = scene.with_raw_proposals(inline(0xf000, &vector(b"anything")));
    scene.refuses("a custom one", custom, MLS).await;
    let reference = [&[2][..], &vector(&[3; 32])].concat();
    let reference = scene.with_raw_proposals(reference);
    scene.refuses("one that nobody has sent", reference, MLS).await;
    let of_nobody = scene.with_raw_proposals(inline(3, &77_u32.to_be_bytes()));
    scene.refuses("the removal of nobody", of_nobody, MLS).await;
    let of_oneself = scene.with_raw_proposals(inline(3, &0_u32.to_be_bytes()));
    scene
        .refuses("the committer's own removal", of_oneself, MLS)
        .await;

    for (what, dropped) in [
        ("without roles", |extension: &Extension| {
            matches!(extension, Extension::Unknown(..))
        }),
        ("without external senders", |extension: &Extension| {
            matches!(extension, Extension::ExternalSenders(_))
        }),
        (
            "without required capabilities and what they are about",
            |extension: &Extension| {
                matches!(
                    extension,
                    Extension::RequiredCapabilities(_) | Extension::Unknown(..)
                )
            },
        ),
        ("without any extension", |_: &Extension| true),
    ] as [(&str, fn(&Extension) -> bool); 4]
    {
        let left: Vec<_> = scene
            .group
            .extensions()
            .iter()
            .filter(|one| !dropped(one))
            .cloned()
            .collect();
        let bundle = with_context(&mut scene, Extensions::from_vec(left).unwrap());
        scene
            .refuses(what, bundle, commit_rule("context_extensions"))
            .await;
    }
    // openmls notices by itself that roles are no longer required; it would not build that.
    let left = scene
        .group
        .extensions()
        .iter()
        .filter(|one| !matches!(one, Extension::RequiredCapabilities(_)));
    let left = Extensions::<GroupContext>::from_vec(left.cloned().collect()).unwrap();
    let base = with_context(&mut scene, Extensions::empty());
    let mut framed = Framed::commit(&base.commit);
    framed.proposals = inline(7, &left.tls_serialize_detached().unwrap());
    let commit = framed.signed(&scene.group, &scene.alice.signer).to_bytes();
    scene
        .refuses("without required capabilities", Bundle { commit, ..base }, MLS)
        .await;
    assert_eq!(scene.refused, 12);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_leaves_an_accepted_proposal_undone() {
    let mut scene = Scene::new().await;
    let leave = scene
        .bobs
        .leave_group(&scene.bob.provider, &scene.bob.signer)
        .unwrap();
    let leave = leave.tls_serialize_detached().unwrap();
    let accepted = scene.bob.propose_bytes(leave.clone()).await.unwrap();
    scene.position = accepted.position;
    let bundle = scene.good(Plan::self_update());
    let missing = Expected(Reason::ProposalsMissing, None);
    scene.refuses("Bob would still be there", bundle, missing).await;
    assert_eq!(scene.alice.apply(&mut scene.group, &leave), None);
    let bundle = scene.alice.commit(
        &mut scene.group,
        Plan {
            pending: true,
            ..Plan::default()
        },
    );
    scene.alice.submit(&bundle).await.unwrap();
    scene.group.merge_pending_commit(&scene.alice.provider).unwrap();
    scene.alice.send(&mut scene.group, b"now").await.unwrap();
    assert_eq!(scene.group.members().count(), 2);
}
