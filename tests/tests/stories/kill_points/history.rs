//! Messages that expire, and those that somebody takes out of a device's history.

use std::time::Duration;

use valise_client_sdk::kill_point::{KillPoint, Step};
use valise_client_sdk::{Content, EventKind, Expiry, History, MessageId};

use crate::kill_points::child::{Deed, Task};
use crate::kill_points::stories::{Scene, says};
use crate::kill_points::witness::{agree, count, no_trouble, seen_until};
use crate::kill_points::world::World;

/// The message with that text, if it is remembered.
pub(crate) async fn named(history: &History, text: &str) -> Option<MessageId> {
    let page = history.page(None, 100).await.unwrap();
    let message = page.iter().find(|message| message.as_text() == Some(text));
    message.map(|message| message.id)
}

/// A message is there, with its event, or nothing of it is.
pub(crate) async fn forget(world: &World, operation: &'static str, points: Vec<KillPoint>) {
    let mut scene = Scene::new(world, &operation.replace('_', "-")).await;
    for point in points {
        let text = point.to_string();
        let expires = operation == "expire";
        let (content, deed) = if expires {
            // That it was read is stored before.
            let content = Content::text(&text).expiring(Expiry::AfterRead(Duration::from_secs(1)));
            let text = text.clone();
            (content, Deed::MarkRead { text })
        } else {
            let (content, text) = (Content::text(&text), text.clone());
            (content, Deed::RemoveMessage { text })
        };
        scene.bobs.send(content).await.unwrap();
        scene.device.ends(point, Task::In(scene.id, deed)).await;

        let client = scene.device.open().await;
        let group = client.group(scene.bobs.id()).await.unwrap().unwrap();
        let stays = !expires && point.step == Step::BeforeApplied;
        let remembered = named(&group.history(), &text).await;
        assert_eq!(remembered.is_some(), stays, "{point}");
        let mark = format!("{point} is over");
        group.send(mark.as_str()).await.unwrap();
        let own = seen_until(&client, &mut client.events(), &mark).await;
        no_trouble(&own);
        let times = count(&own, |kind: &EventKind| says(kind, &text));
        assert_eq!(times, usize::from(stays), "{point}: {own:?}");
        no_trouble(&seen_until(&scene.bob, &mut scene.bob_sees, &mark).await);
        agree(&[(&client, &group), (&scene.bob, &scene.bobs)], &mark).await;
        client.close().await;
    }
}
