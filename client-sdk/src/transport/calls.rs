//! Each remote call, by name.

use bytes::Bytes;
use openmls::prelude::Ciphersuite;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};
use valise_proto::authentication::v1 as auth;
use valise_proto::authentication::v1::administration_service_client::AdministrationServiceClient;
use valise_proto::authentication::v1::authentication_service_client::AuthenticationServiceClient;
use valise_proto::delivery::v1 as delivery;
use valise_proto::delivery::v1::delivery_administration_service_client::DeliveryAdministrationServiceClient;
use valise_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use valise_proto::directory::v1 as directory;
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;
use valise_proto::{DeviceId, GroupId, Position, UserId};

use super::{
    CLAIM_DEADLINE, Channels, DEADLINE, Failure, MAX_MESSAGE, Transport, authorise, in_time, persist,
};
use crate::Error;

macro_rules! calls {
    ($( $(#[$doc:meta])* $name:ident($client:ident: $request:ty) -> $response:ty; )*) => {
        impl Transport {
            $(
                $(#[$doc])*
                pub(crate) async fn $name(&self, request: $request) -> Result<$response, Error> {
                    let client = self.$client();
                    self.patiently(request, |request| {
                        let mut client = client.clone();
                        async move { client.$name(request).await }
                    })
                    .await
                }
            )*
        }
    };
}

calls! {
    get_trust_bundle(authentication: auth::GetTrustBundleRequest) -> auth::GetTrustBundleResponse;
    list_devices(authentication: auth::ListDevicesRequest) -> auth::ListDevicesResponse;
    renew_certificate(authentication: auth::RenewCertificateRequest) -> auth::RenewCertificateResponse;
    rename_device(authentication: auth::RenameDeviceRequest) -> auth::RenameDeviceResponse;
    revoke_device(authentication: auth::RevokeDeviceRequest) -> auth::RevokeDeviceResponse;
    create_enrolment_code(administration: auth::CreateEnrolmentCodeRequest) -> auth::CreateEnrolmentCodeResponse;
    list_users(administration: auth::ListUsersRequest) -> auth::ListUsersResponse;
    suspend_user(administration: auth::SuspendUserRequest) -> auth::SuspendUserResponse;
    resume_user(administration: auth::ResumeUserRequest) -> auth::ResumeUserResponse;
    list_audit_events(administration: auth::ListAuditEventsRequest) -> auth::ListAuditEventsResponse;
    publish_key_packages(directory: directory::PublishKeyPackagesRequest) -> directory::PublishKeyPackagesResponse;
    delete_key_packages(directory: directory::DeleteKeyPackagesRequest) -> directory::DeleteKeyPackagesResponse;
    find_cipher_suites(directory: directory::FindCipherSuitesRequest) -> directory::FindCipherSuitesResponse;
    get_stock(directory: directory::GetStockRequest) -> directory::GetStockResponse;
    get_parameters(delivery: delivery::GetParametersRequest) -> delivery::GetParametersResponse;
    read_entries(delivery: delivery::ReadEntriesRequest) -> delivery::ReadEntriesResponse;
    get_log_standing(delivery: delivery::GetLogStandingRequest) -> delivery::GetLogStandingResponse;
    offer_entries(delivery: delivery::OfferEntriesRequest) -> delivery::OfferEntriesResponse;
    list_groups(delivery: delivery::ListGroupsRequest) -> delivery::ListGroupsResponse;
    repair_group(group_administration: delivery::RepairGroupRequest) -> delivery::RepairGroupResponse;
    reset_group(group_administration: delivery::ResetGroupRequest) -> delivery::ResetGroupResponse;
    describe_group(group_administration: delivery::DescribeGroupRequest) -> delivery::DescribeGroupResponse;
    list_commit_reports(group_administration: delivery::ListCommitReportsRequest) -> delivery::ListCommitReportsResponse;
    report_commit(delivery: delivery::ReportCommitRequest) -> delivery::ReportCommitResponse;
}

/// Enrols a device. It has no token yet. Where an answer is lost, the same code and key get it again.
pub(crate) async fn enrol(
    channels: &Channels,
    message: auth::EnrolRequest,
) -> Result<auth::EnrolResponse, Error> {
    persist(|| {
        let mut request = Request::new(message.clone());
        request.set_timeout(DEADLINE);
        valise_trace_context::inject(request.metadata_mut());
        let mut client = AuthenticationServiceClient::new(channels.authentication.clone());
        in_time(DEADLINE, async move { client.enrol(request).await })
    })
    .await
}

impl Transport {
    fn authentication(&self) -> AuthenticationServiceClient<tonic::transport::Channel> {
        AuthenticationServiceClient::new(self.channels.authentication.clone())
    }

    fn administration(&self) -> AdministrationServiceClient<tonic::transport::Channel> {
        AdministrationServiceClient::new(self.channels.authentication.clone())
    }

    fn group_administration(&self) -> DeliveryAdministrationServiceClient<tonic::transport::Channel> {
        DeliveryAdministrationServiceClient::new(self.channels.delivery.clone())
    }

    fn directory(&self) -> KeyPackageDirectoryServiceClient<tonic::transport::Channel> {
        KeyPackageDirectoryServiceClient::new(self.channels.directory.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn delivery(&self) -> DeliveryServiceClient<tonic::transport::Channel> {
        DeliveryServiceClient::new(self.channels.delivery.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Key packages of all devices of these users.
    pub(crate) async fn claim(
        &self,
        users: &[UserId],
        suite: Ciphersuite,
    ) -> Result<Vec<directory::Claim>, Error> {
        let request = directory::ClaimKeyPackagesRequest {
            user_ids: users.iter().map(UserId::to_string).collect(),
            device_ids: Vec::new(),
            cipher_suite: u32::from(u16::from(suite)),
        };
        self.claim_key_packages(request).await
    }

    /// A key package of each of these devices, at most 256.
    pub(crate) async fn claim_devices(
        &self,
        devices: &[DeviceId],
        suite: Ciphersuite,
    ) -> Result<Vec<directory::Claim>, Error> {
        let request = directory::ClaimKeyPackagesRequest {
            user_ids: Vec::new(),
            device_ids: devices.iter().map(DeviceId::to_string).collect(),
            cipher_suite: u32::from(u16::from(suite)),
        };
        self.claim_key_packages(request).await
    }

    async fn claim_key_packages(
        &self,
        request: directory::ClaimKeyPackagesRequest,
    ) -> Result<Vec<directory::Claim>, Error> {
        let client = self.directory();
        let answer = self.patiently_within(CLAIM_DEADLINE, request, |request| {
            let mut client = client.clone();
            async move { client.claim_key_packages(request).await }
        });
        Ok(answer.await?.claims)
    }

    /// Entries of a group after that position, and the last position that there is.
    pub(crate) async fn entries_after(
        &self,
        group: GroupId,
        after: Position,
        max: u32,
    ) -> Result<delivery::ReadEntriesResponse, Error> {
        let request = delivery::ReadEntriesRequest {
            group_id: group.to_vec().into(),
            after_position: after.0,
            max_entries: max,
        };
        self.read_entries(request).await
    }

    /// The ratchet tree that a Welcome needs. Tried once.
    pub(crate) async fn ratchet_tree(&self, group_id: Bytes, epoch: u64) -> Result<Bytes, Failure> {
        let client = self.delivery();
        let request = delivery::GetRatchetTreeRequest { group_id, epoch };
        let answer = self
            .once(&request, |request| {
                let mut client = client.clone();
                async move { client.get_ratchet_tree(request).await }
            })
            .await?;
        Ok(answer.ratchet_tree)
    }

    /// What an external commit is built on: with the tree. Tried once.
    pub(crate) async fn group_info(
        &self,
        group: GroupId,
        with_tree: bool,
    ) -> Result<delivery::GetGroupInfoResponse, Failure> {
        let client = self.delivery();
        let request = delivery::GetGroupInfoRequest {
            group_id: group.to_vec().into(),
            without_ratchet_tree: !with_tree,
        };
        self.once(&request, |request| {
            let mut client = client.clone();
            async move { client.get_group_info(request).await }
        })
        .await
    }

    /// Tried once: what is late is worth nothing.
    pub(crate) async fn send_ephemeral(&self, mls_message: Vec<u8>) -> Result<(), Error> {
        let client = self.delivery();
        let request = delivery::SendEphemeralRequest {
            mls_message: mls_message.into(),
        };
        self.once(&request, |request| {
            let mut client = client.clone();
            async move { client.send_ephemeral(request).await }
        })
        .await?;
        Ok(())
    }

    /// Opens the device's stream.
    pub(crate) async fn subscribe(
        &self,
        messages: mpsc::Receiver<delivery::SubscribeRequest>,
    ) -> Result<Streaming<delivery::SubscribeResponse>, Failure> {
        let token = self.tokens.get().await?;
        let mut request = Request::new(ReceiverStream::new(messages));
        authorise(&mut request, &token)?;
        valise_trace_context::inject(request.metadata_mut());
        let mut client = self.delivery();
        let opened = tokio::time::timeout(DEADLINE, client.subscribe(request)).await;
        match opened {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                let failure = Failure::of(&status);
                if matches!(
                    failure.reason(),
                    Some(valise_proto::Reason::TokenExpired | valise_proto::Reason::TokenInvalid)
                ) {
                    self.tokens.forget(&token);
                }
                Err(failure)
            }
            Err(_) => Err(Failure::Unknown),
        }
    }
}
