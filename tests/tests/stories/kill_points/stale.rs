//! Members whose certificate ended long ago are removed.

use valise_client_sdk::kill_point::KillPoint;
use valise_tests::wait::{soon, until};

use crate::kill_points::child::Task;
use crate::kill_points::renewal::LATER;
use crate::kill_points::stories::{Scene, goes};
use crate::kill_points::witness::{agree, count, no_trouble, seen_until};
use crate::kill_points::world::World;

/// What is told when half a year has passed.
pub(crate) const OPERATIONS: [&str; 1] = ["evict_stale"];

/// A device in a group with Dora for each step.
pub(crate) async fn prepare(world: &World, points: Vec<KillPoint>) -> Vec<(KillPoint, Scene<'_>)> {
    let mut scenes = Vec::new();
    for point in points {
        let name = format!("{}-{:?}", point.operation.replace('_', "-"), point.step).to_lowercase();
        let scene = Scene::new(world, &name).await;
        scene.with_dora(true).await;
        scenes.push((point, scene));
    }
    scenes
}

/// Everybody renews certificates but Dora. Hers has ended after three months, and after six the device removes her.
pub(crate) async fn tell(world: &World, scenes: Vec<(KillPoint, Scene<'_>)>) {
    if scenes.is_empty() {
        return;
    }
    if world.ahead() < LATER {
        world.advance(LATER);
    }
    renew(&scenes).await;
    world.advance(LATER);
    renew(&scenes).await;
    world.advance(LATER);
    for (point, mut scene) in scenes {
        // The newest entry says how late it is.
        scene.bobs.send("happy new year").await.unwrap();
        scene.device.ends(point, Task::Upkeep).await;

        let client = scene.device.open().await;
        client.upkeep().await.unwrap();
        let dora = scene.dora.device();
        until("she is out", async || {
            let members = scene.bobs.members().await.unwrap();
            (!members.iter().any(|member| member.device == dora)).then_some(())
        })
        .await;
        let group = client.group(scene.bobs.id()).await.unwrap().unwrap();
        let mark = format!("{point} is over");
        group.send(mark.as_str()).await.unwrap();
        let own = seen_until(&client, &mut client.events(), &mark).await;
        let witnessed = seen_until(&scene.bob, &mut scene.bob_sees, &mark).await;
        for seen in [&own, &witnessed] {
            no_trouble(seen);
            assert_eq!(count(seen, goes(dora)), 1, "{point}: {seen:?}");
        }
        agree(&[(&client, &group), (&scene.bob, &scene.bobs)], &mark).await;
        client.close().await;
    }
}

async fn renew(scenes: &[(KillPoint, Scene<'_>)]) {
    for (_, scene) in scenes {
        let client = scene.device.open().await;
        for client in [&client, &scene.bob] {
            client.upkeep().await.unwrap();
            soon(client.synced()).await.unwrap();
        }
        client.close().await;
    }
}
