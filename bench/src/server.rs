//! The servers under test: the real programs, in processes of their own.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use valise_client_sdk::Servers;
use valise_local_stack::{LocalStack, Redis, RedisShape, StackOptions};

use crate::args::{Args, Store};
use crate::embedded::Up;
use crate::{Result, machine};

/// How long a program may take to start or to stop.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long servers may go on working off what was left over.
const SETTLE: Duration = Duration::from_secs(20);
/// Between two looks at whether they do.
const LOOK: Duration = Duration::from_millis(250);
/// Between two looks at whether a call has an aftermath, and what of it, in microseconds, is none.
const AFTERWARDS: Duration = Duration::from_millis(2);
const QUIET: f64 = 50.0;
/// What idle servers use of one core.
const IDLE: f64 = 0.2;

/// Running servers.
pub(crate) enum Server {
    /// One process with all services.
    Embedded(Box<Up>),
    /// Everything in processes of its own.
    Production(Box<LocalStack>),
}

/// Processor time that was used, in microseconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    /// All replicas of the delivery service; or `valise up`.
    pub(crate) service: f64,
    pub(crate) redis: f64,
    pub(crate) postgres: f64,
    /// The load generator.
    pub(crate) own: f64,
}

impl Used {
    /// For each of so many since then.
    pub(crate) fn since(self, before: Self, count: f64) -> Self {
        Self {
            service: (self.service - before.service) / count,
            redis: (self.redis - before.redis) / count,
            postgres: (self.postgres - before.postgres) / count,
            own: (self.own - before.own) / count,
        }
    }
}

impl Server {
    /// Starts what the arguments ask for.
    pub(crate) async fn start(args: &Args, data: &Path) -> Result<Self> {
        Ok(match args.store {
            Store::Embedded => Self::Embedded(Box::new(Up::start(args, data).await?)),
            Store::Production => {
                let shape = RedisShape::Standalone;
                Self::production(shape, 1, &[]).await
            }
        })
    }

    /// Starts the services on Redis and PostgreSQL, with these variables in their environment.
    pub(crate) async fn production(
        redis: RedisShape,
        delivery_replicas: usize,
        environment: &[(&str, &str)],
    ) -> Self {
        // What is claimed in a benchmark is more than anybody may claim.
        let unlimited = "{ requests = 4000000000, seconds = 1 }";
        let limits = [
            ("VALISE_DIRECTORY_LIMITS__CLAIM", unlimited),
            ("VALISE_DIRECTORY_LIMITS__CLAIM_OF_ONE_DEVICE", unlimited),
        ];
        let environment = limits.iter().chain(environment);
        let options = StackOptions {
            authentication_replicas: 1,
            directory_replicas: 1,
            delivery_replicas,
            redis,
            environment: environment
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..StackOptions::default()
        };
        let mut stack = LocalStack::start(options).await;
        if redis == RedisShape::Standalone {
            // When the file is rewritten is chance, and would hit one side of a ratio.
            let setting = ["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"];
            stack.standalone_redis().command(&setting).await;
        }
        Self::Production(Box::new(stack))
    }

    /// With it the first administrator enrols.
    pub(crate) fn enrolment_code(&self) -> Option<String> {
        match self {
            Self::Embedded(up) => up.enrolment_code.clone(),
            Self::Production(stack) => stack.administrator_code().map(ToOwned::to_owned),
        }
    }

    /// The services on Redis and PostgreSQL, if they are.
    pub(crate) fn stack(&mut self) -> Result<&mut LocalStack> {
        match self {
            Self::Embedded(_) => Err("this row needs --store production".into()),
            Self::Production(stack) => Ok(stack),
        }
    }

    /// The one Redis server.
    pub(crate) fn redis(&mut self) -> Result<&mut Redis> {
        Ok(self.stack()?.standalone_redis())
    }

