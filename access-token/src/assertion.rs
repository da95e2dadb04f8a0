//! The text with which a device or service shows the authentication service that it holds its key (RFC 7523 §3).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto, dangerous, decode_header};
use serde::{Deserialize, Serialize};

use crate::claims::{MAX_ASSERTION_LIFETIME, MAX_CLOCK_SKEW, MAX_TOKEN_BYTES, unix_seconds};

/// How long an assertion made here is valid: enough for one exchange, and for a clock that is a little off.
const LIFETIME: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct AssertionClaims {
    iss: String,
    sub: String,
    aud: String,
    iat: u64,
    exp: u64,
    jti: String,
}

/// A signed assertion of `subject` (device id or service name) for `audience`
/// ([`ASSERTION_AUDIENCE`](crate::ASSERTION_AUDIENCE)), valid for a minute from `now`.
///
/// `jti` must be 16 to 64 characters and never used before; `sign` makes an Ed25519 signature (RFC 8032).
pub fn assertion(
    subject: &str,
    audience: &str,
    now: SystemTime,
    jti: &str,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> String {
    let iat = unix_seconds(now);
    let claims = serde_json::json!({
        "iss": subject, "sub": subject, "aud": audience, "iat": iat, "exp": iat + LIFETIME.as_secs(), "jti": jti,
    });
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"EdDSA","typ":"JWT"}"#);
    let mut text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(sign(text.as_bytes()));
    text.push('.');
    text.push_str(&signature);
    text
}

/// An assertion as it arrived: nothing in it is believed before [`Assertion::verify`].
pub struct Assertion<'a> {
    text: &'a str,
    claims: AssertionClaims,
}

/// What is left of an assertion that was found good. The caller must still see to it that `jti` is used only once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedAssertion {
    /// Used once, until `expires_at`.
    pub jti: String,
    /// From when on the assertion is refused even if it was never used (clock skew included).
    pub expires_at: SystemTime,
}

impl<'a> Assertion<'a> {
    /// Reads it. The error is a rule's name.
    pub fn read(text: &'a str) -> Result<Self, &'static str> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err("size");
        }
        let header = decode_header(text).map_err(|_| "encoding")?;
        if header.alg != Algorithm::EdDSA {
            return Err("algorithm");
        }
        // Nothing "critical" is understood here (RFC 7515 §4.1.11), and an access token is not an assertion.
        if header.crit.is_some() || header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt")) {
            return Err("header");
        }
        let claims = dangerous::insecure_decode_claims(text).map_err(|_| "claims")?;
        Ok(Self { text, claims })
    }

    /// Who is said to have made it: a device id or a service's name. Not believed yet.
    pub fn subject(&self) -> &str {
        &self.claims.sub
    }

    /// Judges it with the subject's Ed25519 public key. The error is a rule's name.
    pub fn verify(
        &self,
        public_key: &[u8],
        audience: &str,
        now: SystemTime,
    ) -> Result<VerifiedAssertion, &'static str> {
        // The library takes the first 32 bytes of any key and panics on fewer.
        if public_key.len() != 32 {
            return Err("key");
        }
        let (message, signature) = self.text.rsplit_once('.').ok_or("encoding")?;
        let key = DecodingKey::from_ed_der(public_key);
        if !crypto::verify(signature, message.as_bytes(), &key, Algorithm::EdDSA).unwrap_or(false) {
            return Err("signature");
        }
        let AssertionClaims {
            iss,
            sub,
            aud,
            iat,
            exp,
            jti,
        } = &self.claims;
        let (iat, exp) = (*iat, *exp);
        let (now, skew) = (unix_seconds(now), MAX_CLOCK_SKEW.as_secs());
        let jti_ok = (16..=64).contains(&jti.len()) && jti.bytes().all(|byte| byte.is_ascii_graphic());
        let rules = [
            ("issuer", iss == sub),
            ("audience", aud == audience),
            (
                "lifetime",
                exp > iat && exp - iat <= MAX_ASSERTION_LIFETIME.as_secs(),
            ),
            ("issued_in_the_future", iat <= now + skew),
            ("expired", now < exp.saturating_add(skew)),
            ("jti", jti_ok),
        ];
        if let Some((rule, _)) = rules.into_iter().find(|(_, holds)| !holds) {
            return Err(rule);
        }
        Ok(VerifiedAssertion {
            jti: jti.clone(),
            expires_at: UNIX_EPOCH + Duration::from_secs(exp + skew),
        })
    }
}

#[cfg(test)]
mod tests {
    use valise_clock::Clock;

    use super::*;
    use crate::claims::ASSERTION_AUDIENCE;
    use crate::signer::tests::Key;

    const JTI: &str = "0123456789abcdef";

    fn made(key: &Key, now: SystemTime) -> String {
        assertion("someone", ASSERTION_AUDIENCE, now, JTI, |message| {
            key.sign(message)
        })
    }

