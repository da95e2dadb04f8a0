//! Assertions become tokens, and tokens open doors.

use std::time::Duration;

use valise_access_token::{ASSERTION_AUDIENCE, Caller, assertion};
use valise_authentication_service::Kind;
use valise_device_certificate::KeyKind;
use valise_proto::authentication::v1::{
    GetJwksRequest, IssueTokenRequest, ListDevicesRequest, ListUsersRequest, RenewCertificateRequest,
};
use valise_proto::{Reason, Refusal};

use crate::support::{Key, Scene, jti, reason, refusal, rule, user, with};

const ME: ListDevicesRequest = ListDevicesRequest {
    user_id: String::new(),
};

#[tokio::test]
async fn a_token_says_who_its_device_is_for_ten_minutes() {
    let scene = Scene::new().await;
    let device = scene.device("alice", Kind::Device).await;
    let administrator = scene.device("root", Kind::Administrator).await;
    let verified = scene.service.verifier().verify(&device.token).unwrap();
    let id = device.id.parse().unwrap();
    assert_eq!(
        verified.caller,
        Caller::Device {
            user: user("alice"),
            device: id,
            administrator: false
        }
    );
    let caller = scene
        .service
        .verifier()
        .verify(&administrator.token)
        .unwrap()
        .caller;
    assert!(caller.administrator().is_ok());

    let request = IssueTokenRequest {
        assertion: scene.assertion(&device.id, &device.key),
    };
    let issued = scene.client().issue_token(request).await.unwrap().into_inner();
    assert_eq!(issued.expires_in.unwrap().seconds, 600);
    scene
        .client()
        .list_devices(with(&issued.access_token, ME))
        .await
        .unwrap();
    scene.hand.advance(Duration::from_secs(601));
    assert_eq!(
        reason(scene.client().list_devices(with(&issued.access_token, ME)).await),
        Reason::TokenExpired
    );
    let token = scene.token(&device.id, &device.key).await.unwrap();
    scene.client().list_devices(with(&token, ME)).await.unwrap();
}

#[tokio::test]
async fn without_a_token_only_four_doors_are_open() {
    let scene = Scene::new().await;
    assert_eq!(
        reason(scene.client().list_devices(ME).await),
        Reason::TokenInvalid
    );
    assert_eq!(
        reason(
            scene
                .administration()
                .list_users(with("nonsense", ListUsersRequest::default()))
                .await
        ),
        Reason::TokenInvalid
    );
    let jwks = scene
        .client()
        .get_jwks(GetJwksRequest {})
        .await
        .unwrap()
        .into_inner()
        .jwks_json;
    let jwks: serde_json::Value = serde_json::from_str(&jwks).unwrap();
    assert_eq!(jwks["keys"][0]["crv"], "Ed25519");
    assert!(jwks["keys"][0].get("d").is_none(), "no private key");
}

#[tokio::test]
async fn an_assertion_is_good_for_one_token() {
    let scene = Scene::new().await;
    let device = scene.device("alice", Kind::Device).await;
    let assertion = scene.assertion(&device.id, &device.key);
    scene.exchange(&assertion).await.unwrap();
    assert_eq!(
        rule(scene.exchange(&assertion).await),
        (Reason::InvalidAssertion, "replay".into())
    );
    // When it can be forgotten it has expired.
    scene.hand.advance(Duration::from_secs(200));
    scene.token(&device.id, &device.key).await.unwrap();
    assert_eq!(
        rule(scene.exchange(&assertion).await),
        (Reason::InvalidAssertion, "expired".into())
    );
}

