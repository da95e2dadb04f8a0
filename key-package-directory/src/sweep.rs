//! Deletes what may not be handed out any more: packages near their end, forgotten init keys, and all packages of
//! revoked devices (checklist K5).
//!
//! No claim depends on it: a claim leaves out what is unusable and asks who is revoked by itself. The packages of a
//! suspended user are kept, and not served until the user is resumed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use valise_access_token::{Revocation, RevocationSubject};
use valise_proto::DeviceId;

use crate::directory::Directory;
use crate::store::{StoreError, Swept};

/// The most that one transaction deletes: others wait for the writer meanwhile.
const CHUNK: u32 = 1_000;

/// Sweeps at once and then at every interval, until told to stop.
pub(crate) async fn run(directory: Arc<Directory>, interval: Duration, stopping: CancellationToken) {
    let rounds = async {
        loop {
            match directory.sweep().await {
                Ok(swept) if swept == Swept::default() => {}
                Ok(swept) => {
                    tracing::info!(
                        packages = swept.packages,
                        init_keys = swept.init_keys,
                        "swept key packages"
                    );
                }
                Err(error) => tracing::warn!(%error, "sweep failed, it is repeated at the next interval"),
            }
            tokio::time::sleep(interval).await;
        }
    };
    stopping.run_until_cancelled(rounds).await;
}

/// Purges the packages of every device that is or gets revoked, until told to stop.
pub(crate) async fn purge_revoked(directory: Arc<Directory>, retry: Duration, stopping: CancellationToken) {
    let work = async {
        // Subscribed before the known ones are asked for: nothing falls between.
        let mut news = directory.verifier.revocations();
        let mut due = devices(directory.verifier.known_revocations());
        loop {
            match directory.purge(&due).await {
                Ok(()) => due.clear(),
                Err(error) => {
                    tracing::warn!(%error, "purging revoked devices failed, it is repeated");
                    tokio::time::sleep(retry).await;
                    continue;
                }
            }
            match news.recv().await {
                Ok(revocation) => due = devices([revocation]),
                Err(RecvError::Lagged(_)) => due = devices(directory.verifier.known_revocations()),
                Err(RecvError::Closed) => return,
            }
        }
    };
    stopping.run_until_cancelled(work).await;
}

impl Directory {
    async fn sweep(&self) -> Result<Swept, StoreError> {
        let now = self.clock.unix_seconds();
        let mut total = Swept::default();
        loop {
            let swept = self.store.sweep(now, self.usable_at(now), CHUNK).await?;
            total.packages += swept.packages;
            total.init_keys += swept.init_keys;
            if swept.packages.max(swept.init_keys) < u64::from(CHUNK) {
                break;
            }
        }
        // A publish that another replica let in just before it heard of the revocation.
        let revoked = devices(self.verifier.known_revocations());
        self.purge(&revoked).await?;
        Ok(total)
    }

    async fn purge(&self, devices: &[DeviceId]) -> Result<(), StoreError> {
        for chunk in devices.chunks(CHUNK as usize) {
            let purged = self.store.purge(chunk.to_vec()).await?;
            if purged > 0 {
                tracing::info!(
                    devices = chunk.len(),
                    purged,
                    "purged key packages of revoked devices"
                );
            }
        }
        Ok(())
    }
}

fn devices(revocations: impl IntoIterator<Item = Revocation>) -> Vec<DeviceId> {
    let device = |revocation: Revocation| match revocation.subject {
        RevocationSubject::Device { device, .. } => Some(device),
        RevocationSubject::Suspended { .. } | RevocationSubject::Resumed { .. } => None,
    };
    revocations.into_iter().filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
    use valise_access_token::Verifier;
    use valise_clock::Clock;
    use valise_device_certificate::TrustBundle;
    use valise_proto::{UserId, Uuid};

    use super::*;
    use crate::config::Config;
    use crate::notices::Notices;
    use crate::store::{self, NewPackage, Publication, PublishOutcome};

    const DAY: u64 = 24 * 3600;

    fn bundle() -> TrustBundle {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        TrustBundle::from_der([certificate.der().to_vec()]).unwrap()
    }

    #[tokio::test]
    async fn what_a_revoked_device_published_late_goes_with_a_sweep() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("directory.db").into();
        let store = store::open(&database).await.unwrap();
        let clock = Clock::system();
        let (verifier, feed) = Verifier::new("an issuer", clock.clone(), bundle());
        let directory = Directory::new(
            &Config::default(),
            Arc::clone(&store),
            verifier,
            clock.clone(),
            Notices::none(),
        );
        let user: UserId = "alice@interieur.example".parse().unwrap();
        let device = DeviceId::from_uuid(Uuid::new_v4());
        let subject = RevocationSubject::Device {
            user: user.clone(),
            device,
        };
        feed.apply(Revocation {
            number: 1,
            subject,
            at: clock.now(),
        })
        .unwrap();
        // It is purged before it has published anything, and another replica has not heard of it yet.
        directory.purge(&[device]).await.unwrap();
        let usable = directory.usable_at(clock.unix_seconds());
        let end = clock.unix_seconds() + 80 * DAY;
        let package = NewPackage {
            suite: 1,
            last_resort: false,
            not_after: end,
            certificate_not_after: end,
            init_key_digest: [7; 32],
            message: b"a key package".to_vec(),
        };
        let late = Publication {
            user,
            device,
            signature_key: b"key".to_vec(),
            packages: vec![package],
            usable,
            capacity: 200,
        };
        assert_eq!(store.publish(late).await.unwrap(), PublishOutcome::Stored);
        directory.sweep().await.unwrap();
        assert!(store.stock(device, usable).await.unwrap().is_empty());
        store.close().await;
    }
}
