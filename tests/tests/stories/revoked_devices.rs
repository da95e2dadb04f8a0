//! A device that is revoked leaves its groups, whatever was under way when that happened.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, RatchetTreeIn,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use valise_client_sdk::{Connection, OfflineReason};
use valise_group_rules::{capabilities, join_config};
use valise_proto::Reason;
use valise_proto::delivery::v1 as wire;
use valise_tests::people::Town;
use valise_tests::raw::{Bundle, Device, Door, Plan, bundle, refusal};
use valise_tests::retention::database;
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

/// An administrator revokes the device. Once that is answered here, the delivery service has heard of it.
async fn revoke(town: &Town, device: &Device) {
    town.administrator().revoke_device(device.id).await.unwrap();
    until("the delivery service has heard of it", async || {
        let request = wire::ListGroupsRequest::default();
        let asked = device.door.delivery().list_groups(request).await;
        asked
            .is_err_and(|status| refusal(&status).reason == Reason::DeviceRevoked)
            .then_some(())
    })
    .await;
}

/// The next entry after that position, once it is there.
async fn entry_after(reader: &Device, group: &MlsGroup, position: u64) -> wire::Entry {
    until("an entry", async || {
        let entries = reader.read_all(group.group_id().as_slice(), position).await;
        entries.into_iter().next()
    })
    .await
}

/// Kind, epoch and bytes of the entries after that position in the delivery service's store.
fn entries_after(service: &Service, group: &MlsGroup, position: i64) -> Vec<(i64, i64, Vec<u8>)> {
    let database = database(service);
    let mut entries = database
        .prepare(
            "SELECT kind, epoch, bytes FROM entries WHERE position > ?2
             AND group_number = (SELECT number FROM groups WHERE group_id = ?1) ORDER BY position",
        )
        .unwrap();
    let parameters = rusqlite::params![group.group_id().as_slice(), position];
    let entries = entries
        .query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    entries.map(Result::unwrap).collect()
}

/// With it a member that has lost its state comes back: its old leaf goes.
fn comes_back(device: &Device, member: &Device, group: &MlsGroup) -> Bundle {
    let info = group
        .export_group_info(member.provider.crypto(), &member.signer, false)
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let message = MlsMessageIn::tls_deserialize_exact_bytes(&info).unwrap();
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        unreachable!("a GroupInfo")
    };
    let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
    let provider = OpenMlsRustCrypto::default();
    let (_, built) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact_bytes(&tree).unwrap())
        .with_config(join_config())
        .build_group(&provider, info, device.credential())
        .unwrap()
        .leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_capabilities(capabilities())
                .build(),
        )
        .load_psks(provider.storage())
        .unwrap()
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), &device.signer, |_| true)
        .unwrap()
        .finalize(&provider)
        .unwrap();
    bundle(built)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_revoked_after_its_key_package_was_claimed_is_not_added() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = Device::enrol(&service, &town.code("alice").await).await;
    let dave = Device::enrol(&service, &town.code("dave").await).await;
    let (mut group, _) = alice.group_with(&[]).await;
    dave.publish(1).await;
    let claimed = alice.claim(vec![dave.user.to_string()]).await;
    revoke(&town, &dave).await;

    let add = alice.commit(&mut group, Plan::add(claimed));
    let refused = alice.submit(&add).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["rule"].as_str()),
        (Reason::PolicyDenied, "device_revoked")
    );
    assert_eq!(alice.head(&group).await, (0, 0), "nothing has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_an_external_commit_left_undone_begins_the_next_epoch() {
    let mut service = Service::start().await;
    let town = Town::of(&service).await;
    let mut alice = Device::enrol(&service, &town.code("alice").await).await;
    let bob = Device::enrol(&service, &town.code("bob").await).await;
    let carol = Device::enrol(&service, &town.code("carol").await).await;
    let (mut group, _) = alice.group_with(&[&bob, &carol]).await;
    revoke(&town, &carol).await;
    let first = entry_after(&alice, &group, 1).await;
    assert_eq!(first.kind(), wire::EntryKind::Proposal);
    let back = comes_back(&bob, &alice, &group);
    let accepted = bob.submit_external(&back).await.unwrap();
    assert_eq!((accepted.position, accepted.epoch), (3, 2));

    // In the same step: it is there though nobody has the time for anything else.
    service.kill().await;
    let again = entries_after(&service, &group, 2);
    let (kinds, epochs): (Vec<_>, Vec<_>) = again.iter().map(|(kind, epoch, _)| (*kind, *epoch)).unzip();
    assert_eq!(
        (kinds, epochs),
        (vec![1, 2], vec![1, 2]),
        "the commit, and a proposal"
    );
    service.restart().await;
    let door = Door::open(service.connect().await);
    let token = alice.new_token_at(&door).await.unwrap();
    alice.door = door.with_token(&token);

    // Whoever commits what waits now removes her.
    for entry in [&first.mls_message[..], &back.commit, &again[1].2] {
        assert_eq!(alice.apply(&mut group, entry), None);
    }
    let plan = Plan {
        pending: true,
        ..Plan::default()
    };
    let removal = alice.commit(&mut group, plan);
    let removed = alice.submit(&removal).await.unwrap();
    assert_eq!(removed.position, 5, "nothing was proposed twice");
    group.merge_pending_commit(&alice.provider).unwrap();
    assert_eq!(group.members().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_does_not_wait_for_what_never_comes() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let alice = town.device("alice").await;
    soon(alice.synced()).await.unwrap();
    let administration = town.administrator().administration();
    administration.suspend(alice.user()).await.unwrap();
    let mut connection = alice.connection();
    let refused = |connection: &Connection| match connection {
        Connection::Offline {
            reason: OfflineReason::Refused(reason),
        } => Some(*reason),
        _ => None,
    };
    let state = soon(connection.wait_for(|state| refused(state).is_some())).await;
    let state = state.unwrap().clone();
    let reason = refused(&state);
    let error = soon(alice.synced()).await.unwrap_err();
    assert_eq!(error.reason(), reason);
    // The command line shows this error: it says why.
    let reason = reason.unwrap().as_str();
    assert!(error.to_string().contains(reason), "{error}");
}
