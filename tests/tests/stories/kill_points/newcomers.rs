//! Devices that become devices, and that come into groups.

use valise_client_sdk::kill_point::{KillPoint, Step};
use valise_client_sdk::{Client, DeviceId, Epoch, Error, EventKind};
use valise_tests::people::joined;
use valise_tests::wait::until;

use crate::kill_points::child::Task;
use crate::kill_points::device::Device;
use crate::kill_points::stories::Scene;
use crate::kill_points::witness::{agree, count, no_trouble, seen_until};
use crate::kill_points::world::World;

/// More than there are one-time packages of a device: the last-resort package is among those that are tried.
const INVITATIONS: usize = 3;

/// The device is enrolled once, and can be invited with every key package that the directory hands out.
pub(crate) async fn enrol(world: &World, points: Vec<KillPoint>) {
    let operation = points[0].operation.replace('_', "-");
    let bob = world.witness(&format!("{operation}-bob")).await;
    for point in points {
        let name = format!("{operation}-{:?}", point.step).to_lowercase();
        let device = Device::unborn(world, &name);
        let code = world.town.code(&name).await;
        device.ends(point, Task::Enrol { code: code.clone() }).await;

        let made = made(world, &name).await;
        assert_eq!(made.len(), usize::from(is_known(point)), "{point}: {made:?}");
        let again = Client::enrol_with(&world.url, &code, "a device", device.store(), world.options()).await;
        let client = match again {
            Ok(client) => client,
            Err(Error::AlreadyEnrolled) => device.open().await,
            Err(error) => panic!("{point}: {error}"),
        };
        // The one that the service has enrolled, also where the answer was lost with the process; and no other.
        let devices = client.devices().await.unwrap();
        assert_eq!(devices.len(), 1, "{point}: {devices:?}");
        assert_eq!(devices[0].device, client.device(), "{point}");
        assert!(made.is_empty() || made == [client.device()], "{point}: {made:?}");
        invite(&bob, &client, &point.to_string()).await;
        client.close().await;
        if is_answer_lost(point) {
            with_another_code(world, point, &name).await;
        }
    }
}

/// Who has no more than another code, because the first one has ended, becomes another device with the same store.
async fn with_another_code(world: &World, point: KillPoint, name: &str) {
    let name = format!("{name}-late");
    let device = Device::unborn(world, &name);
    let code = world.town.code(&name).await;
    device.ends(point, Task::Enrol { code }).await;
    let [lost] = made(world, &name).await[..] else {
        panic!("{point}: it was not enrolled")
    };
    let code = world.town.code(&name).await;
    let client = Client::enrol_with(&world.url, &code, "a device", device.store(), world.options())
        .await
        .unwrap();
    assert_eq!(
        made(world, &name).await,
        [lost, client.device()],
        "{point}: oldest first"
    );
    client.revoke_device(lost).await.unwrap();
    client.close().await;
}

/// The devices that the service has for somebody.
async fn made(world: &World, name: &str) -> Vec<DeviceId> {
    let administrator = world.town.administrator();
    let devices = administrator.devices_of(&world.town.user(name)).await.unwrap();
    devices.into_iter().map(|device| device.device).collect()
}

/// The service has enrolled the device.
fn is_known(point: KillPoint) -> bool {
    point.operation != "enrol" || matches!(point.step, Step::Applied) || is_answer_lost(point)
}

/// The service has enrolled the device, which does not know it.
fn is_answer_lost(point: KillPoint) -> bool {
    point.operation == "enrol" && matches!(point.step, Step::Answered | Step::BeforeApplied)
}

/// Into group after group.
async fn invite(bob: &Client, client: &Client, about: &str) {
    for number in 0..INVITATIONS {
        let bobs = bob.create_group("invited").await.unwrap();
        until("there is a key package", async || {
            let added = bobs.add(&[client.user().clone()]).await.unwrap();
            (!added.devices.is_empty()).then_some(())
        })
        .await;
        let group = joined(client, bobs.id()).await;
        let mark = format!("{about}, {number}");
        let mut bob_sees = bob.events();
        group.send(mark.as_str()).await.unwrap();
        no_trouble(&seen_until(bob, &mut bob_sees, &mark).await);
        agree(&[(client, &group), (bob, &bobs)], &mark).await;
    }
}

