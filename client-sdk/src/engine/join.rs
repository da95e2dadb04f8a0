//! The device's inbox: invitations and notices.

use bytes::Bytes;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    Member, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, RatchetTreeIn, StagedWelcome,
};
use valise_group_rules::{Identity, Roster, identify_member, join_config};
use valise_proto::delivery::v1 as wire;
use valise_proto::{Epoch, GroupId, Position, Refusal};

use super::Engine;
use super::delivery_chain::Beginning;
use super::effects::{Chore, Effect, Follow, UploadJob};
use super::inbox::{Fault, accepted_at};
use super::live::{self, LiveGroup, peer};
use super::queries::cursor;
use crate::mls::{Provider, failed};
use crate::store::GroupRow;
use crate::{Error, EventKind, GroupStatus, Peer, kill_point};

const DOING: &str = "joining";

/// A group that a Welcome leads into, built but not yet entered.
struct Joining {
    mls: MlsGroup,
    roster: Roster,
    by: Peer,
    last_resort: bool,
    /// Of the key package that was used.
    reference: Option<Vec<u8>>,
}

impl Engine {
    /// Applies an inbox item. Its cursor moves on whatever becomes of it.
    pub(super) fn take_inbox_item(
        &mut self,
        item: wire::InboxItem,
        tree: Option<Result<Bytes, Refusal>>,
    ) -> Result<(), Error> {
        let at = accepted_at(item.accepted_at.as_ref());
        match item.item {
            Some(wire::inbox_item::Item::Welcome(welcome)) => self.take_welcome(&welcome, tree, at),
            Some(wire::inbox_item::Item::LowStock(_)) => {
                self.effects.push(Effect::Chore(Chore::TopUp));
                Ok(())
            }
            Some(wire::inbox_item::Item::GroupReset(reset)) => self.take_reset(&reset),
            None => Ok(()),
        }
    }

    fn take_welcome(
        &mut self,
        welcome: &wire::WelcomeItem,
        tree: Option<Result<Bytes, Refusal>>,
        at: u64,
    ) -> Result<(), Error> {
        let Ok(group) = GroupId::try_from(&*welcome.group_id) else {
            return Ok(());
        };
        let commit = welcome.commit.clone().unwrap_or_default();
        let position = Position(commit.position);
        if self.is_coming_in(group)? {
            // Nothing else is applied until it is known what became of the external commit.
            return Ok(());
        }
        let known = self
            .db
            .group(group)?
            .filter(|row| row.status.has_keys() || row.status == GroupStatus::Rejoining);
        if known.as_ref().is_some_and(|row| row.position >= position) {
            // It is in there already, or was there since: the invitation is old.
            return Ok(());
        }
        let left = match &known {
            Some(row) => self.epoch_left(row)?,
            None => self.db.left_epoch(group)?,
        };
        let before = self.savepoint()?;
        match self.join(group, welcome, tree, at, left) {
            Ok(joining) => {
                self.db.release()?;
                self.enter(group, joining, &commit, at)
            }
            Err(Fault::Error(error)) => Err(error),
            Err(fault) => {
                let (cause, _) = fault.at_fault();
                // Its key package is whole again, should another Welcome name it.
                self.roll_back(&before)?;
                self.live.remove(&group);
                tracing::warn!(%group, cause, "a welcome cannot be used");
                if known.is_none() {
                    self.db.put_group(&GroupRow {
                        id: group,
                        status: GroupStatus::WelcomeUnusable,
                        name: String::new(),
                        suite: 0,
                        position,
                        entry_id: commit.entry_id.to_vec(),
                    })?;
                    self.db.put_left_epoch(group, left)?;
                }
                self.emit(group, position, at, &EventKind::WelcomeUnusable { cause })
            }
        }
    }

