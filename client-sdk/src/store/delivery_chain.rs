//! Values of the hash chain over a group's log ([`crate::delivery_chain`]), and who was shown another one.

use rusqlite::{OptionalExtension, Row, params};
use valise_proto::{DeviceId, Epoch, GroupId, Position};

use super::Database;
use crate::{ChainValue, Error};

/// Most values that are kept of an epoch, besides the first: the newest. About 1.2 MB of the file.
pub(crate) const MAX_VALUES: u64 = 16_384;
/// Older values are deleted in steps of so many.
const SWEEP: u64 = 1024;

fn value(row: &Row<'_>) -> rusqlite::Result<ChainValue> {
    Ok(ChainValue::from_bytes(row.get(0)?))
}

impl Database {
    /// The value after that entry, if it is known.
    pub(crate) fn chain_value(
        &self,
        group: GroupId,
        position: Position,
    ) -> Result<Option<ChainValue>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT value FROM delivery_chain WHERE group_id = ?1 AND position = ?2")?;
        let key = params![group.as_bytes().as_slice(), position.0.cast_signed()];
        Ok(statement.query_row(key, value).optional()?)
    }

    /// Where the chain of the epoch starts; `None` where there is none yet.
    pub(crate) fn chain_start(&self, group: GroupId) -> Result<Option<Position>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT min(position) FROM delivery_chain WHERE group_id = ?1")?;
        let start: Option<i64> = statement.query_row([group.as_bytes().as_slice()], |row| row.get(0))?;
        Ok(start.map(|start| Position(start.cast_unsigned())))
    }

    /// Begins a chain; all before it is forgotten.
    pub(crate) fn start_chain(
        &self,
        group: GroupId,
        position: Position,
        value: ChainValue,
    ) -> Result<(), Error> {
        self.delete_chain(group)?;
        self.put_chain_value(group, position, value)
    }

    /// The value after one more entry.
    pub(crate) fn continue_chain(
        &self,
        group: GroupId,
        position: Position,
        value: ChainValue,
    ) -> Result<(), Error> {
        self.put_chain_value(group, position, value)?;
        if position.0.is_multiple_of(SWEEP) {
            // All but the first one, which says where the epoch began.
            self.connection.execute(
                "DELETE FROM delivery_chain WHERE group_id = ?1 AND position <= ?2
                 AND position > (SELECT min(position) FROM delivery_chain WHERE group_id = ?1)",
                params![
                    group.as_bytes().as_slice(),
                    position.0.saturating_sub(MAX_VALUES).cast_signed()
                ],
            )?;
        }
        Ok(())
    }

    fn put_chain_value(&self, group: GroupId, position: Position, value: ChainValue) -> Result<(), Error> {
        let mut statement = self
            .connection
            .prepare_cached("INSERT INTO delivery_chain (group_id, position, value) VALUES (?1, ?2, ?3)")?;
        statement.execute(params![
            group.as_bytes().as_slice(),
            position.0.cast_signed(),
            value.as_bytes().as_slice(),
        ])?;
        Ok(())
    }

    pub(crate) fn delete_chain(&self, group: GroupId) -> Result<(), Error> {
        let mut statement = self
            .connection
            .prepare_cached("DELETE FROM delivery_chain WHERE group_id = ?1")?;
        statement.execute([group.as_bytes().as_slice()])?;
        Ok(())
    }

    /// Remembers that a device was shown another history. Says whether that is news in this epoch.
    pub(crate) fn put_fork(
        &self,
        group: GroupId,
        device: DeviceId,
        epoch: Epoch,
        position: Position,
    ) -> Result<bool, Error> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO delivery_forks (group_id, device_id, epoch, position) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (group_id, device_id)
             DO UPDATE SET epoch = excluded.epoch, position = excluded.position WHERE epoch <> excluded.epoch",
        )?;
        let changed = statement.execute(params![
            group.as_bytes().as_slice(),
            device.to_string(),
            epoch.0.cast_signed(),
            position.0.cast_signed(),
        ])?;
        Ok(changed > 0)
    }

    /// The newest entry whose sender was shown another history.
    pub(crate) fn newest_fork(&self, group: GroupId) -> Result<Option<Position>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT max(position) FROM delivery_forks WHERE group_id = ?1")?;
        let newest: Option<i64> = statement.query_row([group.as_bytes().as_slice()], |row| row.get(0))?;
        Ok(newest.map(|newest| Position(newest.cast_unsigned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::GroupRow;
    use crate::{GroupStatus, Store};

    fn database(group: GroupId) -> Database {
        let db = Database::open(&Store::memory()).unwrap();
        put_group(&db, group);
        db
    }

    fn put_group(db: &Database, id: GroupId) {
        db.put_group(&GroupRow {
            id,
            status: GroupStatus::Active,
            name: String::new(),
            suite: 1,
            position: Position::NONE,
            entry_id: Vec::new(),
        })
        .unwrap();
    }

    fn count(db: &Database, table: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM {table}");
        let count: i64 = db.connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        count.cast_unsigned()
    }

    #[test]
    fn the_newest_values_and_the_first_one_are_kept() {
        let group = GroupId::from_bytes([1; 16]);
        let db = database(group);
        let value = |position: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&position.to_be_bytes());
            ChainValue::from_bytes(bytes)
        };
        db.start_chain(group, Position(7), value(7)).unwrap();
        let last = MAX_VALUES + 3 * SWEEP;
        db.begin().unwrap();
        for position in 8..=last {
            db.continue_chain(group, Position(position), value(position))
                .unwrap();
        }
        db.commit().unwrap();
        assert_eq!(count(&db, "delivery_chain"), MAX_VALUES + 1);
        assert_eq!(db.chain_start(group).unwrap(), Some(Position(7)));
        let at = |position| db.chain_value(group, Position(position)).unwrap();
        assert_eq!(at(7), Some(value(7)));
        assert_eq!(at(last - MAX_VALUES), None);
        assert_eq!(at(last - MAX_VALUES + 1), Some(value(last - MAX_VALUES + 1)));
        assert_eq!(at(last), Some(value(last)));

        db.start_chain(group, Position(last + 1), value(1)).unwrap();
        assert_eq!(count(&db, "delivery_chain"), 1, "an epoch ends with its values");
    }

    #[test]
    fn a_group_takes_its_values_along() {
        let (one, other) = (GroupId::from_bytes([1; 16]), GroupId::from_bytes([2; 16]));
        let db = database(one);
        put_group(&db, other);
        let device = DeviceId::from_uuid(uuid::Uuid::from_u128(1));
        for group in [one, other] {
            db.start_chain(group, Position(1), ChainValue::from_bytes([1; 32]))
                .unwrap();
            db.put_fork(group, device, Epoch(1), Position(2)).unwrap();
        }
        db.delete_group(one).unwrap();
        assert_eq!(db.chain_start(one).unwrap(), None);
        assert_eq!(db.newest_fork(one).unwrap(), None);
        // It is entered anew.
        put_group(&db, other);
        assert_eq!(
            (count(&db, "delivery_chain"), count(&db, "delivery_forks")),
            (0, 0)
        );
    }

    #[test]
    fn a_fork_is_news_once_for_each_device_and_epoch() {
        let group = GroupId::from_bytes([1; 16]);
        let db = database(group);
        let [one, other] = [1, 2].map(|number| DeviceId::from_uuid(uuid::Uuid::from_u128(number)));
        assert!(db.put_fork(group, one, Epoch(1), Position(5)).unwrap());
        assert!(!db.put_fork(group, one, Epoch(1), Position(6)).unwrap());
        assert!(db.put_fork(group, other, Epoch(1), Position(7)).unwrap());
        assert!(db.put_fork(group, one, Epoch(2), Position(9)).unwrap());
        assert_eq!(db.newest_fork(group).unwrap(), Some(Position(9)));
        assert_eq!(count(&db, "delivery_forks"), 2);
    }
}
