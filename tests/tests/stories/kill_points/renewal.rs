//! Certificates that are renewed after two months, and the key packages with them.

use std::time::{Duration, SystemTime};

use valise_client_sdk::Client;
use valise_client_sdk::kill_point::KillPoint;

use crate::kill_points::child::Task;
use crate::kill_points::stories::Scene;
use crate::kill_points::witness::{agree, no_trouble, seen_until};
use crate::kill_points::world::World;

/// What is told after that time.
pub(crate) const OPERATIONS: [&str; 2] = ["renew_certificate", "replace_key_packages"];
/// Two thirds of a certificate's 90 days are over.
pub(crate) const LATER: Duration = Duration::from_hours(61 * 24);

/// A device in a group for each step, which will have a certificate to renew.
pub(crate) async fn prepare(world: &World, points: Vec<KillPoint>) -> Vec<(KillPoint, Scene<'_>)> {
    let mut scenes = Vec::new();
    for point in points {
        let name = format!("{}-{:?}", point.operation.replace('_', "-"), point.step).to_lowercase();
        scenes.push((point, Scene::new(world, &name).await));
    }
    scenes
}

/// The certificate is renewed, the key packages are replaced, and the group takes the new certificate.
///
/// Nobody is invited here: openmls judges the lifetime of key packages by the system's clock.
pub(crate) async fn tell(world: &World, scenes: Vec<(KillPoint, Scene<'_>)>) {
    if scenes.is_empty() {
        return;
    }
    world.advance(LATER);
    for (point, mut scene) in scenes {
        scene.device.ends(point, Task::Upkeep).await;

        let client = scene.device.open().await;
        client.upkeep().await.unwrap();
        let ends = expiry(&client).await;
        let left = ends.duration_since(world.options().clock.now()).unwrap();
        assert!(left > LATER, "{point}: the certificate was not renewed");
        let group = client.group(scene.bobs.id()).await.unwrap().unwrap();
        group.self_update().await.unwrap();
        let mark = format!("{point} is over");
        group.send(mark.as_str()).await.unwrap();
        no_trouble(&seen_until(&client, &mut client.events(), &mark).await);
        no_trouble(&seen_until(&scene.bob, &mut scene.bob_sees, &mark).await);
        agree(&[(&client, &group), (&scene.bob, &scene.bobs)], &mark).await;
        client.close().await;
    }
}

async fn expiry(client: &Client) -> SystemTime {
    let devices = client.devices().await.unwrap();
    assert_eq!(devices.len(), 1);
    devices[0].certificate_expires_at.unwrap()
}
