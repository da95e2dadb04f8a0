//! What a device does in a group that it is in.

use valise_client_sdk::kill_point::{KillPoint, Step};
use valise_client_sdk::{Client, Epoch, EventKind, Events, Group, Role};
use valise_tests::people::joined;
use valise_tests::wait::{soon, until};

use crate::kill_points::child::{Deed, Task};
use crate::kill_points::device::Device;
use crate::kill_points::witness::{agree, count, no_trouble, seen_until};
use crate::kill_points::world::World;

type Effect = Box<dyn Fn(&EventKind) -> bool>;

/// A device in a group with a witness and a third one, who comes and goes.
pub(crate) struct Scene<'a> {
    pub(crate) device: Device<'a>,
    pub(crate) id: [u8; 16],
    pub(crate) bob: Client,
    pub(crate) bobs: Group,
    pub(crate) bob_sees: Events,
    pub(crate) dora: Client,
}

/// What a device is to do, and how others see that it was done.
struct Plan {
    task: Task,
    /// The event that tells of it; without one, only the epochs are counted.
    effect: Option<Effect>,
    commits: u64,
}

impl<'a> Scene<'a> {
    /// Everything is settled, the device is closed, and nobody has an event that is not confirmed.
    pub(crate) async fn new(world: &'a World, name: &str) -> Self {
        let (device, client) = Device::of(world, &format!("{name}-alice")).await;
        let bob = world.witness(&format!("{name}-bob")).await;
        let dora = world.witness(&format!("{name}-dora")).await;
        let group = client.create_group("before").await.unwrap();
        group.add(&[bob.user().clone()]).await.unwrap();
        let bobs = joined(&bob, group.id()).await;
        group.set_role(bob.user().clone(), Role::Owner).await.unwrap();
        let mut bob_sees = bob.events();
        group.send("begin").await.unwrap();
        seen_until(&bob, &mut bob_sees, "begin").await;
        seen_until(&client, &mut client.events(), "begin").await;
        soon(client.synced()).await.unwrap();
        client.close().await;
        let id = *group.id().as_bytes();
        Self {
            device,
            id,
            bob,
            bobs,
            bob_sees,
            dora,
        }
    }

    async fn has_dora(&self) -> bool {
        let members = self.bobs.members().await.unwrap();
        members.iter().any(|member| member.device == self.dora.device())
    }

    /// The third one is in, or is not.
    pub(crate) async fn with_dora(&self, wanted: bool) {
        soon(self.bob.synced()).await.unwrap();
        let user = [self.dora.user().clone()];
        if wanted && !self.has_dora().await {
            self.bobs.add(&user).await.unwrap();
        } else if !wanted && self.has_dora().await {
            self.bobs.remove(&user).await.unwrap();
        }
        self.doras(wanted).await;
    }

    /// The third one's group, once she knows whether she is in it.
    async fn doras(&self, member: bool) -> Option<Group> {
        until("dora knows", async || {
            let group = self.dora.group(self.bobs.id()).await.unwrap();
            let members = match &group {
                Some(group) => group.info().await.unwrap().members,
                None => 0,
            };
            ((members > 0) == member).then_some(group)
        })
        .await
    }

    /// Makes ready what the operation needs. The device is not there.
    async fn prepare(&self, point: KillPoint) -> Plan {
        let inside = |deed| Task::In(self.id, deed);
        let name = point.to_string();
        let dora = self.dora.device();
        let user = self.dora.user().clone();
        let (task, effect, commits): (Task, Option<Effect>, u64) = match point.operation {
            "send" => {
                let deed = Deed::Send { text: name.clone() };
                (inside(deed), Some(by(move |kind| says(kind, &name))), 0)
            }
            "rename" => {
                let deed = Deed::Rename { name: name.clone() };
                let effect = move |kind: &EventKind| matches!(kind, EventKind::GroupNamed { name: new, .. } if *new == name);
                (inside(deed), Some(by(effect)), 0)
            }
            "wish_add" | "claim_key_packages" | "add" => {
                self.with_dora(false).await;
                let effect = move |kind: &EventKind| matches!(kind, EventKind::MembersChanged { added, .. } if added.iter().any(|peer| peer.device == dora));
                (inside(Deed::Add(user)), Some(by(effect)), 1)
            }
            "remove" => {
                self.with_dora(true).await;
                (inside(Deed::Remove(user)), Some(goes(dora)), 1)
            }
            "set_role" => {
                self.with_dora(true).await;
                let now = self.bobs.members().await.unwrap();
                let now = now.iter().find(|member| member.user == user).unwrap().role;
                let role = if now == Role::Reader {
                    Role::Member
                } else {
                    Role::Reader
                };
                let effect = move |kind: &EventKind| matches!(kind, EventKind::RolesChanged { users, .. } if !users.is_empty());
                (inside(Deed::SetRole(user, role)), Some(by(effect)), 1)
            }
            "set_policy" => {
                let mut policy = self.bobs.policy().await.unwrap();
                policy.rename = if policy.rename == Role::Owner {
                    Role::Moderator
                } else {
                    Role::Owner
                };
                let effect =
                    |kind: &EventKind| matches!(kind, EventKind::RolesChanged { policy: Some(_), .. });
                (inside(Deed::SetPolicy(policy)), Some(by(effect)), 1)
            }
            "self_update" => (inside(Deed::SelfUpdate), None, 1),
            "commit_proposals" | "receive_proposal" => {
                self.with_dora(true).await;
                let doras = self.doras(true).await.unwrap();
                doras.leave().await.unwrap();
                (Task::BeThere, Some(goes(dora)), 1)
            }
            "receive_message" => {
                self.bobs.send(name.as_str()).await.unwrap();
                (Task::BeThere, Some(by(move |kind| says(kind, &name))), 0)
            }
            "receive_commit" => {
                self.bobs.self_update().await.unwrap();
                (Task::BeThere, None, 0)
            }
            operation => panic!("there is no story of {operation}"),
        };
        Plan {
            task,
            effect,
            commits,
        }
    }

