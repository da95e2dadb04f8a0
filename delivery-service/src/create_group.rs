//! Registers a group at epoch 0 with one member, the caller: a new one, or one that goes on for a group that was reset.

use bytes::Bytes;
use openmls::prelude::{DeserializeBytes as _, ProposalStore, PublicGroup, RatchetTreeIn};
use openmls_rust_crypto::RustCrypto;
use valise_group_rules::{
    Roster, RuleViolation, identify, judge_group_context, judge_successor_context, key_kind,
};
use valise_proto::{DeviceId, GroupId, IdempotencyKey, Reason, Refusal, UserId};

use crate::door::{broken, new_entry_id, sized, unreadable};
use crate::group_state::read_group_info;
use crate::group_state::snapshot::NoStore;
use crate::log::{Created, NewGroup};
use crate::service::Delivery;

/// A group of one is small.
const LIMIT: usize = 64 * 1024;

pub(crate) struct CreateGroup {
    pub(crate) group_info: Bytes,
    pub(crate) ratchet_tree: Bytes,
    pub(crate) key: IdempotencyKey,
}

impl Delivery {
    pub(crate) async fn create_group(
        &self,
        user: &UserId,
        device: DeviceId,
        request: CreateGroup,
    ) -> Result<GroupId, Refusal> {
        sized("group_info", &request.group_info, LIMIT)?;
        sized("ratchet_tree", &request.ratchet_tree, LIMIT)?;
        let read = read_group_info(&request.group_info).map_err(door)?;
        let group = GroupId::try_from(read.info.group_id().as_slice())
            .map_err(|_| broken(Reason::InvalidGroupInfo)(RuleViolation("group_id")))?;
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(&request.ratchet_tree)
            .map_err(|_| Refusal::malformed("ratchet_tree"))?;

        let context = read.info.group_context();
        let suite = context.ciphersuite();
        let external_sender = key_kind(suite)
            .filter(|_| self.suites.allowed().contains(&suite))
            .and_then(|kind| self.suites.external_sender(kind))
            .ok_or_else(|| broken(Reason::InvalidGroupInfo)(RuleViolation("cipher_suite")))?;
        let bundle = self.verifier.trust_bundle();
        match self.log.predecessor(group).await? {
            None => judge_group_context(context, external_sender, &bundle, user),
            Some(old) => {
                let roles = self.roles_to_inherit(old, device).await?;
                judge_successor_context(context, external_sender, &bundle, &roles)
            }
        }
        .map_err(broken(Reason::InvalidGroupInfo))?;
        if read.info.epoch().as_u64() != 0 {
            return Err(broken(Reason::InvalidGroupInfo)(RuleViolation("epoch")));
        }
        let (public_group, _) = PublicGroup::from_external(
            &RustCrypto::default(),
            &NoStore,
            tree,
            read.info,
            ProposalStore::new(),
        )
        .map_err(|_| broken(Reason::InvalidGroupInfo)(RuleViolation("mls_validation")))?;
        self.judge_creator(&public_group, user, device)
            .map_err(broken(Reason::InvalidGroupInfo))?;

        let origin = new_entry_id();
        // Of a group that is there already it would be one snapshot too many: a repeat, or somebody else's try.
        if self.log.head(group).await?.is_none() {
            self.states.put_genesis(group, origin, &public_group).await?;
        }
        let created = self
            .log
            .create(NewGroup {
                group,
                creator: (user.clone(), device),
                key: request.key,
                group_info: request.group_info,
                origin,
                at: self.clock.unix_millis(),
            })
            .await?;
        match created {
            Created::Yes => Ok(group),
            Created::Exists => Err(Reason::GroupExists.into()),
        }
    }

    /// The only member is the caller, with a certificate that is valid now.
    fn judge_creator(
        &self,
        group: &PublicGroup,
        user: &UserId,
        device: DeviceId,
    ) -> Result<(), RuleViolation> {
        let roster = Roster::of(group.members(), None)?;
        let creator = roster
            .device(device)
            .filter(|_| roster.len() == 1)
            .ok_or(RuleViolation("members"))?;
        let now = self.clock.unix_seconds();
        let identity = identify(
            &creator.credential,
            &creator.signature_key,
            &self.verifier.trust_bundle(),
            now,
        )?;
        if identity.user == *user {
            Ok(())
        } else {
            Err(RuleViolation("members"))
        }
    }
}

/// What cannot be read as a GroupInfo at all is malformed; one without what it needs is invalid.
fn door(violation: RuleViolation) -> Refusal {
    match violation.0 {
        "encoding" | "wire_format" => unreadable("group_info")(violation),
        _ => broken(Reason::InvalidGroupInfo)(violation),
    }
}
