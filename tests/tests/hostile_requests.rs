//! Every RPC of every service, with what should never come: nothing, garbage, too much, somebody else's, the same again. Each has
//! one answer, none tells what is inside, and the services go on.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use openmls::prelude::MlsGroup;
use openmls::prelude::tls_codec::Serialize as _;
use prost::Message as _;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use valise_proto::authentication::v1 as authentication;
use valise_proto::delivery::v1 as wire;
use valise_proto::directory::v1 as directory;
use valise_proto::{FILE_DESCRIPTOR_SET, Reason, Refusal};
use valise_tests::people::Town;
use valise_tests::raw::bytes::{Framed, flipped};
use valise_tests::raw::{Device, Plan, assertion_of, key, new_signer, refusal, request_of};
use valise_tests::service::Service;

/// What needs no token.
const OPEN: [&str; 4] = ["Enrol", "IssueToken", "GetTrustBundle", "GetJwks"];

/// All RPCs of the contract: path, and whether the client sends a stream.
fn contract() -> Vec<(String, bool)> {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut paths = Vec::new();
    for file in set
        .file
        .iter()
        .filter(|file| file.package().starts_with("valise."))
    {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                paths.push((path, method.client_streaming()));
            }
        }
    }
    paths
}

/// Bytes as they are, in both directions.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(to, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let len = bytes::Buf::remaining(from);
        Ok(Some(bytes::Buf::copy_to_bytes(from, len).to_vec()))
    }
}

/// Calls with bytes, and reads the answer or the first message of a stream.
async fn call(service: &Service, path: &str, token: Option<&str>, body: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(service.connect().await);
    grpc.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::once(body));
    if let Some(token) = token {
        request
            .metadata_mut()
            .insert("authorization", token.parse().unwrap());
    }
    let answer = grpc.streaming(request, path.parse().unwrap(), Raw).await?;
    let mut answer = answer.into_inner();
    Ok(answer.message().await?.unwrap_or_default())
}

/// One of our reasons, and nothing that a stranger has no business to know.
fn told(status: &Status) -> Refusal {
    let refusal = refusal(status);
    assert_eq!(
        (status.code(), status.message()),
        (refusal.reason.code(), refusal.reason.message())
    );
    assert_ne!(refusal.reason, Reason::Internal);
    for (name, value) in &refusal.metadata {
        let plain = |text: &str| {
            text.len() <= 64
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        assert!(plain(name) && plain(value), "{name}: {value}");
    }
    refusal
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_without_a_good_token() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let device = Device::enrol(&service, &town.code("anna").await).await;
    let good = device.new_token().await.unwrap();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let other: String = signature
        .chars()
        .map(|c| if c == 'A' { 'B' } else { 'A' })
        .collect();
    let (header, claims) = head.split_once('.').unwrap();
    // {"alg":"none"}
    let unsigned = format!("Bearer eyJhbGciOiJub25lIn0.{claims}.");
    let tokens = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Bearer rubbish".to_owned(),
        format!("Basic {good}"),
        good.clone(),
        format!("Bearer {head}.{other}"),
        format!("Bearer {header}..{signature}"),
        format!("Bearer {good}{}", "x".repeat(5000)),
        format!("Bearer {}", assertion_of(&device.id.to_string(), &device.signer)),
        unsigned,
    ];
    let closed = contract()
        .into_iter()
        .filter(|(path, _)| !OPEN.iter().any(|open| path.ends_with(open)));
    let mut calls = 0;
    for (path, _) in closed {
        let status = call(&service, &path, None, Vec::new()).await.unwrap_err();
        assert_eq!(told(&status).reason, Reason::TokenInvalid, "{path}");
        for token in &tokens {
            let status = call(&service, &path, Some(token), Vec::new()).await.unwrap_err();
            assert_eq!(told(&status).reason, Reason::TokenInvalid, "{path}: {token}");
            calls += 1;
        }
    }
    assert!(calls > 25 * tokens.len());
    // Also where there is nothing: who has no token does not learn what there is.
    let status = call(
        &service,
        "/valise.delivery.v1.DeliveryService/Nothing",
        None,
        Vec::new(),
    )
    .await
    .unwrap_err();
    assert_eq!(told(&status).reason, Reason::TokenInvalid);
    let token = format!("Bearer {good}");
    let nothing = call(
        &service,
        "/valise.delivery.v1.DeliveryService/Nothing",
        Some(&token),
        Vec::new(),
    )
    .await;
    assert_eq!(nothing.unwrap_err().code(), Code::Unimplemented);
    healthy(&service, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_garbage_gets_in() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let device = Device::enrol(&service, &town.code("anna").await).await;
    let administrator = administrators_token(&service, &town).await;
    let token = format!("Bearer {}", device.new_token().await.unwrap());
    for (path, _) in contract() {
        let token = if path.contains("Administration") {
            &administrator
        } else {
            &token
        };
        let internal = path.contains("Internal") || path.ends_with("WatchRevocations");
        // A field number 0, a length beyond the end, a group that does not end, text that is none.
        for garbage in [&[0x00, 0x01][..], &[0x0a, 0x7f, 0x01], &[0x0b], &[0xff; 64]] {
            let answer = call(&service, &path, Some(token), garbage.to_vec()).await;
            let refused = told(&answer.unwrap_err());
            assert_eq!(
                (refused.reason, refused.metadata["field"].as_str()),
                (Reason::Malformed, "request"),
                "{path}"
            );
        }
        let status = call(&service, &path, Some(token), vec![0; 9 * 1024 * 1024])
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, Reason::MessageTooLarge, "{path}");
        match (
            call(&service, &path, Some(token), Vec::new()).await,
            needs_nothing(&path),
        ) {
            (Ok(_), true) => {}
            (Err(status), false) => {
                let expected = if internal {
                    Reason::PolicyDenied
                } else {
                    Reason::Malformed
                };
                let expected = empty_reason(&path).unwrap_or(expected);
                assert_eq!(told(&status).reason, expected, "{path}");
            }
            (answer, _) => panic!("{path} without anything: {answer:?}"),
        }
    }
    healthy(&service, &device).await;
}

