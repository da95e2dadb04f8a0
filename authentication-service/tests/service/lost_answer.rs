//! The answer to an enrolment is lost, and the device asks again.

use std::time::Duration;

use futures::future::join_all;
use valise_authentication_service::Kind;
use valise_device_certificate::certification_request;
use valise_proto::authentication::v1::enrol_request::Proof;
use valise_proto::authentication::v1::{
    EnrolRequest, ListAuditEventsRequest, ListDevicesRequest, RenewCertificateRequest, ResumeUserRequest,
    RevokeDeviceRequest, SuspendUserRequest,
};
use valise_proto::{Reason, Refusal};
use valise_service_runtime::RateLimit;

use crate::support::{Device, HOUR, Key, Scene, reason, refusal, rule, user, with};

/// Devices of the user, and enrolments in the audit log.
async fn counted(scene: &Scene, administrator: &Device, name: &str) -> (usize, usize) {
    let of_user = ListDevicesRequest {
        user_id: user(name).into(),
    };
    let devices = scene
        .client()
        .list_devices(with(&administrator.token, of_user))
        .await
        .unwrap();
    let all = ListAuditEventsRequest {
        after_number: 0,
        page_size: 1000,
    };
    let audit = scene
        .administration()
        .list_audit_events(with(&administrator.token, all))
        .await
        .unwrap();
    let subject = user(name).to_string();
    let enrolments = audit
        .into_inner()
        .events
        .iter()
        .filter(|event| event.action == "device.enrolled" && event.subject == subject)
        .count();
    (devices.into_inner().devices.len(), enrolments)
}

#[tokio::test]
async fn the_same_key_gets_the_same_answer() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let (code, key) = (scene.code("alice", Kind::Device).await, Key::generate());
    let first = scene.try_enrol(&code, &key).await.unwrap();
    assert_eq!(scene.try_enrol(&code.to_lowercase(), &key).await.unwrap(), first);
    scene.hand.advance(HOUR.saturating_sub(Duration::from_secs(10)));
    // Nothing of that is kept in memory alone.
    let scene = scene.restarted().await;
    assert_eq!(scene.try_enrol(&code, &key).await.unwrap(), first);
    let token = scene.token(&first.device_id, &key).await.unwrap();
    let own = ListDevicesRequest::default();
    scene.client().list_devices(with(&token, own)).await.unwrap();

    let root = Device {
        token: scene.token(&root.id, &root.key).await.unwrap(),
        ..root
    };
    assert_eq!(counted(&scene, &root, "alice").await, (1, 1));
    // Not for longer than the code.
    scene.hand.advance(Duration::from_secs(11));
    assert_eq!(
        reason(scene.try_enrol(&code, &key).await),
        Reason::InvalidEnrolmentProof
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_of_one_device_get_one_answer() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let (code, key) = (scene.code("alice", Kind::Device).await, Key::generate());
    let answers = join_all((0..50).map(|_| scene.try_enrol(&code, &key))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(counted(&scene, &root, "alice").await, (1, 1));
}

#[tokio::test]
async fn to_others_a_used_code_is_none() {
    let scene = Scene::with(|config| config.failed_enrolments = RateLimit::new(3, 60)).await;
    let (code, key, other) = (
        scene.code("alice", Kind::Device).await,
        Key::generate(),
        Key::generate(),
    );
    let first = scene.try_enrol(&code, &key).await.unwrap();
    // Whoever knows the code and the public key has not the key.
    let forged = certification_request(key.0.public_key_raw(), |message| Some(other.sign(message))).unwrap();
    let forged = EnrolRequest {
        proof: Some(Proof::EnrolmentCode(code.clone())),
        certification_request: forged,
        device_name: String::new(),
    };
    assert_eq!(
        rule(scene.client().enrol(forged).await),
        (Reason::InvalidCertificateRequest, "signature".into())
    );
    let elsewhere = scene.device("bob", Kind::Device).await;
    let unknown = "0000-0000-0000-0000-0000-0000";
    for (code, key) in [(&*code, &other), (&*code, &elsewhere.key), (unknown, &key)] {
        assert_eq!(
            refusal(scene.try_enrol(code, key).await),
            Refusal::new(Reason::InvalidEnrolmentProof)
        );
    }
    // These were counted, all of them; repeats are not, and do not wait.
    for _ in 0..5 {
        assert_eq!(scene.try_enrol(&code, &key).await.unwrap(), first);
    }
    assert_eq!(reason(scene.try_enrol(&code, &other).await), Reason::RateLimited);
    assert_eq!(
        reason(scene.try_enrol(unknown, &other).await),
        Reason::RateLimited
    );
}

#[tokio::test]
async fn a_revoked_device_and_a_suspended_user_get_nothing() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let (code, key) = (scene.code("alice", Kind::Device).await, Key::generate());
    let first = scene.try_enrol(&code, &key).await.unwrap();
    let user_id = user("alice").to_string();

    let suspend = SuspendUserRequest {
        user_id: user_id.clone(),
    };
    let mut administration = scene.administration();
    administration
        .suspend_user(with(&root.token, suspend))
        .await
        .unwrap();
    assert_eq!(reason(scene.try_enrol(&code, &key).await), Reason::UserSuspended);
    assert_eq!(
        reason(scene.try_enrol(&code, &Key::generate()).await),
        Reason::InvalidEnrolmentProof,
        "others do not learn that"
    );
    let resume = ResumeUserRequest { user_id };
    administration
        .resume_user(with(&root.token, resume))
        .await
        .unwrap();
    assert_eq!(scene.try_enrol(&code, &key).await.unwrap(), first);

    let revoke = RevokeDeviceRequest {
        device_id: first.device_id,
    };
    scene
        .client()
        .revoke_device(with(&root.token, revoke))
        .await
        .unwrap();
    assert_eq!(
        reason(scene.try_enrol(&code, &key).await),
        Reason::InvalidEnrolmentProof
    );
    assert_eq!(counted(&scene, &root, "alice").await, (1, 1));
}

#[tokio::test]
async fn a_key_that_was_replaced_gets_nothing() {
    let scene = Scene::new().await;
    let (code, key, next) = (
        scene.code("alice", Kind::Device).await,
        Key::generate(),
        Key::generate(),
    );
    let first = scene.try_enrol(&code, &key).await.unwrap();
    let token = scene.token(&first.device_id, &key).await.unwrap();
    let renew = RenewCertificateRequest {
        certification_request: next.request(),
    };
    scene
        .client()
        .renew_certificate(with(&token, renew))
        .await
        .unwrap();
    for key in [&key, &next] {
        assert_eq!(
            reason(scene.try_enrol(&code, key).await),
            Reason::InvalidEnrolmentProof
        );
    }
}
