//! Tells a device, through its inbox, that its stock of key packages is low.
//!
//! Best effort: a claim never waits for a notice, and a notice that cannot be delivered is dropped. The next claim
//! offers it again, and every publish returns the stock as well.

use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;
use valise_access_token::ServiceTokens;
use valise_clock::Clock;
use valise_proto::delivery::v1::delivery_internal_service_client::DeliveryInternalServiceClient;
use valise_proto::delivery::v1::{DeliverNoticeRequest, DeviceNotice, LowStockItem, device_notice};
use valise_proto::{DeviceId, Reason, Refusal};

/// Notices that wait; more are dropped.
const QUEUE: usize = 4096;
/// The most in one call.
const BATCH: usize = 1000;
/// Notices of the day that are remembered, so that they are not offered again at each claim.
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

/// The stock of a device and suite is low.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LowStock {
    pub(crate) device: DeviceId,
    pub(crate) suite: u16,
    pub(crate) one_time: u32,
}

/// A device, a suite, and a day since 1970: what is told once.
type Occasion = (DeviceId, u16, u64);

/// Where notices are offered.
pub(crate) struct Notices {
    outgoing: Option<Outgoing>,
    clock: Clock,
}

struct Outgoing {
    queue: mpsc::Sender<(Occasion, LowStock)>,
    told: Cache<Occasion, ()>,
}

/// The task that delivers them.
pub(crate) struct Courier {
    link: DeliveryLink,
    queue: mpsc::Receiver<(Occasion, LowStock)>,
    told: Cache<Occasion, ()>,
}

impl Notices {
    /// Notices that go nowhere.
    pub(crate) fn none(clock: Clock) -> Self {
        Self {
            outgoing: None,
            clock,
        }
    }

    /// Notices, and the courier to run.
    pub(crate) fn new(link: DeliveryLink, clock: Clock) -> (Self, Courier) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let told = Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_live(DAY)
            .build();
        let courier = Courier {
            link,
            queue: receiver,
            told: told.clone(),
        };
        (
            Self {
                outgoing: Some(Outgoing { queue: sender, told }),
                clock,
            },
            courier,
        )
    }

    /// Takes a notice, unless the same was told that day already or too many wait.
    pub(crate) fn offer(&self, notice: LowStock) {
        let Some(outgoing) = &self.outgoing else { return };
        let today = self.clock.unix_seconds() / DAY.as_secs();
        let occasion = (notice.device, notice.suite, today);
        // The entry is made by one of many callers at once, and that one sends.
        let is_new = outgoing.told.entry(occasion).or_insert(()).is_fresh();
        if is_new && outgoing.queue.try_send((occasion, notice)).is_err() {
            outgoing.told.invalidate(&occasion);
            tracing::warn!(device = %notice.device, "low-stock notice dropped: too many wait");
        }
    }
}

impl Courier {
    /// Delivers until told to stop. What is still queued then is dropped.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let mut batch = Vec::new();
        while let Some(1..) = stopping
            .run_until_cancelled(self.queue.recv_many(&mut batch, BATCH))
            .await
        {
            let Some(delivered) = stopping.run_until_cancelled(self.deliver(&batch)).await else {
                return;
            };
            if let Err(refusal) = delivered {
                tracing::warn!(reason = %refusal.reason, notices = batch.len(), "low-stock notices not delivered");
                // The next claim may offer them again.
                for (occasion, _) in &batch {
                    self.told.invalidate(occasion);
                }
            }
            batch.clear();
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