/// An empty request is a good one.
fn needs_nothing(path: &str) -> bool {
    let nothing = [
        "GetTrustBundle",
        "GetJwks",
        "ListDevices",
        "ListUsers",
        "ListAuditEvents",
        "GetStock",
        "DeleteKeyPackages",
        "GetParameters",
        "ListGroups",
        "ListCommitReports",
    ];
    nothing.iter().any(|name| path.ends_with(name))
}

/// Where an empty request is wrong in another way than in its form.
fn empty_reason(path: &str) -> Option<Reason> {
    let reasons = [
        ("RenewCertificate", Reason::InvalidCertificateRequest),
        ("IssueToken", Reason::InvalidAssertion),
        ("IssueServiceCertificate", Reason::InvalidCertificateRequest),
    ];
    reasons
        .iter()
        .find(|(name, _)| path.ends_with(name))
        .map(|(_, reason)| *reason)
}

async fn administrators_token(service: &Service, town: &Town) -> String {
    let code = town.administrator().administration();
    let user = town.user("second-admin");
    let hour = std::time::Duration::from_secs(3600);
    let code = code
        .create_enrolment_code(&user, valise_client_sdk::UserKind::Administrator, hour)
        .await
        .unwrap();
    let device = Device::enrol(service, &code.code).await;
    format!("Bearer {}", device.new_token().await.unwrap())
}

