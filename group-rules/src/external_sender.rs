//! The delivery service as the external sender of groups (RFC 9420 §12.1.8.1).
//!
//! Every group names the service by key and certificate, and does so for ever: no commit may change it. The certificate is renewed for
//! the same key, so two senders are the same service where key and name are the same, whatever else their certificates say. What its
//! dates say is nobody's business here (ADR 25).

use openmls::prelude::tls_codec::{DeserializeBytes, Serialize, VLBytes};
use openmls::prelude::{Credential, Extensions, ExternalSender, GroupContext};
use valise_device_certificate::{Subject, TrustBundle, VerifiedCertificate, read};

use crate::RuleViolation;
use crate::credential::{chain, violation};

/// What stays of an external sender when its certificate is renewed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSender {
    /// The deployment's domain.
    pub domain: String,
    /// For example `delivery-service`.
    pub name: String,
    /// With which it signs its proposals.
    pub signature_key: Vec<u8>,
}

/// Who a sender says it is. Says nothing about whether the certificate is to be believed.
pub fn claimed_sender(sender: &ExternalSender) -> Result<ServiceSender, RuleViolation> {
    let (credential, signature_key) = parts(sender)?;
    service(read(&chain(&credential)?).map_err(violation)?, signature_key)
}

/// Who a sender is, for whoever lets it into a group or takes it for the service (RFC 9420 §5.3.1): the chain leads to the bundle, and its
/// key **equals** the sender's. Whether the certificate has ended is not asked.
pub fn identify_sender(
    sender: &ExternalSender,
    bundle: &TrustBundle,
) -> Result<ServiceSender, RuleViolation> {
    let (credential, signature_key) = parts(sender)?;
    let certificate = bundle.verify_undated(&chain(&credential)?).map_err(violation)?;
    service(certificate, signature_key)
}

/// Are they one service with one key, perhaps with another certificate?
pub fn is_same_sender(one: &ExternalSender, other: &ExternalSender) -> bool {
    one == other
        || matches!((claimed_sender(one), claimed_sender(other)), (Ok(one), Ok(other)) if one == other)
}

/// Does a group name the service, under whichever of its certificates, and nobody else? Gives what it names.
pub fn judge_external_senders<'a>(
    extensions: &'a Extensions<GroupContext>,
    service: &ExternalSender,
) -> Result<&'a ExternalSender, RuleViolation> {
    match extensions.external_senders().map(Vec::as_slice) {
        Some([sender]) if is_same_sender(sender, service) => Ok(sender),
        _ => Err(RuleViolation("external_senders")),
    }
}

/// Credential and key, which openmls does not give out.
fn parts(sender: &ExternalSender) -> Result<(Credential, Vec<u8>), RuleViolation> {
    let unreadable = |_| RuleViolation("external_senders");
    let encoded = sender.tls_serialize_detached().map_err(unreadable)?;
    let (signature_key, rest) = VLBytes::tls_deserialize_bytes(&encoded).map_err(unreadable)?;
    let credential = Credential::tls_deserialize_exact_bytes(rest).map_err(unreadable)?;
    Ok((credential, Vec::from(signature_key)))
}

fn service(certificate: VerifiedCertificate, signature_key: Vec<u8>) -> Result<ServiceSender, RuleViolation> {
    if certificate.public_key != signature_key {
        return Err(RuleViolation("certificate_key_mismatch"));
    }
    match certificate.subject {
        Subject::Service { domain, name } => Ok(ServiceSender {
            domain,
            name,
            signature_key,
        }),
        Subject::Device { .. } => Err(RuleViolation("certificate_names")),
    }
}

