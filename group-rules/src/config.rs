//! How groups are made: suites, capabilities, and what a GroupContext carries from epoch 0.

use openmls::prelude::{
    Capabilities, Ciphersuite, CredentialType, Extension, ExtensionType, Extensions, ExternalSender,
    GroupContext, Lifetime, MlsGroupCreateConfig, MlsGroupJoinConfig, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
    ProtocolVersion, RequiredCapabilitiesExtension, SenderRatchetConfiguration,
};
use openmls_traits::types::SignatureScheme;
use valise_device_certificate::{KeyKind, TrustBundle};
use valise_proto::UserId;

use crate::{ROLES_EXTENSION, Roles, RuleViolation, identify_sender, judge_external_senders};

/// Application messages are padded to a multiple of this many bytes, so that their length says little.
pub const PADDING: usize = 256;

/// Messages of a sender that may arrive out of order, and that may be skipped (the log is totally ordered).
const OUT_OF_ORDER_TOLERANCE: u32 = 20;
const MAXIMUM_FORWARD_DISTANCE: u32 = 1000;

/// The GroupContext extensions of every group, and the only ones.
pub const GROUP_EXTENSIONS: [ExtensionType; 3] = [
    ExtensionType::RequiredCapabilities,
    ExtensionType::ExternalSenders,
    ExtensionType::Unknown(ROLES_EXTENSION),
];

/// The suites that groups may have (RFC 9420 §17.1), the default first: 0x0001, 0x0003, 0x0002, and the hybrid
/// post-quantum 0x004F and 0x004E. Suites with pure ML-KEM are refused: national guidance asks for hybrids.
pub const fn suites() -> &'static [Ciphersuite] {
    &[
        Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
        Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
        Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
        Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
        Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519,
    ]
}

/// May groups and key packages have this suite?
pub fn is_allowed_suite(suite: Ciphersuite) -> bool {
    suites().contains(&suite)
}

/// The kind of signature key that all members of a group with this suite have, and the service as its external sender: a
/// leaf's key is of its suite's scheme (RFC 9420 §5.1.2). `None` for suites with a scheme that no certificate here has.
pub const fn key_kind(suite: Ciphersuite) -> Option<KeyKind> {
    match suite.signature_algorithm() {
        SignatureScheme::ED25519 => Some(KeyKind::Ed25519),
        SignatureScheme::ECDSA_SECP256R1_SHA256 => Some(KeyKind::P256),
        _ => None,
    }
}

/// The signature scheme of keys of that kind.
pub const fn signature_scheme(kind: KeyKind) -> SignatureScheme {
    match kind {
        KeyKind::Ed25519 => SignatureScheme::ED25519,
        KeyKind::P256 => SignatureScheme::ECDSA_SECP256R1_SHA256,
    }
}

/// What every leaf supports: creators, key packages, external commits alike (openmls's default lists neither X.509 nor our
/// suites).
pub fn capabilities() -> Capabilities {
    Capabilities::builder()
        .versions(vec![ProtocolVersion::Mls10])
        .ciphersuites(suites().to_vec())
        .extensions(vec![
            ExtensionType::LastResort,
            ExtensionType::Unknown(ROLES_EXTENSION),
        ])
        .proposals(Vec::new())
        .credentials(vec![CredentialType::X509])
        .build()
}

/// The GroupContext extensions of a new group: required capabilities, the service as external sender (RFC 9420 §12.1.8),
/// and the roles, with the creator as owner and the default policy.
pub fn group_context_extensions(
    external_sender: ExternalSender,
    creator: &UserId,
) -> Result<Extensions<GroupContext>, RuleViolation> {
    extensions_with(external_sender, &Roles::owned_by(creator.clone()))
}

fn extensions_with(
    external_sender: ExternalSender,
    roles: &Roles,
) -> Result<Extensions<GroupContext>, RuleViolation> {
    let required = RequiredCapabilitiesExtension::new(
        &[ExtensionType::Unknown(ROLES_EXTENSION)],
        &[],
        &[CredentialType::X509],
    );
    Extensions::from_vec(vec![
        Extension::RequiredCapabilities(required),
        Extension::ExternalSenders(vec![external_sender]),
        roles.to_extension(),
    ])
    .map_err(|_| RuleViolation("context_extensions"))
}

