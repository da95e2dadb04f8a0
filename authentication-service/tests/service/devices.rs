//! What users do with their devices.

use std::time::Duration;

use valise_authentication_service::Kind;
use valise_proto::authentication::v1::{
    DeviceState, ListDevicesRequest, RenameDeviceRequest, RevokeDeviceRequest, SubjectKind,
};
use valise_proto::{Reason, Refusal};
use valise_service_runtime::RateLimit;

use crate::support::{Scene, reason, refusal, user, with};

#[tokio::test]
async fn one_sees_ones_own_names_and_the_devices_of_others() {
    let scene = Scene::new().await;
    let (first, second) = (
        scene.device("alice", Kind::Device).await,
        scene.device("alice", Kind::Administrator).await,
    );
    let bob = scene.device("bob", Kind::Device).await;
    let list = async |token: &str, user_id: &str| {
        let request = ListDevicesRequest {
            user_id: user_id.into(),
        };
        Ok::<_, tonic::Status>(
            scene
                .client()
                .list_devices(with(token, request))
                .await?
                .into_inner()
                .devices,
        )
    };
    for user_id in ["", "alice@interieur.example"] {
        let devices = list(&first.token, user_id).await.unwrap();
        let ids: Vec<_> = devices.iter().map(|device| &device.device_id).collect();
        assert_eq!(ids, [&first.id, &second.id], "oldest first");
        assert!(devices.iter().all(|device| device.name == "my phone"));
        assert_eq!(devices[0].kind(), SubjectKind::Device);
        assert_eq!(devices[1].kind(), SubjectKind::Administrator);
        assert!(
            devices
                .iter()
                .all(|device| device.state() == DeviceState::Active && device.revoked_at.is_none())
        );
        assert!(
            devices
                .iter()
                .all(|d| d.certificate_expires_at.unwrap().seconds > d.enrolled_at.unwrap().seconds)
        );
    }
    let devices = list(&bob.token, user("alice").as_str()).await.unwrap();
    assert_eq!(devices.len(), 2);
    assert!(devices.iter().all(|device| device.name.is_empty()));
    assert_eq!(
        reason(list(&bob.token, "nobody@interieur.example").await),
        Reason::UnknownUser
    );
    assert_eq!(
        refusal(list(&bob.token, "nobody").await),
        Refusal::malformed("user_id")
    );
}

#[tokio::test]
async fn nobody_finds_out_who_there_is_by_asking_without_end() {
    let scene = Scene::with(|config| config.devices_of_others = RateLimit::new(3, 60)).await;
    let (alice, second) = (
        scene.device("alice", Kind::Device).await,
        scene.device("alice", Kind::Device).await,
    );
    let bob = scene.device("bob", Kind::Device).await;
    let root = scene.device("root", Kind::Administrator).await;
    let list = async |token: &str, name: &str| {
        let request = ListDevicesRequest {
            user_id: user(name).to_string(),
        };
        scene.client().list_devices(with(token, request)).await
    };
    list(&alice.token, "bob").await.unwrap();
    for name in ["nobody", "somebody"] {
        assert_eq!(reason(list(&alice.token, name).await), Reason::UnknownUser);
    }
    // It is the user's limit, and whether there is somebody makes no difference.
    for (device, name) in [(&alice, "bob"), (&alice, "nobody"), (&second, "bob")] {
        let refused = refusal(list(&device.token, name).await);
        assert_eq!(refused.reason, Reason::RateLimited);
        let wait = refused.retry_after.unwrap();
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_secs(20),
            "{wait:?}"
        );
    }
    list(&alice.token, "alice").await.unwrap();
    list(&bob.token, "alice").await.unwrap();
    for _ in 0..5 {
        list(&root.token, "alice").await.unwrap();
    }
    scene.hand.advance(Duration::from_secs(21));
    list(&alice.token, "bob").await.unwrap();
}