#[cfg(test)]
mod tests {
    use openmls::prelude::{CredentialType, Extension};
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519, SanType,
        date_time_ymd,
    };

    use super::*;
    use crate::credential;

    const SERVICE: &str = "valise://a.example/s/delivery-service";

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Issuer {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, key()).unwrap()
    }

    fn key() -> KeyPair {
        KeyPair::generate_for(&PKCS_ED25519).unwrap()
    }

    /// A sender with a certificate that ends in that year.
    fn sender(authority: &Issuer, uris: &[&str], key: &KeyPair, year: i32) -> ExternalSender {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(year - 2, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        let chain = [params.signed_by(key, authority).unwrap().der().to_vec()];
        named(key, &chain)
    }

    fn named(key: &KeyPair, chain: &[Vec<u8>]) -> ExternalSender {
        ExternalSender::new(key.public_key_raw().to_vec().into(), credential(chain))
    }

    #[test]
    fn a_renewed_certificate_is_the_same_service_whatever_the_dates_are() {
        let (authority, key) = (authority(), key());
        let bundle = TrustBundle::from_der([authority.der().to_vec()]).unwrap();
        let ended = sender(&authority, &[SERVICE], &key, 2020);
        let renewed = sender(&authority, &[SERVICE], &key, 2090);
        assert_ne!(ended, renewed);
        assert!(is_same_sender(&ended, &renewed) && is_same_sender(&renewed, &ended));
        let expected = ServiceSender {
            domain: "a.example".to_owned(),
            name: "delivery-service".to_owned(),
            signature_key: key.public_key_raw().to_vec(),
        };
        for sender in [&ended, &renewed] {
            assert_eq!(claimed_sender(sender), Ok(expected.clone()));
            assert_eq!(identify_sender(sender, &bundle), Ok(expected.clone()));
        }
    }

    #[test]
    fn another_key_name_or_kind_of_certificate_is_not() {
        let (authority, key) = (authority(), key());
        let service = sender(&authority, &[SERVICE], &key, 2090);
        let device = [
            "mimi://a.example/u/alice",
            "mimi://a.example/d/0190c1a2-7d2e-7c4b-9a51-0123456789ab",
        ];
        let other_key = self::key();
        let chain = chain(&parts(&service).unwrap().0).unwrap();
        let basic = ExternalSender::new(
            key.public_key_raw().to_vec().into(),
            Credential::new(CredentialType::Basic, SERVICE.as_bytes().to_vec()),
        );
        for other in [
            sender(&authority, &[SERVICE], &other_key, 2090),
            sender(&authority, &["valise://b.example/s/delivery-service"], &key, 2090),
            sender(
                &authority,
                &["valise://a.example/s/key-package-directory"],
                &key,
                2090,
            ),
            sender(&authority, &device, &key, 2090),
            // The service's certificate with somebody else's key.
            named(&other_key, &chain),
            named(&key, &[vec![1, 2, 3]]),
            named(&key, &[]),
            basic,
        ] {
            assert!(!is_same_sender(&other, &service), "{other:?}");
            assert!(!is_same_sender(&service, &other), "{other:?}");
        }
    }

    #[test]
    fn a_certificate_of_another_authority_is_not_believed() {
        let (authority, key) = (authority(), key());
        let bundle = TrustBundle::from_der([authority.der().to_vec()]).unwrap();
        let forged = sender(&self::authority(), &[SERVICE], &key, 2090);
        assert_eq!(
            identify_sender(&forged, &bundle),
            Err(RuleViolation("certificate_untrusted"))
        );
        let device = [
            "mimi://a.example/u/alice",
            "mimi://a.example/d/0190c1a2-7d2e-7c4b-9a51-0123456789ab",
        ];
        assert_eq!(
            identify_sender(&sender(&authority, &device, &key, 2090), &bundle),
            Err(RuleViolation("certificate_names"))
        );
    }

    #[test]
    fn a_group_names_the_service_and_nobody_else() {
        let (authority, key) = (authority(), key());
        let service = sender(&authority, &[SERVICE], &key, 2090);
        let ended = sender(&authority, &[SERVICE], &key, 2020);
        let stranger = sender(&authority, &[SERVICE], &self::key(), 2090);
        let judge = |senders: Vec<ExternalSender>| {
            let extensions = Extensions::from_vec(vec![Extension::ExternalSenders(senders)]).unwrap();
            judge_external_senders(&extensions, &service).cloned()
        };
        assert_eq!(judge(vec![service.clone()]), Ok(service.clone()));
        assert_eq!(judge(vec![ended.clone()]), Ok(ended.clone()));
        let differs = Err(RuleViolation("external_senders"));
        assert_eq!(judge(vec![stranger.clone()]), differs);
        assert_eq!(judge(vec![ended, service.clone()]), differs);
        assert_eq!(judge(vec![service.clone(), stranger]), differs);
        assert_eq!(judge(vec![]), differs);
        let none = Extensions::empty();
        assert_eq!(
            judge_external_senders(&none, &service),
            Err(RuleViolation("external_senders"))
        );
    }
}
