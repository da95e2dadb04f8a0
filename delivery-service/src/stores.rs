//! The store that the settings ask for: one SQLite file, or Redis and PostgreSQL.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use valise_proto::{DeviceId, Reason, UserId};

use crate::config::{Config, StoreConfig};
use crate::fingerprint::{fingerprint, former_fingerprint};
use crate::log::OrderedLog;
use crate::log::production::ProductionLog;
use crate::log::sqlite::{OpenError, SqliteLog};
use crate::service::{Delivery, StartError};
use crate::suites::Suites;

/// An open store.
pub(crate) struct Stores {
    pub(crate) log: Arc<dyn OrderedLog>,
    production: Option<Arc<ProductionLog>>,
}

impl Stores {
    /// Opens what the settings ask for. Where there may be other replicas, they must be who this one is.
    pub(crate) async fn open(config: &Config, suites: &Suites) -> Result<Self, StartError> {
        match config.store()? {
            StoreConfig::Embedded(file) => Ok(Self {
                log: Arc::new(open_file(file).await?),
                production: None,
            }),
            StoreConfig::Production {
                database,
                redis,
                archive,
            } => {
                let retention = Duration::from_secs(config.retention_seconds);
                let log = ProductionLog::open(database, redis, archive, retention).await?;
                let log = Arc::new(log);
                let stores = Self {
                    log: Arc::clone(&log) as Arc<dyn OrderedLog>,
                    production: Some(Arc::clone(&log)),
                };
                if let Err(error) = compare_identities(&log, suites).await {
                    stores.close().await;
                    return Err(error);
                }
                Ok(stores)
            }
        }
    }

    /// Starts what the store does in the background. It ends with the service's other tasks.
    pub(crate) fn start(&self, delivery: &Arc<Delivery>) {
        let Some(log) = &self.production else {
            return;
        };
        let verifier = delivery.verifier.clone();
        let gone = move |user: &UserId, device: DeviceId| {
            verifier.refusal_for(user, device) == Some(Reason::DeviceRevoked)
        };
        let retention = Duration::from_secs(delivery.retention_seconds);
        let archiver = log.archiver(retention, delivery.clock.clone(), Arc::new(gone));
        let stopping = delivery.lifecycle.stopping().clone();
        delivery.lifecycle.spawn("archiver", async move {
            archiver.run(stopping).await;
        });
        let (log, stopping) = (Arc::clone(log), delivery.lifecycle.stopping().clone());
        // Owned by the tasks of what it is to forget from.
        let delivery = Arc::clone(delivery);
        delivery.lifecycle.clone().spawn("log upkeep", async move {
            let other_log = |group| {
                delivery.forget(group);
                delivery.fan_out.other_log(group);
            };
            log.run(stopping, other_log).await;
        });
    }

    /// Does the store answer?
    pub(crate) async fn reachable(&self) -> bool {
        match &self.production {
            Some(log) => log.reachable().await,
            None => true,
        }
    }

    /// Ends the connections, after everything that uses them.
    pub(crate) async fn close(&self) {
        if let Some(log) = &self.production {
            log.close().await;
        }
    }
}

async fn compare_identities(log: &ProductionLog, suites: &Suites) -> Result<(), StartError> {
    for (kind, external_sender) in suites.external_senders() {
        let own = fingerprint(external_sender)?;
        let kept = log
            .keep_identity(kind, &own, &former_fingerprint(external_sender)?)
            .await
            .map_err(StartError::IdentityUnknown)?;
        if kept != own {
            return Err(StartError::OtherIdentity { kept, own });
        }
    }
    Ok(())
}

async fn open_file(file: &Path) -> Result<SqliteLog, OpenError> {
    let path = file.to_owned();
    match tokio::task::spawn_blocking(move || SqliteLog::open(&path)).await {
        Ok(opened) => opened,
        Err(_) => Err(OpenError::Damaged {
            path: file.to_owned(),
            reason: "opening it failed".to_owned(),
        }),
    }
}
