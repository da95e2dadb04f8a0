//! Tokens that are good, and all that are not.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use valise_clock::ManualClock;

use super::*;
use crate::RevocationSubject;
use crate::signer::Signer;
use crate::signer::tests::Key;

const ISSUER: &str = "https://authentication.interieur.example";
const LIFETIME: Duration = Duration::from_secs(600);

/// A signer, a verifier that trusts it, and a clock to move.
pub(crate) struct Scene {
    pub(crate) signer: Signer,
    pub(crate) verifier: Verifier,
    pub(crate) feed: VerifierFeed,
    pub(crate) clock: Clock,
    hand: ManualClock,
}

pub(crate) fn user() -> UserId {
    "alice@interieur.example".parse().unwrap()
}

pub(crate) fn device() -> DeviceId {
    DeviceId::from_uuid(uuid::Uuid::from_u128(7))
}

pub(crate) fn alice() -> Caller {
    Caller::Device {
        user: user(),
        device: device(),
        administrator: false,
    }
}

pub(crate) fn bundle() -> TrustBundle {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    TrustBundle::from_der([CertificateParams::default()
        .self_signed(&key)
        .unwrap()
        .der()
        .to_vec()])
    .unwrap()
}

impl Scene {
    pub(crate) fn new() -> Self {
        let (clock, hand) = Clock::movable();
        let signer = Signer::from_seed(&[1; 32], ISSUER).unwrap();
        let (verifier, feed) = Verifier::new(ISSUER, clock.clone(), bundle());
        feed.set_keys(&signer.jwks_json().unwrap()).unwrap();
        feed.heard(0).unwrap();
        Self {
            signer,
            verifier,
            feed,
            clock,
            hand,
        }
    }

    pub(crate) fn token(&self, caller: &Caller) -> String {
        self.signer
            .sign(caller, self.clock.now(), LIFETIME, "a-token")
            .unwrap()
    }

    fn verdict(&self, token: &str) -> Result<Caller, Reason> {
        self.verifier
            .verify(token)
            .map(|verified| verified.caller)
            .map_err(|refusal| refusal.reason)
    }

    /// A token with claims of the test's choice, signed with the right key.
    fn forged(header: &serde_json::Value, claims: &serde_json::Value) -> String {
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        format!(
            "{message}.{}",
            URL_SAFE_NO_PAD.encode(Key::new(1).sign(message.as_bytes()))
        )
    }

    fn parts(&self) -> (serde_json::Value, serde_json::Value) {
        let now = unix_seconds(self.clock.now());
        let header = serde_json::json!({"alg": "EdDSA", "typ": "at+jwt", "kid": self.signer.kid()});
        let claims = serde_json::json!({"iss": ISSUER, "aud": AUDIENCE, "sub": device().to_string(), "kind": "device",
            "user": user().as_str(), "iat": now, "nbf": now, "exp": now + 600, "jti": "x"});
        (header, claims)
    }
}

#[tokio::test]
async fn every_kind_of_caller_survives_the_token() {
    let scene = Scene::new();
    let administrator = Caller::Device {
        user: user(),
        device: device(),
        administrator: true,
    };
    for caller in [
        alice(),
        administrator,
        Caller::Service {
            name: "delivery-service".into(),
        },
    ] {
        // Twice: verified, then remembered.
        let token = scene.token(&caller);
        assert_eq!(scene.verdict(&token), Ok(caller.clone()));
        assert_eq!(scene.verdict(&token), Ok(caller));
    }
}

#[tokio::test]
async fn a_token_expires_even_when_it_is_remembered() {
    let scene = Scene::new();
    let token = scene.token(&alice());
    assert!(scene.verdict(&token).is_ok());
    scene.hand.advance(Duration::from_secs(598));
    assert!(scene.verdict(&token).is_ok());
    scene.hand.advance(Duration::from_secs(3));
    assert_eq!(scene.verdict(&token), Err(Reason::TokenExpired));
}