    fn join(
        &mut self,
        group: GroupId,
        welcome: &wire::WelcomeItem,
        tree: Option<Result<Bytes, Refusal>>,
        at: u64,
        left: Epoch,
    ) -> Result<Joining, Fault> {
        // Shown again, a Welcome to a last-resort key package would take this device back to an epoch whose secrets others may have by
        // now. That it leads into the epoch announced is judged below.
        if Epoch(welcome.epoch) <= left {
            return Err(Error::Rule("welcome_epoch").into());
        }
        let tree = match tree {
            Some(Ok(tree)) => tree,
            Some(Err(refusal)) => return Err(Error::Rule(refusal.reason.as_str()).into()),
            None => return Err(Error::Rule("ratchet_tree").into()),
        };
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(&tree).map_err(unusable)?;
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&welcome.welcome).map_err(unusable)?;
        let MlsMessageBodyIn::Welcome(body) = message.extract() else {
            return Err(Error::Rule("wire_format").into());
        };
        // A device that was removed and added again may hear of the second before the first.
        live::delete(&mut self.live, &self.db, group)?;
        let provider = Provider::new(&self.crypto, &self.db.connection);
        let builder =
            StagedWelcome::build_from_welcome(&provider, &join_config(), body).map_err(failed(DOING))?;
        let package = builder.processed_welcome().own_key_package();
        let last_resort = package.is_some_and(openmls::prelude::KeyPackage::last_resort);
        // Nobody was welcomed with it before it was made.
        let made = package.map_or(0, |package| package.life_time().not_before());
        let reference = package
            .and_then(|package| package.hash_ref(provider.crypto()).ok())
            .map(|reference| reference.as_slice().to_vec());
        let staged = builder
            .with_ratchet_tree(tree)
            .skip_lifetime_validation()
            .build()
            .map_err(failed(DOING))?;
        let judged_at = self.judged_at(group, at, made);
        let (roster, by) = self.judge_welcome(group, welcome, &staged, judged_at)?;
        let mls = staged.into_group(&provider).map_err(failed(DOING))?;
        Ok(Joining {
            mls,
            roster,
            by,
            last_resort,
            reference,
        })
    }

    /// A joiner trusts nothing that it has not checked: the group is the one announced, its context is as it must be, and every
    /// member's certificate leads to the trust bundle (RFC 9420 §5.3.1).
    fn judge_welcome(
        &self,
        group: GroupId,
        welcome: &wire::WelcomeItem,
        staged: &StagedWelcome,
        at: u64,
    ) -> Result<(Roster, Peer), Fault> {
        let context = staged.group_context();
        if context.group_id().as_slice() != group.as_bytes() || context.epoch().as_u64() != welcome.epoch {
            return Err(Error::Rule("welcome_group").into());
        }
        crate::mls::judge_joined_context(context, &self.device.external_sender, &self.device.user)
            .map_err(Error::from)?;
        let mut members = Vec::new();
        for member in staged.members() {
            members.push(valise_group_rules::Member {
                leaf: member.index,
                identity: self.judge_member(&member, at)?,
                signature_key: member.signature_key,
                credential: member.credential,
            });
        }
        let roster = Roster::of_members(members).map_err(Error::from)?;
        let by = roster
            .at(staged.welcome_sender_index())
            .map(|member| peer(&member.identity));
        let by = by.ok_or(Error::Rule("welcome_sender"))?;
        let peers: Vec<_> = roster.members().map(|member| peer(&member.identity)).collect();
        self.judge_successor(group, context, &peers)?;
        Ok((roster, by))
    }

    /// A certificate that ended since its device joined does not keep others out: it is judged as when it was valid. `at` is in seconds since
    /// 1970-01-01 UTC.
    pub(super) fn judge_member(&self, member: &Member, at: u64) -> Result<Identity, Error> {
        Ok(identify_member(
            &member.credential,
            &member.signature_key,
            &self.device.bundle,
            at,
        )?)
    }

    fn enter(
        &mut self,
        group: GroupId,
        joining: Joining,
        commit: &wire::Cursor,
        at: u64,
    ) -> Result<(), Error> {
        let Joining {
            mls,
            roster,
            by,
            last_resort,
            reference,
        } = joining;
        kill_point::applying("join");
        let suite = mls.ciphersuite();
        let live = LiveGroup::with(mls, roster)?;
        let position = Position(commit.position);
        let inherited = self.inherited_name(group)?;
        let name = self.db.group(group)?.map(|row| row.name);
        let name = name.filter(|name| !name.is_empty()).or_else(|| inherited.clone());
        self.db.put_group(&GroupRow {
            id: group,
            status: GroupStatus::Active,
            name: name.unwrap_or_default(),
            suite: u16::from(suite),
            position,
            entry_id: commit.entry_id.to_vec(),
        })?;
        self.db
            .put_added_by(group, inherited.is_none().then_some(by.device))?;
        self.live.insert(group, live);
        self.begin_chain(
            group,
            Beginning {
                position,
                accepted_at: at,
                entry_id: &commit.entry_id,
            },
        )?;
        self.ephemeral.remove(&group);
        self.needs_no_rejoin(group)?;
        if self.db.unprepare(group)? {
            self.effects.push(Effect::Upload(UploadJob::Clear(group)));
        }
        self.plan_first_update(group)?;
        if last_resort {
            kill_point::applying("join_last_resort");
            // Others may have been welcomed with the same key: new ones soon, and another package.
            self.update_soon(group)?;
            self.make_key_package(suite, true)?;
            self.effects.push(Effect::Chore(Chore::TopUp));
        } else if let Some(reference) = reference {
            self.db.forget_key_package(&reference)?;
        }
        // The key package's private keys are deleted.
        self.effects.push(Effect::Chore(Chore::Scrub));
        self.compare_group_info_soon(group)?;
        self.effects.push(Effect::Follow(Follow::Add(cursor(
            group,
            position,
            &commit.entry_id,
        ))));
        self.emit(group, position, at, &EventKind::Joined { by: by.clone() })?;
        self.went_on(group, &by)?;
        self.follow_reset(group)?;
        self.pump(group)
    }
}

fn unusable(error: impl std::fmt::Display) -> Fault {
    Error::mls(DOING)(&error).into()
}
