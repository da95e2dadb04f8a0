//! Signs access tokens. Only the authentication service holds one.

use std::fmt;
use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use crate::Caller;
use crate::claims::{AUDIENCE, Claims, Kind, TOKEN_TYPE, unix_seconds};

/// The signing key cannot be used, or signing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the access token signing key cannot be used")]
pub struct SignerError;

/// An Ed25519 key (RFC 8032) that signs access tokens. Its id (`kid`) is its RFC 7638 thumbprint.
pub struct Signer {
    issuer: String,
    key: EncodingKey,
    kid: String,
    jwk: Jwk,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// With the key whose 32 secret bytes these are; `issuer` becomes the `iss` of every token.
    pub fn from_seed(seed: &[u8; 32], issuer: impl Into<String>) -> Result<Self, SignerError> {
        // PKCS#8 version 1 (RFC 8410 §7): a fixed frame around the secret bytes.
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        der.extend_from_slice(seed);
        let key = EncodingKey::from_ed_der(&der);
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).map_err(|_| SignerError)?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| SignerError)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self {
            issuer: issuer.into(),
            key,
            kid,
            jwk,
        })
    }

    /// The id of its key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its public key as a JWK Set (RFC 7517 §5), JSON.
    pub fn jwks_json(&self) -> Result<String, SignerError> {
        serde_json::to_string(&JwkSet {
            keys: vec![self.jwk.clone()],
        })
        .map_err(|_| SignerError)
    }

    /// A token for `caller`, valid from `now` for `lifetime`. `jti` names the token, for the receiver's records.
    pub fn sign(
        &self,
        caller: &Caller,
        now: SystemTime,
        lifetime: Duration,
        jti: &str,
    ) -> Result<String, SignerError> {
        let (sub, kind, user) = match caller {
            Caller::Device {
                user,
                device,
                administrator,
            } => {
                let kind = if *administrator {
                    Kind::Administrator
                } else {
                    Kind::Device
                };
                (device.to_string(), kind, Some(user.clone()))
            }
            Caller::Service { name } => (name.clone(), Kind::Service, None),
        };
        let iat = unix_seconds(now);
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub,
            kind,
            user,
            iat,
            nbf: iat,
            exp: iat.saturating_add(lifetime.as_secs()),
            jti: jti.to_owned(),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TOKEN_TYPE.to_owned());
        header.kid = Some(self.kid.clone());
        encode(&header, &claims, &self.key).map_err(|_| SignerError)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::crypto;

    use super::*;

    /// A key of a device, for tests.
    pub(crate) struct Key {
        key: EncodingKey,
        pub(crate) public: Vec<u8>,
    }

    impl Key {
        pub(crate) fn new(seed: u8) -> Self {
            let signer = Signer::from_seed(&[seed; 32], "").unwrap();
            let jsonwebtoken::jwk::AlgorithmParameters::OctetKeyPair(pair) = &signer.jwk.algorithm else {
                panic!("an Ed25519 key")
            };
            Self {
                public: URL_SAFE_NO_PAD.decode(&pair.x).unwrap(),
                key: signer.key.clone(),
            }
        }

        pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
            URL_SAFE_NO_PAD
                .decode(crypto::sign(message, &self.key, Algorithm::EdDSA).unwrap())
                .unwrap()
        }
    }

    #[test]
    fn the_kid_is_the_thumbprint_of_rfc_8037() {
        // RFC 8037 appendix A.1 and A.3.
        let seed = URL_SAFE_NO_PAD
            .decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
            .unwrap();
        let signer = Signer::from_seed(&seed.try_into().unwrap(), "i").unwrap();
        assert_eq!(signer.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let jwks: serde_json::Value = serde_json::from_str(&signer.jwks_json().unwrap()).unwrap();
        let key = serde_json::json!({"use": "sig", "alg": "EdDSA", "kid": signer.kid(), "kty": "OKP",
            "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        assert_eq!(jwks, serde_json::json!({ "keys": [key] }));
        assert!(!jwks.to_string().contains("\"d\""), "no private part");
    }

    #[test]
    fn a_token_looks_like_this() {
        let signer = Signer::from_seed(&[7; 32], "https://issuer.example").unwrap();
        let part = |text: &str| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
        };
        let parts = |caller: &Caller| {
            let now = std::time::UNIX_EPOCH + Duration::from_millis(1_900_000_000_900);
            let token = signer
                .sign(caller, now, Duration::from_secs(600), "a-token")
                .unwrap();
            let [header, claims, _] = token.split('.').collect::<Vec<_>>()[..] else {
                panic!("three parts")
            };
            (part(header), part(claims))
        };
        let (user, device) = (crate::verifier::tests::user(), crate::verifier::tests::device());
        let (header, claims) = parts(&Caller::Device {
            user,
            device,
            administrator: true,
        });
        assert_eq!(
            header,
            serde_json::json!({"alg": "EdDSA", "typ": "at+jwt", "kid": signer.kid()})
        );
        let expected = serde_json::json!({"iss": "https://issuer.example", "aud": "valise",
            "sub": "00000000-0000-0000-0000-000000000007", "kind": "administrator", "user": "alice@interieur.example",
            "iat": 1_900_000_000, "nbf": 1_900_000_000, "exp": 1_900_000_600, "jti": "a-token"});
        assert_eq!(claims, expected);
        let (_, claims) = parts(&Caller::Service {
            name: "delivery-service".into(),
        });
        assert_eq!(
            (&claims["sub"], &claims["kind"]),
            (&"delivery-service".into(), &"service".into())
        );
        assert!(claims.get("user").is_none());
    }

    #[test]
    fn debug_shows_no_key() {
        let signer = Signer::from_seed(&[7; 32], "i").unwrap();
        assert_eq!(
            format!("{signer:?}"),
            format!("Signer {{ kid: {:?}, .. }}", signer.kid())
        );
    }
}
