//! What is kept once, or written down in order.

use std::sync::Arc;

use futures::future::join_all;

use super::{act, actions, at, certificate, device, enrolled};
use crate::store::Store;

pub(super) async fn secrets_stay<S: Store>(store: &S) {
    assert_eq!(store.find_secret("a").await.unwrap(), None);
    assert_eq!(store.keep_secret("a", b"first").await.unwrap(), b"first");
    assert_eq!(store.keep_secret("a", b"second").await.unwrap(), b"first");
    assert_eq!(store.find_secret("a").await.unwrap().unwrap(), b"first");
    assert_eq!(store.keep_secret("b", b"other").await.unwrap(), b"other");
}

pub(super) async fn services_have_keys_until_they_end<S: Store>(store: &S) {
    for (n, name, end) in [(1, "s", 100), (2, "s", 200), (3, "t", 300), (1, "s", 150)] {
        assert!(
            store
                .add_service_certificate(&certificate(n, name, at(end)), &act(0, "service"))
                .await
                .unwrap()
        );
    }
    assert_eq!(
        store.service_keys("s", at(99)).await.unwrap(),
        [vec![2; 32], vec![1; 32]]
    );
    assert_eq!(
        store.service_keys("s", at(149)).await.unwrap(),
        [vec![2; 32], vec![1; 32]],
        "renewed"
    );
    assert_eq!(store.service_keys("s", at(150)).await.unwrap(), [vec![2; 32]]);
    assert!(store.service_keys("s", at(200)).await.unwrap().is_empty());
    assert!(store.service_keys("u", at(0)).await.unwrap().is_empty());
}

pub(super) async fn assertions_are_used_once<S: Store>(store: &S) {
    let use_it = async |subject, jti, until, now| {
        store
            .use_assertion(subject, jti, at(until), at(now))
            .await
            .unwrap()
    };
    assert!(use_it("a", "one", 100, 0).await);
    assert!(!use_it("a", "one", 100, 1).await);
    assert!(!use_it("a", "one", 100, 99).await);
    assert!(use_it("b", "one", 100, 1).await, "of another subject");
    assert!(use_it("a", "two", 100, 1).await);
    assert!(use_it("a", "one", 200, 100).await, "forgotten: it has expired");
}

pub(super) async fn acts_elsewhere_are_written_down(store: &impl Store) {
    store.record(&act(1, "elsewhere")).await.unwrap();
    store.record(&act(2, "elsewhere again")).await.unwrap();
    let events = store.audit_events(0, 10).await.unwrap();
    let shown: Vec<_> = events
        .iter()
        .map(|event| (event.number, event.action.as_str(), event.at))
        .collect();
    assert_eq!(shown, [(1, "elsewhere", at(1)), (2, "elsewhere again", at(2))]);
}

pub(super) async fn logs_have_no_gaps<S: Store>(store: Arc<S>) {
    for n in 1..=20 {
        enrolled(store.as_ref(), n, "alice", 0).await;
    }
    let revoked = (1..=20).map(|n| {
        let store = Arc::clone(&store);
        // Twice each: one of the two changes nothing and is not written down.
        tokio::spawn(async move {
            for _ in 0..2 {
                store
                    .revoke(device(n).id, None, &act(1, "revoke"))
                    .await
                    .unwrap()
                    .unwrap();
            }
        })
    });
    for done in join_all(revoked).await {
        done.unwrap();
    }
    assert_eq!(actions(store.as_ref()).await.len(), 60);
    let (mut after, mut devices) = (0, Vec::new());
    loop {
        let page = store.revocations(after, 7).await.unwrap();
        assert_eq!(page.newest, 20);
        let Some(last) = page.lines.last() else { break };
        assert_eq!(page.lines[0].number, after + 1);
        after = last.number;
        devices.extend(page.lines);
    }
    assert_eq!(devices.len(), 20);
    assert!(store.revocations(u64::MAX, 7).await.unwrap().lines.is_empty());
    let page = store.audit_events(58, 10).await.unwrap();
    assert_eq!(
        page.iter().map(|event| event.number).collect::<Vec<_>>(),
        [59, 60]
    );
    assert!(store.audit_events(u64::MAX, 10).await.unwrap().is_empty());
}
