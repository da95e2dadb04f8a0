//! Health checks (`grpc.health.v1`): readiness by service name, and liveness.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// The health check's service name that is `SERVING` for as long as the process answers. For a liveness probe: a
/// service that is not ready, for example because its store is away, must not be restarted.
pub const LIVENESS: &str = "live";

/// How often a service's store is asked whether it is there.
const PROBE: Duration = Duration::from_secs(2);
/// How long it has for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says which services are ready, to clients that ask for their health. The name "" stands for all together.
///
/// Nothing is ready at first, and nothing is after shutdown has begun.
#[derive(Clone, Debug)]
pub struct Readiness {
    reporter: HealthReporter,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<String, bool>,
    stopping: bool,
}

impl Readiness {
    /// Nothing is ready.
    pub fn new() -> Self {
        Self {
            reporter: HealthReporter::new(),
            state: Arc::default(),
        }
    }

    /// The service, by its full name such as `valise.delivery.v1.DeliveryService`, is ready.
    pub async fn ready(&self, service: &str) {
        self.set(service, true).await;
    }

    /// The service is not ready, for example because its store cannot be reached.
    pub async fn not_ready(&self, service: &str) {
        self.set(service, false).await;
    }

    /// The services are ready for as long as `reachable` says that what they need is, such as their store, which is asked every 2 s. No answer
    /// within 5 s is a no. Goes on until it is dropped.
    pub async fn follow<F>(&self, services: &[&str], reachable: impl Fn() -> F) -> Infallible
    where
        F: Future<Output = bool>,
    {
        let mut before = None;
        loop {
            let ready = timeout(PATIENCE, reachable()).await.unwrap_or(false);
            if before != Some(ready) {
                for service in services {
                    self.set(service, ready).await;
                }
                match before {
                    _ if !ready => tracing::warn!("what the service needs cannot be reached: not ready"),
                    Some(_) => tracing::info!("what the service needs can be reached again: ready"),
                    None => {}
                }
                before = Some(ready);
            }
            sleep(PROBE).await;
        }
    }

    async fn set(&self, service: &str, ready: bool) {
        let mut state = self.state.lock().await;
        state.services.insert(service.to_owned(), ready);
        self.publish(&state).await;
    }

    /// For [`serve`](crate::serve): the health service, which answers from now on.
    pub(crate) async fn service(&self) -> HealthServer<HealthService> {
        self.publish(&*self.state.lock().await).await;
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Nothing is ready any more, for good.
    pub(crate) async fn stop(&self) {
        let mut state = self.state.lock().await;
        state.stopping = true;
        self.publish(&state).await;
    }

    async fn publish(&self, state: &State) {
        let mut all = !state.stopping && !state.services.is_empty();
        for (service, &ready) in &state.services {
            self.report(service, ready && !state.stopping).await;
            all &= ready;
        }
        self.report("", all).await;
        self.report(LIVENESS, true).await;
    }

    async fn report(&self, service: &str, ready: bool) {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.reporter.set_service_status(service, status).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}
