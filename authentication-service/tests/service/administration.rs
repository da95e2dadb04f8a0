//! What administrators do, and nobody else.

use valise_authentication_service::Kind;
use valise_device_certificate::ServiceKey;
use valise_proto::authentication::v1::authentication_internal_service_client::AuthenticationInternalServiceClient;
use valise_proto::authentication::v1::{
    AuditEvent, CreateEnrolmentCodeRequest, IssueServiceCertificateRequest, ListAuditEventsRequest,
    ListDevicesRequest, ListUsersRequest, RecordActRequest, ResumeUserRequest, RevokeDeviceRequest,
    ServiceAct, SubjectKind, SuspendUserRequest, UserState, WatchRevocationsRequest,
};
use valise_proto::{Reason, Refusal};

use crate::support::{HOUR, Key, Scene, reason, refusal, rule, user, with};

#[tokio::test]
async fn plain_devices_and_services_do_not_administer() {
    let scene = Scene::new().await;
    let device = scene.device("alice", Kind::Device).await;
    let service = scene.service_token("delivery-service").await;
    let before = scene.device("root", Kind::Administrator).await;
    let events = audit(&scene, &before.token).await.len();
    for token in [&device.token, &service] {
        let mut client = scene.administration();
        let user_id = user("alice").to_string();
        let code = CreateEnrolmentCodeRequest {
            user_id: user_id.clone(),
            ..Default::default()
        };
        let denied = (Reason::PolicyDenied, "administrator_only".to_owned());
        assert_eq!(
            rule(client.create_enrolment_code(with(token, code)).await),
            denied
        );
        assert_eq!(
            rule(client.list_users(with(token, ListUsersRequest::default())).await),
            denied
        );
        let request = SuspendUserRequest {
            user_id: user_id.clone(),
        };
        assert_eq!(rule(client.suspend_user(with(token, request)).await), denied);
        assert_eq!(
            rule(
                client
                    .resume_user(with(token, ResumeUserRequest { user_id }))
                    .await
            ),
            denied
        );
        let request = IssueServiceCertificateRequest::default();
        assert_eq!(
            rule(client.issue_service_certificate(with(token, request)).await),
            denied
        );
        assert_eq!(
            rule(
                client
                    .list_audit_events(with(token, ListAuditEventsRequest::default()))
                    .await
            ),
            denied
        );
    }
    // And services are not devices, nor devices services.
    let mut client = scene.client();
    assert_eq!(
        reason(
            client
                .list_devices(with(&service, ListDevicesRequest::default()))
                .await
        ),
        Reason::PolicyDenied
    );
    let request = RevokeDeviceRequest {
        device_id: device.id.clone(),
    };
    assert_eq!(
        reason(client.revoke_device(with(&service, request)).await),
        Reason::PolicyDenied
    );
    let request = WatchRevocationsRequest { after_number: 0 };
    assert_eq!(
        reason(client.watch_revocations(with(&before.token, request)).await),
        Reason::PolicyDenied
    );
    assert_eq!(
        audit(&scene, &before.token).await.len(),
        events,
        "nothing happened"
    );
}

async fn audit(scene: &Scene, token: &str) -> Vec<AuditEvent> {
    let request = ListAuditEventsRequest {
        after_number: 0,
        page_size: 1000,
    };
    scene
        .administration()
        .list_audit_events(with(token, request))
        .await
        .unwrap()
        .into_inner()
        .events
}

