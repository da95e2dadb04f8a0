//! A device that was away for longer than entries are kept, with a message on its way: it settles what became of that, comes back by an
//! external commit, and the message is sent once.

use valise_client_sdk::EventKind;
use valise_client_sdk::kill_point::{KillPoint, Step};
use valise_tests::wait::soon;

use crate::kill_points::child::{Deed, Task};
use crate::kill_points::stories::{Scene, says};
use crate::kill_points::witness::{agree, count, no_trouble, seen_until};
use crate::kill_points::world::World;

/// The message is stored, and has not left.
const SENT: KillPoint = KillPoint {
    operation: "send",
    step: Step::Stored,
};

/// The other steps of coming back, here of a device that had keys.
fn way_back() -> impl Iterator<Item = KillPoint> {
    let points = valise_client_sdk::kill_point::all().into_iter();
    points.filter(|point| ["wish_rejoin", "rejoin"].contains(&point.operation))
}

pub(crate) async fn settle(world: &World, points: Vec<KillPoint>) {
    let mut scene = Scene::new(world, "settle").await;
    for point in points.into_iter().chain(way_back()) {
        let (group, text) = (scene.id, point.to_string());
        let deed = Deed::Send { text: text.clone() };
        scene.device.ends(SENT, Task::In(group, deed)).await;
        for _ in 0..2 {
            scene.bobs.self_update().await.unwrap();
        }
        soon(scene.bob.synced()).await.unwrap();
        world.forget(scene.bobs.id());
        scene.device.ends(point, Task::BeThere).await;

        let client = scene.device.open().await;
        let group = client.group(scene.bobs.id()).await.unwrap().unwrap();
        let mark = format!("{point} is over");
        group.send(mark.as_str()).await.unwrap();
        let mut own = seen_until(&client, &mut client.events(), &mark).await;
        let witnessed = seen_until(&scene.bob, &mut scene.bob_sees, &mark).await;
        let times = count(&own, |kind: &EventKind| matches!(kind, EventKind::Lost));
        assert_eq!(times, 1, "{point}: {own:?}");
        let times = count(&own, |kind: &EventKind| {
            matches!(kind, EventKind::Rejoined { .. })
        });
        assert_eq!(times, 1, "{point}: {own:?}");
        own.retain(|event| !matches!(event.kind, EventKind::Lost));
        no_trouble(&own);
        no_trouble(&witnessed);
        let here = client.device();
        let back = |kind: &EventKind| matches!(kind, EventKind::CameBack { peer, .. } if peer.device == here);
        assert_eq!(count(&witnessed, back), 1, "{point}: {witnessed:?}");
        for events in [&own, &witnessed] {
            let times = count(events, |kind: &EventKind| says(kind, &text));
            assert_eq!(times, 1, "{point}: {events:?}");
        }
        agree(&[(&client, &group), (&scene.bob, &scene.bobs)], &mark).await;
        client.close().await;
    }
}
