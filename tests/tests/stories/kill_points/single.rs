//! What a device does on its own: making a group, confirming events, changing its store's key.

use valise_client_sdk::kill_point::{KillPoint, Step};
use valise_client_sdk::{Client, Error, EventKind, GroupStatus, StoreKey};
use valise_tests::people::joined;

use crate::kill_points::child::Task;
use crate::kill_points::stories::{Scene, is_stored};
use crate::kill_points::witness::{agree, count, seen_until};
use crate::kill_points::world::World;

pub(crate) async fn create(world: &World, points: Vec<KillPoint>) {
    let scene = Scene::new(world, "create").await;
    for point in points {
        let name = point.to_string();
        scene
            .device
            .ends(point, Task::Create { name: name.clone() })
            .await;

        let client = scene.device.open().await;
        let mut made = Vec::new();
        for group in client.groups().await.unwrap() {
            if group.name().await == name {
                made.push(group);
            }
        }
        assert_eq!(made.len(), usize::from(is_stored(point)), "{point}");
        if let Some(group) = made.first() {
            assert_eq!(group.info().await.unwrap().status, GroupStatus::Active, "{point}");
            group.add(&[scene.bob.user().clone()]).await.unwrap();
            let bobs = joined(&scene.bob, group.id()).await;
            let mut bob_sees = scene.bob.events();
            group.send(name.as_str()).await.unwrap();
            seen_until(&scene.bob, &mut bob_sees, &name).await;
            agree(&[(&client, group), (&scene.bob, &bobs)], &name).await;
        }
        client.close().await;
    }
}

/// Before it is confirmed an event is told again; afterwards it is not.
pub(crate) async fn confirm(world: &World, points: Vec<KillPoint>) {
    let scene = Scene::new(world, "confirm").await;
    for point in points {
        let text = point.to_string();
        scene.bobs.send(text.as_str()).await.unwrap();
        scene
            .device
            .ends(point, Task::Confirm { text: text.clone() })
            .await;

        let client = scene.device.open().await;
        let mark = format!("{point} is over");
        scene.bobs.send(mark.as_str()).await.unwrap();
        let seen = seen_until(&client, &mut client.events(), &mark).await;
        let again = count(
            &seen,
            |kind: &EventKind| matches!(kind, EventKind::Message { content, .. } if content.as_text() == Some(text.as_str())),
        );
        assert_eq!(
            again,
            usize::from(point.step == Step::BeforeApplied),
            "{point}: {seen:?}"
        );
        client.close().await;
    }
}

/// Either the old key opens the store or the new one does.
pub(crate) async fn change_store_key(world: &World, points: Vec<KillPoint>) {
    let mut scene = Scene::new(world, "change-store-key").await;
    for point in points {
        let key = *StoreKey::random().as_bytes();
        scene.device.ends(point, Task::ChangeStoreKey { key }).await;

        let old = std::mem::replace(&mut scene.device.key, key);
        let wrong = if point.step == Step::BeforeApplied {
            std::mem::replace(&mut scene.device.key, old)
        } else {
            old
        };
        let right = std::mem::replace(&mut scene.device.key, wrong);
        let refused = Client::open_with(scene.device.store(), world.options()).await;
        assert!(matches!(refused, Err(Error::StoreKey)), "{point}");
        scene.device.key = right;
        let client = scene.device.open().await;
        let group = client.group(scene.bobs.id()).await.unwrap().unwrap();
        let mark = format!("{point} is over");
        group.send(mark.as_str()).await.unwrap();
        seen_until(&scene.bob, &mut scene.bob_sees, &mark).await;
        agree(&[(&client, &group), (&scene.bob, &scene.bobs)], &mark).await;
        client.close().await;
    }
}
