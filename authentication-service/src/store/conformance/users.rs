//! Users, suspended and listed.

use valise_access_token::RevocationSubject;

use super::{act, actions, at, enrolled, user};
use crate::store::Store;

pub(super) async fn users_are_suspended_and_resumed<S: Store>(store: &S) {
    let id = enrolled(store, 1, "alice", 0).await;
    let set = async |suspended, seconds| {
        store
            .set_suspended(&user("alice"), suspended, &act(seconds, "set"))
            .await
            .unwrap()
            .unwrap()
            .suspended
    };
    assert_eq!(
        store
            .set_suspended(&user("nobody"), true, &act(1, "set"))
            .await
            .unwrap(),
        None
    );
    assert!(!set(false, 2).await);
    assert!(set(true, 3).await);
    assert!(set(true, 4).await);
    assert!(store.device(id).await.unwrap().unwrap().user_suspended);
    assert!(!set(false, 5).await);
    assert!(!store.device(id).await.unwrap().unwrap().user_suspended);
    let page = store.revocations(0, 10).await.unwrap();
    let subjects: Vec<_> = page
        .lines
        .into_iter()
        .map(|line| (line.number, line.at, line.subject))
        .collect();
    let user = user("alice");
    let expected = [
        (1, at(3), RevocationSubject::Suspended { user: user.clone() }),
        (2, at(5), RevocationSubject::Resumed { user }),
    ];
    assert_eq!(subjects, expected);
    assert_eq!(actions(store).await, ["code", "enrol", "set", "set"]);
}

pub(super) async fn users_are_listed_in_pages<S: Store>(store: &S) {
    for (n, name) in [(1, "carol"), (2, "alice"), (3, "bob")] {
        enrolled(store, n, name, n.into()).await;
    }
    enrolled(store, 4, "alice", 9).await;
    let users = store.users("", 2).await.unwrap();
    let shown: Vec<_> = users
        .iter()
        .map(|user| (user.id.name(), user.active_devices, user.created_at))
        .collect();
    assert_eq!(shown, [("alice", 2, at(2)), ("bob", 1, at(3))]);
    let users = store.users(user("bob").as_str(), 2).await.unwrap();
    assert_eq!(
        users.iter().map(|user| user.id.name()).collect::<Vec<_>>(),
        ["carol"]
    );
    assert!(store.users(user("carol").as_str(), 2).await.unwrap().is_empty());
}
