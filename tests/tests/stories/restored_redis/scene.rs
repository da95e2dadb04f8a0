//! A crowd whose group has another log in Redis than its devices know, and how that comes about.

use std::time::Duration;

use tonic::Code;
use valise_client_sdk::{Group, GroupId, Reason, Repair};
use valise_local_stack::{LocalStack, RedisShape, StackOptions};
use valise_proto::delivery::v1 as wire;
use valise_tests::crowd::{Crowd, Size, door, read_log};
use valise_tests::raw::bytes::opaque;
use valise_tests::raw::{Door, key, refusal};
use valise_tests::wait::until;

use crate::restored_redis::archive::position_in_archive;
use crate::restored_redis::redis_files::{copy_of_redis, put_back};

pub(crate) const SIZE: Size = Size {
    devices: 3,
    groups: 1,
    members: 3,
    pause: Duration::from_millis(40),
};

/// A replica that does not look at what is to be archived while the test goes on.
pub(crate) const NEVER: (&str, &str) = ("VALISE_DELIVERY_ARCHIVE__SWEEP_MILLISECONDS", "60000");

/// A group whose log in Redis is another one than its devices know.
pub(crate) struct Scene {
    pub(crate) stack: LocalStack,
    pub(crate) crowd: Crowd,
    pub(crate) group: GroupId,
    /// What all devices have applied.
    pub(crate) known: Vec<wire::Entry>,
    /// How much of it was archived.
    pub(crate) archived: u64,
    /// The end of the log that has taken its place.
    pub(crate) other: u64,
}

