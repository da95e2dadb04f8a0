//! The text with which a device or service shows the authentication service that it holds its key (RFC 7523 §3).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto, dangerous, decode_header};
use serde::{Deserialize, Serialize};
use valise_device_certificate::KeyKind;

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
/// `jti` must be 16 to 64 characters and never used before; `sign` makes a signature with a key of that kind, in the form that
/// the [kind](KeyKind) has. An assertion with one of another form is refused like any other wrong one.
pub fn assertion(
    subject: &str,
    audience: &str,
    now: SystemTime,
    jti: &str,
    kind: KeyKind,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> String {
    let iat = unix_seconds(now);
    let claims = serde_json::json!({
        "iss": subject, "sub": subject, "aud": audience, "iat": iat, "exp": iat + LIFETIME.as_secs(), "jti": jti,
    });
    let header = serde_json::json!({ "alg": kind.jws_algorithm(), "typ": "JWT" });
    let header = URL_SAFE_NO_PAD.encode(header.to_string());
    let mut text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = kind.jws_signature(sign(text.as_bytes())).unwrap_or_default();
    let signature = URL_SAFE_NO_PAD.encode(signature);
    text.push('.');
    text.push_str(&signature);
    text
}

/// An assertion as it arrived: nothing in it is believed before [`Assertion::verify`].
pub struct Assertion<'a> {
    text: &'a str,
    kind: KeyKind,
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
        let kind = match header.alg {
            Algorithm::EdDSA => KeyKind::Ed25519,
            Algorithm::ES256 => KeyKind::P256,
            _ => return Err("algorithm"),
        };
        // Nothing "critical" is understood here (RFC 7515 §4.1.11), and an access token is not an assertion.
        if header.crit.is_some() || header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt")) {
            return Err("header");
        }
        let claims = dangerous::insecure_decode_claims(text).map_err(|_| "claims")?;
        Ok(Self { text, kind, claims })
    }

    /// Who is said to have made it: a device id or a service's name. Not believed yet.
    pub fn subject(&self) -> &str {
        &self.claims.sub
    }

    /// Judges it with the subject's raw public key. The error is a rule's name.
    pub fn verify(
        &self,
        public_key: &[u8],
        audience: &str,
        now: SystemTime,
    ) -> Result<VerifiedAssertion, &'static str> {
        // The library takes the first 32 bytes of any Ed25519 key and panics on fewer.
        let (key, algorithm) = match KeyKind::of(public_key).ok_or("key")? {
            kind if kind != self.kind => return Err("algorithm"),
            KeyKind::Ed25519 => (DecodingKey::from_ed_der(public_key), Algorithm::EdDSA),
            KeyKind::P256 => (DecodingKey::from_ec_der(public_key), Algorithm::ES256),
        };
        let (message, signature) = self.text.rsplit_once('.').ok_or("encoding")?;
        if !crypto::verify(signature, message.as_bytes(), &key, algorithm).unwrap_or(false) {
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
    use rcgen::{KeyPair, SigningKey as _};
    use valise_clock::Clock;

    use super::*;
    use crate::claims::ASSERTION_AUDIENCE;
    use crate::signer::tests::Key;

    const JTI: &str = "0123456789abcdef";

    fn by(
        kind: KeyKind,
        audience: &str,
        now: SystemTime,
        jti: &str,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> String {
        assertion("someone", audience, now, jti, kind, sign)
    }

    fn made(key: &Key, now: SystemTime) -> String {
        by(KeyKind::Ed25519, ASSERTION_AUDIENCE, now, JTI, |message| {
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
    fn an_assertion_of_a_p256_key_is_es256_and_believed_with_that_key_only() {
        let new = || KeyPair::generate_for(KeyKind::P256.algorithm()).unwrap();
        let (now, key, other, ed25519) = (Clock::system().now(), new(), new(), Key::new(1));
        let sign = |message: &[u8]| key.sign(message).unwrap();
        let text = by(KeyKind::P256, ASSERTION_AUDIENCE, now, JTI, sign);
        let verdict = |text: &str, public: &[u8]| {
            Assertion::read(text)
                .unwrap()
                .verify(public, ASSERTION_AUDIENCE, now)
                .map(drop)
        };
        assert_eq!(verdict(&text, key.public_key_raw()), Ok(()));
        assert_eq!(verdict(&text, other.public_key_raw()), Err("signature"));
        // A key is used with its own algorithm and no other.
        assert_eq!(verdict(&text, &ed25519.public), Err("algorithm"));
        assert_eq!(
            verdict(&made(&ed25519, now), key.public_key_raw()),
            Err("algorithm")
        );
        let no_point = [4; 65];
        assert_eq!(verdict(&text, &no_point), Err("signature"));
        // In DER, as X.509 has it, it is no signature of a JWS.
        let in_der = by(KeyKind::Ed25519, ASSERTION_AUDIENCE, now, JTI, sign);
        let in_der = in_der.split_once('.').map(|(_, rest)| rest).unwrap();
        let header = text.split_once('.').map(|(header, _)| header).unwrap();
        assert_eq!(
            verdict(&format!("{header}.{in_der}"), key.public_key_raw()),
            Err("signature")
        );
    }

    #[test]
    fn an_assertion_looks_like_this() {
        let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let text = assertion("me", ASSERTION_AUDIENCE, now, JTI, KeyKind::Ed25519, |_| {
            b"signature".to_vec()
        });
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
        let text = by(KeyKind::Ed25519, "elsewhere", now, JTI, |message| {
            key.sign(message)
        });
        assert_eq!(verify(&text, now), Err("audience"));
        for jti in ["short", &"x".repeat(65), "with a space inside"] {
            let text = by(KeyKind::Ed25519, ASSERTION_AUDIENCE, now, jti, |message| {
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
