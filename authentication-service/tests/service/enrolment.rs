//! A device enrols.

use std::time::Duration;

use futures::future::join_all;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};
use tonic::Response;
use valise_authentication_service::Kind;
use valise_device_certificate::{Subject, TrustBundle, certification_request};
use valise_proto::authentication::v1::enrol_request::Proof;
use valise_proto::authentication::v1::{EnrolRequest, GetTrustBundleRequest, ListDevicesRequest};
use valise_proto::{Reason, Refusal};
use valise_service_runtime::RateLimit;

use crate::support::{HOUR, Key, Scene, reason, refusal, rule, user, with};

#[tokio::test]
async fn a_device_gets_a_certificate_for_its_own_key() {
    let scene = Scene::new().await;
    let (code, key) = (scene.code("alice", Kind::Device).await, Key::generate());
    let enrolled = scene.try_enrol(&code.to_lowercase(), &key).await.unwrap();
    assert_eq!(enrolled.user_id, "alice@interieur.example");

    let anchors = enrolled.trust_bundle.unwrap().certificates;
    let bundle = TrustBundle::from_der(anchors.clone()).unwrap();
    let certificate = bundle
        .verify(&enrolled.chain.unwrap().certificates, scene.clock.unix_seconds())
        .unwrap();
    let device = enrolled.device_id.parse().unwrap();
    assert_eq!(
        certificate.subject,
        Subject::Device {
            user: user("alice"),
            device
        }
    );
    assert_eq!(certificate.public_key, key.0.public_key_raw());
    let days = (certificate.not_after - scene.clock.unix_seconds()).div_ceil(24 * 3600);
    assert_eq!(days, 90);

    let published = scene
        .client()
        .get_trust_bundle(GetTrustBundleRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(published.trust_bundle.unwrap().certificates, anchors);
    assert_eq!(scene.service.verifier().trust_bundle().certificates(), anchors);
}

#[tokio::test]
async fn a_code_enrols_one_device() {
    let scene = Scene::new().await;
    let code = scene.code("alice", Kind::Device).await;
    scene.try_enrol(&code, &Key::generate()).await.unwrap();
    assert_eq!(
        reason(scene.try_enrol(&code, &Key::generate()).await),
        Reason::InvalidEnrolmentProof
    );
}

#[tokio::test]
async fn of_fifty_at_once_one_enrols() {
    let scene = Scene::with(|config| config.failed_enrolments = RateLimit::new(100, 60)).await;
    let code = scene.code("alice", Kind::Device).await;
    let keys: Vec<_> = (0..50).map(|_| Key::generate()).collect();
    let outcomes = join_all(keys.iter().map(|key| scene.try_enrol(&code, key))).await;
    let (enrolled, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(enrolled.len(), 1);
    assert!(
        refused
            .into_iter()
            .all(|outcome| reason(outcome) == Reason::InvalidEnrolmentProof)
    );
    let winner = enrolled.into_iter().next().unwrap().unwrap().device_id;
    let mut tokens = Vec::new();
    for key in &keys {
        tokens.extend(scene.token(&winner, key).await.ok());
    }
    assert_eq!(tokens.len(), 1, "the device has one key");
    let request = with(
        &tokens[0],
        ListDevicesRequest {
            user_id: String::new(),
        },
    );
    assert_eq!(
        scene
            .client()
            .list_devices(request)
            .await
            .unwrap()
            .into_inner()
            .devices
            .len(),
        1
    );
}

#[tokio::test]
async fn a_code_expires() {
    let scene = Scene::new().await;
    let code = scene.code("alice", Kind::Device).await;
    let late = scene.code("alice", Kind::Device).await;
    scene.hand.advance(HOUR.saturating_sub(Duration::from_secs(10)));
    scene.try_enrol(&code, &Key::generate()).await.unwrap();
    scene.hand.advance(Duration::from_secs(11));
    assert_eq!(
        reason(scene.try_enrol(&late, &Key::generate()).await),
        Reason::InvalidEnrolmentProof
    );
}

#[tokio::test]
async fn a_refused_request_does_not_use_the_code_up() {
    let scene = Scene::new().await;
    let code = scene.code("alice", Kind::Device).await;
    let (key, other) = (Key::generate(), Key::generate());
    let enrol = async |certification_request: Vec<u8>| {
        let proof = Some(Proof::EnrolmentCode(code.clone()));
        let request = EnrolRequest {
            proof,
            certification_request,
            device_name: String::new(),
        };
        scene.client().enrol(request).await
    };
    let good = key.request();
    let elliptic = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let elliptic = CertificateParams::default()
        .serialize_request(&elliptic)
        .unwrap()
        .der()
        .to_vec();
    let foreign = certification_request(key.0.public_key_raw(), |message| Some(other.sign(message))).unwrap();
    let mut changed = good.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for (garbage, expected) in [
        (Vec::new(), "encoding"),
        (b"garbage".to_vec(), "encoding"),
        (good[..good.len() - 5].to_vec(), "encoding"),
        ([good.clone(), vec![0]].concat(), "encoding"),
        (vec![0x30; 4096], "encoding"),
        (elliptic, "algorithm"),
        (foreign, "signature"),
    ] {
        assert_eq!(
            rule(enrol(garbage).await),
            (Reason::InvalidCertificateRequest, expected.into())
        );
    }
    assert_eq!(reason(enrol(changed).await), Reason::InvalidCertificateRequest);
    assert_eq!(
        refusal(enrol(vec![0; 4097]).await),
        Refusal::too_large("certification_request", 4096)
    );

    let taken = scene.device("bob", Kind::Device).await;
    assert_eq!(
        rule(enrol(taken.key.request()).await),
        (Reason::InvalidCertificateRequest, "key_in_use".into())
    );
    enrol(good).await.unwrap();
}

#[tokio::test]
async fn fields_are_judged_before_anything_else() {
    let scene = Scene::new().await;
    let enrol = async |proof, device_name: String| {
        let request = EnrolRequest {
            proof,
            certification_request: Key::generate().request(),
            device_name,
        };
        refusal(scene.client().enrol(request).await)
    };
    let code = |code: &str| Some(Proof::EnrolmentCode(code.into()));
    assert_eq!(enrol(None, String::new()).await, Refusal::malformed("proof"));
    assert_eq!(
        enrol(code(&"x".repeat(65)), String::new()).await,
        Refusal::too_large("enrolment_code", 64)
    );
    assert_eq!(
        enrol(code("x"), "y".repeat(65)).await,
        Refusal::too_large("device_name", 64)
    );
    assert_eq!(
        enrol(code("x"), "a\tb".into()).await,
        Refusal::malformed("device_name")
    );
    for text in ["", "x", "0000-0000-0000-0000-0000-0000", "' OR 1=1 --"] {
        assert_eq!(
            enrol(code(text), String::new()).await,
            Reason::InvalidEnrolmentProof.into()
        );
    }
    let token = |length| Some(Proof::OidcIdToken("x".repeat(length)));
    assert_eq!(
        enrol(token(100), String::new()).await,
        Reason::InvalidEnrolmentProof.into()
    );
    assert_eq!(
        enrol(token(16 * 1024 + 1), String::new()).await,
        Refusal::too_large("oidc_id_token", 16 * 1024)
    );
}

#[tokio::test]
async fn whoever_tries_many_codes_is_told_to_wait_and_good_codes_are_not() {
    let scene = Scene::with(|config| config.failed_enrolments = RateLimit::new(3, 60)).await;
    let good = scene.code("alice", Kind::Device).await;
    let bad = "0000-0000-0000-0000-0000-0000";
    for _ in 0..3 {
        assert_eq!(
            reason(scene.try_enrol(bad, &Key::generate()).await),
            Reason::InvalidEnrolmentProof
        );
    }
    let refused = refusal(scene.try_enrol(bad, &Key::generate()).await);
    assert_eq!(refused.reason, Reason::RateLimited);
    let wait = refused.retry_after.unwrap();
    assert!(
        wait <= Duration::from_secs(20) && wait > Duration::ZERO,
        "{wait:?}"
    );
    scene.try_enrol(&good, &Key::generate()).await.unwrap();
    scene.hand.advance(wait);
    assert_eq!(
        reason(scene.try_enrol(bad, &Key::generate()).await),
        Reason::InvalidEnrolmentProof
    );
}

#[tokio::test]
async fn users_of_other_domains_and_suspended_users_do_not_enrol() {
    let scene = Scene::new().await;
    let stranger = "eve@elsewhere.example".parse().unwrap();
    let refused = scene
        .service
        .create_enrolment_code(&stranger, Kind::Device, HOUR)
        .await
        .unwrap_err();
    assert_eq!(refused, Refusal::new(Reason::PolicyDenied).with("rule", "domain"));
    let short = scene
        .service
        .create_enrolment_code(&user("alice"), Kind::Device, Duration::from_secs(59))
        .await;
    assert_eq!(short.unwrap_err(), Refusal::malformed("valid_for"));

    let administrator = scene.device("root", Kind::Administrator).await;
    let code = scene.code("alice", Kind::Device).await;
    let suspend = valise_proto::authentication::v1::SuspendUserRequest {
        user_id: user("alice").into(),
    };
    scene
        .administration()
        .suspend_user(with(&administrator.token, suspend))
        .await
        .map(Response::into_inner)
        .unwrap();
    assert_eq!(
        reason(scene.try_enrol(&code, &Key::generate()).await),
        Reason::UserSuspended
    );
    let refused = scene
        .service
        .create_enrolment_code(&user("alice"), Kind::Device, HOUR)
        .await
        .unwrap_err();
    assert_eq!(refused.reason, Reason::UserSuspended);
    let resume = valise_proto::authentication::v1::ResumeUserRequest {
        user_id: user("alice").into(),
    };
    scene
        .administration()
        .resume_user(with(&administrator.token, resume))
        .await
        .unwrap();
    scene.try_enrol(&code, &Key::generate()).await.unwrap();
}
