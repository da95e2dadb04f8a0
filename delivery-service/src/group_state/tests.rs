//! From which snapshots a group's state may be loaded.

use valise_proto::EntryId;

use super::*;
use crate::log::conformance::{device, group};
use crate::log::sqlite::SqliteLog;

#[tokio::test]
async fn the_snapshot_of_another_creation_is_not_the_groups() {
    let folder = tempfile::tempdir().unwrap();
    let log: Arc<dyn OrderedLog> = Arc::new(SqliteLog::open(&folder.path().join("delivery.db")).unwrap());
    let group = group(&*log, device()).await;
    let head = log.head(group).await.unwrap().unwrap();
    let states = GroupStates::new(log, 1);
    let beginning = |anchor| Snapshot {
        epoch: Epoch(0),
        position: Position::NONE,
        anchor,
        state: Bytes::new(),
    };
    let own = beginning(head.origin);
    assert!(states.belongs(group, &head, &own).await.unwrap());
    let others = beginning(EntryId::random(&mut rand::rng()));
    assert!(!states.belongs(group, &head, &others).await.unwrap());
}