    /// Where the SDK finds them.
    pub(crate) fn client_urls(&self) -> Servers {
        match self {
            Self::Embedded(up) => Servers::one(&up.url),
            Self::Production(stack) => Servers::each(
                stack.authentication(0).url(),
                stack.directory(0).url(),
                stack.delivery(0).url(),
            ),
        }
    }

    /// A connection to the authentication service.
    pub(crate) async fn authentication(&self) -> Result<Channel> {
        match self {
            Self::Embedded(up) => connect(&up.url).await,
            Self::Production(stack) => connect(&stack.authentication(0).url()).await,
        }
    }

    /// A connection to a replica of the delivery service.
    pub(crate) async fn delivery(&self, replica: usize) -> Result<Channel> {
        match self {
            Self::Embedded(up) => connect(&up.url).await,
            Self::Production(stack) => connect(&stack.delivery(replica).url()).await,
        }
    }

    /// Processor time so far.
    pub(crate) async fn used(&self) -> Used {
        let own = machine::processor_micros(std::process::id());
        match self {
            Self::Embedded(up) => Used {
                service: up.processor_micros(),
                own,
                ..Used::default()
            },
            Self::Production(stack) => {
                let [.., replicas] = stack.service_urls();
                let mut service = 0.0;
                for replica in 0..replicas.len() {
                    let id = stack.delivery(replica).id().await;
                    service += id.map_or(0.0, machine::processor_micros);
                }
                let redis = stack.redis_ids().into_iter();
                Used {
                    service,
                    redis: redis.map(machine::processor_micros).sum(),
                    postgres: stack.postgres().id().map_or(0.0, machine::family_micros),
                    own,
                }
            }
        }
    }

    /// Processor time of the delivery service so far, to the nanosecond; and of Redis, if there is one.
    pub(crate) async fn exactly_used(&self) -> Used {
        match self {
            Self::Embedded(up) => Used {
                service: machine::exact_micros(up.id()),
                ..Used::default()
            },
            Self::Production(stack) => {
                let id = stack.delivery(0).id().await;
                let redis = stack.redis_ids().into_iter();
                Used {
                    service: id.map_or(0.0, machine::exact_micros),
                    redis: redis.map(machine::exact_micros).sum(),
                    ..Used::default()
                }
            }
        }
    }

    /// The same, once the first replica has nothing left to do for what it has answered already.
    pub(crate) async fn used_when_done(&self) -> Used {
        let mut before = self.exactly_used().await;
        loop {
            sleep(AFTERWARDS).await;
            let now = self.exactly_used().await;
            if now.service - before.service < QUIET {
                return now;
            }
            before = now;
        }
    }

    /// Waits until the servers have nothing left to do: what is archived after a round is not the next one's work.
    pub(crate) async fn settle(&self) {
        let began = Instant::now();
        let mut before = self.used().await;
        while began.elapsed() < SETTLE {
            let looked = Instant::now();
            sleep(LOOK).await;
            let now = self.used().await;
            let used = now.since(before, looked.elapsed().as_secs_f64() * 1e6);
            if used.service + used.redis + used.postgres < IDLE {
                return;
            }
            before = now;
        }
    }

    /// Ends everything.
    pub(crate) async fn stop(self) -> Result<()> {
        match self {
            Self::Embedded(up) => up.stop().await,
            // By being dropped.
            Self::Production(_) => Ok(()),
        }
    }
}

/// A connection of its own.
pub(crate) async fn connect(url: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .tcp_nodelay(true)
        .connect()
        .await?)
}

/// Waits until the service is healthy.
pub(crate) async fn healthy(channel: &Channel, service: &str) {
    let request = || HealthCheckRequest {
        service: service.to_owned(),
    };
    // It may not be known yet.
    while HealthClient::new(channel.clone())
        .check(request())
        .await
        .map_or(true, |answer| {
            answer.into_inner().status() != ServingStatus::Serving
        })
    {
        sleep(Duration::from_millis(1)).await;
    }
}
