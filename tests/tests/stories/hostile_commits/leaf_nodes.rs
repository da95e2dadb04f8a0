//! Leaf nodes that groups do not take: of those who are added, and of the committer.

use openmls::prelude::{LeafNodeParameters, Lifetime, NewSignerBundle, OpenMlsProvider as _};
use openmls_basic_credential::SignatureKeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm,
};
use valise_client_sdk::{DeviceId, UserId};
use valise_group_rules::credential;
use valise_tests::raw::{Bundle, Device, Plan, bundle, credential_with_key, lifetime};

use crate::hostile_commits::scene::{MLS, Scene, commit_rule, info_rule};

#[tokio::test(flavor = "multi_thread")]
async fn members_that_groups_do_not_take() {
    let mut scene = Scene::new().await;

    // As the service sees it, a good one first: with this way of building commits only the GroupInfo is wrong.
    let good = scene.dave.key_package();
    let bundle = scene.with_package(&good);
    scene
        .refuses(
            "a good package in a commit that was put together",
            bundle,
            info_rule("group_context"),
        )
        .await;

    let expired =
        Device::package_builder().key_package_lifetime(Lifetime::init(1_000_000_000, 1_000_001_000));
    let expired = scene
        .dave
        .build_package(expired, &scene.dave.signer, scene.dave.credential());
    let bundle = scene.with_package(&expired);
    scene.refuses("an expired package", bundle, MLS).await;
    let short = Device::package_builder().key_package_lifetime(lifetime(24 * 3600));
    let short = scene
        .dave
        .build_package(short, &scene.dave.signer, scene.dave.credential());
    let bundle = scene.good(Plan::add(vec![short]));
    scene
        .refuses(
            "a package that ends soon",
            bundle,
            commit_rule("lifetime_too_short"),
        )
        .await;

    let mallorys = credential_with_key(credential(&scene.mallory.chain), &scene.dave.signer);
    let stolen = scene
        .dave
        .build_package(Device::package_builder(), &scene.dave.signer, mallorys);
    let bundle = scene.good(Plan::add(vec![stolen]));
    scene
        .refuses(
            "another's certificate",
            bundle,
            commit_rule("certificate_key_mismatch"),
        )
        .await;
    let chain = self_made_chain(&scene.dave.user, scene.dave.id, &scene.dave.signer);
    let untrusted = credential_with_key(credential(&chain), &scene.dave.signer);
    let untrusted = scene
        .dave
        .build_package(Device::package_builder(), &scene.dave.signer, untrusted);
    let bundle = scene.good(Plan::add(vec![untrusted]));
    scene
        .refuses(
            "a certificate of one's own making",
            bundle,
            commit_rule("certificate_untrusted"),
        )
        .await;
    let garbage = valise_group_rules::credential(&[vec![1, 2, 3]]);
    let garbage = credential_with_key(garbage, &scene.dave.signer);
    let garbage = scene
        .dave
        .build_package(Device::package_builder(), &scene.dave.signer, garbage);
    let bundle = scene.good(Plan::add(vec![garbage]));
    scene
        .refuses(
            "no certificate at all",
            bundle,
            commit_rule("certificate_encoding"),
        )
        .await;

    // Carol is a member. The same key is what openmls notices; the same device with another key is for us to notice.
    let again = scene.carol.key_package();
    let bundle = scene.with_package(&again);
    scene.refuses("a member again", bundle, MLS).await;
    let (signer, chain) = scene.carol.renew().await;
    let again = credential_with_key(credential(&chain), &signer);
    let again = scene
        .carol
        .build_package(Device::package_builder(), &signer, again);
    let bundle = scene.good(Plan::add(vec![again]));
    scene
        .refuses("a member's device again", bundle, commit_rule("duplicate_device"))
        .await;
    let (signer, chain) = scene.dave.renew().await;
    let second = credential_with_key(credential(&chain), &signer);
    let second = scene
        .dave
        .build_package(Device::package_builder(), &signer, second);
    let first = scene.dave.key_package();
    let bundle = scene.good(Plan::add(vec![first, second]));
    scene
        .refuses("a device twice", bundle, commit_rule("duplicate_device"))
        .await;

    let bundle = in_the_name_of_mallory(&mut scene);
    scene
        .refuses(
            "the committer becomes somebody else",
            bundle,
            commit_rule("credential_successor"),
        )
        .await;
    let bundle = with_certificate_of_mallory(&mut scene);
    scene
        .refuses(
            "the committer shows another's certificate",
            bundle,
            commit_rule("certificate_key_mismatch"),
        )
        .await;
    assert_eq!(scene.refused, 11);
    scene.goes_on().await;
}

fn in_the_name_of_mallory(scene: &mut Scene) -> Bundle {
    let alice = &scene.alice;
    let signer = NewSignerBundle {
        signer: &scene.mallory.signer,
        credential_with_key: scene.mallory.credential(),
    };
    let built = scene
        .group
        .commit_builder()
        .load_psks(alice.provider.storage())
        .unwrap()
        .create_group_info(true)
        .build_with_new_signer(
            alice.provider.rand(),
            alice.provider.crypto(),
            &alice.signer,
            signer,
            |_| true,
        )
        .unwrap()
        .stage_commit(&alice.provider)
        .unwrap();
    alice.forget(&mut scene.group);
    bundle(built)
}

fn with_certificate_of_mallory(scene: &mut Scene) -> Bundle {
    let alice = &scene.alice;
    let stolen = credential_with_key(credential(&scene.mallory.chain), &alice.signer);
    let built = scene
        .group
        .commit_builder()
        .leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_credential_with_key(stolen)
                .build(),
        )
        .load_psks(alice.provider.storage())
        .unwrap()
        .create_group_info(true)
        .build(
            alice.provider.rand(),
            alice.provider.crypto(),
            &alice.signer,
            |_| true,
        )
        .unwrap()
        .stage_commit(&alice.provider)
        .unwrap();
    alice.forget(&mut scene.group);
    bundle(built)
}

/// The key of an MLS leaf, for a certificate.
struct LeafKey(Vec<u8>);

impl PublicKeyData for LeafKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// A certificate as it should be, but of an authority that nobody trusts.
fn self_made_chain(user: &UserId, device: DeviceId, signer: &SignatureKeyPair) -> Vec<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = [user.uri(), device.uri(user)]
        .map(|uri| SanType::URI(uri.try_into().unwrap()))
        .to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = LeafKey(signer.to_public_vec());
    vec![params.signed_by(&key, &authority).unwrap().der().to_vec()]
}