async fn healthy(service: &Service, device: &Device) {
    let mut health = HealthClient::new(service.connect().await);
    let answer = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        answer.status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
    let (mut group, _) = device.group_with(&[]).await;
    device.send(&mut group, b"hello").await.unwrap();
    assert!(!service.log().contains("panic"), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn administration_is_for_administrators() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let device = Device::enrol(&service, &town.code("anna").await).await;
    let token = format!("Bearer {}", device.new_token().await.unwrap());
    for (path, _) in contract() {
        let closed = path.contains("Administration")
            || path.contains("Internal")
            || path.ends_with("WatchRevocations");
        if closed {
            let status = call(&service, &path, Some(&token), Vec::new()).await.unwrap_err();
            assert_eq!(told(&status).reason, Reason::PolicyDenied, "{path}");
        }
    }
    // Users of other domains are not made.
    let other: valise_client_sdk::UserId = "mallory@elsewhere.example".parse().unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let made = town.administrator().administration();
    let made = made
        .create_enrolment_code(&other, valise_client_sdk::UserKind::Device, hour)
        .await;
    assert_eq!(made.err().unwrap().reason(), Some(Reason::PolicyDenied));
    // Devices and users of others: not to be changed, and those that are not there are not to be told from them.
    let bob = Device::enrol(&service, &town.code("bob").await).await;
    for device_id in [bob.id.to_string(), uuid::Uuid::new_v4().to_string()] {
        let rename = authentication::RenameDeviceRequest {
            device_id: device_id.clone(),
            name: "mine".to_owned(),
        };
        let status = device
            .door
            .authentication()
            .rename_device(rename)
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, Reason::UnknownDevice);
        let revoke = authentication::RevokeDeviceRequest { device_id };
        let status = device
            .door
            .authentication()
            .revoke_device(revoke)
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, Reason::UnknownDevice);
    }
    healthy(&service, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_are_good_once_and_for_their_owner() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let code = town.code("anna").await;
    let device = Device::enrol(&service, &code).await;
    let bob = Device::enrol(&service, &town.code("bob").await).await;

    let signer = new_signer();
    let enrol = |code: &str| authentication::EnrolRequest {
        proof: Some(authentication::enrol_request::Proof::EnrolmentCode(
            code.to_owned(),
        )),
        certification_request: request_of(&signer),
        device_name: String::new(),
    };
    for code in [code.as_str(), "", "0000-0000-0000-0000-0000-0000", "é"] {
        let status = device.door.authentication().enrol(enrol(code)).await.unwrap_err();
        assert_eq!(told(&status).reason, Reason::InvalidEnrolmentProof, "{code}");
    }
    let token = authentication::EnrolRequest {
        proof: Some(authentication::enrol_request::Proof::OidcIdToken(
            "e30.e30.".to_owned(),
        )),
        ..enrol("")
    };
    let status = device.door.authentication().enrol(token).await.unwrap_err();
    assert_eq!(told(&status).reason, Reason::InvalidEnrolmentProof);
    // A good code with a bad request is still good afterwards; another's key is not to be had.
    let fresh = town.code("carol").await;
    let mut bad = enrol(&fresh);
    bad.certification_request = flipped(&bad.certification_request, 3);
    let status = device.door.authentication().enrol(bad).await.unwrap_err();
    assert_eq!(told(&status).reason, Reason::InvalidCertificateRequest);
    let stolen = authentication::EnrolRequest {
        certification_request: request_of(&bob.signer),
        ..enrol(&fresh)
    };
    let status = device.door.authentication().enrol(stolen).await.unwrap_err();
    assert_eq!(told(&status).reason, Reason::InvalidCertificateRequest);
    device.door.authentication().enrol(enrol(&fresh)).await.unwrap();

    let issue = |assertion: String| authentication::IssueTokenRequest { assertion };
    let assertion = assertion_of(&device.id.to_string(), &device.signer);
    device
        .door
        .authentication()
        .issue_token(issue(assertion.clone()))
        .await
        .unwrap();
    let replayed = device
        .door
        .authentication()
        .issue_token(issue(assertion.clone()))
        .await
        .unwrap_err();
    assert_eq!(told(&replayed).reason, Reason::InvalidAssertion);
    let foreign = assertion_of(&device.id.to_string(), &bob.signer);
    for (assertion, expected) in [
        (foreign, Reason::InvalidAssertion),
        (
            flipped(assertion.as_bytes(), 60)
                .into_iter()
                .map(char::from)
                .collect(),
            Reason::InvalidAssertion,
        ),
        ("rubbish".to_owned(), Reason::InvalidAssertion),
        (
            assertion_of(&uuid::Uuid::new_v4().to_string(), &signer),
            Reason::UnknownDevice,
        ),
        (
            assertion_of("delivery-service", &signer),
            Reason::InvalidAssertion,
        ),
        (assertion_of("somebody", &signer), Reason::UnknownDevice),
        ("x".repeat(5000), Reason::MessageTooLarge),
    ] {
        let status = device
            .door
            .authentication()
            .issue_token(issue(assertion))
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected);
    }
    healthy(&service, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_packages_of_others_are_not_taken() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let anna = Device::enrol(&service, &town.code("anna").await).await;
    let bob = Device::enrol(&service, &town.code("bob").await).await;
    let publish = |key_packages: Vec<Vec<u8>>| directory::PublishKeyPackagesRequest { key_packages };
    let own = valise_tests::raw::message(anna.key_package());
    let bobs = valise_tests::raw::message(bob.key_package());
    for (what, packages, expected) in [
        ("none", vec![], Reason::Malformed),
        ("an empty one", vec![vec![]], Reason::InvalidKeyPackage),
        ("garbage", vec![vec![0xa5; 500]], Reason::InvalidKeyPackage),
        (
            "another's",
            vec![own.clone(), bobs.clone()],
            Reason::InvalidKeyPackage,
        ),
        (
            "one twice",
            vec![own.clone(), own.clone()],
            Reason::InvalidKeyPackage,
        ),
        (
            "truncated",
            vec![own[..own.len() - 1].to_vec()],
            Reason::InvalidKeyPackage,
        ),
        (
            "a bit of the signature",
            vec![flipped(&own, 3)],
            Reason::InvalidKeyPackage,
        ),
        ("too large", vec![vec![0; 16 * 1024 + 1]], Reason::MessageTooLarge),
        ("too many", vec![own.clone(); 101], Reason::MessageTooLarge),
    ] {
        let status = anna
            .door
            .directory()
            .publish_key_packages(publish(packages))
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected, "{what}");
    }
    let stock = anna
        .door
        .directory()
        .get_stock(directory::GetStockRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        stock
            .stock
            .iter()
            .all(|stock| stock.one_time == 0 && !stock.last_resort),
        "nothing was stored"
    );
    anna.door
        .directory()
        .publish_key_packages(publish(vec![own.clone()]))
        .await
        .unwrap();
    let status = anna
        .door
        .directory()
        .publish_key_packages(publish(vec![own]))
        .await
        .unwrap_err();
    assert_eq!(told(&status).metadata["rule"], "seen_before");

    let claim = |user_ids: Vec<String>, cipher_suite| directory::ClaimKeyPackagesRequest {
        user_ids,
        device_ids: Vec::new(),
        cipher_suite,
    };
    let anna_id = anna.user.to_string();
    for (what, request, expected) in [
        ("no users", claim(vec!["nobody".to_owned()], 1), Reason::Malformed),
        ("no suite", claim(vec![anna_id.clone()], 0), Reason::Malformed),
        (
            "a suite that is not allowed",
            claim(vec![anna_id.clone()], 0x0042),
            Reason::Malformed,
        ),
        (
            "too many",
            claim(vec![anna_id.clone(); 257], 1),
            Reason::MessageTooLarge,
        ),
    ] {
        let status = bob
            .door
            .directory()
            .claim_key_packages(request)
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected, "{what}");
    }
    // Who does not exist is told like who never published.
    let unknown = claim(vec![town.user("nobody").to_string()], 1);
    let claims = bob
        .door
        .directory()
        .claim_key_packages(unknown)
        .await
        .unwrap()
        .into_inner()
        .claims;
    let failure = directory::claim::Result::Failure(directory::ClaimFailure::UnknownUser.into());
    assert_eq!(claims[0].result, Some(failure));
    healthy(&service, &anna).await;
}

