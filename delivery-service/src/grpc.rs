//! The generated traits: convert, call, map; nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use openmls::prelude::tls_codec::Serialize as TlsSerialize;
use tonic::{Request, Response, Status, Streaming, async_trait};
use valise_access_token::{Caller, VerifiedToken};
use valise_device_certificate::KeyKind;
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::delivery_administration_service_server::DeliveryAdministrationService;
use valise_proto::delivery::v1::delivery_internal_service_server::DeliveryInternalService;
use valise_proto::delivery::v1::delivery_service_server::DeliveryService;
use valise_proto::delivery::v1::{inbox_item, subscribe_response};
use valise_proto::{DeviceId, Epoch, GroupId, Position, Reason, Refusal, UserId};

use crate::create_group::CreateGroup;
use crate::door::{Submission, group_id, idempotency_key, timestamp};
use crate::log::{Appended, Entry, EntryKind, InboxContent, InboxItem, ReportedCommit};
use crate::repair_group::Repair;
use crate::service::Delivery;
use crate::submit_commit::SubmitCommit;
use crate::subscribe::Subscriber;

#[derive(Clone)]
pub(crate) struct Grpc {
    delivery: Arc<Delivery>,
}

impl Grpc {
    pub(crate) fn new(delivery: Arc<Delivery>) -> Self {
        Self { delivery }
    }
}

fn caller<T>(request: &Request<T>) -> Result<(UserId, DeviceId), Refusal> {
    let (user, device) = Caller::of(request)?.device()?;
    Ok((user.clone(), device))
}

#[async_trait]
impl DeliveryService for Grpc {
    async fn get_parameters(
        &self,
        _: Request<wire::GetParametersRequest>,
    ) -> Result<Response<wire::GetParametersResponse>, Status> {
        let limits = self.delivery.limits;
        let number = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        let suites = &self.delivery.suites;
        let external_sender = |kind| {
            let sender = suites
                .external_sender(kind)
                .map(TlsSerialize::tls_serialize_detached);
            sender
                .transpose()
                .map(Option::unwrap_or_default)
                .map_err(|_| Reason::Internal)
        };
        let retention = Duration::from_secs(self.delivery.retention_seconds);
        Ok(Response::new(wire::GetParametersResponse {
            external_sender: external_sender(KeyKind::Ed25519)?.into(),
            external_sender_p256: external_sender(KeyKind::P256)?.into(),
            cipher_suites: suites
                .allowed()
                .iter()
                .map(|suite| u32::from(u16::from(*suite)))
                .collect(),
            limits: Some(wire::Limits {
                max_message_bytes: number(limits.message_bytes),
                max_commit_bytes: number(limits.commit_bytes),
                max_ephemeral_bytes: number(limits.ephemeral_bytes),
                max_members: number(limits.members),
                max_adds_per_commit: number(limits.group().adds_per_commit),
                max_groups_per_device: number(limits.groups_per_device),
                max_unacknowledged_bytes: number(limits.unacknowledged_bytes),
                max_unacknowledged_entries: number(limits.unacknowledged_entries),
            }),
            retention: prost_types::Duration::try_from(retention).ok(),
            entry_copies: self
                .delivery
                .entry_copies
                .and_then(|copies| prost_types::Duration::try_from(copies).ok()),
        }))
    }

    async fn create_group(
        &self,
        request: Request<wire::CreateGroupRequest>,
    ) -> Result<Response<wire::CreateGroupResponse>, Status> {
        let (user, device) = caller(&request)?;
        let request = request.into_inner();
        let create = CreateGroup {
            group_info: request.group_info,
            ratchet_tree: request.ratchet_tree,
            key: idempotency_key(&request.idempotency_key)?,
        };
        let group = self.delivery.create_group(&user, device, create).await?;
        Ok(Response::new(wire::CreateGroupResponse {
            group_id: group.to_vec().into(),
        }))
    }

    async fn submit_commit(
        &self,
        request: Request<wire::SubmitCommitRequest>,
    ) -> Result<Response<wire::SubmitCommitResponse>, Status> {
        let (user, device) = caller(&request)?;
        let request = request.into_inner();
        let submit = SubmitCommit {
            commit: request.commit,
            group_info: request.group_info,
            welcome: request.welcome,
            submission: Submission::read(&request.idempotency_key, request.may_be_repeat)?,
            external: false,
        };
        let appended = self.delivery.submit_commit(&user, device, submit).await?;
        Ok(Response::new(wire::SubmitCommitResponse {
            accepted: Some(accepted(appended)),
        }))
    }

