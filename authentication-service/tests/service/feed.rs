//! Services follow the revocations.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use valise_access_token::{Feed, RevocationSubject, ServiceTokens};
use valise_authentication_service::{Kind, SERVICE_NAMES};
use valise_device_certificate::KeyKind;
use valise_proto::authentication::v1::revocation::Subject;
use valise_proto::authentication::v1::watch_revocations_response::Event;
use valise_proto::authentication::v1::{
    ResumeUserRequest, RevokeDeviceRequest, SuspendUserRequest, WatchRevocationsRequest,
};
use valise_proto::{Reason, UserId};

use crate::support::{Device, Scene, user, with};

const DEADLINE: Duration = Duration::from_secs(30);

async fn revoke(scene: &Scene, by: &Device, device: &Device) {
    let request = RevokeDeviceRequest {
        device_id: device.id.clone(),
    };
    scene
        .client()
        .revoke_device(with(&by.token, request))
        .await
        .unwrap();
}

async fn set_suspended(scene: &Scene, by: &Device, user: &UserId, suspended: bool) {
    let user_id = user.to_string();
    if suspended {
        scene
            .administration()
            .suspend_user(with(&by.token, SuspendUserRequest { user_id }))
            .await
            .unwrap();
    } else {
        scene
            .administration()
            .resume_user(with(&by.token, ResumeUserRequest { user_id }))
            .await
            .unwrap();
    }
}

async fn tokens(scene: &Scene, name: &str) -> ServiceTokens {
    let identity = Arc::new(
        scene
            .service
            .issue_service_identity(name, KeyKind::Ed25519)
            .await
            .unwrap(),
    );
    ServiceTokens::new(scene.channel.clone(), identity, scene.clock.clone())
}

#[tokio::test]
async fn a_service_is_told_the_backlog_then_that_it_has_it_then_what_is_new() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let (first, second) = (
        scene.device("alice", Kind::Device).await,
        scene.device("alice", Kind::Device).await,
    );
    set_suspended(&scene, &root, &user("alice"), true).await;
    set_suspended(&scene, &root, &user("alice"), false).await;
    revoke(&scene, &root, &first).await;

    let tokens = tokens(&scene, "delivery-service").await;
    let mut request = tonic::Request::new(WatchRevocationsRequest { after_number: 1 });
    tokens.authorize(&mut request).await.unwrap();
    let mut stream = scene
        .client()
        .watch_revocations(request)
        .await
        .unwrap()
        .into_inner();
    let mut next = async || {
        timeout(DEADLINE, stream.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .event
            .unwrap()
    };
    let Event::Revocation(resumed) = next().await else {
        panic!("not the backlog")
    };
    assert_eq!(
        (resumed.number, resumed.subject),
        (2, Some(Subject::ResumedUserId(user("alice").into())))
    );
    let Event::Revocation(revoked) = next().await else {
        panic!("not the backlog")
    };
    assert_eq!(
        (revoked.number, revoked.subject),
        (3, Some(Subject::DeviceId(first.id.clone())))
    );
    assert_eq!(revoked.user_id, user("alice").as_str());
    for _ in 0..3 {
        let Event::Heartbeat(heartbeat) = next().await else {
            panic!("not a heartbeat")
        };
        assert_eq!(heartbeat.newest_number, 3);
    }
    revoke(&scene, &root, &second).await;
    let new = loop {
        match next().await {
            Event::Heartbeat(heartbeat) => assert_eq!(heartbeat.newest_number, 3),
            Event::Revocation(revocation) => break revocation,
        }
    };
    assert_eq!(
        (new.number, new.subject),
        (4, Some(Subject::DeviceId(second.id.clone())))
    );
    let Event::Heartbeat(heartbeat) = next().await else {
        panic!("not a heartbeat")
    };
    assert_eq!(heartbeat.newest_number, 4);

    scene.service.close_streams();
    let rest = async { while stream.next().await.is_some_and(|event| event.is_ok()) {} };
    timeout(DEADLINE, rest)
        .await
        .expect("the stream ends with the service");
}