#[tokio::test]
async fn a_suspended_user_is_refused_at_once_until_resumed() {
    let scene = Scene::new().await;
    let (root, alice) = (
        scene.device("root", Kind::Administrator).await,
        scene.device("alice", Kind::Device).await,
    );
    let me = ListDevicesRequest::default();
    let suspend = async |user_id: String| {
        let request = SuspendUserRequest { user_id };
        scene
            .administration()
            .suspend_user(with(&root.token, request))
            .await
    };
    let suspended = suspend(user("alice").into())
        .await
        .unwrap()
        .into_inner()
        .user
        .unwrap();
    assert_eq!(
        (suspended.state(), suspended.active_devices),
        (UserState::Suspended, 1)
    );
    assert_eq!(
        reason(scene.client().list_devices(with(&alice.token, me.clone())).await),
        Reason::UserSuspended
    );
    assert_eq!(
        reason(scene.token(&alice.id, &alice.key).await),
        Reason::UserSuspended
    );
    suspend(user("alice").into()).await.unwrap();

    let resume = async |user_id: String| {
        let request = ResumeUserRequest { user_id };
        scene
            .administration()
            .resume_user(with(&root.token, request))
            .await
    };
    let resumed = resume(user("alice").into())
        .await
        .unwrap()
        .into_inner()
        .user
        .unwrap();
    assert_eq!(resumed.state(), UserState::Active);
    scene.client().list_devices(with(&alice.token, me)).await.unwrap();
    scene.token(&alice.id, &alice.key).await.unwrap();

    assert_eq!(
        reason(suspend("nobody@interieur.example".into()).await),
        Reason::UnknownUser
    );
    assert_eq!(
        reason(resume("nobody@interieur.example".into()).await),
        Reason::UnknownUser
    );
    assert_eq!(
        refusal(suspend("nobody".into()).await),
        Refusal::malformed("user_id")
    );
    let actions: Vec<_> = audit(&scene, &root.token)
        .await
        .into_iter()
        .map(|event| event.action)
        .collect();
    assert_eq!(
        actions[4..],
        ["user.suspended", "user.resumed"],
        "what changed nothing is not written down"
    );
}

#[tokio::test]
async fn a_code_from_an_administrator_enrols_a_device_of_its_kind() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let create = async |user_id: &str, kind: i32, seconds: Option<i64>| {
        let valid_for = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        let request = CreateEnrolmentCodeRequest {
            user_id: user_id.into(),
            valid_for,
            kind,
        };
        scene
            .administration()
            .create_enrolment_code(with(&root.token, request))
            .await
    };
    let alice = "alice@interieur.example";
    let before = scene.clock.unix_seconds();
    let made = create(alice, SubjectKind::Administrator.into(), None)
        .await
        .unwrap()
        .into_inner();
    let end = u64::try_from(made.expires_at.unwrap().seconds).unwrap();
    assert!(
        (before + 86400..=scene.clock.unix_seconds() + 86400).contains(&end),
        "24 hours"
    );
    let (key, code) = (Key::generate(), made.enrolment_code);
    let device = scene.try_enrol(&code, &key).await.unwrap().device_id;
    let token = scene.token(&device, &key).await.unwrap();
    scene
        .administration()
        .list_users(with(&token, ListUsersRequest::default()))
        .await
        .unwrap();

    assert_eq!(refusal(create("x", 0, None).await), Refusal::malformed("user_id"));
    assert_eq!(refusal(create(alice, 3, None).await), Refusal::malformed("kind"));
    assert_eq!(
        refusal(create(alice, 0, Some(59)).await),
        Refusal::malformed("valid_for")
    );
    assert_eq!(
        rule(create("eve@elsewhere.example", 0, None).await),
        (Reason::PolicyDenied, "domain".into())
    );
    let shown = serde_json::to_string(&format!("{:?}", audit(&scene, &root.token).await)).unwrap();
    assert!(!shown.contains(&code), "the code is kept nowhere");
}

#[tokio::test]
async fn users_are_listed_in_pages() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    for name in ["dora", "bob", "alice", "carol"] {
        scene.code(name, Kind::Device).await;
    }
    let list = async |page_size, after_user_id: String| {
        let request = ListUsersRequest {
            page_size,
            after_user_id,
        };
        scene
            .administration()
            .list_users(with(&root.token, request))
            .await
    };
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = list(2, after).await.unwrap().into_inner();
        names.extend(
            page.users
                .into_iter()
                .map(|user| user.user_id.split('@').next().unwrap().to_owned()),
        );
        after = page.next_after_user_id;
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["alice", "bob", "carol", "dora", "root"]);
    assert_eq!(
        refusal(list(1001, String::new()).await),
        Refusal::malformed("page_size")
    );
    assert_eq!(
        refusal(list(1, "x".into()).await),
        Refusal::malformed("after_user_id")
    );
}

type Change<'a> = &'a dyn Fn(&mut RecordActRequest);