#[tokio::test]
async fn of_many_exchanges_of_one_assertion_one_succeeds() {
    let scene = Scene::new().await;
    let device = scene.device("alice", Kind::Device).await;
    let assertion = scene.assertion(&device.id, &device.key);
    let outcomes = futures::future::join_all((0..20).map(|_| scene.exchange(&assertion))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

#[tokio::test]
async fn assertions_of_others_for_others_or_of_another_time_are_refused() {
    let scene = Scene::new().await;
    let (alice, bob) = (
        scene.device("alice", Kind::Device).await,
        scene.device("bob", Kind::Device).await,
    );
    let invalid = |expected: &str| (Reason::InvalidAssertion, expected.to_owned());
    assert_eq!(rule(scene.token(&alice.id, &bob.key).await), invalid("signature"));
    assert_eq!(rule(scene.exchange("").await), invalid("encoding"));
    assert_eq!(rule(scene.exchange("a.b.c").await), invalid("encoding"));
    assert_eq!(
        refusal(scene.exchange(&"x".repeat(4097)).await),
        Refusal::too_large("assertion", 4096)
    );
    // An access token is not an assertion.
    assert_eq!(rule(scene.exchange(&alice.token).await), invalid("header"));

    let sign = |audience, at, jti: &str| {
        assertion(&alice.id, audience, at, jti, KeyKind::Ed25519, |message| {
            alice.key.sign(message)
        })
    };
    let now = scene.clock.now();
    assert_eq!(
        rule(scene.exchange(&sign("valise", now, &jti())).await),
        invalid("audience")
    );
    assert_eq!(
        rule(scene.exchange(&sign(ASSERTION_AUDIENCE, now, "short")).await),
        invalid("jti")
    );
    let (past, future) = (now - Duration::from_secs(120), now + Duration::from_secs(60));
    assert_eq!(
        rule(scene.exchange(&sign(ASSERTION_AUDIENCE, past, &jti())).await),
        invalid("expired")
    );
    assert_eq!(
        rule(scene.exchange(&sign(ASSERTION_AUDIENCE, future, &jti())).await),
        invalid("issued_in_the_future")
    );

    let stranger = Key::generate();
    for subject in ["00000000-0000-4000-8000-000000000000", "nobody", "", "bootstrap"] {
        assert_eq!(
            reason(scene.token(subject, &stranger).await),
            Reason::UnknownDevice,
            "{subject}"
        );
    }
    assert_eq!(
        rule(scene.token("delivery-service", &stranger).await),
        invalid("certificate")
    );
}

#[tokio::test]
async fn after_a_renewal_the_new_key_counts() {
    let scene = Scene::new().await;
    let device = scene.device("alice", Kind::Device).await;
    let renew = async |request: Vec<u8>| {
        let request = RenewCertificateRequest {
            certification_request: request,
        };
        scene
            .client()
            .renew_certificate(with(&device.token, request))
            .await
    };
    scene.hand.advance(Duration::from_secs(300));
    let same = renew(device.key.request())
        .await
        .unwrap()
        .into_inner()
        .chain
        .unwrap()
        .certificates;
    scene.token(&device.id, &device.key).await.unwrap();

    let new = Key::generate();
    let chain = renew(new.request())
        .await
        .unwrap()
        .into_inner()
        .chain
        .unwrap()
        .certificates;
    let bundle = scene.service.verifier().trust_bundle();
    let [before, after] =
        [same, chain].map(|chain| bundle.verify(&chain, scene.clock.unix_seconds()).unwrap());
    assert_eq!(after.subject, before.subject, "same user, same device");
    assert_eq!(after.public_key, new.0.public_key_raw());
    scene.token(&device.id, &new).await.unwrap();
    assert_eq!(
        rule(scene.token(&device.id, &device.key).await),
        (Reason::InvalidAssertion, "signature".into())
    );

    let bob = scene.device("bob", Kind::Device).await;
    assert_eq!(
        rule(renew(bob.key.request()).await),
        (Reason::InvalidCertificateRequest, "key_in_use".into())
    );
    assert_eq!(
        rule(renew(b"garbage".to_vec()).await),
        (Reason::InvalidCertificateRequest, "encoding".into())
    );
    // Its groups are of suites for a key of the kind that it has.
    let other_kind = Key::generate_of(KeyKind::P256);
    assert_eq!(
        rule(renew(other_kind.request()).await),
        (Reason::InvalidCertificateRequest, "key_kind".into())
    );
    scene.token(&device.id, &new).await.unwrap();
}

#[tokio::test]
async fn a_device_with_a_p256_key_enrols_gets_tokens_and_renews() {
    let scene = Scene::new().await;
    let code = scene.code("alice", Kind::Device).await;
    let (key, new) = (Key::generate_of(KeyKind::P256), Key::generate_of(KeyKind::P256));
    let enrolled = scene.try_enrol(&code, &key).await.unwrap();
    let bundle = scene.service.verifier().trust_bundle();
    let certificates = enrolled.chain.unwrap().certificates;
    let certificate = bundle.verify(&certificates, scene.clock.unix_seconds()).unwrap();
    assert_eq!(certificate.key_kind, KeyKind::P256);
    assert_eq!(certificate.public_key, key.0.public_key_raw());

    let token = scene.token(&enrolled.device_id, &key).await.unwrap();
    assert_eq!(
        rule(scene.token(&enrolled.device_id, &new).await),
        (Reason::InvalidAssertion, "signature".into())
    );
    let ed25519 = Key::generate();
    assert_eq!(
        rule(scene.token(&enrolled.device_id, &ed25519).await),
        (Reason::InvalidAssertion, "algorithm".into())
    );
    let renew = async |key: &Key| {
        let request = RenewCertificateRequest {
            certification_request: key.request(),
        };
        scene.client().renew_certificate(with(&token, request)).await
    };
    assert_eq!(
        rule(renew(&ed25519).await),
        (Reason::InvalidCertificateRequest, "key_kind".into())
    );
    renew(&new).await.unwrap();
    scene.token(&enrolled.device_id, &new).await.unwrap();
}