impl Scene {
    pub(crate) async fn begin() -> Self {
        let mut stack = start(2).await;
        let crowd = Crowd::gather(&stack, &[stack.delivery(0).url()], SIZE).await;
        let group = crowd.groups_of(0)[0].id();
        talk(&crowd, 1).await;
        let copies = copy_of_redis(&mut stack).await;

        // More is said, and archived.
        talk(&crowd, 2).await;
        let archived = settled(&crowd).await;
        until("the archive to have it", async || {
            (position_in_archive(&stack).await == archived).then_some(())
        })
        .await;

        // And more, with commits, that nobody archives.
        stack.delivery(1).kill().await;
        stack.delivery(0).restart_with(&[NEVER]).await;
        let epoch = crowd.groups_of(0)[0].info().await.unwrap().epoch;
        for seed in 3.. {
            talk(&crowd, seed).await;
            if crowd.groups_of(0)[0].info().await.unwrap().epoch > epoch {
                break;
            }
        }
        let last = settled(&crowd).await;
        let known = read_log(&observer_at(&crowd, &stack, 0).await, group).await;
        assert_eq!(known.len() as u64, last);
        assert_eq!(position_in_archive(&stack).await, archived);
        assert!(last > archived + 10);
        stack.delivery(0).kill().await;

        put_back(&mut stack, &copies).await;
        let other = write_another_log(&crowd, &stack, group, last).await;
        // Whoever looks notices.
        stack.delivery(1).kill().await;
        stack.delivery(0).restart().await;
        until("every device to be told", async || {
            let troubles = crowd.troubles();
            let told = troubles.iter().filter(|trouble| trouble.contains("LogRegressed"));
            (told.count() >= SIZE.devices).then_some(())
        })
        .await;
        crowd.forgive();
        Self {
            stack,
            crowd,
            group,
            known,
            archived,
            other,
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.known.len() as u64
    }

    pub(crate) async fn plan(&self) -> Repair {
        let administration = self.crowd.administrator().administration();
        administration.plan_repair(self.group, None).await.unwrap()
    }

    pub(crate) async fn repair(&self) -> Repair {
        let administration = self.crowd.administrator().administration();
        administration.repair_group(self.group, None).await.unwrap()
    }

    /// Waits until all devices have offered all that they have.
    pub(crate) async fn offered(&self) -> Repair {
        let administration = self.crowd.administrator().administration();
        until("all devices' offers", async || {
            // Devices may notice before the service does.
            let plan = administration.plan_repair(self.group, None).await.ok()?;
            let complete = plan.offered.0 == self.last() && plan.devices as usize >= SIZE.devices;
            (complete && plan.least_agreeing as usize == SIZE.devices).then_some(plan)
        })
        .await
    }

    pub(crate) async fn log(&self) -> Vec<wire::Entry> {
        read_log(&observer_at(&self.crowd, &self.stack, 0).await, self.group).await
    }

    pub(crate) async fn offer(&self, entries: Vec<wire::Entry>) -> Result<u64, (Reason, String)> {
        let door = observer_at(&self.crowd, &self.stack, 0).await;
        offer(&door, self.group, entries).await
    }

    /// A message that nobody can read, in the place of an entry that is known.
    pub(crate) fn forged(&self, position: u64) -> wire::Entry {
        let known = self.known[position as usize - 1].clone();
        let message = opaque(self.group.as_bytes(), known.epoch, b"never said");
        wire::Entry {
            kind: wire::EntryKind::Application.into(),
            entry_id: vec![1; 8].into(),
            mls_message: message.into(),
            sender_device_id: self.crowd.observer().id.to_string(),
            ..known
        }
    }
}

/// Servers that archive without delay.
pub(crate) async fn start(delivery_replicas: usize) -> LocalStack {
    let variable = |name: &str, value: &str| (format!("VALISE_DELIVERY_{name}"), value.to_owned());
    let options = StackOptions {
        authentication_replicas: 1,
        directory_replicas: 1,
        delivery_replicas,
        redis: RedisShape::Standalone,
        environment: vec![
            variable("ARCHIVE__SWEEP_MILLISECONDS", "100"),
            variable("ARCHIVE__LEASE_SECONDS", "2"),
        ],
        ..StackOptions::default()
    };
    LocalStack::start(options).await
}

/// A conversation of some length.
pub(crate) async fn talk(crowd: &Crowd, seed: u64) {
    let talk = crowd.talk(seed, SIZE.pause);
    crowd.acknowledges(12).await;
    talk.stop().await;
}

pub(crate) fn groups(crowd: &Crowd) -> Vec<&Group> {
    (0..SIZE.devices)
        .map(|member| &crowd.groups_of(member)[0])
        .collect()
}

/// Waits until all devices are at the same position, with everything that was acknowledged; says at which.
async fn settled(crowd: &Crowd) -> u64 {
    let most = crowd.acknowledged() as u64 + 1;
    until("all devices to have all", async || {
        let mut positions = Vec::new();
        for group in groups(crowd) {
            positions.push(group.info().await.unwrap().position.0);
        }
        positions.iter().all(|position| *position == most).then_some(most)
    })
    .await
}

pub(crate) async fn observer_at(crowd: &Crowd, stack: &LocalStack, replica: usize) -> Door {
    let door = door(stack, replica).await;
    let token = until("a token for the observer", async || {
        crowd.observer().new_token_at(&door).await.ok()
    });
    door.with_token(&token.await)
}

/// By a replica that no device of the crowd talks to, until it is longer than what the devices know.
async fn write_another_log(crowd: &Crowd, stack: &LocalStack, group: GroupId, longer_than: u64) -> u64 {
    stack.delivery(1).restart_with(&[NEVER]).await;
    let door = observer_at(crowd, stack, 1).await;
    let request = wire::ListGroupsRequest::default();
    let listed = door.delivery().list_groups(request).await.unwrap().into_inner();
    let epoch = listed.groups[0].epoch;
    for number in 0_u32.. {
        let text = format!("another log {number}");
        let position = send(&door, group, epoch, &text).await.unwrap();
        if position > longer_than {
            return position;
        }
    }
    unreachable!("positions grow")
}

/// Sends what nobody can read.
pub(crate) async fn send(door: &Door, group: GroupId, epoch: u64, text: &str) -> Result<u64, Reason> {
    let request = wire::SendMessageRequest {
        mls_message: opaque(group.as_bytes(), epoch, text.as_bytes()).into(),
        idempotency_key: key(),
        may_be_repeat: false,
    };
    match door.delivery().send_message(request).await {
        Ok(answer) => Ok(answer.into_inner().accepted.unwrap().position),
        Err(status) => Err(refusal(&status).reason),
    }
}

/// Offers entries of a frozen group: the newest position that was offered then, or the reason and what it is about.
pub(crate) async fn offer(
    door: &Door,
    group: GroupId,
    entries: Vec<wire::Entry>,
) -> Result<u64, (Reason, String)> {
    let offered = |entry| wire::OfferedEntry {
        entry: Some(entry),
        group_info: bytes::Bytes::new(),
    };
    let request = wire::OfferEntriesRequest {
        group_id: group.to_vec().into(),
        entries: entries.into_iter().map(offered).collect(),
    };
    let answer = door.delivery().offer_entries(request).await;
    answer
        .map(|answer| answer.into_inner().offered_position)
        .map_err(|status| {
            assert_ne!(status.code(), Code::Internal);
            let refusal = refusal(&status);
            let what = refusal
                .metadata
                .get("rule")
                .or_else(|| refusal.metadata.get("field"));
            (refusal.reason, what.cloned().unwrap_or_default())
        })
}
