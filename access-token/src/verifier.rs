//! Judges access tokens, without a call to anybody.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use moka::sync::Cache;
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, broadcast, watch};
use valise_clock::Clock;
use valise_device_certificate::TrustBundle;
use valise_proto::{DeviceId, Reason, Refusal, UserId};

use crate::Caller;
use crate::claims::{
    AUDIENCE, Claims, MAX_CLOCK_SKEW, MAX_TOKEN_BYTES, TOKEN_TYPE, VerifiedToken, unix_seconds,
};
use crate::revocations::{FeedError, Revocation, RevocationState};

/// How many verified tokens are remembered, by their hash, so that a signature is verified once and not at each call.
const REMEMBERED_TOKENS: u64 = 100_000;
/// How many revocations a receiver may be behind before it has to ask [`Verifier::revocations_after`].
const LAG: usize = 1024;
/// Most keys in a key set.
const MAX_KEYS: usize = 16;

/// Judges access tokens with the authentication service's keys and revocation feed. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

/// Tells a [`Verifier`] what the authentication service says. There is one for each verifier.
pub struct VerifierFeed {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: String,
    clock: Clock,
    keys: RwLock<HashMap<String, DecodingKey>>,
    bundle: RwLock<Arc<TrustBundle>>,
    revocations: RwLock<RevocationState>,
    news: broadcast::Sender<Revocation>,
    current: watch::Sender<()>,
    unknown_key: Notify,
    remembered: Cache<[u8; 32], VerifiedToken>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("issuer", &self.inner.issuer)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for VerifierFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierFeed")
            .field("issuer", &self.inner.issuer)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier for tokens of that `issuer`, and what it is fed with. It refuses all tokens
    /// (`STORE_UNAVAILABLE`) until it has been told the keys and [`VerifierFeed::heard`] has been called.
    pub fn new(issuer: impl Into<String>, clock: Clock, bundle: TrustBundle) -> (Self, VerifierFeed) {
        let inner = Arc::new(Inner {
            issuer: issuer.into(),
            clock,
            keys: RwLock::default(),
            bundle: RwLock::new(Arc::new(bundle)),
            revocations: RwLock::default(),
            news: broadcast::Sender::new(LAG),
            current: watch::Sender::new(()),
            unknown_key: Notify::new(),
            remembered: Cache::new(REMEMBERED_TOKENS),
        });
        (
            Self {
                inner: Arc::clone(&inner),
            },
            VerifierFeed { inner },
        )
    }

    /// Judges a token: `TOKEN_INVALID`, `TOKEN_EXPIRED`, `DEVICE_REVOKED`, `USER_SUSPENDED`, or `STORE_UNAVAILABLE` where
    /// the revocation feed has been silent for more than [`MAX_SILENCE`](crate::MAX_SILENCE).
    pub fn verify(&self, token: &str) -> Result<VerifiedToken, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Reason::TokenInvalid.into());
        }
        let fingerprint: [u8; 32] = Sha256::digest(token).into();
        let verified = match self.inner.remembered.get(&fingerprint) {
            Some(verified) => verified,
            None => {
                let verified = self.inner.signed(token)?;
                self.inner.remembered.insert(fingerprint, verified.clone());
                verified
            }
        };
        if self.inner.clock.now() >= verified.expires_at {
            return Err(Reason::TokenExpired.into());
        }
        let refused = match &verified.caller {
            Caller::Device { user, device, .. } => self.refusal_for(user, *device),
            Caller::Service { .. } => self.inner.revocations.read().silence(),
        };
        refused.map_or(Ok(verified), |reason| Err(reason.into()))
    }

    /// Why calls of that device would be refused now (`DEVICE_REVOKED`, `USER_SUSPENDED`, `STORE_UNAVAILABLE`): for
    /// streams that outlive their token.
    pub fn refusal_for(&self, user: &UserId, device: DeviceId) -> Option<Reason> {
        self.inner.revocations.read().refusal(user, device)
    }

    /// Is that device revoked, or its user suspended? An error where nobody can say now (`STORE_UNAVAILABLE`).
    pub fn is_revoked(&self, user: &UserId, device: DeviceId) -> Result<bool, Reason> {
        match self.refusal_for(user, device) {
            None => Ok(false),
            Some(Reason::DeviceRevoked | Reason::UserSuspended) => Ok(true),
            Some(other) => Err(other),
        }
    }

    /// Are keys known and the revocation feed followed, so that tokens can be judged at all? For readiness.
    pub fn is_current(&self) -> bool {
        self.inner.revocations.read().is_current() && !self.inner.keys.read().is_empty()
    }

    /// Waits until [`Verifier::is_current`].
    pub async fn current(&self) {
        let mut heard = self.inner.current.subscribe();
        while !self.is_current() {
            // The sender lives as long as `self`: this fails never.
            if heard.changed().await.is_err() {
                return;
            }
        }
    }

    /// New revocations, in order. A receiver that fell behind (`Lagged`) asks [`Verifier::revocations_after`].
    /// Subscribe before asking for what is known, so that nothing falls between.
    pub fn revocations(&self) -> broadcast::Receiver<Revocation> {
        self.inner.news.subscribe()
    }

    /// All revocations so far, in order.
    pub fn known_revocations(&self) -> Vec<Revocation> {
        self.revocations_after(0)
    }

    /// The revocations so far above a number, in order.
    pub fn revocations_after(&self, number: u64) -> Vec<Revocation> {
        self.inner.revocations.read().after(number)
    }

    /// The certificates that device and service certificates chain to.
    pub fn trust_bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.inner.bundle.read())
    }

    /// The clock it judges by.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }
}

