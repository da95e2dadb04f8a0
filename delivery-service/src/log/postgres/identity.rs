//! Which identity the replicas share.

use sqlx::query;
use valise_device_certificate::KeyKind;

use super::{PostgresArchive, bytes, within};
use crate::fingerprint::Fingerprint;
use crate::log::StoreError;

impl PostgresArchive {
    /// The replicas' identity with a key of that kind: this one, if there is none yet. Of those who come at the same time, the
    /// first one's. `former` is how this one was written before fingerprints were of the key and the name alone: where it still is, it
    /// becomes `own`.
    pub(crate) async fn keep_identity(
        &self,
        kind: KeyKind,
        own: &Fingerprint,
        former: &Fingerprint,
    ) -> Result<Fingerprint, StoreError> {
        within(async {
            query(
                "INSERT INTO identity (key_kind, fingerprint) VALUES ($1, $2)
                 ON CONFLICT (key_kind) DO UPDATE SET fingerprint = excluded.fingerprint WHERE identity.fingerprint = $3",
            )
            .bind(name(kind))
            .bind(own.as_bytes())
            .bind(former.as_bytes())
            .execute(&self.pool)
            .await?;
            query("SELECT fingerprint FROM identity WHERE key_kind = $1")
                .bind(name(kind))
                .try_map(|row| {
                    let kept = bytes(&row, 0)?;
                    Fingerprint::try_from(&*kept).map_err(|error| sqlx::Error::Decode(error.into()))
                })
                .fetch_one(&self.pool)
                .await
        })
        .await
    }

    /// From now on the replicas' identity with a key of that kind is this one.
    pub(crate) async fn replace_identity(&self, kind: KeyKind, own: &Fingerprint) -> Result<(), StoreError> {
        within(async {
            query(
                "INSERT INTO identity (key_kind, fingerprint) VALUES ($1, $2)
                 ON CONFLICT (key_kind) DO UPDATE SET fingerprint = excluded.fingerprint",
            )
            .bind(name(kind))
            .bind(own.as_bytes())
            .execute(&self.pool)
            .await
        })
        .await
        .map(drop)
    }
}

/// As it is written in the table.
const fn name(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Ed25519 => "ed25519",
        KeyKind::P256 => "p256",
    }
}