/// The device is invited while it is away.
pub(crate) async fn join(world: &World, points: Vec<KillPoint>) {
    let scene = Scene::new(world, "join").await;
    let user = world.town.user("join-alice");
    for point in points {
        let bobs = scene.bob.create_group("invited").await.unwrap();
        let added = bobs.add(std::slice::from_ref(&user)).await.unwrap();
        assert_eq!(added.devices.len(), 1, "{point}: {added:?}");
        scene.device.ends(point, Task::BeThere).await;

        let client = scene.device.open().await;
        let group = client.group(bobs.id()).await.unwrap().unwrap();
        let mark = format!("{point} is over");
        let mut bob_sees = scene.bob.events();
        group.send(mark.as_str()).await.unwrap();
        let own = seen_until(&client, &mut client.events(), &mark).await;
        let witnessed = seen_until(&scene.bob, &mut bob_sees, &mark).await;
        no_trouble(&own);
        no_trouble(&witnessed);
        let times = count(&own, |kind: &EventKind| matches!(kind, EventKind::Joined { .. }));
        assert_eq!(times, 1, "{point}: {own:?}");
        agree(&[(&client, &group), (&scene.bob, &bobs)], &mark).await;
        client.close().await;
    }
}

/// The device is invited twice while it is away: the second time with the package for when there is no other. That one is replaced, and
/// the group gets new keys of the device at once.
pub(crate) async fn join_last_resort(world: &World, points: Vec<KillPoint>) {
    let scene = Scene::new(world, "join-last-resort").await;
    // Each step finds one package of each kind.
    let client = scene.device.open().await;
    client.upkeep().await.unwrap();
    client.close().await;
    let user = world.town.user("join-last-resort-alice");
    for point in points {
        let mut invited = Vec::new();
        for _ in 0..2 {
            let bobs = scene.bob.create_group("invited").await.unwrap();
            let added = bobs.add(std::slice::from_ref(&user)).await.unwrap();
            assert_eq!(added.devices.len(), 1, "{point}: {added:?}");
            invited.push(bobs);
        }
        scene.device.ends(point, Task::BeThere).await;

        let client = scene.device.open().await;
        let (bobs, id) = (&invited[1], invited[1].id());
        let group = client.group(id).await.unwrap().unwrap();
        let mark = format!("{point} is over");
        let mut bob_sees = scene.bob.events();
        group.send(mark.as_str()).await.unwrap();
        let own = seen_until(&client, &mut client.events(), &mark).await;
        no_trouble(&own);
        no_trouble(&seen_until(&scene.bob, &mut bob_sees, &mark).await);
        let entered = own
            .iter()
            .filter(|event| event.group == id && matches!(event.kind, EventKind::Joined { .. }));
        assert_eq!(entered.count(), 1, "{point}: {own:?}");
        let other = client.group(invited[0].id()).await.unwrap().unwrap();
        agree(&[(&client, &other), (&scene.bob, &invited[0])], &mark).await;
        agree(&[(&client, &group), (&scene.bob, bobs)], &mark).await;
        // Bob's commit, and with new keys the device's.
        assert_eq!(bobs.info().await.unwrap().epoch, Epoch(2), "{point}");
        client.upkeep().await.unwrap();
        client.close().await;
    }
}

/// The device comes into groups of another device of its user, by an external commit.
pub(crate) async fn come_in(world: &World, points: Vec<KillPoint>) {
    let operation = points[0].operation.replace('_', "-");
    let name = format!("{operation}-alice");
    let laptop = world.witness(&name).await;
    let bob = world.witness(&format!("{operation}-bob")).await;
    let (device, client) = Device::of(world, &name).await;
    client.close().await;
    for point in points {
        let laptops = laptop.create_group("elsewhere").await.unwrap();
        laptops.add(&[bob.user().clone()]).await.unwrap();
        let bobs = joined(&bob, laptops.id()).await;
        let before = bobs.info().await.unwrap().epoch;
        let mut bob_sees = bob.events();
        let group = *laptops.id().as_bytes();
        device.ends(point, Task::ComeIn(group)).await;

        let client = device.open().await;
        if point.operation == "wish_rejoin" && point.step == Step::BeforeStored {
            assert!(client.group(laptops.id()).await.unwrap().is_none(), "{point}");
            client.come_in(laptops.id()).await.unwrap();
        }
        let group = client.group(laptops.id()).await.unwrap().unwrap();
        let mark = format!("{point} is over");
        group.send(mark.as_str()).await.unwrap();
        let own = seen_until(&client, &mut client.events(), &mark).await;
        let witnessed = seen_until(&bob, &mut bob_sees, &mark).await;
        no_trouble(&own);
        no_trouble(&witnessed);
        let times = count(&own, |kind: &EventKind| {
            matches!(kind, EventKind::Rejoined { .. })
        });
        assert_eq!(times, 1, "{point}: {own:?}");
        let here = client.device();
        let times = count(
            &witnessed,
            |kind: &EventKind| matches!(kind, EventKind::MembersChanged { added, .. } if added.iter().any(|peer| peer.device == here)),
        );
        assert_eq!(times, 1, "{point}: {witnessed:?}");
        agree(&[(&client, &group), (&laptop, &laptops), (&bob, &bobs)], &mark).await;
        assert_eq!(bobs.info().await.unwrap().epoch, before.next(), "{point}");
        client.close().await;
    }
}
