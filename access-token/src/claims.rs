//! What an access token says (RFC 9068, with `kind` and `user` of our own).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use valise_proto::{DeviceId, UserId};

use crate::Caller;

/// The `aud` of every access token.
pub const AUDIENCE: &str = "valise";
/// The `aud` of every assertion.
pub const ASSERTION_AUDIENCE: &str = "valise-authentication";
/// Largest token and largest assertion, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;
/// Longest time from an assertion's `iat` to its `exp`.
pub const MAX_ASSERTION_LIFETIME: Duration = Duration::from_secs(120);
/// How far the clocks of a caller and of a service may be apart.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(30);

/// The JOSE `typ` of an access token (RFC 9068 §2.1), so that an assertion can never pass for one.
pub(crate) const TOKEN_TYPE: &str = "at+jwt";

/// What a valid access token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedToken {
    /// Who calls.
    pub caller: Caller,
    /// From when on the token is refused.
    pub expires_at: SystemTime,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Device,
    Administrator,
    Service,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: String,
    pub(crate) sub: String,
    pub(crate) kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<UserId>,
    pub(crate) iat: u64,
    pub(crate) nbf: u64,
    pub(crate) exp: u64,
    pub(crate) jti: String,
}

impl Claims {
    /// Who it is about; `None` where the claims contradict each other.
    pub(crate) fn caller(self) -> Option<Caller> {
        let device = |user, administrator| {
            Some(Caller::Device {
                user,
                device: self.sub.parse::<DeviceId>().ok()?,
                administrator,
            })
        };
        match (self.kind, self.user) {
            (Kind::Device, Some(user)) => device(user, false),
            (Kind::Administrator, Some(user)) => device(user, true),
            (Kind::Service, None) if !self.sub.is_empty() => Some(Caller::Service { name: self.sub }),
            (Kind::Device | Kind::Administrator | Kind::Service, _) => None,
        }
    }
}

pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
