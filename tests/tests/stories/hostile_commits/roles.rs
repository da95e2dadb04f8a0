//! What the sender's role in the group does not allow.

use openmls::prelude::{Extension, Extensions, GroupContext, LeafNodeIndex, MlsGroup, UnknownExtension};
use valise_client_sdk::Reason;
use valise_group_rules::{ROLES_EXTENSION, Role, Roles};
use valise_proto::delivery::v1 as wire;
use valise_tests::raw::{Plan, refusal};

use crate::hostile_commits::scene::{Scene, changing_context, commit_rule, denied, with_context};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_members_role_does_not_allow() {
    let mut scene = Scene::new().await;
    let bob = scene.bob.user.clone();
    let plans = [
        ("role_add", Plan::add(vec![scene.dave.key_package()])),
        ("role_remove", Plan::remove(vec![LeafNodeIndex::new(2)])),
        ("role_remove", Plan::remove(vec![LeafNodeIndex::new(0)])),
    ];
    for (rule, plan) in plans {
        let bundle = scene.bob.commit(&mut scene.bobs, plan);
        scene.bob.forget(&mut scene.bobs);
        let submitted = scene.bob.submit(&bundle).await;
        scene.refused(rule, submitted, denied(rule)).await;
    }
    let context = with_roles(&scene.bobs, |roles| roles.with(bob.clone(), Role::Owner));
    let bundle = changing_context(&scene.bob, &mut scene.bobs, context);
    scene.bob.forget(&mut scene.bobs);
    let submitted = scene.bob.submit(&bundle).await;
    scene
        .refused("to raise oneself", submitted, denied("role_change"))
        .await;

    // The owner may much, but not leave the group without one, nor touch anything else in the same breath.
    let alice = scene.alice.user.clone();
    let context = with_roles(&scene.group, |roles| roles.with(alice, Role::Member));
    let bundle = with_context(&mut scene, context);
    scene
        .refuses("the last owner steps down", bundle, denied("last_owner"))
        .await;
    let context = with_roles(&scene.group, |roles| roles.with(bob.clone(), Role::Moderator));
    let senders = context.external_senders().unwrap();
    let twice = Extension::ExternalSenders([senders.as_slice(), senders.as_slice()].concat());
    let more = context.iter().map(|one| match one {
        Extension::ExternalSenders(_) => twice.clone(),
        other => other.clone(),
    });
    let bundle = with_context(&mut scene, Extensions::from_vec(more.collect()).unwrap());
    scene
        .refuses(
            "another external sender besides",
            bundle,
            commit_rule("context_extensions"),
        )
        .await;
    let garbage = context.iter().map(|one| match one {
        Extension::Unknown(ROLES_EXTENSION, _) => {
            Extension::Unknown(ROLES_EXTENSION, UnknownExtension(vec![1, 9, 9]))
        }
        other => other.clone(),
    });
    let bundle = with_context(&mut scene, Extensions::from_vec(garbage.collect()).unwrap());
    scene
        .refuses("roles that are none", bundle, commit_rule("roles"))
        .await;
    assert_eq!(scene.refused, 7);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_cannot_send_and_who_rose_may_act() {
    let mut scene = Scene::new().await;
    let (bob, carol) = (scene.bob.user.clone(), scene.carol.user.clone());
    let context = with_roles(&scene.group, |roles| {
        roles.with(bob, Role::Reader).with(carol, Role::Moderator)
    });
    let bundle = changing_context(&scene.alice, &mut scene.group, context);
    let accepted = scene.alice.submit(&bundle).await.unwrap();
    scene.group.merge_pending_commit(&scene.alice.provider).unwrap();
    (scene.position, scene.epoch) = (accepted.position, accepted.epoch);
    scene.bob.apply(&mut scene.bobs, &bundle.commit);
    let submitted = scene.bob.send(&mut scene.bobs, b"psst").await;
    scene.refused("a message", submitted, denied("role_send")).await;
    let ephemeral = wire::SendEphemeralRequest {
        mls_message: scene.bob.encrypt(&mut scene.bobs, b"psst").into(),
    };
    let status = scene
        .bob
        .door
        .delivery()
        .send_ephemeral(ephemeral)
        .await
        .unwrap_err();
    let refusal = refusal(&status);
    assert_eq!(
        (refusal.reason, refusal.metadata["rule"].as_str()),
        (Reason::PolicyDenied, "role_send")
    );
    // New keys are every member's own.
    let update = scene.bob.commit(&mut scene.bobs, Plan::self_update());
    let accepted = scene.bob.submit(&update).await.unwrap();
    scene.bobs.merge_pending_commit(&scene.bob.provider).unwrap();
    scene.alice.apply(&mut scene.group, &update.commit);
    (scene.position, scene.epoch) = (accepted.position, accepted.epoch);
    scene.goes_on().await;
}

/// The context of a group with other roles.
fn with_roles(group: &MlsGroup, change: impl FnOnce(Roles) -> Roles) -> Extensions<GroupContext> {
    let context = group.public_group().group_context();
    change(Roles::of_context(context).unwrap())
        .put_into(context)
        .unwrap()
}