    async fn submit_external_commit(
        &self,
        request: Request<wire::SubmitExternalCommitRequest>,
    ) -> Result<Response<wire::SubmitExternalCommitResponse>, Status> {
        let (user, device) = caller(&request)?;
        let request = request.into_inner();
        let submit = SubmitCommit {
            commit: request.commit,
            group_info: request.group_info,
            welcome: Bytes::new(),
            submission: Submission::read(&request.idempotency_key, request.may_be_repeat)?,
            external: true,
        };
        let appended = self.delivery.submit_commit(&user, device, submit).await?;
        Ok(Response::new(wire::SubmitExternalCommitResponse {
            accepted: Some(accepted(appended)),
        }))
    }

    async fn submit_proposal(
        &self,
        request: Request<wire::SubmitProposalRequest>,
    ) -> Result<Response<wire::SubmitProposalResponse>, Status> {
        let (_, device) = caller(&request)?;
        let request = request.into_inner();
        let submission = Submission::read(&request.idempotency_key, request.may_be_repeat)?;
        let appended = self
            .delivery
            .submit_proposal(device, request.proposal, submission)
            .await?;
        Ok(Response::new(wire::SubmitProposalResponse {
            accepted: Some(accepted(appended)),
        }))
    }

    async fn send_message(
        &self,
        request: Request<wire::SendMessageRequest>,
    ) -> Result<Response<wire::SendMessageResponse>, Status> {
        let (_, device) = caller(&request)?;
        let request = request.into_inner();
        let submission = Submission::read(&request.idempotency_key, request.may_be_repeat)?;
        let appended = self
            .delivery
            .send_message(device, request.mls_message, submission)
            .await?;
        Ok(Response::new(wire::SendMessageResponse {
            accepted: Some(accepted(appended)),
        }))
    }

    async fn send_ephemeral(
        &self,
        request: Request<wire::SendEphemeralRequest>,
    ) -> Result<Response<wire::SendEphemeralResponse>, Status> {
        let (_, device) = caller(&request)?;
        self.delivery
            .send_ephemeral(device, request.into_inner().mls_message)
            .await?;
        Ok(Response::new(wire::SendEphemeralResponse {}))
    }

    async fn read_entries(
        &self,
        request: Request<wire::ReadEntriesRequest>,
    ) -> Result<Response<wire::ReadEntriesResponse>, Status> {
        let (_, device) = caller(&request)?;
        let request = request.into_inner();
        let group = group_id("group_id", &request.group_id)?;
        let after = Position(request.after_position);
        let part = self
            .delivery
            .read_entries(device, group, after, request.max_entries)
            .await?;
        Ok(Response::new(wire::ReadEntriesResponse {
            entries: part.entries.iter().map(|item| entry(item)).collect(),
            last_position: part.last.0,
        }))
    }

    async fn get_group_info(
        &self,
        request: Request<wire::GetGroupInfoRequest>,
    ) -> Result<Response<wire::GetGroupInfoResponse>, Status> {
        let (user, device) = caller(&request)?;
        let request = request.into_inner();
        let group = group_id("group_id", &request.group_id)?;
        let with_tree = !request.without_ratchet_tree;
        let current = self
            .delivery
            .get_group_info(&user, device, group, with_tree)
            .await?;
        Ok(Response::new(wire::GetGroupInfoResponse {
            group_info: current.group_info,
            epoch: current.epoch.0,
            commit_position: current.commit_position.0,
            ratchet_tree: current.ratchet_tree,
        }))
    }

    async fn get_ratchet_tree(
        &self,
        request: Request<wire::GetRatchetTreeRequest>,
    ) -> Result<Response<wire::GetRatchetTreeResponse>, Status> {
        let (_, device) = caller(&request)?;
        let request = request.into_inner();
        let group = group_id("group_id", &request.group_id)?;
        let ratchet_tree = self
            .delivery
            .get_ratchet_tree(device, group, Epoch(request.epoch))
            .await?;
        Ok(Response::new(wire::GetRatchetTreeResponse { ratchet_tree }))
    }

