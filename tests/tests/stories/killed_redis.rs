//! `kill -9` of a standalone Redis that syncs every write, again and again under load: nothing acknowledged is lost, nothing is there
//! twice, and numbers have no gap.

use std::time::Duration;

use valise_local_stack::{LocalStack, RedisShape, StackOptions};
use valise_tests::crowd::{Crowd, Size};

const SIZE: Size = Size {
    devices: 6,
    groups: 3,
    members: 4,
    pause: Duration::from_millis(40),
};
const KILLS: usize = 5;
/// Messages and commits between two of them.
const BETWEEN: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_under_load_loses_nothing() {
    let options = StackOptions {
        authentication_replicas: 1,
        directory_replicas: 1,
        redis: RedisShape::Standalone,
        ..StackOptions::default()
    };
    let mut stack = LocalStack::start(options).await;
    let urls = [stack.delivery(0).url(), stack.delivery(1).url()];
    let crowd = Crowd::gather(&stack, &urls, SIZE).await;
    let talk = crowd.talk(1, SIZE.pause);
    for _ in 0..KILLS {
        crowd.acknowledges(BETWEEN).await;
        stack.standalone_redis().kill().await;
        stack.standalone_redis().restart().await;
    }
    talk.stop().await;
    let tally = crowd.judge(&stack).await;
    println!("killed {KILLS} times: {tally:?}");
    assert!(tally.messages + tally.commits >= KILLS * BETWEEN);
}
