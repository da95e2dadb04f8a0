//! The way to the services: channels, access tokens, deadlines, and repeating what may be repeated.

mod calls;
mod token;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};
use valise_clock::Clock;
use valise_proto::{Reason, Refusal};

pub(crate) use calls::enrol;
pub(crate) use token::{DeviceKey, Tokens};

use crate::{Error, Servers};

/// Deadline of one try.
const DEADLINE: Duration = Duration::from_secs(10);
/// The same for claims: key packages are spent by them, whether or not the answer arrives in time. No longer than a service works on a request.
const CLAIM_DEADLINE: Duration = Duration::from_secs(30);
/// For how long a call that the app waits for is tried.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A read of the log is at most 4 MiB, and a little around it.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// Channels to the services. They connect when they are used, and again when they broke.
#[derive(Clone)]
pub(crate) struct Channels {
    pub(super) authentication: Channel,
    pub(super) directory: Channel,
    pub(super) delivery: Channel,
}

impl Channels {
    pub(crate) fn new(servers: &Servers) -> Result<Self, Error> {
        let channel = |url: &str| channel(url, servers.certificate_authority.as_deref());
        let authentication = channel(&servers.authentication)?;
        let same = servers.directory == servers.authentication && servers.delivery == servers.authentication;
        if same {
            // One server: one connection.
            return Ok(Self {
                directory: authentication.clone(),
                delivery: authentication.clone(),
                authentication,
            });
        }
        Ok(Self {
            authentication,
            directory: channel(&servers.directory)?,
            delivery: channel(&servers.delivery)?,
        })
    }
}

fn channel(url: &str, certificate_authority: Option<&str>) -> Result<Channel, Error> {
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|_| Error::ServerAddress("not a URL"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(DEADLINE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    match endpoint.uri().scheme_str() {
        Some("http") => {}
        Some("https") => {
            let mut tls = ClientTlsConfig::new();
            if let Some(pem) = certificate_authority {
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint
                .tls_config(tls)
                .map_err(|_| Error::ServerAddress("TLS cannot be set up"))?;
        }
        _ => return Err(Error::ServerAddress("the URL begins with http:// or https://")),
    }
    Ok(endpoint.connect_lazy())
}

/// Why one try failed.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The service said so.
    Refused(Refusal),
    /// Nobody knows whether the service did it.
    Unknown,
}

impl Failure {
    pub(crate) fn of(status: &Status) -> Self {
        if let Some(refusal) = Refusal::from_status(status) {
            return Self::Refused(refusal);
        }
        match status.code() {
            // Of a server that is older, or no Valise at all.
            Code::Unimplemented => Self::Refused(Refusal::new(Reason::Internal)),
            _ => Self::Unknown,
        }
    }

    /// May the same request be tried again, with a chance?
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unknown => true,
            Self::Refused(refusal) => matches!(
                refusal.reason,
                Reason::StoreUnavailable
                    | Reason::Overloaded
                    | Reason::RateLimited
                    | Reason::DeadlineExceeded
                    | Reason::TokenExpired
                    | Reason::TokenInvalid
                    | Reason::EpochAhead
                    | Reason::Internal
            ),
        }
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusal) => Some(refusal.reason),
            Self::Unknown => None,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Unknown => None,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::Unknown => Self::Unreachable,
        }
    }
}

/// Waits longer each time, and never exactly as long as others do.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// For requests: 100 ms to 5 s.
    pub(crate) const fn of_requests() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// How long to wait now: between half and all of the current step.
    pub(crate) fn step(&mut self) -> Duration {
        let step = self.next;
        self.next = (self.next * 2).min(self.max);
        step.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }
}

/// Calls the services as this device.
#[derive(Clone)]
pub(crate) struct Transport {
    pub(super) channels: Channels,
    pub(super) tokens: Arc<Tokens>,
}

impl Transport {
    pub(crate) fn new(channels: Channels, key: DeviceKey, clock: Clock) -> Self {
        let tokens = Arc::new(Tokens::new(channels.authentication.clone(), key, clock));
        Self { channels, tokens }
    }

