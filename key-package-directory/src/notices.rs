//! Tells a device, through its inbox, that its stock of key packages is low.
//!
//! Best effort, and no claim waits for it: claims only note of whom they took packages. The courier asks the store what
//! those devices have left, and tells those that have little, once a day. A notice that cannot be delivered is dropped:
//! the next claim brings it up again, and every publish returns the stock as well.
//!
//! Each replica looks after the devices that it took packages of, and asks the store they all share. What two of them
//! tell of one device on one day has the same deduplication key: the inbox takes it once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;
use valise_access_token::ServiceTokens;
use valise_clock::Clock;
use valise_proto::delivery::v1::delivery_internal_service_client::DeliveryInternalServiceClient;
use valise_proto::delivery::v1::{DeliverNoticeRequest, DeviceNotice, LowStockItem, device_notice};
use valise_proto::{DeviceId, Reason, Refusal};

use crate::directory::Directory;
use crate::store::LowStock;

/// Devices that wait to be looked at; more are left to their next claim.
const WAITING: usize = 100_000;
/// The most that are looked at, or told, in one call.
const BATCH: usize = 1000;
/// Between two looks, so that many claims of a device are one.
const PAUSE: Duration = Duration::from_secs(1);
/// Notices of the day that are remembered, so that those devices are not looked at again at each claim.
const REMEMBERED: u64 = 100_000;
const DAY: Duration = Duration::from_hours(24);
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the second attempt, the third, and so on.
const WAITS: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// The way to the delivery service.
#[derive(Clone, Debug)]
pub struct DeliveryLink {
    /// To its endpoint; may be a lazy one.
    pub channel: Channel,
    /// Tokens of kind service, as `DeliverNotice` needs.
    pub tokens: ServiceTokens,
}

/// A device, a suite, and a day since 1970: what is told once.
type Occasion = (DeviceId, u16, u64);

/// Where claims say of whom they took packages.
pub(crate) struct Notices(Option<Arc<Desk>>);

/// What notices and their courier share.
struct Desk {
    /// Of them packages were taken since the last look.
    suspects: Mutex<HashSet<(DeviceId, u16)>>,
    bell: Notify,
    told: Cache<Occasion, ()>,
    clock: Clock,
}

/// The task that looks and tells.
pub(crate) struct Courier {
    link: DeliveryLink,
    desk: Arc<Desk>,
}

impl Notices {
    /// Nobody is told.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Notices, and the courier to run.
    pub(crate) fn new(link: DeliveryLink, clock: Clock) -> (Self, Courier) {
        let told = Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_live(DAY)
            .build();
        let desk = Arc::new(Desk {
            suspects: Mutex::default(),
            bell: Notify::new(),
            told,
            clock,
        });
        let courier = Courier {
            link,
            desk: Arc::clone(&desk),
        };
        (Self(Some(desk)), courier)
    }

    /// A package of the device was handed out.
    pub(crate) fn claimed(&self, device: DeviceId, suite: u16) {
        if let Some(desk) = &self.0
            && !desk.told.contains_key(&(device, suite, desk.today()))
        {
            desk.suspect([(device, suite)]);
        }
    }
}

impl Desk {
    fn today(&self) -> u64 {
        self.clock.unix_seconds() / DAY.as_secs()
    }

    fn suspect(&self, of: impl IntoIterator<Item = (DeviceId, u16)>) {
        let mut suspects = self.suspects.lock();
        for of in of {
            if suspects.len() < WAITING {
                suspects.insert(of);
            }
        }
        drop(suspects);
        self.bell.notify_one();
    }
}

impl Courier {
    /// Looks and tells until told to stop. Who still waits then is left to their next claim.
    pub(crate) async fn run(self, directory: Arc<Directory>, stopping: CancellationToken) {
        let rounds = async {
            loop {
                self.desk.bell.notified().await;
                let suspects: Vec<_> = std::mem::take(&mut *self.desk.suspects.lock())
                    .into_iter()
                    .collect();
                for suspects in suspects.chunks(BATCH) {
                    self.look(&directory, suspects).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        stopping.run_until_cancelled(rounds).await;
    }

    async fn look(&self, directory: &Directory, suspects: &[(DeviceId, u16)]) {
        let low = match directory.low(suspects).await {
            Ok(low) => low,
            Err(error) => {
                tracing::debug!(%error, "the stock will be looked at again");
                self.desk.suspect(suspects.iter().copied());
                return;
            }
        };
        let today = self.desk.today();
        let occasions = low
            .into_iter()
            .map(|low| ((low.device, low.suite, today), low))
            .filter(|(occasion, _)| !self.desk.told.contains_key(occasion));
        let batch: Vec<_> = occasions.collect();
        if batch.is_empty() {
            return;
        }
        match self.deliver(&batch).await {
            Ok(()) => batch
                .into_iter()
                .for_each(|(occasion, _)| self.desk.told.insert(occasion, ())),
            Err(refusal) => {
                tracing::warn!(reason = %refusal.reason, notices = batch.len(), "low-stock notices not delivered");
            }
        }
    }

    async fn deliver(&self, batch: &[(Occasion, LowStock)]) -> Result<(), Refusal> {
        let notices: Vec<_> = batch
            .iter()
            .map(|(occasion, notice)| wire(*occasion, *notice))
            .collect();
        let mut waits = WAITS.into_iter();
        loop {
            let Err(refusal) = self.attempt(notices.clone()).await else {
                return Ok(());
            };
            let Some(wait) = waits.next() else {
                return Err(refusal);
            };
            if matches!(refusal.reason, Reason::TokenInvalid | Reason::TokenExpired) {
                self.link.tokens.forget().await;
            }
            tracing::debug!(reason = %refusal.reason, "low-stock notices will be sent again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self, notices: Vec<DeviceNotice>) -> Result<(), Refusal> {
        let mut request = Request::new(DeliverNoticeRequest { notices });
        request.set_timeout(PATIENCE);
        self.link.tokens.authorize(&mut request).await?;
        let answer = DeliveryInternalServiceClient::new(self.link.channel.clone())
            .deliver_notice(request)
            .await;
        answer.map(|_| ()).map_err(|status| {
            Refusal::from_status(&status).unwrap_or_else(|| Reason::StoreUnavailable.into())
        })
    }
}

fn wire((device, suite, day): Occasion, notice: LowStock) -> DeviceNotice {
    let item = LowStockItem {
        cipher_suite: u32::from(suite),
        one_time: notice.one_time,
    };
    DeviceNotice {
        device_id: device.to_string(),
        deduplication_key: format!("low-stock:{device}:{suite}:{day}"),
        notice: Some(device_notice::Notice::LowStock(item)),
    }
}