#[tokio::test]
async fn a_token_of_the_future_is_refused() {
    let scene = Scene::new();
    let sign = |at: SystemTime| scene.signer.sign(&alice(), at, LIFETIME, "x").unwrap();
    assert!(
        scene
            .verdict(&sign(scene.clock.now() + Duration::from_secs(25)))
            .is_ok()
    );
    assert_eq!(
        scene.verdict(&sign(scene.clock.now() + Duration::from_secs(40))),
        Err(Reason::TokenInvalid)
    );
}

#[tokio::test]
async fn foreign_keys_issuers_and_broken_texts_are_refused() {
    let scene = Scene::new();
    let other_key = Signer::from_seed(&[2; 32], ISSUER).unwrap();
    let other_issuer = Signer::from_seed(&[1; 32], "https://elsewhere.example").unwrap();
    for signer in [other_key, other_issuer] {
        let token = signer.sign(&alice(), scene.clock.now(), LIFETIME, "x").unwrap();
        assert_eq!(scene.verdict(&token), Err(Reason::TokenInvalid));
    }
    let token = scene.token(&alice());
    let mut bytes = token.clone().into_bytes();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let changed = String::from_utf8_lossy(&bytes).into_owned();
    let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
    for text in [
        "",
        ".",
        "..",
        "a.b.c",
        &changed,
        &unsigned,
        &token[1..],
        &"x".repeat(5000),
    ] {
        assert_eq!(scene.verdict(text), Err(Reason::TokenInvalid), "{text}");
    }
}

#[tokio::test]
async fn headers_and_claims_must_be_exactly_those_of_an_access_token() {
    let scene = Scene::new();
    let (header, claims) = scene.parts();
    assert!(scene.verdict(&Scene::forged(&header, &claims)).is_ok());
    for (name, value) in [
        ("alg", serde_json::json!("HS256")),
        ("alg", serde_json::json!("ES256")),
        ("typ", serde_json::json!("JWT")),
        ("typ", serde_json::Value::Null),
        ("kid", serde_json::Value::Null),
        ("kid", serde_json::json!("another")),
        ("crit", serde_json::json!(["exp"])),
    ] {
        let mut header = header.clone();
        header[name] = value;
        assert_eq!(
            scene.verdict(&Scene::forged(&header, &claims)),
            Err(Reason::TokenInvalid),
            "{name}"
        );
    }
    for (name, value) in [
        ("aud", serde_json::json!("valise-authentication")),
        ("aud", serde_json::json!(["valise", "x"])),
        ("iss", serde_json::json!("x")),
        ("sub", serde_json::json!("not-a-device")),
        ("kind", serde_json::json!("root")),
        ("kind", serde_json::json!("service")),
        ("user", serde_json::json!("nobody")),
        ("user", serde_json::Value::Null),
        ("exp", serde_json::json!(u64::MAX)),
        ("exp", serde_json::json!(-1)),
        ("nbf", serde_json::Value::Null),
    ] {
        let mut claims = claims.clone();
        claims[name] = value;
        assert_eq!(
            scene.verdict(&Scene::forged(&header, &claims)),
            Err(Reason::TokenInvalid),
            "{name}"
        );
    }
}

