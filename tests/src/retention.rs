//! What retention does to a log, done to the store of the embedded service, which keeps everything.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use valise_client_sdk::{GroupId, Position};

use crate::service::Service;
use crate::wait::until;

/// The delivery service's store.
pub fn database(service: &Service) -> Connection {
    open(&service.data().join("delivery.db"))
}

fn open(store: &Path) -> Connection {
    let database = Connection::open(store).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database
}

/// Deletes the entries before the newest snapshot, which with what comes after it stays. The service must not run. Where the log
/// begins now.
pub fn forget_entries(service: &Service, group: GroupId) -> Position {
    let database = database(service);
    let kept: i64 = database
        .query_row(
            "SELECT max(position) FROM snapshots WHERE group_id = ?1",
            [group.as_bytes()],
            |row| row.get(0),
        )
        .unwrap();
    let deleted = database
        .execute(
            "DELETE FROM entries WHERE position < ?2
             AND group_number = (SELECT number FROM groups WHERE group_id = ?1)",
            rusqlite::params![group.as_bytes(), kept],
        )
        .unwrap();
    assert!(deleted > 0);
    Position(kept.cast_unsigned())
}

/// Deletes all entries of a log but the newest, while the service runs. Whoever reads the log has read that one.
pub fn forget_all_but_newest(store: &Path, group: GroupId) {
    let deleted = open(store)
        .execute(
            "DELETE FROM entries WHERE group_number = (SELECT number FROM groups WHERE group_id = ?1)
             AND position < (SELECT position FROM groups WHERE group_id = ?1)",
            [group.as_bytes()],
        )
        .unwrap();
    assert!(deleted > 0);
}

/// Waits for a snapshot after that position: one is written soon after a commit that adds somebody.
pub async fn snapshot_after(service: &Service, group: GroupId, position: Position) {
    let database = database(service);
    until("a snapshot", async || {
        let newest: Option<i64> = database
            .query_row(
                "SELECT max(position) FROM snapshots WHERE group_id = ?1",
                [group.as_bytes()],
                |row| row.get(0),
            )
            .unwrap();
        newest.filter(|newest| newest.cast_unsigned() > position.0)
    })
    .await;
}
