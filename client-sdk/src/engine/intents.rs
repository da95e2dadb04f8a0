//! What was asked for: operations, their outcomes, and how they get into the outbox.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{Ciphersuite, MlsGroup, MlsGroupCreateConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::Span;
use valise_group_rules::{Policy, Role};
use valise_proto::{DeviceId, Epoch, GroupId, IdempotencyKey, Position, UserId};

use super::delivery_chain::Beginning;
use super::effects::{Effect, Follow, UploadKind};
use super::live::{LiveGroup, digest};
use super::quarantine::takes_out;
use super::rejoin::Rejoin;
use super::{Engine, Submission, Waiter};
use crate::mls::failed;
use crate::store::{GroupRow, IntentId, IntentRow, NewIntent, Prepared};
use crate::{Error, GroupStatus, Peer, Sent, kill_point};

/// What can be asked of a group.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Register the new group.
    Create,
    /// Send a message.
    Send { payload: Vec<u8> },
    /// Add these devices with one commit.
    Add { packages: Vec<AddPackage> },
    /// Remove these devices with one commit.
    Remove { devices: Vec<DeviceId> },
    /// Remove all devices that these users have in the group when the commit is built.
    RemoveUsers { users: Vec<UserId> },
    /// New keys for this device.
    SelfUpdate,
    /// Commit what others have proposed.
    CommitProposals,
    /// Propose one's own removal.
    Leave,
    /// Come back by an external commit.
    Rejoin(Rejoin),
    /// Give the group another name: a message.
    Rename { payload: Vec<u8> },
    /// Make a user something else.
    SetRole { user: UserId, role: Role },
    /// Change what roles allow.
    SetPolicy { policy: Policy },
}

/// A claimed key package. It is kept until its commit is accepted: on another epoch it is used again.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AddPackage {
    pub(crate) peer: Peer,
    /// MLSMessage.
    pub(crate) message: Vec<u8>,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Sent(Sent),
    Committed { added: Vec<Peer>, removed: Vec<Peer> },
    Proposed,
    Rejoined,
}

#[derive(Serialize, Deserialize)]
struct StoredPackage {
    user: UserId,
    device: DeviceId,
    message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredRemoval {
    /// Before there were others, it was all that was stored.
    Devices(Vec<DeviceId>),
    Users {
        users: Vec<UserId>,
    },
}

impl Operation {
    pub(crate) const REJOIN: &str = "rejoin";

    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Send { .. } => "send",
            Self::Add { .. } => "add",
            Self::Remove { .. } | Self::RemoveUsers { .. } => "remove",
            Self::SelfUpdate => "self_update",
            Self::CommitProposals => "commit_proposals",
            Self::Leave => "leave",
            Self::Rejoin(_) => Self::REJOIN,
            Self::Rename { .. } => "rename",
            Self::SetRole { .. } => "set_role",
            Self::SetPolicy { .. } => "set_policy",
        }
    }

    /// By which request it is done.
    const REQUESTS: [(&str, UploadKind); 11] = [
        ("create", UploadKind::Create),
        ("send", UploadKind::Message),
        ("rename", UploadKind::Message),
        ("add", UploadKind::Commit),
        ("remove", UploadKind::Commit),
        ("self_update", UploadKind::Commit),
        ("commit_proposals", UploadKind::Commit),
        ("set_role", UploadKind::Commit),
        ("set_policy", UploadKind::Commit),
        ("leave", UploadKind::Proposal),
        (Self::REJOIN, UploadKind::ExternalCommit),
    ];

    pub(super) fn upload_kind(kind: &str) -> Result<(&'static str, UploadKind), Error> {
        let request = Self::REQUESTS.into_iter().find(|(name, _)| *name == kind);
        request.ok_or(Error::InvalidInput("the store's intent"))
    }

    pub(super) fn detail(&self) -> Result<Option<String>, Error> {
        Ok(match self {
            Self::Add { packages } => {
                let stored: Vec<_> = packages
                    .iter()
                    .map(|package| StoredPackage {
                        user: package.peer.user.clone(),
                        device: package.peer.device,
                        message: BASE64.encode(&package.message),
                    })
                    .collect();
                Some(serde_json::to_string(&stored)?)
            }
            Self::Remove { devices } => Some(serde_json::to_string(devices)?),
            Self::RemoveUsers { users } => {
                let users = users.clone();
                Some(serde_json::to_string(&StoredRemoval::Users { users })?)
            }
            Self::Rejoin(rejoin) => Some(serde_json::to_string(rejoin)?),
            Self::SetRole { user, role } => Some(serde_json::to_string(&(user, role))?),
            Self::SetPolicy { policy } => Some(serde_json::to_string(policy)?),
            _ => None,
        })
    }

    pub(super) fn from_row(row: &IntentRow) -> Result<Self, Error> {
        let detail = row.detail.as_deref().unwrap_or("[]");
        Ok(match row.kind.as_str() {
            "create" => Self::Create,
            "send" => Self::Send {
                payload: row.payload.clone().unwrap_or_default(),
            },
            "add" => {
                let stored: Vec<StoredPackage> = serde_json::from_str(detail)?;
                let package = |stored: StoredPackage| {
                    let message = BASE64
                        .decode(&stored.message)
                        .map_err(|_| Error::InvalidInput("the store's package"))?;
                    Ok(AddPackage {
                        peer: Peer {
                            user: stored.user,
                            device: stored.device,
                        },
                        message,
                    })
                };
                Self::Add {
                    packages: stored.into_iter().map(package).collect::<Result<_, Error>>()?,
                }
            }
            "remove" => match serde_json::from_str::<StoredRemoval>(detail)? {
                StoredRemoval::Devices(devices) => Self::Remove { devices },
                StoredRemoval::Users { users } => Self::RemoveUsers { users },
            },
            "self_update" => Self::SelfUpdate,
            "commit_proposals" => Self::CommitProposals,
            "leave" => Self::Leave,
            "rejoin" => Self::Rejoin(serde_json::from_str(detail)?),
            "rename" => Self::Rename {
                payload: row.payload.clone().unwrap_or_default(),
            },
            "set_role" => {
                let (user, role) = serde_json::from_str(detail)?;
                Self::SetRole { user, role }
            }
            "set_policy" => Self::SetPolicy {
                policy: serde_json::from_str(detail)?,
            },
            _ => return Err(Error::InvalidInput("the store's intent")),
        })
    }
}

