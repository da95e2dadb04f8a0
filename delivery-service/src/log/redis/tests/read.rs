//! What does not come in one answer.

use super::*;
use crate::log::conformance::{accept, commit, device, group};
use crate::log::redis::is_damaged;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_script_finds_damaged_is_known_as_that() {
    let server = Redis::start().await;
    let log = Hot::new(open(&server).await);
    let alice = device();
    // Without its bytes, and missing.
    for values in [&["m", "x"][..], &[]] {
        let group = group(&*log, alice).await;
        let append = commit(group, alice, 0);
        accept(&*log, append.clone()).await;
        accept(&*log, commit(group, alice, 1)).await;
        replace(&log, group, 1, values).await;
        let error = log.handshakes(group, Position::NONE, 9).await.unwrap_err();
        assert_eq!(error.0, "Redis answers DAMAGED handshake 1 cannot be read");
        assert!(is_damaged(&error));
        let error = log.repeat(group, append.key, Some(alice)).await.unwrap_err();
        assert!(is_damaged(&error), "{error}");
        let newer = log.handshakes(group, Position(1), 9).await.unwrap();
        assert_eq!(newer.len(), 1);
    }
}
