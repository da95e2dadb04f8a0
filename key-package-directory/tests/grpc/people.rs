//! Devices with certificates of a test authority, and the key packages that they make.

use openmls::prelude::{
    BasicCredential, Ciphersuite, Credential, CredentialWithKey, KeyPackage, KeyPackageBuilder, Lifetime,
    MlsMessageOut, tls_codec::Serialize as _,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm,
};
use time::OffsetDateTime;
use uuid::Uuid;
use valise_access_token::Caller;
use valise_clock::Clock;
use valise_device_certificate::{KeyKind, ServiceIdentity, ServiceKey, TrustBundle, service_uri};
use valise_group_rules::{capabilities, credential, signature_scheme, suites};
use valise_proto::{DeviceId, UserId};

pub(crate) const DAY: u64 = 24 * 3600;
pub(crate) const SUITE: u32 = 1;

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap())
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der([self.0.der().to_vec()]).unwrap()
    }

    fn sign(&self, name: &str, uris: &[String], key: &impl PublicKeyData, not_after: u64) -> Vec<Vec<u8>> {
        let mut params = CertificateParams::default();
        let at = |seconds: u64| OffsetDateTime::from_unix_timestamp(seconds.cast_signed()).unwrap();
        params.not_before = at(Clock::system().unix_seconds().min(not_after) - DAY);
        params.not_after = at(not_after);
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
            .collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        vec![params.signed_by(key, &self.0).unwrap().der().to_vec()]
    }

    pub(crate) fn service(&self, name: &str) -> ServiceIdentity {
        self.service_until(name, Clock::system().unix_seconds() + DAY)
    }

    /// With a certificate that began a day ago, or a day before its end where that is over.
    pub(crate) fn service_until(&self, name: &str, not_after: u64) -> ServiceIdentity {
        let key = ServiceKey::generate().unwrap();
        let request =
            rcgen::CertificateSigningRequestParams::from_der(&key.request().unwrap().into()).unwrap();
        let uri = service_uri("interieur.example", name);
        let chain = self.sign(name, &[uri], &request.public_key, not_after);
        key.with_chain(chain).unwrap()
    }
}

/// The key of an MLS leaf, for a certificate.
struct LeafKey(Vec<u8>);

impl PublicKeyData for LeafKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        KeyKind::of(&self.0).unwrap().algorithm()
    }
}

/// A device with its key and certificate.
pub(crate) struct Device {
    pub(crate) user: UserId,
    pub(crate) id: DeviceId,
    key: SignatureKeyPair,
    chain: Vec<Vec<u8>>,
    provider: OpenMlsRustCrypto,
}

impl Device {
    pub(crate) fn new(authority: &Authority, name: &str) -> Self {
        Self::with_certificate_until(authority, name, Clock::system().unix_seconds() + 365 * DAY)
    }

    pub(crate) fn with_certificate_until(authority: &Authority, name: &str, not_after: u64) -> Self {
        let user: UserId = format!("{name}@interieur.example").parse().unwrap();
        let device = DeviceId::from_uuid(Uuid::new_v4());
        Self::of(authority, user, device, not_after)
    }

    /// With a key of that kind.
    pub(crate) fn of_kind(authority: &Authority, name: &str, kind: KeyKind) -> Self {
        let user: UserId = format!("{name}@interieur.example").parse().unwrap();
        let device = DeviceId::from_uuid(Uuid::new_v4());
        let not_after = Clock::system().unix_seconds() + 365 * DAY;
        Self::with_key(authority, user, device, not_after, kind)
    }

    fn of(authority: &Authority, user: UserId, device: DeviceId, not_after: u64) -> Self {
        Self::with_key(authority, user, device, not_after, KeyKind::Ed25519)
    }

    fn with_key(
        authority: &Authority,
        user: UserId,
        device: DeviceId,
        not_after: u64,
        kind: KeyKind,
    ) -> Self {
        let key = SignatureKeyPair::new(signature_scheme(kind)).unwrap();
        let uris = [user.uri(), device.uri(&user)];
        let chain = authority.sign(
            &device.to_string(),
            &uris,
            &LeafKey(key.to_public_vec()),
            not_after,
        );
        Self {
            user,
            id: device,
            key,
            chain,
            provider: OpenMlsRustCrypto::default(),
        }
    }

    /// The same device with a new key and certificate.
    pub(crate) fn with_a_new_key(&self, authority: &Authority) -> Self {
        let not_after = Clock::system().unix_seconds() + 365 * DAY;
        Self::of(authority, self.user.clone(), self.id, not_after)
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller::Device {
            user: self.user.clone(),
            device: self.id,
            administrator: false,
        }
    }

    fn builder(lifetime: u64) -> KeyPackageBuilder {
        let now = Clock::system().unix_seconds();
        KeyPackage::builder()
            .leaf_node_capabilities(capabilities())
            .key_package_lifetime(Lifetime::init(now - 60, now - 60 + lifetime))
    }

    fn build(&self, builder: KeyPackageBuilder, suite: Ciphersuite, credential: Credential) -> Vec<u8> {
        let credential = CredentialWithKey {
            credential,
            signature_key: self.key.to_public_vec().into(),
        };
        let bundle = builder
            .build(suite, &self.provider, &self.key, credential)
            .unwrap();
        MlsMessageOut::from(bundle.into_key_package())
            .tls_serialize_detached()
            .unwrap()
    }

    /// A one-time package as it should be.
    pub(crate) fn package(&self) -> Vec<u8> {
        self.package_for(84 * DAY)
    }

    pub(crate) fn packages(&self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.package()).collect()
    }

    /// With that lifetime in seconds, which began a minute ago.
    pub(crate) fn package_for(&self, lifetime: u64) -> Vec<u8> {
        self.build(Self::builder(lifetime), suites()[0], credential(&self.chain))
    }

    pub(crate) fn package_of_suite(&self, suite: Ciphersuite) -> Vec<u8> {
        let mut supported = suites().to_vec();
        supported.push(suite);
        let capabilities = openmls::prelude::Capabilities::builder()
            .ciphersuites(supported)
            .extensions(capabilities().extensions().to_vec())
            .proposals(Vec::new())
            .credentials(capabilities().credentials().to_vec())
            .build();
        let builder = Self::builder(84 * DAY).leaf_node_capabilities(capabilities);
        self.build(builder, suite, credential(&self.chain))
    }

    pub(crate) fn last_resort(&self) -> Vec<u8> {
        self.build(
            Self::builder(84 * DAY).mark_as_last_resort(),
            suites()[0],
            credential(&self.chain),
        )
    }

    /// Signed with this device's key, with the other's certificate.
    pub(crate) fn package_with_certificate_of(&self, other: &Self) -> Vec<u8> {
        self.package_with_certificate(suites()[0], other)
    }

    pub(crate) fn package_with_certificate(&self, suite: Ciphersuite, of: &Self) -> Vec<u8> {
        self.build(Self::builder(84 * DAY), suite, credential(&of.chain))
    }

    pub(crate) fn package_with_basic_credential(&self) -> Vec<u8> {
        let basic = BasicCredential::new(self.user.as_str().as_bytes().to_vec());
        self.build(Self::builder(84 * DAY), suites()[0], basic.into())
    }

    /// The capabilities that openmls lists by default: neither X.509 nor our extension.
    pub(crate) fn package_without_capabilities(&self) -> Vec<u8> {
        let builder =
            Self::builder(84 * DAY).leaf_node_capabilities(openmls::prelude::Capabilities::default());
        self.build(builder, suites()[0], credential(&self.chain))
    }
}