/// Does a new group carry what every group must, and nothing else? It may name `external_sender` by a former certificate, which its
/// creator still knew; that one must lead to the bundle.
pub fn judge_group_context(
    context: &GroupContext,
    external_sender: &ExternalSender,
    bundle: &TrustBundle,
    creator: &UserId,
) -> Result<(), RuleViolation> {
    let roles = Roles::owned_by(creator.clone());
    judge_context(context, external_sender, bundle, &roles)
}

/// The same of a group that goes on for one that was reset, whose roles and policy it takes over (`successor_roles`): whoever makes it becomes
/// nothing by that.
pub fn judge_successor_context(
    context: &GroupContext,
    external_sender: &ExternalSender,
    bundle: &TrustBundle,
    roles: &Roles,
) -> Result<(), RuleViolation> {
    judge_context(context, external_sender, bundle, roles).map_err(|violation| match violation {
        RuleViolation("roles") => RuleViolation("successor_roles"),
        other => other,
    })
}

fn judge_context(
    context: &GroupContext,
    external_sender: &ExternalSender,
    bundle: &TrustBundle,
    roles: &Roles,
) -> Result<(), RuleViolation> {
    if context.protocol_version() != ProtocolVersion::Mls10 {
        return Err(RuleViolation("protocol_version"));
    }
    if !is_allowed_suite(context.ciphersuite()) {
        return Err(RuleViolation("cipher_suite"));
    }
    let expected = extensions_with(external_sender.clone(), roles)?;
    let found = context.extensions();
    let named = judge_external_senders(found, external_sender)?;
    if named != external_sender {
        identify_sender(named, bundle)?;
    }
    if found.required_capabilities() != expected.required_capabilities() {
        return Err(RuleViolation("required_capabilities"));
    }
    if found.unknown(ROLES_EXTENSION) != expected.unknown(ROLES_EXTENSION) {
        return Err(RuleViolation("roles"));
    }
    if found.iter().count() != GROUP_EXTENSIONS.len() {
        return Err(RuleViolation("context_extensions"));
    }
    Ok(())
}

fn sender_ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(OUT_OF_ORDER_TOLERANCE, MAXIMUM_FORWARD_DISTANCE)
}

/// How a member keeps a group that it joins. No past epochs: the log is totally ordered, so nobody needs them.
pub fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .padding_size(PADDING)
        .max_past_epochs(0)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(sender_ratchet())
        .build()
}

/// How a new group is made.
pub fn create_config(
    suite: Ciphersuite,
    external_sender: ExternalSender,
    creator: &UserId,
    leaf_lifetime: Lifetime,
) -> Result<MlsGroupCreateConfig, RuleViolation> {
    successor_config(
        suite,
        external_sender,
        &Roles::owned_by(creator.clone()),
        leaf_lifetime,
    )
}

/// How a group is made that goes on for one that was reset, with the roles and the policy of that.
pub fn successor_config(
    suite: Ciphersuite,
    external_sender: ExternalSender,
    roles: &Roles,
    leaf_lifetime: Lifetime,
) -> Result<MlsGroupCreateConfig, RuleViolation> {
    Ok(MlsGroupCreateConfig::builder()
        .ciphersuite(suite)
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .padding_size(PADDING)
        .max_past_epochs(0)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(sender_ratchet())
        .capabilities(capabilities())
        .with_group_context_extensions(extensions_with(external_sender, roles)?)
        .lifetime(leaf_lifetime)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pure_ml_kem_is_not_allowed() {
        for number in [0x0042_u16, 0x0050, 0x0051, 0x0906, 0x0907, 0xF042] {
            let suite = Ciphersuite::try_from(number).expect("openmls knows it");
            assert!(!is_allowed_suite(suite), "{number:#06x}");
        }
        for number in [0x0001_u16, 0x0002, 0x0003, 0x004E, 0x004F] {
            assert!(is_allowed_suite(
                Ciphersuite::try_from(number).expect("openmls knows it")
            ));
        }
        assert!(suites().iter().all(|suite| key_kind(*suite).is_some()));
    }
}
