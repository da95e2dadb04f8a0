//! Who may do what, through the whole of it: devices with the SDK, and the real service between them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up is a failed test"
)]

use valise_client_sdk::{Act, Client, Error, EventKind, Group, Policy, Role, WhatNow};
use valise_tests::command::run;
use valise_tests::homes::Homes;
use valise_tests::people::{Town, event, joined, text};
use valise_tests::service::Service;
use valise_tests::wait::until;

/// Anna made the group, Ben and Cleo are members.
struct Scene {
    _service: Service,
    town: Town,
    anna: Client,
    ben: Client,
    cleo: Client,
    annas: Group,
    bens: Group,
    cleos: Group,
}

impl Scene {
    async fn new() -> Self {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let (anna, ben, cleo) = (
            town.device("anna").await,
            town.device("ben").await,
            town.device("cleo").await,
        );
        let annas = anna.create_group("Short").await.unwrap();
        annas
            .add(&[ben.user().clone(), cleo.user().clone()])
            .await
            .unwrap();
        let bens = joined(&ben, annas.id()).await;
        let cleos = joined(&cleo, annas.id()).await;
        for group in [&bens, &cleos] {
            until("the name is known", async || {
                (group.name().await == "Short").then_some(())
            })
            .await;
        }
        Self {
            _service: service,
            town,
            anna,
            ben,
            cleo,
            annas,
            bens,
            cleos,
        }
    }
}

async fn role(group: &Group, client: &Client) -> Option<Role> {
    let members = group.members().await.unwrap();
    let member = members.iter().find(|member| member.user == *client.user());
    member.map(|member| member.role)
}

fn denied<T>(outcome: Result<T, Error>) -> &'static str {
    match outcome {
        Err(error @ Error::Rule(rule)) => {
            assert_eq!(error.what_now(), WhatNow::Denied);
            rule
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("allowed"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_becomes_a_moderator_and_may_more() {
    let scene = Scene::new().await;
    let (bens, cleos) = (&scene.bens, &scene.cleos);
    let dora = scene.town.device("dora").await;
    assert_eq!(denied(bens.add(&[dora.user()]).await), "role_add");
    assert_eq!(denied(bens.remove(&[scene.cleo.user()]).await), "role_remove");
    assert_eq!(denied(bens.rename("Long").await), "role_rename");
    assert_eq!(
        denied(bens.set_role(scene.ben.user(), Role::Owner).await),
        "role_change"
    );

    scene
        .annas
        .set_role(scene.ben.user(), Role::Moderator)
        .await
        .unwrap();
    until("ben has heard of it", async || {
        (role(bens, &scene.ben).await == Some(Role::Moderator)).then_some(())
    })
    .await;
    bens.add(&[dora.user()]).await.unwrap();
    let doras = joined(&dora, bens.id()).await;
    bens.rename("Long").await.unwrap();
    for group in [&scene.annas, cleos, &doras] {
        until("the new name is known", async || {
            (group.name().await == "Long").then_some(())
        })
        .await;
    }
    assert_eq!(denied(bens.remove(&[scene.anna.user()]).await), "role_above");
    bens.remove(&[dora.user()]).await.unwrap();
    let mut events = scene.cleo.events();
    let listed = event(&scene.cleo, &mut events, |event| match &event.kind {
        EventKind::RolesChanged { users, by, .. } => Some((users.clone(), by.user.clone())),
        _ => None,
    })
    .await;
    let expected = vec![(scene.ben.user().clone(), Role::Moderator)];
    assert_eq!(listed, (expected, scene.anna.user().clone()));
    assert_eq!(role(cleos, &scene.anna).await, Some(Role::Owner));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_group_is_a_policy() {
    let scene = Scene::new().await;
    let policy = Policy::default().with(Act::Send, Role::Moderator);
    scene.annas.set_policy(policy).await.unwrap();
    until("ben has heard of it", async || {
        (scene.bens.policy().await.unwrap() == policy).then_some(())
    })
    .await;
    assert_eq!(denied(scene.bens.send("me too").await), "role_send");
    assert_eq!(denied(scene.bens.send_ephemeral("…").await), "role_send");
    // Reading, new keys and leaving are nobody's to allow.
    scene.bens.self_update().await.unwrap();
    scene.annas.send("hear, hear").await.unwrap();
    let mut events = scene.ben.events();
    assert_eq!(event(&scene.ben, &mut events, text).await, "hear, hear");
    scene.bens.leave().await.unwrap();
    event(&scene.ben, &mut events, |event| {
        matches!(event.kind, EventKind::Removed { .. }).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_owner_left_somebody_can_still_do_everything() {
    let scene = Scene::new().await;
    let last = scene.annas.set_role(scene.anna.user(), Role::Member).await;
    assert_eq!(denied(last), "last_owner");
    scene.annas.leave().await.unwrap();
    until("anna is gone", async || {
        (scene.bens.members().await.unwrap().len() == 2).then_some(())
    })
    .await;
    // Two members: both count as owners, and one of them makes it plain.
    assert_eq!(role(&scene.bens, &scene.cleo).await, Some(Role::Owner));
    scene.bens.set_role(scene.ben.user(), Role::Owner).await.unwrap();
    until("cleo has heard of it", async || {
        (role(&scene.cleos, &scene.cleo).await == Some(Role::Member)).then_some(())
    })
    .await;
    assert_eq!(denied(scene.cleos.rename("Mine").await), "role_rename");
    scene.bens.rename("Ours").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_on_the_command_line() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    for name in ["anna", "ben"] {
        homes.enrol(name).await;
    }
    let group = homes.new_group("anna", "Lunch").await;
    homes.add("anna", &group, &["ben"]).await;
    let ben = homes.user("ben");
    let refused = run(homes.command("ben", &["group", "rename", &group, "Dinner"])).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("role_rename"), "{}", refused.err);

    run(homes.command("anna", &["group", "role", &group, &ben, "moderator"]))
        .await
        .ok();
    let policy = ["group", "policy", &group, "--send", "moderator", "--json"];
    let policy = run(homes.command("anna", &policy)).await.ok();
    let policy: serde_json::Value = serde_json::from_str(&policy).unwrap();
    assert_eq!(
        (&policy["send"], &policy["add"]),
        (&"moderator".into(), &"moderator".into())
    );
    run(homes.command("ben", &["group", "rename", &group, "Dinner"]))
        .await
        .ok();
    let shown = run(homes.command("anna", &["group", "show", &group, "--json"]))
        .await
        .ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["name"], "Dinner");
    assert_eq!(shown["policy"], policy);
    let roles: Vec<_> = shown["roster"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| &member["role"])
        .collect();
    assert_eq!(roles, ["owner", "moderator"]);
    let words = run(homes.command("ben", &["group", "show", &group])).await.ok();
    assert!(
        words.contains("policy: add: moderator") && words.contains("send: moderator"),
        "{words}"
    );
    let unknown = run(homes.command("anna", &["group", "role", &group, &ben, "king"])).await;
    assert_eq!(unknown.code, Some(2));
}