#[tokio::test]
async fn whoever_knows_more_than_there_is_is_told_so() {
    let scene = Scene::new().await;
    let tokens = tokens(&scene, "delivery-service").await;
    let mut request = tonic::Request::new(WatchRevocationsRequest { after_number: 7 });
    tokens.authorize(&mut request).await.unwrap();
    let mut stream = scene
        .client()
        .watch_revocations(request)
        .await
        .unwrap()
        .into_inner();
    let event = timeout(DEADLINE, stream.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .event
        .unwrap();
    let Event::Heartbeat(heartbeat) = event else {
        panic!("not a heartbeat")
    };
    assert_eq!(heartbeat.newest_number, 0);
    assert!(timeout(DEADLINE, stream.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_service_in_its_own_process_judges_tokens_by_itself() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let (lost, kept) = (
        scene.device("alice", Kind::Device).await,
        scene.device("bob", Kind::Device).await,
    );
    let early = scene.device("carol", Kind::Device).await;
    revoke(&scene, &root, &early).await;
    let identity = Arc::new(
        scene
            .service
            .issue_service_identity(SERVICE_NAMES[0], KeyKind::Ed25519)
            .await
            .unwrap(),
    );
    let shutdown = CancellationToken::new();
    let feed = Feed::start(
        scene.channel.clone(),
        Arc::clone(&identity),
        "valise://valise.example",
        scene.clock.clone(),
        shutdown.clone(),
    );
    let feed = timeout(DEADLINE, feed).await.unwrap().unwrap();
    timeout(DEADLINE, feed.verifier.current()).await.unwrap();
    let reason = |token: &str| feed.verifier.verify(token).err().map(|refusal| refusal.reason);
    assert_eq!((reason(&lost.token), reason(&kept.token)), (None, None));
    assert_eq!(
        reason(&early.token),
        Some(Reason::DeviceRevoked),
        "from before it followed"
    );
    assert_eq!(feed.verifier.known_revocations().len(), 1);
    assert_eq!(
        feed.verifier.trust_bundle().certificates(),
        scene.service.verifier().trust_bundle().certificates()
    );

    let mut news = feed.verifier.revocations();
    revoke(&scene, &root, &lost).await;
    let new = timeout(DEADLINE, news.recv()).await.unwrap().unwrap();
    assert_eq!(
        new.subject,
        RevocationSubject::Device {
            user: user("alice"),
            device: lost.id.parse().unwrap()
        }
    );
    assert_eq!(
        (reason(&lost.token), reason(&kept.token)),
        (Some(Reason::DeviceRevoked), None)
    );
    set_suspended(&scene, &root, &user("bob"), true).await;
    timeout(DEADLINE, news.recv()).await.unwrap().unwrap();
    assert_eq!(reason(&kept.token), Some(Reason::UserSuspended));

    // A feed for another deployment's tokens.
    let other = Feed::start(
        scene.channel.clone(),
        identity,
        "valise://other.example",
        scene.clock.clone(),
        shutdown.clone(),
    );
    let other = timeout(DEADLINE, other).await.unwrap().unwrap();
    timeout(DEADLINE, other.verifier.current()).await.unwrap();
    assert_eq!(
        other.verifier.verify(&root.token).unwrap_err().reason,
        Reason::TokenInvalid
    );
    shutdown.cancel();
    for task in [feed.task, other.task] {
        timeout(DEADLINE, task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_service_takes_the_feed_up_again_where_it_left_off() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let (first, second) = (
        scene.device("alice", Kind::Device).await,
        scene.device("bob", Kind::Device).await,
    );
    revoke(&scene, &root, &first).await;
    let identity = Arc::new(
        scene
            .service
            .issue_service_identity(SERVICE_NAMES[0], KeyKind::Ed25519)
            .await
            .unwrap(),
    );
    let (channel, shutdown) = (scene.channel.clone(), CancellationToken::new());
    let feed = Feed::start(
        channel,
        identity,
        "valise://valise.example",
        scene.clock.clone(),
        shutdown.clone(),
    );
    let feed = timeout(DEADLINE, feed).await.unwrap().unwrap();
    timeout(DEADLINE, feed.verifier.current()).await.unwrap();
    let mut news = feed.verifier.revocations();

    let scene = scene.restarted().await;
    revoke(&scene, &root, &second).await;
    let new = timeout(DEADLINE, news.recv()).await.unwrap().unwrap();
    assert_eq!(new.number, 2, "none twice, none missed");
    timeout(DEADLINE, feed.verifier.current()).await.unwrap();
    assert_eq!(
        feed.verifier.verify(&second.token).unwrap_err().reason,
        Reason::DeviceRevoked
    );
    shutdown.cancel();
    timeout(DEADLINE, feed.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn services_hold_one_token_and_renew_it_in_time() {
    let scene = Scene::new().await;
    let tokens = tokens(&scene, "key-package-directory").await;
    let first = tokens.bearer().await.unwrap();
    assert_eq!(tokens.clone().bearer().await.unwrap(), first);
    let verify = |bearer: &str| {
        scene
            .service
            .verifier()
            .verify(bearer.strip_prefix("Bearer ").unwrap())
    };
    let caller = verify(first.to_str().unwrap()).unwrap().caller;
    assert_eq!(caller.service().unwrap(), "key-package-directory");
    let signature = first.to_str().unwrap().rsplit('.').next().unwrap();
    assert!(
        !format!("{first:?} {tokens:?}").contains(signature),
        "no token in a debug output"
    );
    scene.hand.advance(Duration::from_secs(545));
    let second = tokens.bearer().await.unwrap();
    assert_ne!(second, first);
    tokens.forget().await;
    assert_ne!(tokens.bearer().await.unwrap(), second);

    // A service whose certificate has ended gets none.
    scene.hand.advance(Duration::from_secs(366 * 24 * 3600));
    let refused = tokens.bearer().await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["rule"].as_str()),
        (Reason::InvalidAssertion, "certificate")
    );
}

/// A replica has only the store to learn from what another one did.
#[tokio::test]
async fn a_replica_learns_of_revocations_from_the_store() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let lost = scene.device("alice", Kind::Device).await;
    let config = crate::support::config(scene.directory.path());
    let replica = valise_authentication_service::Service::open(config, scene.clock.clone())
        .await
        .unwrap();
    replica.verifier().verify(&lost.token).expect("the same keys");
    let mut news = replica.verifier().revocations();
    revoke(&scene, &root, &lost).await;
    timeout(DEADLINE, news.recv()).await.unwrap().unwrap();
    assert_eq!(
        replica.verifier().verify(&lost.token).unwrap_err().reason,
        Reason::DeviceRevoked
    );
    replica.stop().await;
}