impl VerifierFeed {
    /// Replaces the keys by those of a JWK Set (RFC 7517 §5), JSON. Keys that are not Ed25519 signature keys are left out.
    pub fn set_keys(&self, jwks_json: &str) -> Result<(), FeedError> {
        let set: JwkSet = serde_json::from_str(jwks_json).map_err(|_| FeedError::Malformed)?;
        if set.keys.len() > MAX_KEYS {
            return Err(FeedError::Malformed);
        }
        let mut keys = HashMap::new();
        for jwk in set.keys {
            let AlgorithmParameters::OctetKeyPair(pair) = &jwk.algorithm else {
                continue;
            };
            let (Some(kid), EllipticCurve::Ed25519) = (&jwk.common.key_id, &pair.curve) else {
                continue;
            };
            let key = DecodingKey::from_ed_components(&pair.x).map_err(|_| FeedError::Malformed)?;
            // The library panics on shorter keys when it comes to use them.
            if key.try_get_as_bytes().map_or(0, <[u8]>::len) != 32 {
                return Err(FeedError::Malformed);
            }
            keys.insert(kid.clone(), key);
        }
        let mut held = self.inner.keys.write();
        let withdrawn = held.keys().any(|kid| !keys.contains_key(kid));
        *held = keys;
        drop(held);
        if withdrawn {
            self.inner.remembered.invalidate_all();
        }
        self.inner.current.send_replace(());
        Ok(())
    }

    /// Replaces the trust bundle, where it is another one: what was judged by this one stays judged.
    pub fn set_trust_bundle(&self, bundle: TrustBundle) {
        let mut held = self.inner.bundle.write();
        if **held != bundle {
            *held = Arc::new(bundle);
        }
    }

    /// Number of the newest revocation that is known.
    pub fn newest(&self) -> u64 {
        self.inner.revocations.read().newest()
    }

    /// Takes the next line of the feed; one that is known already changes nothing.
    pub fn apply(&self, revocation: Revocation) -> Result<(), FeedError> {
        // Told under the lock: receivers get the lines in order, and none twice.
        let mut revocations = self.inner.revocations.write();
        if revocations.apply(&revocation)? {
            // An error means that nobody listens.
            let _ = self.inner.news.send(revocation);
        }
        Ok(())
    }

    /// The authentication service lives, and the newest number of its feed is this.
    pub fn heard(&self, newest_number: u64) -> Result<(), FeedError> {
        self.inner.revocations.write().heard(newest_number)?;
        self.inner.current.send_replace(());
        Ok(())
    }

    /// After [`FeedError::WentBack`]: forgets the feed, to follow it again from its start. All tokens are refused until
    /// it has been caught up with; devices that were revoked stay refused.
    pub fn start_over(&self) {
        self.inner.revocations.write().start_over();
    }

    /// Waits until somebody shows a token signed with a key that is not known here.
    pub async fn unknown_key(&self) {
        self.inner.unknown_key.notified().await;
    }
}

impl Inner {
    /// Verifies all that stays true for ever: signature, names, form. `exp` and revocation are judged at each call.
    fn signed(&self, token: &str) -> Result<VerifiedToken, Refusal> {
        let invalid = || Refusal::new(Reason::TokenInvalid);
        let header = decode_header(token).map_err(|_| invalid())?;
        let typed = header.typ.is_some_and(|typ| typ.eq_ignore_ascii_case(TOKEN_TYPE));
        if header.alg != Algorithm::EdDSA || !typed || header.crit.is_some() {
            return Err(invalid());
        }
        let kid = header.kid.ok_or_else(invalid)?;
        let (key, no_keys) = {
            let keys = self.keys.read();
            (keys.get(&kid).cloned(), keys.is_empty())
        };
        let Some(key) = key else {
            self.unknown_key.notify_one();
            return Err(if no_keys {
                Reason::StoreUnavailable.into()
            } else {
                invalid()
            });
        };
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp", "nbf"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[AUDIENCE]);
        // Judged below and in `verify`, by a clock that tests can move.
        validation.validate_exp = false;
        let claims = decode::<Claims>(token, &key, &validation)
            .map_err(|_| invalid())?
            .claims;
        let (exp, nbf) = (claims.exp, claims.nbf);
        if nbf > unix_seconds(self.clock.now()) + MAX_CLOCK_SKEW.as_secs() {
            return Err(invalid());
        }
        let expires_at = UNIX_EPOCH
            .checked_add(Duration::from_secs(exp))
            .ok_or_else(invalid)?;
        let caller = claims.caller().ok_or_else(invalid)?;
        Ok(VerifiedToken { caller, expires_at })
    }
}

#[cfg(test)]
pub(crate) mod tests;