#[tokio::test]
async fn acts_at_other_services_are_written_down_for_those_services_alone() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let alice = scene.device("alice", Kind::Device).await;
    let delivery = scene.service_token("delivery-service").await;
    let directory = scene.service_token("key-package-directory").await;
    let written = audit(&scene, &root.token).await.len();
    let reset = RecordActRequest {
        administrator_device_id: root.id.clone(),
        act: ServiceAct::GroupReset.into(),
        group_id: vec![7; 16],
        successor_group_id: vec![8; 16],
    };
    let record = async |token: &str, change: Change<'_>| {
        let mut request = reset.clone();
        change(&mut request);
        let mut client = AuthenticationInternalServiceClient::new(scene.channel.clone());
        client.record_act(with(token, request)).await
    };

    let denied = |rule: &str| (Reason::PolicyDenied, rule.to_owned());
    for token in [&root.token, &alice.token] {
        assert_eq!(rule(record(token, &|_| ()).await), denied("service_only"));
    }
    assert_eq!(rule(record(&directory, &|_| ()).await), denied("foreign_act"));
    let by =
        |id: String| move |request: &mut RecordActRequest| request.administrator_device_id.clone_from(&id);
    assert_eq!(
        rule(record(&delivery, &by(alice.id.clone())).await),
        denied("administrator_only")
    );
    let nobody = uuid::Uuid::new_v4().to_string();
    assert_eq!(
        reason(record(&delivery, &by(nobody)).await),
        Reason::UnknownDevice
    );
    let by_me = by("me".into());
    let cases: [(&str, Change<'_>); 6] = [
        ("administrator_device_id", &by_me),
        ("act", &|request| request.act = 0),
        ("act", &|request| request.act = 77),
        ("group_id", &|request| request.group_id = vec![7; 15]),
        ("successor_group_id", &|request| {
            request.successor_group_id = Vec::new();
        }),
        ("successor_group_id", &|request| {
            request.act = ServiceAct::GroupRepaired.into();
        }),
    ];
    for (field, change) in cases {
        assert_eq!(
            refusal(record(&delivery, change).await),
            Refusal::malformed(field)
        );
    }
    assert_eq!(
        audit(&scene, &root.token).await.len(),
        written,
        "nothing was written"
    );

    record(&delivery, &|_| ()).await.unwrap();
    record(&delivery, &|request| {
        request.act = ServiceAct::GroupRepaired.into();
        request.successor_group_id = Vec::new();
    })
    .await
    .unwrap();
    let (old, new) = (
        "07070707-0707-0707-0707-070707070707",
        "08080808-0808-0808-0808-080808080808",
    );
    let lines: Vec<_> = audit(&scene, &root.token)
        .await
        .split_off(written)
        .into_iter()
        .map(|event| (event.actor, event.action, event.subject))
        .collect();
    assert_eq!(
        lines,
        [
            (root.id.clone(), "group.reset".to_owned(), format!("{old} {new}")),
            (root.id.clone(), "group.repaired".to_owned(), old.to_owned()),
        ]
    );
}

