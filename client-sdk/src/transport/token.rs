//! Access tokens, got with assertions that the device key signs (RFC 7523).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer as _;
use parking_lot::Mutex;
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Request, Status};
use valise_clock::Clock;
use valise_device_certificate::KeyKind;
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::authentication::v1::{IssueTokenRequest, IssueTokenResponse};
use valise_proto::{DeviceId, Reason, Refusal};

use super::{DEADLINE, Failure};

const AUDIENCE: &str = "valise-authentication";
/// Lifetime of an assertion, in seconds.
const ASSERTION_LIFETIME: u64 = 60;
/// A token is renewed this long before it ends, in seconds.
const MARGIN: u64 = 60;

/// A device and the key that it signs with.
pub(crate) struct DeviceKey {
    pub(crate) device: DeviceId,
    pub(crate) signer: SignatureKeyPair,
}

#[derive(Clone)]
struct Token {
    text: String,
    /// Seconds since 1970-01-01 UTC.
    renew_at: u64,
}

/// The device's access token, renewed before it ends. Its Debug shows nothing.
pub(crate) struct Tokens {
    channel: Channel,
    key: DeviceKey,
    clock: Clock,
    current: Mutex<Option<Token>>,
    /// One renewal at a time.
    renewing: tokio::sync::Mutex<()>,
}

impl Tokens {
    pub(super) fn new(channel: Channel, key: DeviceKey, clock: Clock) -> Self {
        Self {
            channel,
            key,
            clock,
            current: Mutex::new(None),
            renewing: tokio::sync::Mutex::new(()),
        }
    }

    fn fresh(&self) -> Option<String> {
        let now = self.clock.unix_seconds();
        self.current
            .lock()
            .as_ref()
            .filter(|token| token.renew_at > now)
            .map(|token| token.text.clone())
    }

    /// A token that is good for a while yet.
    pub(crate) async fn get(&self) -> Result<String, Failure> {
        if let Some(text) = self.fresh() {
            return Ok(text);
        }
        let _turn = self.renewing.lock().await;
        if let Some(text) = self.fresh() {
            return Ok(text);
        }
        let answer = self.issue().await.map_err(|status| Failure::of(&status))?;
        let lifetime = answer
            .expires_in
            .map_or(0, |lifetime| u64::try_from(lifetime.seconds).unwrap_or(0));
        // Of a short-lived token half its time is used.
        let usable = lifetime.saturating_sub(MARGIN).max(lifetime / 2);
        let token = Token {
            text: answer.access_token,
            renew_at: self.clock.unix_seconds() + usable,
        };
        *self.current.lock() = Some(token.clone());
        Ok(token.text)
    }

    /// How many seconds until the token is renewed.
    pub(crate) fn seconds_left(&self) -> u64 {
        let now = self.clock.unix_seconds();
        self.current
            .lock()
            .as_ref()
            .map_or(0, |token| token.renew_at.saturating_sub(now))
    }

    /// A service did not take this token.
    pub(crate) fn forget(&self, text: &str) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|token| token.text == text) {
            *current = None;
        }
    }

    async fn issue(&self) -> Result<IssueTokenResponse, Status> {
        let device = self.key.device.to_string();
        let signer = &self.key.signer;
        let assertion = KeyKind::of(signer.public()).and_then(|kind| {
            assertion(&device, self.clock.unix_seconds(), kind, |message| {
                signer.sign(message).ok()
            })
        });
        let assertion = assertion.ok_or_else(|| Status::from(Refusal::new(Reason::InvalidAssertion)))?;
        let mut request = Request::new(IssueTokenRequest { assertion });
        request.set_timeout(DEADLINE);
        valise_trace_context::inject(request.metadata_mut());
        let mut client = AuthenticationServiceClient::new(self.channel.clone());
        tokio::time::timeout(DEADLINE, client.issue_token(request))
            .await
            .map_err(|_| Status::deadline_exceeded("no answer"))?
            .map(tonic::Response::into_inner)
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
}

/// A compact JWS (RFC 7515) with EdDSA (RFC 8037) or ES256 (RFC 7518 §3.4).
fn assertion(
    device: &str,
    now: u64,
    kind: KeyKind,
    sign: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<String> {
    let claims = Claims {
        iss: device,
        sub: device,
        aud: AUDIENCE,
        iat: now,
        exp: now + ASSERTION_LIFETIME,
        jti: uuid::Uuid::new_v4().to_string(),
    };
    let header = BASE64.encode(format!(r#"{{"alg":"{}","typ":"JWT"}}"#, kind.jws_algorithm()));
    let claims = BASE64.encode(serde_json::to_vec(&claims).ok()?);
    let signed = format!("{header}.{claims}");
    let signature = BASE64.encode(kind.jws_signature(sign(signed.as_bytes())?)?);
    Some(format!("{signed}.{signature}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_is_a_signed_jwt_of_the_device() {
        let sign = |message: &[u8]| Some(message.to_vec());
        let text = assertion("device", 1000, KeyKind::Ed25519, sign).unwrap();
        let (signed, signature) = text.rsplit_once('.').unwrap();
        assert_eq!(BASE64.decode(signature).unwrap(), signed.as_bytes());
        let (_, claims) = signed.split_once('.').unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&BASE64.decode(claims).unwrap()).unwrap();
        assert_eq!(claims["iss"], "device");
        assert_eq!(claims["sub"], "device");
        assert_eq!(claims["aud"], "valise-authentication");
        assert_eq!(claims["exp"], 1060);
        assert!(claims["jti"].as_str().unwrap().len() >= 16);
    }
}
