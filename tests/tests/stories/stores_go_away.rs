//! While a store is away, or is not what it must be, the services that need it say that they are not ready; when it is there again they are
//! ready by themselves. None of them ends. What had to be done meanwhile is done then.

use valise_local_stack::{LocalStack, RedisShape, Replica, StackOptions};
use valise_proto::delivery::v1 as wire;
use valise_tests::crowd::{door, servers};
use valise_tests::people::Town;
use valise_tests::raw::Device;
use valise_tests::wait::until;

/// One replica of each service.
async fn start() -> LocalStack {
    let options = StackOptions {
        authentication_replicas: 1,
        directory_replicas: 1,
        delivery_replicas: 1,
        redis: RedisShape::Standalone,
        ..StackOptions::default()
    };
    LocalStack::start(options).await
}

/// Waits until a service says that it is ready, or that it is not.
async fn is(replica: &Replica, ready: bool) {
    until("a service to say so", async || {
        (replica.is_serving().await == ready).then_some(())
    })
    .await;
}

async fn configure(stack: &mut LocalStack, setting: &str, value: &str) {
    let redis = stack.standalone_redis();
    assert_eq!(redis.command(&["CONFIG", "SET", setting, value]).await, "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_say_so_and_recover_by_themselves() {
    let mut stack = start().await;
    let processes = async |stack: &LocalStack| {
        let (authentication, directory) = (stack.authentication(0).id().await, stack.directory(0).id().await);
        [authentication, directory, stack.delivery(0).id().await].map(Option::unwrap)
    };
    let before = processes(&stack).await;

    // What is in Redis would be lost with it from now on.
    for (setting, unsafe_value, value) in [
        ("appendfsync", "everysec", "always"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ] {
        configure(&mut stack, setting, unsafe_value).await;
        is(stack.delivery(0), false).await;
        let said =
            format!("has {setting} {unsafe_value}: an answered append may be lost; it must be {value}");
        assert!(
            stack.delivery(0).log().contains(&said),
            "{}",
            stack.delivery(0).log()
        );
        configure(&mut stack, setting, value).await;
        is(stack.delivery(0), true).await;
    }
    // It follows another one.
    let redis = stack.standalone_redis();
    assert_eq!(redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await, "OK");
    is(stack.delivery(0), false).await;
    let redis = stack.standalone_redis();
    assert_eq!(redis.command(&["REPLICAOF", "NO", "ONE"]).await, "OK");
    is(stack.delivery(0), true).await;
    // It is gone, and then it hangs.
    stack.standalone_redis().kill().await;
    is(stack.delivery(0), false).await;
    stack.standalone_redis().restart().await;
    is(stack.delivery(0), true).await;
    stack.standalone_redis().pause();
    is(stack.delivery(0), false).await;
    stack.standalone_redis().resume();
    is(stack.delivery(0), true).await;

    // Without PostgreSQL nobody knows who was revoked meanwhile: nobody is let in anywhere, though the log would go on.
    stack.postgres_mut().stop().await;
    is(stack.authentication(0), false).await;
    is(stack.directory(0), false).await;
    is(stack.delivery(0), false).await;
    stack.postgres_mut().restart().await;
    is(stack.authentication(0), true).await;
    is(stack.directory(0), true).await;
    is(stack.delivery(0), true).await;

    assert_eq!(processes(&stack).await, before, "none has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_do_not_hear_who_is_revoked_are_not_ready() {
    let stack = start().await;
    stack.authentication(0).pause().await;
    is(stack.directory(0), false).await;
    is(stack.delivery(0), false).await;
    stack.authentication(0).resume().await;
    is(stack.directory(0), true).await;
    is(stack.delivery(0), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_revoked_meanwhile_leaves_its_groups_once_the_store_is_back() {
    let mut stack = start().await;
    let servers = servers(&stack, stack.delivery(0).url());
    let town = Town::at(servers, stack.administrator_code().unwrap(), stack.domain()).await;
    let alice = Device::enrol_at(door(&stack, 0).await, &town.code("alice").await).await;
    let bob = Device::enrol_at(door(&stack, 0).await, &town.code("bob").await).await;
    let (group, _) = alice.group_with(&[&bob]).await;
    stack.standalone_redis().kill().await;
    town.administrator().revoke_device(bob.id).await.unwrap();
    until("a try that fails", async || {
        let log = stack.delivery(0).log();
        log.contains("a revoked device is still in groups").then_some(())
    })
    .await;
    stack.standalone_redis().restart().await;
    let removal = until("his removal", async || {
        let read = alice.read(group.group_id().as_slice(), 1, 1).await.ok()?;
        read.entries.into_iter().next()
    })
    .await;
    assert_eq!(removal.kind(), wire::EntryKind::Proposal);
}