#[tokio::test]
async fn revoked_devices_and_suspended_users_are_refused_at_once() {
    let scene = Scene::new();
    let (token, service) = (
        scene.token(&alice()),
        scene.token(&Caller::Service { name: "s".into() }),
    );
    assert!(scene.verdict(&token).is_ok());
    let mut news = scene.verifier.revocations();
    let line = |number, subject| Revocation {
        number,
        subject,
        at: scene.clock.now(),
    };
    let suspended = line(1, RevocationSubject::Suspended { user: user() });
    scene.feed.apply(suspended.clone()).unwrap();
    assert_eq!(scene.verdict(&token), Err(Reason::UserSuspended));
    assert_eq!(scene.verifier.is_revoked(&user(), device()), Ok(true));
    scene
        .feed
        .apply(line(2, RevocationSubject::Resumed { user: user() }))
        .unwrap();
    assert!(scene.verdict(&token).is_ok());
    assert_eq!(scene.verifier.is_revoked(&user(), device()), Ok(false));
    scene
        .feed
        .apply(line(
            3,
            RevocationSubject::Device {
                user: user(),
                device: device(),
            },
        ))
        .unwrap();
    assert_eq!(scene.verdict(&token), Err(Reason::DeviceRevoked));
    assert_eq!(
        scene.verifier.refusal_for(&user(), device()),
        Some(Reason::DeviceRevoked)
    );
    assert_eq!(scene.verifier.is_revoked(&user(), device()), Ok(true));
    assert!(scene.verdict(&service).is_ok(), "services are not users");
    assert_eq!(news.recv().await.unwrap(), suspended);
    assert_eq!(scene.verifier.known_revocations().len(), 3);
    assert_eq!(scene.verifier.revocations_after(2).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_verifier_that_heard_nothing_for_two_seconds_refuses_everybody() {
    let scene = Scene::new();
    let (token, service) = (
        scene.token(&alice()),
        scene.token(&Caller::Service { name: "s".into() }),
    );
    assert!(scene.verifier.is_current());
    tokio::time::advance(Duration::from_millis(2001)).await;
    assert_eq!(scene.verdict(&token), Err(Reason::StoreUnavailable));
    assert_eq!(scene.verdict(&service), Err(Reason::StoreUnavailable));
    assert_eq!(
        scene.verifier.is_revoked(&user(), device()),
        Err(Reason::StoreUnavailable),
        "who is not known to be revoked may be"
    );
    assert!(!scene.verifier.is_current());
    let waiting = tokio::spawn({
        let verifier = scene.verifier.clone();
        async move { verifier.current().await }
    });
    tokio::task::yield_now().await;
    scene.feed.heard(0).unwrap();
    waiting.await.unwrap();
    assert!(scene.verdict(&token).is_ok());
}

#[tokio::test]
async fn a_withdrawn_key_takes_its_remembered_tokens_along() {
    let scene = Scene::new();
    let token = scene.token(&alice());
    assert!(scene.verdict(&token).is_ok());
    let other = Signer::from_seed(&[2; 32], ISSUER).unwrap();
    scene.feed.set_keys(&other.jwks_json().unwrap()).unwrap();
    assert_eq!(scene.verdict(&token), Err(Reason::TokenInvalid));
    // Somebody is told to look for new keys.
    scene.feed.unknown_key().await;
}

#[tokio::test]
async fn key_sets_that_could_do_harm_are_refused() {
    let scene = Scene::new();
    let short = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA","kid":"k"}]}"#;
    for jwks in ["", "[]", r#"{"keys":7}"#, short] {
        assert_eq!(scene.feed.set_keys(jwks), Err(FeedError::Malformed), "{jwks}");
    }
    assert!(scene.verdict(&scene.token(&alice())).is_ok(), "the old ones stay");
    // Keys of other kinds are no use here, and no harm.
    let secret = format!(
        r#"{{"keys":[{{"kty":"oct","k":"AAAA","kid":"{}"}}]}}"#,
        scene.signer.kid()
    );
    scene.feed.set_keys(&secret).unwrap();
    assert_eq!(
        scene.verdict(&scene.token(&alice())),
        Err(Reason::StoreUnavailable),
        "no keys at all"
    );
}

#[tokio::test]
async fn debug_shows_no_token() {
    let scene = Scene::new();
    let token = scene.token(&alice());
    let verified = scene.verifier.verify(&token).unwrap();
    let shown = format!("{:?} {:?} {verified:?}", scene.verifier, scene.feed);
    assert!(!shown.contains(token.rsplit_once('.').unwrap().1) && !shown.contains("alice"));
}