    async fn list_groups(
        &self,
        request: Request<wire::ListGroupsRequest>,
    ) -> Result<Response<wire::ListGroupsResponse>, Status> {
        let (user, device) = caller(&request)?;
        let request = request.into_inner();
        let after = match request.after_group_id.as_ref() {
            [] => None,
            bytes => Some(group_id("after_group_id", bytes)?),
        };
        let groups = self
            .delivery
            .list_groups(&user, device, after, request.page_size)
            .await?;
        let groups = groups
            .into_iter()
            .map(|membership| wire::GroupSummary {
                group_id: membership.group.to_vec().into(),
                epoch: membership.epoch.0,
                device_is_member: membership.device_is_member,
            })
            .collect();
        Ok(Response::new(wire::ListGroupsResponse { groups }))
    }

    async fn report_commit(
        &self,
        request: Request<wire::ReportCommitRequest>,
    ) -> Result<Response<wire::ReportCommitResponse>, Status> {
        let (_, device) = caller(&request)?;
        let request = request.into_inner();
        let group = group_id("group_id", &request.group_id)?;
        let fault = wire::CommitFault::try_from(request.fault).map_err(|_| Refusal::malformed("fault"))?;
        self.delivery
            .report_commit(device, group, Position(request.position), fault)
            .await?;
        Ok(Response::new(wire::ReportCommitResponse {}))
    }

    async fn get_log_standing(
        &self,
        request: Request<wire::GetLogStandingRequest>,
    ) -> Result<Response<wire::GetLogStandingResponse>, Status> {
        let (_, device) = caller(&request)?;
        let standing = self.delivery.get_log_standing(device, request.get_ref()).await?;
        Ok(Response::new(standing))
    }

    async fn offer_entries(
        &self,
        request: Request<wire::OfferEntriesRequest>,
    ) -> Result<Response<wire::OfferEntriesResponse>, Status> {
        let (user, device) = caller(&request)?;
        let newest = self
            .delivery
            .offer_entries(&user, device, request.into_inner())
            .await?;
        Ok(Response::new(wire::OfferEntriesResponse {
            offered_position: newest.0,
        }))
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<wire::SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<wire::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let token = request
            .extensions()
            .get::<VerifiedToken>()
            .ok_or(Reason::TokenInvalid)?;
        let subscriber = Subscriber::of(token)?;
        let responses = self.delivery.subscribe(subscriber, request.into_inner()).await?;
        Ok(Response::new(Box::pin(responses)))
    }
}

#[async_trait]
impl DeliveryInternalService for Grpc {
    async fn deliver_notice(
        &self,
        request: Request<wire::DeliverNoticeRequest>,
    ) -> Result<Response<wire::DeliverNoticeResponse>, Status> {
        Caller::of(&request)?.service()?;
        self.delivery
            .deliver_notices(&request.into_inner().notices)
            .await?;
        Ok(Response::new(wire::DeliverNoticeResponse {}))
    }
}

#[async_trait]
impl DeliveryAdministrationService for Grpc {
    async fn repair_group(
        &self,
        request: Request<wire::RepairGroupRequest>,
    ) -> Result<Response<wire::RepairGroupResponse>, Status> {
        let (_, administrator) = Caller::of(&request)?.administrator()?;
        let request = request.into_inner();
        let repair = Repair {
            group: group_id("group_id", &request.group_id)?,
            dry_run: request.dry_run,
            up_to: (request.up_to_position > 0).then_some(Position(request.up_to_position)),
        };
        let repaired = self.delivery.repair_group(administrator, repair).await?;
        Ok(Response::new(repaired.into()))
    }

    async fn reset_group(
        &self,
        request: Request<wire::ResetGroupRequest>,
    ) -> Result<Response<wire::ResetGroupResponse>, Status> {
        let (_, administrator) = Caller::of(&request)?.administrator()?;
        let group = group_id("group_id", &request.get_ref().group_id)?;
        let reset = self.delivery.reset_group(administrator, group).await?;
        Ok(Response::new(wire::ResetGroupResponse {
            successor_group_id: reset.successor.to_vec().into(),
            last_position: reset.last.0,
        }))
    }

    async fn describe_group(
        &self,
        request: Request<wire::DescribeGroupRequest>,
    ) -> Result<Response<wire::DescribeGroupResponse>, Status> {
        Caller::of(&request)?.administrator()?;
        let group = group_id("group_id", &request.get_ref().group_id)?;
        let standing = self.delivery.describe_group(group).await?;
        let id = |group: Option<GroupId>| group.map(|group| group.to_vec().into()).unwrap_or_default();
        Ok(Response::new(wire::DescribeGroupResponse {
            position: standing.position.0,
            epoch: standing.epoch.0,
            members: u32::try_from(standing.members).unwrap_or(u32::MAX),
            frozen: standing.frozen,
            successor_group_id: id(standing.successor),
            predecessor_group_id: id(standing.predecessor),
        }))
    }