/// Alice and Bob are in a group, Mallory is not.
struct Scene {
    service: Service,
    alice: Device,
    mallory: Device,
    group: MlsGroup,
    id: Vec<u8>,
}

impl Scene {
    async fn new() -> Self {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let alice = Device::enrol(&service, &town.code("alice").await).await;
        let bob = Device::enrol(&service, &town.code("bob").await).await;
        let mallory = Device::enrol(&service, &town.code("mallory").await).await;
        let (group, _) = alice.group_with(&[&bob]).await;
        let id = group.group_id().as_slice().to_vec();
        Self {
            service,
            alice,
            mallory,
            group,
            id,
        }
    }

    async fn unchanged(self) {
        assert_eq!(self.alice.head(&self.group).await, (1, 1));
        healthy(&self.service, &self.alice).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_a_door_does_not_get_through_it() {
    let mut scene = Scene::new().await;
    let message = scene.alice.encrypt(&mut scene.group, b"hello");
    let bundle = scene.alice.commit(&mut scene.group, Plan::self_update());
    scene.alice.forget(&mut scene.group);
    let (proposal, _) = scene
        .group
        .propose_remove_member(
            &scene.alice.provider,
            &scene.alice.signer,
            scene.group.own_leaf_index(),
        )
        .unwrap();
    let proposal = proposal.tls_serialize_detached().unwrap();
    let package = valise_tests::raw::message(scene.alice.key_package());

    // A commit by the door for messages would go around every check.
    for (what, bytes, rule) in [
        ("a commit", bundle.commit.clone(), Some("wire_format")),
        ("a proposal", proposal.clone(), Some("wire_format")),
        ("a GroupInfo", bundle.group_info.clone(), Some("wire_format")),
        ("a key package", package.clone(), Some("wire_format")),
        ("nothing", Vec::new(), None),
        ("garbage", vec![0xa5; 200], Some("encoding")),
        (
            "half a message",
            message[..message.len() / 2].to_vec(),
            Some("encoding"),
        ),
        (
            "a byte too many",
            [message.as_slice(), &[0]].concat(),
            Some("encoding"),
        ),
    ] {
        let refused = scene.alice.send_bytes(bytes.clone()).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Malformed, "{what}");
        assert_eq!(refused.metadata.get("rule").map(String::as_str), rule, "{what}");
        let request = wire::SendEphemeralRequest {
            mls_message: bytes.into(),
        };
        let status = scene
            .alice
            .door
            .delivery()
            .send_ephemeral(request)
            .await
            .unwrap_err();
        assert_eq!(told(&status), refused, "{what}");
    }
    for (what, bytes, rule) in [
        ("a commit", bundle.commit.clone(), "content_type"),
        ("a message", message.clone(), "wire_format"),
        ("a key package", package.clone(), "wire_format"),
        ("garbage", vec![0xa5; 200], "encoding"),
    ] {
        let refused = scene.alice.propose_bytes(bytes).await.unwrap_err();
        assert_eq!(
            (refused.reason, refused.metadata["rule"].as_str()),
            (Reason::Malformed, rule),
            "{what}"
        );
    }
    let large = scene.alice.send_bytes(vec![0; 256 * 1024 + 1]).await.unwrap_err();
    assert_eq!(
        (large.reason, large.number("limit")),
        (Reason::MessageTooLarge, Some(256 * 1024))
    );
    let large = scene
        .alice
        .propose_bytes(vec![0; 64 * 1024 + 1])
        .await
        .unwrap_err();
    assert_eq!(
        (large.reason, large.number("limit")),
        (Reason::MessageTooLarge, Some(64 * 1024))
    );
    scene.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_another_groups_or_epochs_is_refused() {
    let mut scene = Scene::new().await;
    let message = scene.alice.encrypt(&mut scene.group, b"hello");
    // MLSMessage, PrivateMessage: 4 bytes, group_id<V>, epoch.
    let with = |group: &[u8], epoch: u64| {
        let mut message = message.clone();
        message[5..21].copy_from_slice(group);
        message[21..29].copy_from_slice(&epoch.to_be_bytes());
        message
    };
    let (foreign, _) = scene.mallory.group_with(&[]).await;
    let foreign = foreign.group_id().as_slice();
    for (what, bytes, expected) in [
        ("no group", with(&[7; 16], 1), Reason::GroupNotFound),
        ("a group of others", with(foreign, 0), Reason::NotAMember),
        (
            "a group of others, another epoch",
            with(foreign, 9),
            Reason::NotAMember,
        ),
        (
            "an epoch that has ended",
            with(&scene.id, 0),
            Reason::EpochConflict,
        ),
        (
            "an epoch that has not begun",
            with(&scene.id, 2),
            Reason::EpochAhead,
        ),
        (
            "the last epoch of all",
            with(&scene.id, u64::MAX),
            Reason::EpochAhead,
        ),
    ] {
        let refused = scene.alice.send_bytes(bytes.clone()).await.unwrap_err();
        assert_eq!(refused.reason, expected, "{what}");
        let request = wire::SendEphemeralRequest {
            mls_message: bytes.into(),
        };
        let status = scene
            .alice
            .door
            .delivery()
            .send_ephemeral(request)
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected, "{what}");
    }
    let refused = scene.alice.send_bytes(with(&scene.id, 0)).await.unwrap_err();
    assert_eq!(
        (refused.number("current_epoch"), refused.number("winner_position")),
        (Some(1), Some(1))
    );
    let refused = scene.mallory.send_bytes(message.clone()).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata.len()),
        (Reason::NotAMember, 0),
        "a stranger learns nothing"
    );

    let leave = scene
        .group
        .leave_group(&scene.alice.provider, &scene.alice.signer)
        .unwrap();
    let leave = leave.tls_serialize_detached().unwrap();
    let refused = scene.mallory.propose_bytes(leave.clone()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NotAMember);
    let refused = scene.alice.propose_bytes(flipped(&leave, 40)).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["rule"].as_str()),
        (Reason::InvalidProposal, "mls_validation")
    );
    for (epoch, expected) in [(0, Reason::EpochConflict), (2, Reason::EpochAhead)] {
        let mut old = leave.clone();
        old[21..29].copy_from_slice(&u64::to_be_bytes(epoch));
        assert_eq!(scene.alice.propose_bytes(old).await.unwrap_err().reason, expected);
    }
    scene.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_finds_every_door_closed() {
    let scene = Scene::new().await;
    let mut delivery = scene.mallory.door.delivery();
    for (group, expected) in [
        (scene.id.clone(), Reason::NotAMember),
        (vec![7; 16], Reason::GroupNotFound),
        (vec![7; 15], Reason::Malformed),
    ] {
        let group_id: bytes::Bytes = group.clone().into();
        assert_eq!(
            scene.mallory.read(&group, 0, 0).await.unwrap_err().reason,
            expected
        );
        let status = delivery
            .get_group_info(wire::GetGroupInfoRequest {
                group_id: group_id.clone(),
                ..wire::GetGroupInfoRequest::default()
            })
            .await
            .unwrap_err();
        assert_eq!(told(&status).reason, expected);
        let tree = wire::GetRatchetTreeRequest {
            group_id: group_id.clone(),
            epoch: 1,
        };
        let status = delivery.get_ratchet_tree(tree).await.unwrap_err();
        assert_eq!(told(&status).reason, expected);
        let fault = wire::CommitFault::PathSecret.into();
        let report = wire::ReportCommitRequest {
            group_id,
            position: 1,
            fault,
        };
        let status = delivery.report_commit(report).await.unwrap_err();
        assert_eq!(told(&status).reason, expected);
    }
    assert!(
        delivery
            .list_groups(wire::ListGroupsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .groups
            .is_empty()
    );
    // Limits of members too.
    let refused = scene.alice.read(&scene.id, 0, 1001).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["field"].as_str()),
        (Reason::Malformed, "max_entries")
    );
    let list = wire::ListGroupsRequest {
        page_size: 1001,
        ..wire::ListGroupsRequest::default()
    };
    let status = delivery.list_groups(list).await.unwrap_err();
    assert_eq!(told(&status).metadata["field"], "page_size");
    for (position, fault) in [(1, 0), (1, 99), (2, 1), (0, 1)] {
        let report = wire::ReportCommitRequest {
            group_id: scene.id.clone().into(),
            position,
            fault,
        };
        told(
            &scene
                .alice
                .door
                .delivery()
                .report_commit(report)
                .await
                .unwrap_err(),
        );
    }
    scene.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_is_done_once() {
    let mut scene = Scene::new().await;
    let message = scene.alice.encrypt(&mut scene.group, b"once");
    let mut request = wire::SendMessageRequest {
        mls_message: message.clone().into(),
        idempotency_key: key(),
        may_be_repeat: false,
    };
    let mut delivery = scene.alice.door.delivery();
    let first = delivery.send_message(request.clone()).await.unwrap().into_inner();
    request.may_be_repeat = true;
    for _ in 0..3 {
        assert_eq!(
            delivery.send_message(request.clone()).await.unwrap().into_inner(),
            first
        );
    }
    let short = wire::SendMessageRequest {
        idempotency_key: vec![1; 15].into(),
        ..request.clone()
    };
    let status = delivery.send_message(short).await.unwrap_err();
    assert_eq!(told(&status).metadata["field"], "idempotency_key");
    // Another device with the same key gets no answer that is not its own.
    let status = scene
        .mallory
        .door
        .delivery()
        .send_message(request)
        .await
        .unwrap_err();
    assert_eq!(told(&status).reason, Reason::NotAMember);

    let bundle = scene.alice.commit(&mut scene.group, Plan::self_update());
    let mut request = wire::SubmitCommitRequest {
        commit: bundle.commit.clone().into(),
        group_info: bundle.group_info.clone().into(),
        welcome: bytes::Bytes::new(),
        idempotency_key: key(),
        may_be_repeat: false,
    };
    let first = delivery
        .submit_commit(request.clone())
        .await
        .unwrap()
        .into_inner();
    request.may_be_repeat = true;
    assert_eq!(
        delivery
            .submit_commit(request.clone())
            .await
            .unwrap()
            .into_inner(),
        first
    );
    // With another key it is a commit of an epoch that has ended, made by itself.
    request.idempotency_key = key();
    let conflict = told(&delivery.submit_commit(request).await.unwrap_err());
    assert_eq!(conflict.reason, Reason::EpochConflict);
    assert_eq!(
        conflict.number("winner_position"),
        Some(first.accepted.unwrap().position)
    );
    scene.group.merge_pending_commit(&scene.alice.provider).unwrap();
    // A message may be sent twice with two keys: to the service it is two; members tell a replay by themselves.
    assert_eq!(scene.alice.head(&scene.group).await, (3, 2));
    // What is signed can be taken apart and put together without a change.
    assert_eq!(Framed::commit(&bundle.commit).to_bytes(), bundle.commit);
    healthy(&scene.service, &scene.alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_are_none_are_not_made() {
    let scene = Scene::new().await;
    let fresh = scene.alice.new_group();
    let info = fresh
        .export_group_info(
            openmls::prelude::OpenMlsProvider::crypto(&scene.alice.provider),
            &scene.alice.signer,
            false,
        )
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let tree = fresh.export_ratchet_tree().tls_serialize_detached().unwrap();
    let create = |group_info: &[u8], ratchet_tree: &[u8]| wire::CreateGroupRequest {
        group_info: group_info.to_vec().into(),
        ratchet_tree: ratchet_tree.to_vec().into(),
        idempotency_key: key(),
    };
    let mut delivery = scene.alice.door.delivery();
    let other = scene
        .alice
        .new_group()
        .export_ratchet_tree()
        .tls_serialize_detached()
        .unwrap();
    let large = vec![0; 64 * 1024 + 1];
    for (what, request, expected) in [
        ("nothing", create(&[], &[]), Reason::Malformed),
        ("no tree", create(&info, &[]), Reason::Malformed),
        ("garbage", create(&[0xa5; 100], &tree), Reason::Malformed),
        ("a garbage tree", create(&info, &[0xa5; 100]), Reason::Malformed),
        (
            "a key package",
            create(&valise_tests::raw::message(scene.alice.key_package()), &tree),
            Reason::Malformed,
        ),
        (
            "another group's tree",
            create(&info, &other),
            Reason::InvalidGroupInfo,
        ),
        (
            "a bit of the signature",
            create(&flipped(&info, 3), &tree),
            Reason::InvalidGroupInfo,
        ),
        ("too large", create(&large, &tree), Reason::MessageTooLarge),
        ("too large a tree", create(&info, &large), Reason::MessageTooLarge),
    ] {
        let status = delivery.create_group(request).await.unwrap_err();
        assert_eq!(told(&status).reason, expected, "{what}");
    }
    // In another's name; of an epoch that is not the first; one that is there already.
    let status = scene
        .mallory
        .door
        .delivery()
        .create_group(create(&info, &tree))
        .await
        .unwrap_err();
    assert_eq!(told(&status).reason, Reason::InvalidGroupInfo);
    assert_eq!(
        scene.alice.register(&scene.group).await.unwrap_err().reason,
        Reason::InvalidGroupInfo
    );
    let request = create(&info, &tree);
    delivery.create_group(request.clone()).await.unwrap();
    delivery.create_group(request).await.unwrap();
    let status = delivery.create_group(create(&info, &tree)).await.unwrap_err();
    assert_eq!(told(&status).reason, Reason::GroupExists);
    scene.unchanged().await;
}
