//! The group's log as the service has stored it.

use std::time::Duration;

use rusqlite::Connection;
use valise_client_sdk::{GroupId, Position};
use valise_tests::embedded::Services;

/// An entry, as far as it is in clear.
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) is_commit: bool,
    pub(crate) epoch: u64,
}

pub(crate) fn read(services: &Services, group: GroupId) -> Vec<Entry> {
    let database = Connection::open(services.data().join("delivery.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let mut entries = database
        .prepare(
            "SELECT position, kind, epoch FROM entries
             WHERE group_number = (SELECT number FROM groups WHERE group_id = ?1) ORDER BY position",
        )
        .unwrap();
    let entries = entries.query_map([group.as_bytes()], |row| {
        Ok(Entry {
            position: Position(row.get::<_, i64>(0)?.cast_unsigned()),
            is_commit: row.get::<_, i64>(1)? == 1,
            epoch: row.get::<_, i64>(2)?.cast_unsigned(),
        })
    });
    entries.unwrap().collect::<Result<_, _>>().unwrap()
}