    /// A token for the device's stream.
    pub(crate) async fn tokens_get(&self) -> Result<String, Failure> {
        self.tokens.get().await
    }

    /// How long that token is used.
    pub(crate) fn token_seconds_left(&self) -> u64 {
        self.tokens.seconds_left()
    }

    /// Tries once, with a token; a second time if the token turned out to be out of date.
    pub(crate) async fn once<Req: Clone, Res, Call: Future<Output = Result<Response<Res>, Status>>>(
        &self,
        message: &Req,
        call: impl Fn(Request<Req>) -> Call,
    ) -> Result<Res, Failure> {
        self.once_within(DEADLINE, message, call).await
    }

    async fn once_within<Req: Clone, Res, Call: Future<Output = Result<Response<Res>, Status>>>(
        &self,
        deadline: Duration,
        message: &Req,
        call: impl Fn(Request<Req>) -> Call,
    ) -> Result<Res, Failure> {
        let mut renewed = false;
        loop {
            let token = self.tokens.get().await?;
            let mut request = Request::new(message.clone());
            authorise(&mut request, &token)?;
            request.set_timeout(deadline);
            valise_trace_context::inject(request.metadata_mut());
            let failure = match in_time(deadline, call(request)).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let stale = matches!(
                failure.reason(),
                Some(Reason::TokenExpired | Reason::TokenInvalid)
            );
            if !stale || renewed {
                return Err(failure);
            }
            self.tokens.forget(&token);
            renewed = true;
        }
    }

    /// Tries until there is an answer that will not change, or patience ends. For requests that may be done twice.
    pub(crate) async fn patiently<Req: Clone, Res, Call: Future<Output = Result<Response<Res>, Status>>>(
        &self,
        message: Req,
        call: impl Fn(Request<Req>) -> Call,
    ) -> Result<Res, Error> {
        self.patiently_within(DEADLINE, message, call).await
    }

    /// The same, each try with that deadline.
    async fn patiently_within<Req: Clone, Res, Call: Future<Output = Result<Response<Res>, Status>>>(
        &self,
        deadline: Duration,
        message: Req,
        call: impl Fn(Request<Req>) -> Call,
    ) -> Result<Res, Error> {
        persist(|| self.once_within(deadline, &message, &call)).await
    }
}

/// Tries until there is an answer that will not change, or patience ends.
async fn persist<Res, Try: Future<Output = Result<Res, Failure>>>(
    once: impl Fn() -> Try,
) -> Result<Res, Error> {
    let mut backoff = Backoff::of_requests();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let failure = match once().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let wait = failure.retry_after().unwrap_or_else(|| backoff.step());
        if !failure.is_passing() || tokio::time::Instant::now() + wait > deadline {
            return Err(failure.into());
        }
        tokio::time::sleep(wait).await;
    }
}

/// The deadline is the server's to keep; this one is for a server that does not.
async fn in_time<Res>(
    deadline: Duration,
    call: impl Future<Output = Result<Response<Res>, Status>>,
) -> Result<Res, Failure> {
    match tokio::time::timeout(deadline + Duration::from_secs(1), call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::of(&status)),
        Err(_) => Err(Failure::Unknown),
    }
}

/// Puts the token into the request's metadata.
pub(crate) fn authorise<T>(request: &mut Request<T>, token: &str) -> Result<(), Failure> {
    let mut value: tonic::metadata::AsciiMetadataValue = format!("Bearer {token}")
        .parse()
        .map_err(|_| Failure::Refused(Refusal::new(Reason::TokenInvalid)))?;
    value.set_sensitive(true);
    request.metadata_mut().insert("authorization", value);
    Ok(())
}

/// A time from the wire.
pub(crate) fn time(at: prost_types::Timestamp) -> Option<SystemTime> {
    let since = Duration::new(u64::try_from(at.seconds).ok()?, u32::try_from(at.nanos).ok()?);
    UNIX_EPOCH.checked_add(since)
}

/// A duration for the wire.
pub(crate) fn duration(of: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(of.subsec_nanos()).unwrap_or(0),
    }
}
