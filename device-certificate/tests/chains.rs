//! What is accepted as a device's certificate, and what is not.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ED25519, PublicKeyData,
    SanType,
};
use time::{Duration, OffsetDateTime};
use valise_device_certificate::{
    CertificateError, KeyKind, ServiceKey, Subject, TrustBundle, certification_request, read,
};

const USER: &str = "mimi://interieur.example/u/alice";
const DEVICE: &str = "mimi://interieur.example/d/0190c1a2-7d2e-7c4b-9a51-0123456789ab";
const NOW: u64 = 1_800_000_000;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "test authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap()
}

fn leaf(authority: &Issuer, uris: &[&str]) -> (KeyPair, Vec<Vec<u8>>) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let chain = vec![certificate(authority, uris, &key)];
    (key, chain)
}

fn certificate(authority: &Issuer, uris: &[&str], key: &impl PublicKeyData) -> Vec<u8> {
    certificate_for(authority, uris, key, 1)
}

/// Valid for so many days from now.
fn certificate_for(authority: &Issuer, uris: &[&str], key: &impl PublicKeyData, days: i64) -> Vec<u8> {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::from_unix_timestamp(NOW.cast_signed()).unwrap();
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(days);
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params.signed_by(key, authority).unwrap().der().to_vec()
}

fn bundle(authority: &Issuer) -> TrustBundle {
    TrustBundle::from_der([authority.der().to_vec()]).unwrap()
}

#[test]
fn a_device_certificate_says_who_it_is() {
    let authority = authority();
    let (key, chain) = leaf(&authority, &[USER, DEVICE]);
    let certificate = bundle(&authority).verify(&chain, NOW).unwrap();
    let Subject::Device { user, device } = certificate.subject else {
        panic!("not a device")
    };
    assert_eq!(user.as_str(), "alice@interieur.example");
    assert_eq!(device.uri(&user), DEVICE);
    assert_eq!(certificate.public_key, key.public_key_raw());
    assert_eq!(
        (certificate.not_before, certificate.not_after),
        (NOW - 86_400, NOW + 86_400)
    );
}

#[test]
fn validity_is_judged_at_the_time_given() {
    let authority = authority();
    let (_, chain) = leaf(&authority, &[USER, DEVICE]);
    for at in [NOW - 86_402, NOW + 86_402] {
        assert_eq!(
            bundle(&authority).verify(&chain, at),
            Err(CertificateError::Expired)
        );
    }
}

#[test]
fn a_certificate_that_has_ended_is_judged_as_it_was() {
    let authority = authority();
    let (_, chain) = leaf(&authority, &[USER, DEVICE]);
    let as_was = |at| bundle(&authority).verify_as_was(&chain, at).map(drop);
    assert_eq!(as_was(NOW), Ok(()));
    assert_eq!(as_was(NOW + 86_402), Ok(()));
    assert_eq!(
        as_was(NOW - 86_402),
        Err(CertificateError::Expired),
        "not valid yet"
    );
    let other = bundle(&self::authority()).verify_as_was(&chain, NOW + 86_402);
    assert_eq!(other, Err(CertificateError::Untrusted));
}

#[test]
fn a_chain_is_judged_at_whatever_time_by_all_but_its_dates() {
    let authority = authority();
    let (_, chain) = leaf(&authority, &[USER, DEVICE]);
    assert_eq!(bundle(&authority).verify_undated(&chain).map(drop), Ok(()));
    assert_eq!(
        bundle(&self::authority()).verify_undated(&chain),
        Err(CertificateError::Untrusted)
    );
    let mut flipped = chain.clone();
    *flipped[0].last_mut().unwrap() ^= 1;
    assert_eq!(
        bundle(&authority).verify_undated(&flipped),
        Err(CertificateError::Untrusted)
    );
}

#[test]
fn another_authority_is_not_trusted() {
    let (_, chain) = leaf(&authority(), &[USER, DEVICE]);
    assert_eq!(
        bundle(&authority()).verify(&chain, NOW),
        Err(CertificateError::Untrusted)
    );
}

#[test]
fn names_that_could_confuse_are_refused() {
    let authority = authority();
    let other_domain = DEVICE.replace("interieur", "defense");
    let upper = USER.replace("alice", "Alice");
    let cases: &[&[&str]] = &[
        &[],
        &[USER],
        &[DEVICE],
        &[USER, USER],
        &[USER, &other_domain],
        &[&upper, DEVICE],
        &[USER, DEVICE, "mimi://interieur.example/u/bob"],
        &["valise://interieur.example/s/delivery service"],
    ];
    for uris in cases {
        let (_, chain) = leaf(&authority, uris);
        assert_eq!(
            bundle(&authority).verify(&chain, NOW),
            Err(CertificateError::Names),
            "{uris:?}"
        );
    }
}

#[test]
fn garbage_and_oversize_are_refused() {
    let authority = authority();
    let (_, chain) = leaf(&authority, &[USER, DEVICE]);
    let bundle = bundle(&authority);
    let mut trailing = chain.clone();
    trailing[0].push(0);
    let mut truncated = chain.clone();
    truncated[0].pop();
    let mut flipped = chain.clone();
    *flipped[0].last_mut().unwrap() ^= 1;
    assert_eq!(bundle.verify(&[], NOW), Err(CertificateError::ChainSize));
    assert_eq!(
        bundle.verify(&vec![chain[0].clone(); 5], NOW),
        Err(CertificateError::ChainSize)
    );
    assert_eq!(
        bundle.verify(&[vec![0x30; 5000]], NOW),
        Err(CertificateError::ChainSize)
    );
    assert_eq!(
        bundle.verify(&[b"hello".to_vec()], NOW),
        Err(CertificateError::Encoding)
    );
    assert_eq!(bundle.verify(&trailing, NOW), Err(CertificateError::Encoding));
    assert_eq!(bundle.verify(&truncated, NOW), Err(CertificateError::Encoding));
    assert_eq!(bundle.verify(&flipped, NOW), Err(CertificateError::Untrusted));
}