    /// One step: the device ends there, is opened again, and all is as it should be.
    async fn try_step(&mut self, point: KillPoint) {
        let plan = self.prepare(point).await;
        soon(self.bob.synced()).await.unwrap();
        let before = self.bobs.info().await.unwrap().epoch;
        // What the preparation has brought is of no interest.
        let ready = format!("{point} begins");
        if !matches!(
            point.operation,
            "commit_proposals" | "receive_proposal" | "receive_message"
        ) {
            self.bobs.send(ready.as_str()).await.unwrap();
            seen_until(&self.bob, &mut self.bob_sees, &ready).await;
        }
        self.device.ends(point, plan.task).await;

        let client = self.device.open().await;
        let group = client.group(self.bobs.id()).await.unwrap().unwrap();
        if ["wish_add", "claim_key_packages", "add"].contains(&point.operation) {
            // Key packages are claimed again, which takes its time.
            soon(client.synced()).await.unwrap();
        }
        let mark = format!("{point} is over");
        group.send(mark.as_str()).await.unwrap();
        let own = seen_until(&client, &mut client.events(), &mark).await;
        let witnessed = seen_until(&self.bob, &mut self.bob_sees, &mark).await;
        no_trouble(&own);
        no_trouble(&witnessed);
        let expected = usize::from(is_stored(point));
        if let Some(effect) = &plan.effect {
            assert_eq!(count(&witnessed, effect), expected, "{point}: {witnessed:?}");
            assert_eq!(count(&own, effect), expected, "{point}, on the device: {own:?}");
        }
        agree(&[(&client, &group), (&self.bob, &self.bobs)], &mark).await;
        let Epoch(after) = self.bobs.info().await.unwrap().epoch;
        assert_eq!(
            after - before.0,
            plan.commits * expected as u64,
            "commits, {point}"
        );
        if let Some(doras) = self
            .doras(self.has_dora().await)
            .await
            .filter(|_| plan.commits > 0)
            && self.has_dora().await
        {
            agree(&[(&self.bob, &self.bobs), (&self.dora, &doras)], &mark).await;
        }
        client.close().await;
    }
}

/// Was the operation durable there? What comes from others is so in any case.
pub(crate) fn is_stored(point: KillPoint) -> bool {
    // A proposal of others stays in the log until somebody commits it; the wish to add somebody was stored before its commits are.
    let anew = ["commit_proposals", "add"].contains(&point.operation);
    anew || point.step != Step::BeforeStored
}

fn by(effect: impl Fn(&EventKind) -> bool + 'static) -> Effect {
    Box::new(effect)
}

pub(crate) fn says(kind: &EventKind, what: &str) -> bool {
    matches!(kind, EventKind::Message { content, .. } if content.as_text() == Some(what))
}

pub(crate) fn goes(device: valise_client_sdk::DeviceId) -> Effect {
    Box::new(
        move |kind| matches!(kind, EventKind::MembersChanged { removed, .. } if removed.iter().any(|peer| peer.device == device)),
    )
}

pub(crate) async fn in_a_group(world: &World, operation: &'static str, points: Vec<KillPoint>) {
    let mut scene = Scene::new(world, &operation.replace('_', "-")).await;
    for point in points {
        scene.try_step(point).await;
    }
}
