//! Redis comes back from an older copy of its file, and is written to until the group's log is longer than it was: other entries have the
//! places of those that devices have applied, and that were not all archived. It is noticed and the group frozen; the devices give back
//! what the archive lacks, an administrator repairs the group, and it goes on as if nothing had happened, unless somebody lies.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod repairs;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tonic::Code;
use valise_client_sdk::{
    DeviceId, Error, Group, GroupId, GroupStatus, Position, Reason, Repair, RepairEnd, Store, WhatNow,
};
use valise_local_stack::{LocalStack, Postgres, RedisShape, StackOptions};
use valise_proto::delivery::v1 as wire;
use valise_tests::crowd::{Crowd, Size, door, read_log, servers};
use valise_tests::people::options;
use valise_tests::raw::bytes::opaque;
use valise_tests::raw::stream::{Stream, after, cursor};
use valise_tests::raw::{Door, key, refusal};
use valise_tests::wait::until;

const SIZE: Size = Size {
    devices: 3,
    groups: 1,
    members: 3,
    pause: Duration::from_millis(40),
};
/// A replica that does not look at what is to be archived while the test goes on.
const NEVER: (&str, &str) = ("VALISE_DELIVERY_ARCHIVE__SWEEP_MILLISECONDS", "60000");
/// Of Redis's folder.
const FILES: &str = "appendonlydir";

/// A group whose log in Redis is another one than its devices know.
struct Scene {
    stack: LocalStack,
    crowd: Crowd,
    group: GroupId,
    /// What all devices have applied.
    known: Vec<wire::Entry>,
    /// How much of it was archived.
    archived: u64,
    /// The end of the log that has taken its place.
    other: u64,
}