impl Engine {
    /// Stores operations with one transaction, and prepares what can be prepared.
    pub(super) fn submit_all(&mut self, batch: Vec<Submission>) {
        let mut stored = Vec::new();
        let mut rest = batch.into_iter();
        let result = self.transaction(|engine| {
            let mut groups = Vec::new();
            for submission in rest.by_ref() {
                let Submission {
                    group,
                    operation,
                    span,
                    answer,
                } = submission;
                if let Err(error) = engine.check_submission(group, &operation) {
                    // Its outcome is known at once; it does not concern the others.
                    let _ = answer.send(Err(error));
                    continue;
                }
                let queued = engine
                    .queue(group, &operation, false)
                    .and_then(|id| engine.remember_queued(id, group, &operation).map(|_| id));
                let id = match queued {
                    Ok(id) => id,
                    Err(error) => {
                        // Whoever asked may have gone.
                        let _ = answer.send(Err(error.clone()));
                        return Err(error);
                    }
                };
                engine.waiters.insert(id, Waiter { span, answer });
                stored.push(id);
                if !groups.contains(&group) {
                    groups.push(group);
                }
            }
            groups.into_iter().try_for_each(|group| engine.pump(group))
        });
        if let Err(error) = result {
            tracing::error!(%error, "storing operations failed");
            for id in stored {
                if let Some(waiter) = self.waiters.remove(&id) {
                    let _ = waiter.answer.send(Err(error.clone()));
                }
            }
            for submission in rest {
                let _ = submission.answer.send(Err(error.clone()));
            }
        }
    }

    pub(super) fn check_submission(&mut self, group: GroupId, operation: &Operation) -> Result<(), Error> {
        let row = self.db.group(group)?.ok_or(Error::UnknownGroup(group))?;
        let leads_out = row.status == GroupStatus::Quarantined && takes_out(operation.kind());
        if !row.status.is_usable() && !leads_out {
            return Err(Error::GroupNotActive(row.status));
        }
        if let Operation::Send { payload } = operation {
            self.check_size(payload)?;
        }
        match operation {
            // It is judged by the group that this device comes back into, when its turn comes.
            _ if row.status == GroupStatus::Rejoining => Ok(()),
            operation => self.check_role(group, operation),
        }
    }

