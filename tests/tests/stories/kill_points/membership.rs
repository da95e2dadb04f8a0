//! A device that leaves its group.

use valise_client_sdk::kill_point::KillPoint;
use valise_client_sdk::{Event, EventKind, GroupStatus};
use valise_tests::wait::{soon, until};

use crate::kill_points::child::{Deed, Task};
use crate::kill_points::stories::{Scene, goes, is_stored};
use crate::kill_points::witness::{agree, count, no_trouble, seen_until};
use crate::kill_points::world::World;

fn is_joined(event: &Event) -> bool {
    matches!(event.kind, EventKind::Joined { .. })
}

pub(crate) async fn leave(world: &World, points: Vec<KillPoint>) {
    let mut scene = Scene::new(world, "leave").await;
    for point in points {
        scene.device.ends(point, Task::In(scene.id, Deed::Leave)).await;

        let client = scene.device.open().await;
        let group = client.group(scene.bobs.id()).await.unwrap().unwrap();
        let left = is_stored(point);
        let mut own = Vec::new();
        if left {
            // Bob commits it, and brings the device back.
            until("the device is out", async || {
                (group.info().await.unwrap().status == GroupStatus::Removed).then_some(())
            })
            .await;
            scene.bobs.add(&[client.user().clone()]).await.unwrap();
            let mut events = client.events();
            while !own.iter().any(is_joined) {
                let event = soon(events.next()).await.unwrap();
                client.confirm(event.id).await.unwrap();
                own.push(event);
            }
        }
        let mark = format!("{point} is over");
        group.send(mark.as_str()).await.unwrap();
        own.extend(seen_until(&client, &mut client.events(), &mark).await);
        let witnessed = seen_until(&scene.bob, &mut scene.bob_sees, &mark).await;
        no_trouble(&own);
        no_trouble(&witnessed);
        let removed = count(&own, |kind: &EventKind| matches!(kind, EventKind::Removed { .. }));
        assert_eq!(removed, usize::from(left), "{point}, on the device: {own:?}");
        let gone = goes(client.device());
        assert_eq!(
            count(&witnessed, &gone),
            usize::from(left),
            "{point}: {witnessed:?}"
        );
        agree(&[(&client, &group), (&scene.bob, &scene.bobs)], &mark).await;
        client.close().await;
    }
}