impl Scene {
    async fn begin() -> Self {
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

    fn last(&self) -> u64 {
        self.known.len() as u64
    }

    async fn plan(&self) -> Repair {
        let administration = self.crowd.administrator().administration();
        administration.plan_repair(self.group, None).await.unwrap()
    }

    async fn repair(&self) -> Repair {
        let administration = self.crowd.administrator().administration();
        administration.repair_group(self.group, None).await.unwrap()
    }

    /// Waits until all devices have offered all that they have.
    async fn offered(&self) -> Repair {
        let administration = self.crowd.administrator().administration();
        until("all devices' offers", async || {
            // Devices may notice before the service does.
            let plan = administration.plan_repair(self.group, None).await.ok()?;
            let complete = plan.offered.0 == self.last() && plan.devices as usize >= SIZE.devices;
            (complete && plan.least_agreeing as usize == SIZE.devices).then_some(plan)
        })
        .await
    }

    async fn log(&self) -> Vec<wire::Entry> {
        read_log(&observer_at(&self.crowd, &self.stack, 0).await, self.group).await
    }

    async fn offer(&self, entries: Vec<wire::Entry>) -> Result<u64, (Reason, String)> {
        let door = observer_at(&self.crowd, &self.stack, 0).await;
        offer(&door, self.group, entries).await
    }

    /// A message that nobody can read, in the place of an entry that is known.
    fn forged(&self, position: u64) -> wire::Entry {
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
async fn start(delivery_replicas: usize) -> LocalStack {
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
async fn talk(crowd: &Crowd, seed: u64) {
    let before = crowd.acknowledged();
    let talk = crowd.talk(seed, SIZE.pause);
    until("answers", async || {
        (crowd.acknowledged() >= before + 12).then_some(())
    })
    .await;
    talk.stop().await;
}

fn groups(crowd: &Crowd) -> Vec<&Group> {
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

async fn observer_at(crowd: &Crowd, stack: &LocalStack, replica: usize) -> Door {
    let door = door(stack, replica).await;
    let token = until("a token for the observer", async || {
        crowd.observer().new_token_at(&door).await.ok()
    });
    door.with_token(&token.await)
}

fn psql(stack: &LocalStack, statement: &str) -> Command {
    let mut psql = Command::new(Postgres::program("psql"));
    psql.arg(stack.postgres().url("delivery")).args([
        "--no-psqlrc",
        "--tuples-only",
        "--no-align",
        "--command",
        statement,
    ]);
    psql
}

/// The one number that a query answers.
async fn number(stack: &LocalStack, query: &str) -> u64 {
    let mut psql = psql(stack, query);
    let output = tokio::task::spawn_blocking(move || psql.output().unwrap())
        .await
        .unwrap();
    let number = String::from_utf8(output.stdout).unwrap();
    number.trim().parse().unwrap_or(0)
}

/// How long the group's log is in the archive.
async fn position_in_archive(stack: &LocalStack) -> u64 {
    number(stack, "SELECT position FROM groups").await
}

/// Nothing is written into the archive as long as it lives.
struct Lock(std::process::Child);

impl Lock {
    async fn hold(stack: &LocalStack) -> Self {
        let statement = "BEGIN; LOCK TABLE entries IN SHARE ROW EXCLUSIVE MODE; SELECT pg_sleep(3600)";
        let mut psql = psql(stack, statement);
        let lock = Self(psql.stdout(Stdio::null()).spawn().unwrap());
        let held = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'ShareRowExclusiveLock'
                    AND relation = 'entries'::regclass";
        until("the lock", async || {
            (number(stack, held).await == 1).then_some(())
        })
        .await;
        lock
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

async fn copy_of_redis(stack: &mut LocalStack) -> TempDir {
    let copies = tempfile::tempdir().unwrap();
    let redis = stack.standalone_redis();
    redis.kill().await;
    copy(&redis.folder().join(FILES), copies.path());
    redis.restart().await;
    copies
}

async fn put_back(stack: &mut LocalStack, copies: &TempDir) {
    let redis = stack.standalone_redis();
    redis.kill().await;
    let files = redis.folder().join(FILES);
    std::fs::remove_dir_all(&files).unwrap();
    copy(copies.path(), &files);
    redis.restart().await;
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
async fn send(door: &Door, group: GroupId, epoch: u64, text: &str) -> Result<u64, Reason> {
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
async fn offer(door: &Door, group: GroupId, entries: Vec<wire::Entry>) -> Result<u64, (Reason, String)> {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_give_back_what_was_lost_and_go_on() {
    let scene = Scene::begin().await;
    let plan = scene.offered().await;
    assert_eq!(
        (plan.archived.0, plan.position.0),
        (scene.archived, scene.last()),
        "{plan:?}"
    );
    // A plan changes nothing; and who would rejoin now is told to wait.
    for group in groups(&scene.crowd) {
        let refused = group.rejoin().await.unwrap_err();
        let stopped = matches!(refused, Error::GroupNotActive(GroupStatus::LogRegressed));
        assert!(stopped && refused.what_now() == WhatNow::Retry, "{refused}");
        assert_eq!(group.info().await.unwrap().status, GroupStatus::LogRegressed);
    }

    let repair = scene.repair().await;
    println!(
        "{} entries archived, {} came back from {} devices; the other log had {}",
        scene.archived,
        repair.restored(),
        repair.devices,
        scene.other
    );
    assert_eq!(repair, plan);
    assert_eq!((repair.end, repair.lost()), (RepairEnd::Complete, 0));
    assert_eq!(repair.abandoned, Some(Position(scene.other)));
    assert!(!repair.group_info_missing, "its committer had it");
    for group in groups(&scene.crowd) {
        until("a device to go on", async || {
            let state = group.info().await.unwrap();
            (state.status == GroupStatus::Active).then_some(())
        })
        .await;
    }
    assert_eq!(scene.log().await, scene.known, "every entry, in its place");

    // And the group goes on; nobody has rejoined.
    talk(&scene.crowd, 99).await;
    let tally = scene.crowd.judge(&scene.stack).await;
    println!("{tally:?}");
    assert!(tally.entries as u64 > scene.last());
    let again = scene.crowd.administrator().administration();
    let refused = again.repair_group(scene.group, None).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::PolicyDenied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_ends_what_comes_back_and_a_forgery_does_not() {
    let scene = Scene::begin().await;
    let plan = scene.offered().await;
    assert_eq!(plan.position.0, scene.last());

    // What cannot be an offer is refused, and nothing of it kept.
    let next = scene.archived + 1;
    let mut elsewhere = scene.forged(next);
    elsewhere.group_id = GroupId::from_bytes([9; 16]).to_vec().into();
    let mut far = scene.forged(next);
    far.position = next + 1_000_000;
    let denied = |rule: &str| Err((Reason::PolicyDenied, rule.to_owned()));
    let malformed = |field: &str| Err((Reason::Malformed, field.to_owned()));
    assert_eq!(scene.offer(vec![]).await, malformed("entries"));
    assert_eq!(scene.offer(vec![elsewhere]).await, malformed("group_id"));
    assert_eq!(scene.offer(vec![far]).await, denied("too_far"));
    assert_eq!(
        scene.offer(vec![scene.forged(next - 1)]).await,
        denied("archived")
    );
    let (first, second) = (scene.forged(next), scene.forged(next + 1));
    assert_eq!(
        scene.offer(vec![second.clone(), first.clone()]).await,
        malformed("position")
    );
    let many = vec![first.clone(); 201];
    assert_eq!(scene.offer(many).await.unwrap_err().0, Reason::MessageTooLarge);

    // A commit that no member has made is passed over.
    let forgery = wire::Entry {
        kind: wire::EntryKind::Commit.into(),
        ..first
    };
    assert_eq!(scene.offer(vec![forgery]).await, Ok(next));
    assert_eq!(scene.plan().await.position.0, scene.last());
    assert_eq!(
        scene.offer(vec![scene.forged(next)]).await,
        denied("offered_otherwise")
    );

    // A message is opaque: nobody can say who lies.
    assert_eq!(scene.offer(vec![second]).await, Ok(next + 1));
    let repair = scene.repair().await;
    assert_eq!((repair.end, repair.position.0), (RepairEnd::Conflict, next));
    assert_eq!(repair.lost(), scene.last() - next);
    let observer = scene.crowd.observer().id;
    let mut sides: Vec<usize> = Vec::new();
    for candidate in &repair.candidates {
        assert_eq!(candidate.rule, "", "{candidate:?}");
        sides.push(candidate.devices.len());
        assert_eq!(
            candidate.devices.contains(&observer),
            candidate.devices.len() == 1
        );
    }
    sides.sort_unstable();
    assert_eq!(sides, [1, SIZE.devices]);
    assert_eq!(scene.log().await, scene.known[..next as usize]);

    // Devices that know more come back as after any loss, and the group goes on.
    for group in groups(&scene.crowd) {
        assert_eq!(group.info().await.unwrap().status, GroupStatus::LogRegressed);
    }
    for group in groups(&scene.crowd) {
        until("a device to be back", async || group.rejoin().await.ok()).await;
    }
    let sent = groups(&scene.crowd)[0].send("we are all here").await.unwrap();
    let mut authenticators = std::collections::BTreeSet::new();
    for group in groups(&scene.crowd) {
        let state = until("a device to have it", async || {
            let state = group.info().await.unwrap();
            (state.position >= sent.position).then_some(state)
        })
        .await;
        authenticators.insert(state.epoch_authenticator);
    }
    assert_eq!(authenticators.len(), 1, "all members have the same epoch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_live_is_told_without_asking() {
    let mut stack = start(1).await;
    let alone = Size {
        devices: 1,
        members: 1,
        ..SIZE
    };
    let crowd = Crowd::gather(&stack, &[stack.delivery(0).url()], alone).await;
    let group = crowd.groups_of(0)[0].id();
    let door = observer_at(&crowd, &stack, 0).await;
    let mut stream = Stream::open(&door, vec![cursor(group.as_bytes(), 0, &[])], 0)
        .await
        .unwrap();
    let first = stream.entry().await;
    stream.ack(vec![after(&first)]).await;
    stream.caught_up().await;
    until("the archive to have it", async || {
        (position_in_archive(&stack).await == 1).then_some(())
    })
    .await;

    // One entry that is not archived, and then Redis has nothing any more.
    let lock = Lock::hold(&stack).await;
    assert_eq!(send(&door, group, 1, "lost").await, Ok(2));
    assert_eq!(stream.entry().await.position, 2);
    stack.standalone_redis().command(&["FLUSHALL"]).await;
    assert_eq!(send(&door, group, 1, "late").await, Err(Reason::LogRegressed));
    let ended = stream.group_ended().await;
    assert_eq!(
        (ended.reason.as_str(), ended.position),
        (Reason::LogRegressed.as_str(), 1)
    );
    drop(lock);
}

/// A group that takes nothing does not keep who was revoked in others, and loses it once it is repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_leaves_other_groups_at_once_and_this_one_after_its_repair() {
    let scene = Scene::begin().await;
    // The service has noticed.
    scene.offered().await;
    let (town, administrator) = (scene.crowd.town(), scene.crowd.administrator());
    let servers = servers(&scene.stack, scene.stack.delivery(0).url());
    let erin = town.device_at(servers, "erin", Store::memory(), options(5)).await;
    let other = administrator.create_group("Other").await.unwrap();
    other.add(&[erin.user()]).await.unwrap();

    // In this order.
    let observer = scene.crowd.observer().id;
    administrator.revoke_device(observer).await.unwrap();
    administrator.revoke_device(erin.device()).await.unwrap();
    is_without(&other, erin.device()).await;
    assert!(
        scene.plan().await.position.0 >= scene.archived,
        "it is frozen still"
    );

    scene.repair().await;
    is_without(groups(&scene.crowd)[0], observer).await;
}

/// The revocation came while the service did not know where the group's members were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_while_a_group_is_lost_is_removed_after_its_repair() {
    let mut stack = start(1).await;
    let alone = Size {
        devices: 1,
        members: 1,
        ..SIZE
    };
    let crowd = Crowd::gather(&stack, &[stack.delivery(0).url()], alone).await;
    let group = &crowd.groups_of(0)[0];
    until("the archive to have it", async || {
        (position_in_archive(&stack).await == 1).then_some(())
    })
    .await;
    let door = observer_at(&crowd, &stack, 0).await;
    stack.standalone_redis().command(&["FLUSHALL"]).await;
    assert_eq!(
        send(&door, group.id(), 1, "late").await,
        Err(Reason::LogRegressed)
    );
    crowd
        .administrator()
        .revoke_device(crowd.observer().id)
        .await
        .unwrap();
    until("the service to know", async || {
        (send(&door, group.id(), 1, "late").await == Err(Reason::DeviceRevoked)).then_some(())
    })
    .await;
    crowd
        .administrator()
        .administration()
        .repair_group(group.id(), None)
        .await
        .unwrap();
    is_without(group, crowd.observer().id).await;
}

/// Waits until that device is no member.
async fn is_without(group: &Group, device: DeviceId) {
    until("a device to be removed", async || {
        let members = group.members().await.unwrap();
        members.iter().all(|member| member.device != device).then_some(())
    })
    .await;
}