    #[test]
    fn an_assertion_is_believed_with_its_own_key_only() {
        let (now, key, other) = (Clock::system().now(), Key::new(1), Key::new(2));
        let text = made(&key, now);
        let read = Assertion::read(&text).unwrap();
        assert_eq!(read.subject(), "someone");
        assert_eq!(
            read.verify(&key.public, ASSERTION_AUDIENCE, now).unwrap().jti,
            JTI
        );
        let verify = |public: &[u8]| {
            Assertion::read(&text)
                .unwrap()
                .verify(public, ASSERTION_AUDIENCE, now)
        };
        assert_eq!(verify(&other.public), Err("signature"));
        assert_eq!(verify(&key.public[..31]), Err("key"));
        assert_eq!(verify(&[]), Err("key"));
        let changed = text.replacen("ey", "eY", 1);
        assert!(Assertion::read(&changed).is_err());
    }

    #[test]
    fn an_assertion_looks_like_this() {
        let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let text = assertion("me", ASSERTION_AUDIENCE, now, JTI, |_| b"signature".to_vec());
        let parts: Vec<_> = text
            .split('.')
            .map(|part| URL_SAFE_NO_PAD.decode(part).unwrap())
            .collect();
        let json = |part: &[u8]| serde_json::from_slice::<serde_json::Value>(part).unwrap();
        assert_eq!(json(&parts[0]), serde_json::json!({"alg": "EdDSA", "typ": "JWT"}));
        let claims = serde_json::json!({"iss": "me", "sub": "me", "aud": "valise-authentication",
            "iat": 1_900_000_000, "exp": 1_900_000_060, "jti": JTI});
        assert_eq!((json(&parts[1]), &parts[2][..]), (claims, &b"signature"[..]));
    }

    #[test]
    fn time_audience_and_names_are_judged() {
        let (now, key) = (Clock::system().now(), Key::new(1));
        let verify = |text: &str, at| {
            Assertion::read(text)
                .unwrap()
                .verify(&key.public, ASSERTION_AUDIENCE, at)
        };
        let text = made(&key, now);
        assert!(
            verify(&text, now + Duration::from_secs(85)).is_ok(),
            "a clock 25 s ahead"
        );
        assert_eq!(verify(&text, now + Duration::from_secs(91)), Err("expired"));
        assert!(
            verify(&text, now - Duration::from_secs(25)).is_ok(),
            "a clock 25 s behind"
        );
        assert_eq!(
            verify(&text, now - Duration::from_secs(40)),
            Err("issued_in_the_future")
        );
        let text = assertion("someone", "elsewhere", now, JTI, |message| key.sign(message));
        assert_eq!(verify(&text, now), Err("audience"));
        for jti in ["short", &"x".repeat(65), "with a space inside"] {
            let text = assertion("someone", ASSERTION_AUDIENCE, now, jti, |message| {
                key.sign(message)
            });
            assert_eq!(verify(&text, now), Err("jti"));
        }
    }

    /// Signs any header and claims.
    fn signed(key: &Key, header: &str, claims: &str) -> String {
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    #[test]
    fn long_lives_foreign_issuers_and_strange_headers_are_refused() {
        let (now, key) = (Clock::system().now(), Key::new(1));
        let iat = unix_seconds(now);
        let claims = |iss: &str, exp: u64| {
            format!(
                r#"{{"iss":"{iss}","sub":"me","aud":"valise-authentication","iat":{iat},"exp":{exp},"jti":"{JTI}"}}"#
            )
        };
        let plain = r#"{"alg":"EdDSA"}"#;
        let verdict = |header: &str, claims: &str| {
            let text = signed(&key, header, claims);
            Assertion::read(&text).and_then(|read| read.verify(&key.public, ASSERTION_AUDIENCE, now))
        };
        assert!(verdict(plain, &claims("me", iat + 120)).is_ok());
        assert_eq!(verdict(plain, &claims("me", iat + 121)), Err("lifetime"));
        assert_eq!(verdict(plain, &claims("me", iat)), Err("lifetime"));
        assert_eq!(verdict(plain, &claims("me", u64::MAX)), Err("lifetime"));
        assert_eq!(verdict(plain, &claims("you", iat + 60)), Err("issuer"));
        assert_eq!(
            verdict(r#"{"alg":"HS256"}"#, &claims("me", iat + 60)),
            Err("algorithm")
        );
        assert_eq!(
            verdict(r#"{"alg":"none"}"#, &claims("me", iat + 60)),
            Err("encoding")
        );
        assert_eq!(
            verdict(r#"{"alg":"EdDSA","crit":["x"],"x":1}"#, &claims("me", iat + 60)),
            Err("header")
        );
        assert_eq!(
            verdict(r#"{"alg":"EdDSA","typ":"at+jwt"}"#, &claims("me", iat + 60)),
            Err("header")
        );
        assert_eq!(verdict(plain, "{}"), Err("claims"));
        assert_eq!(Assertion::read("").err(), Some("encoding"));
        assert_eq!(Assertion::read("a.b").err(), Some("encoding"));
        assert_eq!(Assertion::read(&"x".repeat(4097)).err(), Some("size"));
    }
}