#[tokio::test]
async fn one_renames_ones_own_devices_only() {
    let scene = Scene::new().await;
    let (alice, bob) = (
        scene.device("alice", Kind::Device).await,
        scene.device("bob", Kind::Administrator).await,
    );
    let rename = async |token: &str, device_id: &str, name: &str| {
        let request = RenameDeviceRequest {
            device_id: device_id.into(),
            name: name.into(),
        };
        scene.client().rename_device(with(token, request)).await
    };
    let renamed = rename(&alice.token, &alice.id, "Büro")
        .await
        .unwrap()
        .into_inner()
        .device
        .unwrap();
    assert_eq!(renamed.name, "Büro");
    assert_eq!(
        reason(rename(&bob.token, &alice.id, "mine").await),
        Reason::UnknownDevice
    );
    assert_eq!(
        refusal(rename(&alice.token, &alice.id, "a\0b").await),
        Refusal::malformed("name")
    );
    assert_eq!(
        refusal(rename(&alice.token, &alice.id, &"x".repeat(65)).await),
        Refusal::too_large("name", 64)
    );
    assert_eq!(
        refusal(rename(&alice.token, "x", "y").await),
        Refusal::malformed("device_id")
    );
    let request = ListDevicesRequest {
        user_id: String::new(),
    };
    let devices = scene
        .client()
        .list_devices(with(&alice.token, request))
        .await
        .unwrap()
        .into_inner()
        .devices;
    assert_eq!(devices[0].name, "Büro");
}

#[tokio::test]
async fn a_revoked_device_is_refused_at_once_and_for_ever() {
    let scene = Scene::new().await;
    let (lost, kept) = (
        scene.device("alice", Kind::Device).await,
        scene.device("alice", Kind::Device).await,
    );
    let (bob, root) = (
        scene.device("bob", Kind::Device).await,
        scene.device("root", Kind::Administrator).await,
    );
    let revoke = async |token: &str, device_id: &str| {
        let request = RevokeDeviceRequest {
            device_id: device_id.into(),
        };
        Ok::<_, tonic::Status>(
            scene
                .client()
                .revoke_device(with(token, request))
                .await?
                .into_inner()
                .device
                .unwrap(),
        )
    };
    assert_eq!(
        reason(revoke(&bob.token, &lost.id).await),
        Reason::UnknownDevice,
        "not bob's"
    );
    scene.token(&lost.id, &lost.key).await.unwrap();

    let revoked = revoke(&kept.token, &lost.id).await.unwrap();
    assert_eq!(revoked.state(), DeviceState::Revoked);
    assert_eq!(reason(revoke(&lost.token, &lost.id).await), Reason::DeviceRevoked);
    assert_eq!(
        reason(scene.token(&lost.id, &lost.key).await),
        Reason::DeviceRevoked
    );
    // Its state is told to whoever holds its key, and to nobody else.
    assert_eq!(
        reason(scene.token(&lost.id, &bob.key).await),
        Reason::InvalidAssertion
    );
    let again = revoke(&kept.token, &lost.id).await.unwrap();
    assert_eq!(
        again.revoked_at, revoked.revoked_at,
        "repeating it changes nothing"
    );

    // An administrator may revoke any.
    let revoked = revoke(&root.token, &bob.id).await.unwrap();
    assert_eq!(
        (revoked.state(), revoked.name.as_str()),
        (DeviceState::Revoked, "")
    );
    assert_eq!(reason(revoke(&bob.token, &bob.id).await), Reason::DeviceRevoked);
    let unknown = "00000000-0000-4000-8000-000000000000";
    assert_eq!(reason(revoke(&root.token, unknown).await), Reason::UnknownDevice);

    let scene = scene.restarted().await;
    assert_eq!(
        reason(scene.token(&lost.id, &lost.key).await),
        Reason::DeviceRevoked
    );
    let request = ListDevicesRequest {
        user_id: String::new(),
    };
    assert_eq!(
        reason(
            scene
                .client()
                .list_devices(with(&lost.token, request.clone()))
                .await
        ),
        Reason::DeviceRevoked
    );
    scene
        .client()
        .list_devices(with(&kept.token, request))
        .await
        .expect("its keys stay the same over a restart");
}
