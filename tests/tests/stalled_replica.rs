//! A Redis primary dies while its replica is 1.2 seconds behind. What was acknowledged without waiting for the replica
//! (`wait_replicas = 0`) is lost, and the loss is noticed: the group is frozen. With `wait_replicas = 1` nothing was acknowledged
//! that the replica did not have, and nothing is lost.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed set-up is a failed test"
)]

use std::process::Command;
use std::time::Duration;

use valise_local_stack::{LocalStack, Postgres, RedisShape, StackOptions};
use valise_tests::crowd::{Crowd, Size, Talk};
use valise_tests::wait::until;

const SIZE: Size = Size {
    devices: 3,
    groups: 1,
    members: 3,
    pause: Duration::from_millis(40),
};
const STALLED: Duration = Duration::from_millis(1200);

/// A cluster, and one group that talks.
struct Scene {
    stack: LocalStack,
    crowd: Crowd,
    /// The node that has the group, and the one that follows it.
    primary: usize,
    replica: usize,
}

impl Scene {
    async fn begin(wait_replicas: u32) -> (Self, Talk) {
        let variable = |name: &str, value: String| (format!("VALISE_DELIVERY_{name}"), value);
        let options = StackOptions {
            authentication_replicas: 1,
            directory_replicas: 1,
            delivery_replicas: 1,
            redis: RedisShape::Cluster {
                primaries: 3,
                replicas_each: 1,
            },
            environment: vec![
                variable("REDIS__WAIT_REPLICAS", wait_replicas.to_string()),
                variable("ARCHIVE__SWEEP_MILLISECONDS", "100".to_owned()),
            ],
            ..StackOptions::default()
        };
        let stack = LocalStack::start(options).await;
        let crowd = Crowd::gather(&stack, &[stack.delivery(0).url()], SIZE).await;
        let talk = crowd.talk(1, SIZE.pause);
        until("answers", async || (crowd.acknowledged() >= 20).then_some(())).await;
        let mut primary = None;
        for node in stack.redis().primaries().await {
            if entries(&stack, node).await > 0 {
                primary = Some(node);
            }
        }
        let primary = primary.expect("a primary has the group");
        let replica = stack.redis().replicas_of(primary).await[0];
        let scene = Self {
            stack,
            crowd,
            primary,
            replica,
        };
        (scene, talk)
    }

    /// Stops the replica. Its connection is cut, too: it would still read what waits there.
    async fn stall(&self) {
        let redis = self.stack.redis();
        redis.node(self.replica).pause();
        redis
            .node(self.primary)
            .command(&["CLIENT", "KILL", "TYPE", "replica"])
            .await;
    }

    /// The primary is killed, the replica runs again and takes over; the old primary comes back and follows it.
    async fn fail_over(&mut self) {
        let redis = self.stack.redis_mut();
        redis.node_mut(self.primary).kill().await;
        redis.node(self.replica).resume();
        redis.settled().await;
        assert!(redis.primaries().await.contains(&self.replica));
        // And has a replica again.
        redis.node_mut(self.primary).restart().await;
        redis.settled().await;
    }
}

/// How long the group's log is on that node.
async fn entries(stack: &LocalStack, node: usize) -> usize {
    let script = "local key = redis.call('KEYS', '{p*}s:*')[1] return key and redis.call('XLEN', key) or 0";
    let length = stack.redis().node(node).command(&["EVAL", script, "0"]).await;
    length.parse().unwrap()
}

/// How long the group's log is in the archive.
async fn archived(stack: &LocalStack) -> usize {
    let mut psql = Command::new(Postgres::program("psql"));
    psql.arg(stack.postgres().url("delivery"))
        .args(["--no-psqlrc", "--tuples-only", "--no-align"])
        .args(["--command", "SELECT position FROM groups"]);
    let output = tokio::task::spawn_blocking(move || psql.output().unwrap())
        .await
        .unwrap();
    let position = String::from_utf8(output.stdout).unwrap();
    position.trim().parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_waiting_acknowledged_entries_are_lost_and_missed() {
    let (mut scene, talk) = Scene::begin(0).await;
    scene.stall().await;
    let before = scene.crowd.acknowledged();
    tokio::time::sleep(STALLED).await;
    until("answers that the replica does not know", async || {
        (scene.crowd.acknowledged() >= before + 20).then_some(())
    })
    .await;
    talk.stop().await;
    let (acknowledged, whole) = (
        scene.crowd.acknowledged(),
        entries(&scene.stack, scene.primary).await,
    );
    assert!(acknowledged < whole, "and the commit that made the group");
    until("the archive to have it", async || {
        (archived(&scene.stack).await == whole).then_some(())
    })
    .await;
    scene.fail_over().await;
    let kept = entries(&scene.stack, scene.replica).await;
    assert!(kept < acknowledged, "{kept} entries are left");
    println!(
        "wait_replicas = 0: {} of {whole} entries are lost, {acknowledged} were acknowledged",
        whole - kept
    );

    // Nobody goes on as if nothing had happened: every device is told, and the group takes nothing more.
    let again = scene.crowd.talk(2, SIZE.pause);
    until("every device to be told", async || {
        let troubles = scene.crowd.troubles();
        let told = troubles.iter().filter(|trouble| trouble.contains("LogRegressed"));
        (told.count() >= SIZE.devices).then_some(())
    })
    .await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_waiting_nothing_is_lost() {
    let (mut scene, talk) = Scene::begin(1).await;
    scene.stall().await;
    let before = scene.crowd.acknowledged();
    tokio::time::sleep(STALLED).await;
    let meanwhile = scene.crowd.acknowledged() - before;
    assert!(
        meanwhile <= SIZE.devices,
        "{meanwhile} answers that the replica does not know"
    );
    scene.fail_over().await;
    let before = scene.crowd.acknowledged();
    until("answers again", async || {
        (scene.crowd.acknowledged() >= before + 20).then_some(())
    })
    .await;
    talk.stop().await;
    let tally = scene.crowd.judge(&scene.stack).await;
    println!("wait_replicas = 1: nothing is lost of {tally:?}");
}