    /// Puts an operation into the outbox. Urgent ones go before all that are not.
    pub(super) fn queue(
        &mut self,
        group: GroupId,
        operation: &Operation,
        urgent: bool,
    ) -> Result<IntentId, Error> {
        let payload = match operation {
            Operation::Send { payload } | Operation::Rename { payload } => Some(payload.as_slice()),
            _ => None,
        };
        self.db.put_intent(&NewIntent {
            group,
            urgent,
            kind: operation.kind(),
            payload,
            detail: operation.detail()?,
        })
    }

    /// Stores the exact request of an intent, and hands it to the uploader.
    pub(super) fn put_prepared(&mut self, mut row: IntentRow, prepared: Prepared) -> Result<(), Error> {
        let digest = digest(&self.crypto, &prepared.message)?;
        self.db.put_prepared(row.id, &prepared, &digest)?;
        kill_point::storing(&row.kind);
        row.prepared = Some(prepared);
        self.upload(&row, false)
    }

    /// Makes a group with this device as its only member, and the intent to register it.
    pub(crate) fn create_group(
        &mut self,
        id: GroupId,
        name: &str,
        suite: Ciphersuite,
        span: Span,
        answer: oneshot::Sender<Result<super::Outcome, Error>>,
    ) -> Result<(), Error> {
        self.transaction(|engine| engine.new_group(id, name, suite, Waiter { span, answer }))
    }

    pub(super) fn new_group(
        &mut self,
        id: GroupId,
        name: &str,
        suite: Ciphersuite,
        waiter: Waiter,
    ) -> Result<(), Error> {
        let lifetime = crate::mls::lifetime(self.now(), self.options.key_packages.lifetime.as_secs());
        let config = valise_group_rules::create_config(
            suite,
            self.device.external_sender.clone(),
            &self.device.user,
            lifetime,
        )?;
        self.make_group(id, name, suite, &config, Some(waiter))
    }

    /// The group itself, and the request to register it.
    pub(super) fn make_group(
        &mut self,
        id: GroupId,
        name: &str,
        suite: Ciphersuite,
        config: &MlsGroupCreateConfig,
        waiter: Option<Waiter>,
    ) -> Result<(), Error> {
        const DOING: &str = "making a group";
        let provider = self.provider();
        let signer = &self.device.signer;
        let mls = MlsGroup::new_with_group_id(
            &provider,
            signer,
            config,
            openmls::prelude::GroupId::from_slice(id.as_bytes()),
            self.device.credential.clone(),
        )
        .map_err(failed(DOING))?;
        let group_info = mls
            .export_group_info(&self.crypto, signer, false)
            .map_err(|error| Error::mls(DOING)(&error))?
            .to_bytes()
            .map_err(|error| Error::mls(DOING)(&error))?;
        let tree = mls
            .export_ratchet_tree()
            .tls_serialize_detached()
            .map_err(|error| Error::mls(DOING)(&error))?;
        self.live.insert(id, LiveGroup::new(mls)?);
        self.db.put_group(&GroupRow {
            id,
            status: GroupStatus::Creating,
            name: name.to_owned(),
            suite: u16::from(suite),
            position: Position::NONE,
            entry_id: Vec::new(),
        })?;
        self.begin_chain(id, Beginning::default())?;
        self.plan_next_update(id)?;
        let intent = self.queue(id, &Operation::Create, true)?;
        if let Some(waiter) = waiter {
            self.waiters.insert(intent, waiter);
        }
        let row = self
            .db
            .intent(intent)?
            .ok_or(Error::InvalidInput("the store's intent"))?;
        let prepared = Prepared {
            key: IdempotencyKey::random(&mut rand::rng()),
            epoch: Epoch(0),
            message: group_info,
            group_info: None,
            welcome: Some(tree),
        };
        self.put_prepared(row, prepared)
    }

    /// The service has registered the group.
    pub(super) fn created(&mut self, intent: &IntentRow) -> Result<(), Error> {
        kill_point::applying(&intent.kind);
        self.db.delete_intent(intent.id)?;
        self.db.put_status(intent.group, GroupStatus::Active)?;
        self.effects
            .push(Effect::Follow(Follow::Add(super::queries::cursor(
                intent.group,
                Position::NONE,
                &[],
            ))));
        self.effects.push(Effect::Answer(intent.id, Ok(Outcome::Created)));
        self.successor_made(intent.group)?;
        self.pump(intent.group)
    }
}