#[tokio::test]
async fn every_act_is_in_the_audit_log_without_a_gap() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let alice = scene.device("alice", Kind::Device).await;
    let mut administration = scene.administration();
    let request = SuspendUserRequest {
        user_id: user("alice").into(),
    };
    administration
        .suspend_user(with(&root.token, request))
        .await
        .unwrap();
    let request = ResumeUserRequest {
        user_id: user("alice").into(),
    };
    administration
        .resume_user(with(&root.token, request))
        .await
        .unwrap();
    let request = RevokeDeviceRequest {
        device_id: alice.id.clone(),
    };
    scene
        .client()
        .revoke_device(with(&root.token, request))
        .await
        .unwrap();
    let request = IssueServiceCertificateRequest {
        service_name: "key-package-directory".into(),
        certification_request: ServiceKey::generate().unwrap().request().unwrap(),
    };
    administration
        .issue_service_certificate(with(&root.token, request))
        .await
        .unwrap();
    let request = CreateEnrolmentCodeRequest {
        user_id: user("bob").into(),
        ..Default::default()
    };
    administration
        .create_enrolment_code(with(&root.token, request))
        .await
        .unwrap();

    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        let request = ListAuditEventsRequest {
            after_number: after,
            page_size: 4,
        };
        let page = administration
            .list_audit_events(with(&root.token, request))
            .await
            .unwrap()
            .into_inner()
            .events;
        let Some(last) = page.last() else { break };
        after = last.number;
        events.extend(page);
    }
    assert!(
        events
            .iter()
            .enumerate()
            .all(|(index, event)| event.number == index as u64 + 1)
    );
    assert!(events.iter().all(|event| event.at.is_some()));
    let events: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.actor.as_str(),
                event.action.as_str(),
                event.subject.as_str(),
            )
        })
        .collect();
    let (root_user, alice_user, bob_user) = (user("root"), user("alice"), user("bob"));
    let expected = [
        ("bootstrap", "enrolment_code.created", root_user.as_str()),
        (&root.id, "device.enrolled", root_user.as_str()),
        ("bootstrap", "enrolment_code.created", alice_user.as_str()),
        (&alice.id, "device.enrolled", alice_user.as_str()),
        (&root.id, "user.suspended", alice_user.as_str()),
        (&root.id, "user.resumed", alice_user.as_str()),
        (&root.id, "device.revoked", &alice.id),
        (&root.id, "service_certificate.issued", "key-package-directory"),
        (&root.id, "enrolment_code.created", bob_user.as_str()),
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn service_certificates_are_for_known_services_and_fresh_keys() {
    let scene = Scene::new().await;
    let root = scene.device("root", Kind::Administrator).await;
    let issue = async |service_name: &str, certification_request: Vec<u8>| {
        let request = IssueServiceCertificateRequest {
            service_name: service_name.into(),
            certification_request,
        };
        let issued = scene
            .administration()
            .issue_service_certificate(with(&root.token, request))
            .await?;
        Ok::<_, tonic::Status>(issued.into_inner().chain.unwrap().certificates)
    };
    let key = ServiceKey::generate().unwrap();
    let request = key.request().unwrap();
    let identity = key
        .with_chain(issue("delivery-service", request.clone()).await.unwrap())
        .unwrap();
    assert_eq!(identity.name(), "delivery-service");
    let bundle = scene.service.verifier().trust_bundle();
    let end = bundle
        .verify(identity.chain(), scene.clock.unix_seconds())
        .unwrap()
        .not_after;
    assert_eq!((end - scene.clock.unix_seconds()).div_ceil(24 * 3600), 365);

    issue("delivery-service", request.clone())
        .await
        .expect("the same key again is a renewal");
    let in_use = (Reason::InvalidCertificateRequest, "key_in_use".to_owned());
    assert_eq!(rule(issue("key-package-directory", request).await), in_use);
    assert_eq!(rule(issue("delivery-service", root.key.request()).await), in_use);
    for name in ["", "root", "authentication-service", &"x".repeat(10_000)] {
        let outcome = issue(name, Key::generate().request()).await;
        assert_eq!(refusal(outcome), Refusal::malformed("service_name"));
    }
}

#[tokio::test]
async fn the_first_administrator_comes_by_a_code_that_each_start_makes_anew() {
    let scene = Scene::new().await;
    let first = scene.service.bootstrap(&user("root")).await.unwrap().unwrap();
    let scene = scene.restarted().await;
    let second = scene.service.bootstrap(&user("root")).await.unwrap().unwrap();
    assert_eq!(
        reason(scene.try_enrol(first.code.as_str(), &Key::generate()).await),
        Reason::InvalidEnrolmentProof
    );
    let key = Key::generate();
    let device = scene
        .try_enrol(second.code.as_str(), &key)
        .await
        .unwrap()
        .device_id;
    let token = scene.token(&device, &key).await.unwrap();
    assert!(scene.service.bootstrap(&user("root")).await.unwrap().is_none());
    let scene = scene.restarted().await;
    assert!(scene.service.bootstrap(&user("root")).await.unwrap().is_none());
    assert_eq!(audit(&scene, &token).await.len(), 3);
    let stranger = scene
        .service
        .bootstrap(&"root@elsewhere.example".parse().unwrap())
        .await;
    assert_eq!(stranger.unwrap_err().reason, Reason::PolicyDenied);
    scene
        .service
        .create_enrolment_code(&user("root"), Kind::Administrator, HOUR)
        .await
        .expect("the operator still can");
}