#[test]
fn a_request_is_signed_by_the_key_it_carries() {
    let key = ServiceKey::generate().unwrap();
    let request = key.request().unwrap();
    rcgen::CertificateSigningRequestParams::from_der(&request.into()).unwrap();
    let forged = certification_request(&[7; 32], |_| Some(vec![0; 64])).unwrap();
    assert!(rcgen::CertificateSigningRequestParams::from_der(&forged.into()).is_err());
}

#[test]
fn a_service_identity_is_kept_in_files_and_shows_no_key() {
    let authority = authority();
    let key = ServiceKey::generate().unwrap();
    let request = rcgen::CertificateSigningRequestParams::from_der(&key.request().unwrap().into()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(
        "valise://interieur.example/s/delivery-service"
            .try_into()
            .unwrap(),
    )];
    let chain = vec![
        params
            .signed_by(&request.public_key, &authority)
            .unwrap()
            .der()
            .to_vec(),
    ];
    let identity = key.with_chain(chain).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (key_file, chain_file) = (folder.path().join("key.pem"), folder.path().join("chain.pem"));
    identity.save(&key_file, &chain_file).unwrap();
    let loaded = valise_device_certificate::ServiceIdentity::load(&key_file, &chain_file).unwrap();
    assert_eq!(loaded.name(), "delivery-service");
    assert_eq!(loaded.public_key(), identity.public_key());
    assert_eq!(read(loaded.chain()).unwrap().public_key, identity.public_key());
    assert_eq!(format!("{loaded:?}"), "ServiceIdentity(delivery-service)");

    let (_, wrong) = leaf(&authority, &["valise://interieur.example/s/delivery-service"]);
    assert_eq!(
        ServiceKey::generate().unwrap().with_chain(wrong).unwrap_err(),
        CertificateError::Key
    );
}

#[test]
fn a_service_keeps_its_key_when_its_certificate_is_renewed() {
    let authority = authority();
    let uri = "valise://interieur.example/s/delivery-service";
    let certified = |key: ServiceKey, days| {
        let request = key.request().unwrap();
        let request = rcgen::CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let chain = vec![certificate_for(&authority, &[uri], &request.public_key, days)];
        key.with_chain(chain).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let (key_file, chain_file) = (folder.path().join("key.pem"), folder.path().join("chain.pem"));
    let first = certified(ServiceKey::generate_of(KeyKind::P256).unwrap(), 1);
    first.save(&key_file, &chain_file).unwrap();
    let key = std::fs::read(&key_file).unwrap();

    let held = ServiceKey::load(&key_file).unwrap();
    assert_eq!(held.kind(), Some(KeyKind::P256));
    let renewed = certified(held, 2);
    renewed.save_chain(&chain_file).unwrap();
    assert_eq!(std::fs::read(&key_file).unwrap(), key);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    let loaded = valise_device_certificate::ServiceIdentity::load(&key_file, &chain_file).unwrap();
    assert_eq!(
        (loaded.public_key(), loaded.chain()),
        (first.public_key(), renewed.chain())
    );
    assert!(ServiceKey::load(&chain_file).is_err());
}

#[test]
fn a_certificate_is_due_when_two_thirds_of_its_life_are_over() {
    let authority = authority();
    let key = ServiceKey::generate().unwrap();
    let request = rcgen::CertificateSigningRequestParams::from_der(&key.request().unwrap().into()).unwrap();
    let uri = "valise://interieur.example/s/delivery-service";
    let chain = vec![certificate(&authority, &[uri], &request.public_key)];
    let identity = key.with_chain(chain).unwrap();
    assert_eq!(*identity.validity(), NOW - 86_400..=NOW + 86_400);
    assert!(!identity.is_due(NOW + 28_799));
    assert!(identity.is_due(NOW + 28_800));
}

#[test]
fn a_p256_key_is_certified_and_signs_like_any_other() {
    let authority = authority();
    let key = ServiceKey::generate_of(KeyKind::P256).unwrap();
    let request = rcgen::CertificateSigningRequestParams::from_der(&key.request().unwrap().into()).unwrap();
    let uri = "valise://interieur.example/s/delivery-service";
    let chain = vec![certificate(&authority, &[uri], &request.public_key)];
    let found = bundle(&authority).verify(&chain, NOW).unwrap();
    assert_eq!((found.key_kind, found.public_key.len()), (KeyKind::P256, 65));

    let identity = key.with_chain(chain).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (key_file, chain_file) = (folder.path().join("key.pem"), folder.path().join("chain.pem"));
    identity.save(&key_file, &chain_file).unwrap();
    let loaded = valise_device_certificate::ServiceIdentity::load(&key_file, &chain_file).unwrap();
    assert_eq!(
        (loaded.kind(), loaded.public_key()),
        (KeyKind::P256, identity.public_key())
    );
    let signature = loaded.sign(b"text").unwrap();
    assert_eq!(KeyKind::P256.jws_signature(signature).unwrap().len(), 64);
}

#[test]
fn keys_of_other_kinds_are_not_certified() {
    let authority = authority();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let chain = [certificate(
        &authority,
        &["valise://interieur.example/s/delivery-service"],
        &key,
    )];
    assert_eq!(bundle(&authority).verify(&chain, NOW), Err(CertificateError::Key));
}