    async fn list_commit_reports(
        &self,
        request: Request<wire::ListCommitReportsRequest>,
    ) -> Result<Response<wire::ListCommitReportsResponse>, Status> {
        Caller::of(&request)?.administrator()?;
        let request = request.into_inner();
        let id = |field: &str, bytes: &[u8]| match bytes {
            [] => Ok(None),
            bytes => group_id(field, bytes).map(Some),
        };
        let group = id("group_id", &request.group_id)?;
        let after = id("after_group_id", &request.after_group_id)?
            .map(|after| (after, Position(request.after_position)));
        let commits = self
            .delivery
            .commit_reports(group, after, request.page_size)
            .await?;
        Ok(Response::new(wire::ListCommitReportsResponse {
            commits: commits.into_iter().map(reported_commit).collect(),
        }))
    }
}

fn reported_commit(commit: ReportedCommit) -> wire::ReportedCommit {
    wire::ReportedCommit {
        group_id: commit.group.to_vec().into(),
        position: commit.position.0,
        epoch: commit.epoch.0,
        sender_device_id: commit.sender.map(|device| device.to_string()).unwrap_or_default(),
        faults: commit
            .faults
            .into_iter()
            .map(|(fault, devices)| wire::FaultCount { fault, devices })
            .collect(),
        first_reported_at: Some(timestamp(commit.first_at)),
        last_reported_at: Some(timestamp(commit.last_at)),
    }
}

fn accepted(appended: Appended) -> wire::Accepted {
    wire::Accepted {
        position: appended.position.0,
        entry_id: appended.id.to_vec().into(),
        epoch: appended.epoch.0,
        accepted_at: Some(timestamp(appended.at)),
    }
}

pub(crate) fn entry(entry: &Entry) -> wire::Entry {
    let kind = match entry.kind {
        EntryKind::Commit => wire::EntryKind::Commit,
        EntryKind::Proposal => wire::EntryKind::Proposal,
        EntryKind::Application => wire::EntryKind::Application,
    };
    wire::Entry {
        group_id: entry.group.to_vec().into(),
        position: entry.position.0,
        kind: kind.into(),
        epoch: entry.epoch.0,
        accepted_at: Some(timestamp(entry.accepted_at)),
        entry_id: entry.id.to_vec().into(),
        mls_message: entry.bytes.clone(),
        sender_device_id: entry.sender.map(|device| device.to_string()).unwrap_or_default(),
    }
}

pub(crate) fn inbox_item(item: InboxItem) -> subscribe_response::Message {
    let content = match item.content {
        InboxContent::Welcome {
            welcome,
            group,
            epoch,
            commit,
        } => inbox_item::Item::Welcome(wire::WelcomeItem {
            welcome,
            group_id: group.to_vec().into(),
            epoch: epoch.0,
            commit: Some(wire::Cursor {
                position: commit.0.0,
                entry_id: commit.1.to_vec().into(),
            }),
        }),
        InboxContent::LowStock {
            cipher_suite,
            one_time,
        } => inbox_item::Item::LowStock(wire::LowStockItem {
            cipher_suite,
            one_time,
        }),
        InboxContent::GroupReset(reset) => inbox_item::Item::GroupReset(wire::GroupResetItem {
            group_id: reset.group.to_vec().into(),
            successor_group_id: reset.successor.to_vec().into(),
            last_position: reset.last.0,
        }),
    };
    subscribe_response::Message::InboxItem(wire::InboxItem {
        number: item.number,
        accepted_at: Some(timestamp(item.accepted_at)),
        item: Some(content),
    })
}

pub(crate) fn ephemeral(group: GroupId, epoch: Epoch, bytes: Bytes) -> subscribe_response::Message {
    subscribe_response::Message::Ephemeral(wire::Ephemeral {
        group_id: group.to_vec().into(),
        epoch: epoch.0,
        mls_message: bytes,
    })
}

pub(crate) fn group_ended(group: GroupId, reason: Reason, position: Position) -> subscribe_response::Message {
    subscribe_response::Message::GroupEnded(wire::GroupEnded {
        group_id: group.to_vec().into(),
        reason: reason.as_str().to_owned(),
        position: position.0,
    })
}
