//! What does not come in one answer.

use super::*;
use crate::log::conformance::{accept, commit, device, group};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_are_too_large_for_one_answer_are_all_read() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    let group = group(&*log, alice).await;
    for epoch in 0..3 {
        let large = Append {
            bytes: Bytes::from(vec![7; 3 * 1024 * 1024]),
            ..commit(group, alice, epoch)
        };
        accept(&*log, large).await;
    }
    let read = log.handshakes(group, Position::NONE, 9).await.unwrap();
    let positions: Vec<_> = read.iter().map(|entry| entry.position.0).collect();
    assert_eq!(positions, [1, 2, 3]);
}
