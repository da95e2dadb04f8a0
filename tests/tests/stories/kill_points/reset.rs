//! A group that an administrator ends: the device reads it to its end, makes the successor, and adds the others.

use valise_client_sdk::kill_point::{KillPoint, Step};
use valise_client_sdk::{Client, Epoch, Event, EventKind, Group, GroupId, GroupStatus};
use valise_tests::people::joined;
use valise_tests::wait::{soon, until};

use crate::kill_points::child::Task;
use crate::kill_points::stories::Scene;
use crate::kill_points::witness::{agree, no_trouble, seen_until};
use crate::kill_points::world::World;

/// Steps of other operations that this one goes through.
fn on_the_way(operation: &str) -> Vec<KillPoint> {
    let of = |operation, steps: &[Step]| -> Vec<_> {
        let points = steps.iter().map(|&step| KillPoint { operation, step });
        points.collect()
    };
    match operation {
        "make_successor" => of("create", &[Step::Sending, Step::Answered]),
        "add_others" => of(
            "add",
            &[Step::Stored, Step::Sending, Step::Answered, Step::Applied],
        ),
        _ => Vec::new(),
    }
}

pub(crate) async fn follow(world: &World, operation: &'static str, points: Vec<KillPoint>) {
    let scene = Scene::new(world, &operation.replace('_', "-")).await;
    let administration = world.town.administrator().administration();
    for point in points.into_iter().chain(on_the_way(operation)) {
        let old = group_to_be_ended(&scene).await;
        let successor = administration.reset_group(old).await.unwrap();
        scene.device.ends(point, Task::BeThere).await;

        let client = scene.device.open().await;
        let group = entered(&client, successor).await;
        let bobs = entered(&scene.bob, successor).await;
        let mark = format!("{point} is over");
        let mut bob_sees = scene.bob.events();
        group.send(mark.as_str()).await.unwrap();
        let own = seen_until(&client, &mut client.events(), &mark).await;
        let witnessed = seen_until(&scene.bob, &mut bob_sees, &mark).await;
        for seen in [&own, &witnessed] {
            no_trouble(seen);
            let is_end =
                |event: &&Event| event.group == old && matches!(event.kind, EventKind::GroupReset { .. });
            assert_eq!(seen.iter().filter(is_end).count(), 1, "{point}: {seen:?}");
            let is_beginning =
                |event: &&Event| event.group == successor && matches!(event.kind, EventKind::Joined { .. });
            assert_eq!(seen.iter().filter(is_beginning).count(), 1, "{point}: {seen:?}");
        }
        agree(&[(&client, &group), (&scene.bob, &bobs)], &mark).await;
        // Bob was added, once.
        assert_eq!(bobs.info().await.unwrap().epoch, Epoch(1), "{point}");
        client.close().await;
    }
}

/// The device's own group with Bob in it, of which it has not read the last word. It is the first that may make the successor.
async fn group_to_be_ended(scene: &Scene<'_>) -> GroupId {
    let client = scene.device.open().await;
    let group = client.create_group("old").await.unwrap();
    group.add(&[scene.bob.user().clone()]).await.unwrap();
    let bobs = joined(&scene.bob, group.id()).await;
    soon(client.synced()).await.unwrap();
    client.close().await;
    bobs.send("the last word").await.unwrap();
    bobs.id()
}

async fn entered(client: &Client, id: GroupId) -> Group {
    until("the device is in the successor", async || {
        let group = client.group(id).await.unwrap()?;
        (group.info().await.unwrap().status == GroupStatus::Active).then_some(group)
    })
    .await
}
