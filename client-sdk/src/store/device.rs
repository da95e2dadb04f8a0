//! The device's row.

use rusqlite::{OptionalExtension, params};
use valise_proto::{DeviceId, UserId};

use super::Database;
use crate::{Error, Servers};

/// A device, enrolled or on its way.
pub(crate) struct DeviceRow {
    pub(crate) servers: Servers,
    pub(crate) signature_key: Vec<u8>,
    pub(crate) enrolled: Option<Enrolled>,
}

/// What enrolment gave.
#[derive(Clone)]
pub(crate) struct Enrolled {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) trust_bundle: Vec<Vec<u8>>,
    /// TLS-encoded.
    pub(crate) external_sender: Vec<u8>,
    /// How long the service keeps entries, in seconds.
    pub(crate) retention: u64,
    /// How long copies of entries are kept for the service, in seconds; 0: not at all.
    pub(crate) entry_copies: u64,
}

/// What there is once the device is enrolled, as it is stored.
type EnrolledColumns = (String, String, String, String, Vec<u8>, i64, i64);

impl Database {
    pub(crate) fn device(&self) -> Result<Option<DeviceRow>, Error> {
        let row = self
            .connection
            .query_row(
                "SELECT servers, signature_key, user_id, device_id, chain, trust_bundle, external_sender, retention,
                     entry_copies FROM device",
                [],
                |row| {
                    let enrolled: Option<EnrolledColumns> = match row.get(2)? {
                        Some(user) => {
                            Some((
                                user,
                                row.get(3)?,
                                row.get(4)?,
                                row.get(5)?,
                                row.get(6)?,
                                row.get(7)?,
                                row.get(8)?,
                            ))
                        }
                        None => None,
                    };
                    Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, enrolled))
                },
            )
            .optional()?;
        let Some((servers, signature_key, enrolled)) = row else {
            return Ok(None);
        };
        let enrolled = match enrolled {
            None => None,
            Some((user, device, chain, trust_bundle, external_sender, retention, entry_copies)) => {
                Some(Enrolled {
                    user: user
                        .parse()
                        .map_err(|_| Error::InvalidInput("the store's user id"))?,
                    device: device
                        .parse()
                        .map_err(|_| Error::InvalidInput("the store's device id"))?,
                    chain: serde_json::from_str(&chain)?,
                    trust_bundle: serde_json::from_str(&trust_bundle)?,
                    external_sender,
                    retention: retention.cast_unsigned(),
                    entry_copies: entry_copies.cast_unsigned(),
                })
            }
        };
        Ok(Some(DeviceRow {
            servers: serde_json::from_str(&servers)?,
            signature_key,
            enrolled,
        }))
    }

    /// A device that is about to enrol: its key is kept before anybody is asked.
    pub(crate) fn put_new_device(&self, servers: &Servers, signature_key: &[u8]) -> Result<(), Error> {
        self.connection.execute(
            "INSERT OR REPLACE INTO device (id, servers, signature_key) VALUES (1, ?1, ?2)",
            params![serde_json::to_string(servers)?, signature_key],
        )?;
        Ok(())
    }

    pub(crate) fn put_enrolled(&self, enrolled: &Enrolled) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE device SET user_id = ?1, device_id = ?2, chain = ?3, trust_bundle = ?4, external_sender = ?5,
                retention = ?6, entry_copies = ?7",
            params![
                enrolled.user.as_str(),
                enrolled.device.to_string(),
                serde_json::to_string(&enrolled.chain)?,
                serde_json::to_string(&enrolled.trust_bundle)?,
                enrolled.external_sender,
                enrolled.retention.cast_signed(),
                enrolled.entry_copies.cast_signed(),
            ],
        )?;
        Ok(())
    }

    /// For how long the service keeps entries, and devices copies of them; in seconds.
    pub(crate) fn put_keeping(&self, retention: u64, entry_copies: u64) -> Result<(), Error> {
        self.connection.execute(
            "UPDATE device SET retention = ?1, entry_copies = ?2",
            [retention.cast_signed(), entry_copies.cast_signed()],
        )?;
        Ok(())
    }

    pub(crate) fn inbox_cursor(&self) -> Result<u64, Error> {
        let number: i64 = self
            .connection
            .query_row("SELECT inbox_cursor FROM device", [], |row| row.get(0))?;
        Ok(number.cast_unsigned())
    }

    pub(crate) fn put_inbox_cursor(&self, number: u64) -> Result<(), Error> {
        self.connection
            .execute("UPDATE device SET inbox_cursor = ?1", [number.cast_signed()])?;
        Ok(())
    }
}
