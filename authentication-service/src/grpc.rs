//! The generated traits: convert, call, map; nothing else.

mod convert;

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use valise_access_token::Caller;
use valise_proto::UserId;
use valise_proto::authentication::v1::administration_service_server::AdministrationService;
use valise_proto::authentication::v1::authentication_internal_service_server::AuthenticationInternalService;
use valise_proto::authentication::v1::authentication_service_server::AuthenticationService;
use valise_proto::authentication::v1::{
    CreateEnrolmentCodeRequest, CreateEnrolmentCodeResponse, EnrolRequest, EnrolResponse, GetJwksRequest,
    GetJwksResponse, GetTrustBundleRequest, GetTrustBundleResponse, IssueServiceCertificateRequest,
    IssueServiceCertificateResponse, IssueTokenRequest, IssueTokenResponse, ListAuditEventsRequest,
    ListAuditEventsResponse, ListDevicesRequest, ListDevicesResponse, ListUsersRequest, ListUsersResponse,
    RecordActRequest, RecordActResponse, RenameDeviceRequest, RenameDeviceResponse, RenewCertificateRequest,
    RenewCertificateResponse, ResumeUserRequest, ResumeUserResponse, RevokeDeviceRequest,
    RevokeDeviceResponse, SuspendUserRequest, SuspendUserResponse, WatchRevocationsRequest,
    WatchRevocationsResponse,
};

use crate::app::App;
use crate::certificate::RequestedKey;
use crate::{admin, audit, devices, enrol, issue_token, record_act, renew, revocations, service_certificate};

/// What a device does for itself.
pub(crate) struct Authentication {
    app: Arc<App>,
}

impl Authentication {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl AuthenticationService for Authentication {
    type WatchRevocationsStream = ReceiverStream<Result<WatchRevocationsResponse, Status>>;

    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let enrolled = enrol::enrol(&self.app, convert::enrolment(request.into_inner())?).await?;
        Ok(Response::new(EnrolResponse {
            device_id: enrolled.device.to_string(),
            user_id: enrolled.user.to_string(),
            chain: Some(convert::chain(enrolled.chain)),
            trust_bundle: Some(convert::trust_bundle(self.app.trust_bundle())),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let (user, device) = caller.device()?;
        let key = RequestedKey::read(&request.into_inner().certification_request)?;
        let issued = renew::renew(&self.app, user, device, &key).await?;
        Ok(Response::new(RenewCertificateResponse {
            chain: Some(convert::chain(issued.chain)),
        }))
    }

    async fn issue_token(
        &self,
        request: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        let assertion = convert::assertion(request.into_inner())?;
        let access_token = issue_token::issue_token(&self.app, &assertion).await?;
        let expires_in = prost_types::Duration::try_from(self.app.config.lifetimes.access_token()).ok();
        Ok(Response::new(IssueTokenResponse {
            access_token,
            expires_in,
        }))
    }

    async fn get_trust_bundle(
        &self,
        _: Request<GetTrustBundleRequest>,
    ) -> Result<Response<GetTrustBundleResponse>, Status> {
        let trust_bundle = Some(convert::trust_bundle(self.app.trust_bundle()));
        Ok(Response::new(GetTrustBundleResponse { trust_bundle }))
    }

    async fn get_jwks(&self, _: Request<GetJwksRequest>) -> Result<Response<GetJwksResponse>, Status> {
        Ok(Response::new(GetJwksResponse {
            jwks_json: self.app.jwks_json.clone(),
        }))
    }

    async fn watch_revocations(
        &self,
        request: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        Caller::of(&request)?.service()?;
        Ok(Response::new(revocations::watch(
            &self.app,
            request.into_inner().after_number,
        )))
    }

    async fn list_devices(
        &self,
        request: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let (own, _) = caller.device()?;
        let user = request.into_inner().user_id;
        let user: UserId = if user.is_empty() {
            own.clone()
        } else {
            convert::user_id(&user)?
        };
        let found = devices::list(&self.app, &caller, &user).await?;
        let devices = found
            .into_iter()
            .map(|device| convert::device(device, own))
            .collect();
        Ok(Response::new(ListDevicesResponse { devices }))
    }

    async fn rename_device(
        &self,
        request: Request<RenameDeviceRequest>,
    ) -> Result<Response<RenameDeviceResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let (own, _) = caller.device()?;
        let request = request.into_inner();
        let name = convert::device_name("name", request.name)?;
        let device =
            devices::rename(&self.app, &caller, convert::device_id(&request.device_id)?, &name).await?;
        Ok(Response::new(RenameDeviceResponse {
            device: Some(convert::device(device, own)),
        }))
    }

    async fn revoke_device(
        &self,
        request: Request<RevokeDeviceRequest>,
    ) -> Result<Response<RevokeDeviceResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let (own, _) = caller.device()?;
        let device = convert::device_id(&request.into_inner().device_id)?;
        let device = devices::revoke(&self.app, &caller, device).await?;
        Ok(Response::new(RevokeDeviceResponse {
            device: Some(convert::device(device, own)),
        }))
    }
}

/// What an administrator does.
pub(crate) struct Administration {
    app: Arc<App>,
}

impl Administration {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn set_suspended<T>(
        &self,
        request: &Request<T>,
        user: &str,
        suspended: bool,
    ) -> Result<valise_proto::authentication::v1::User, Status> {
        let (_, administrator) = Caller::of(request)?.administrator()?;
        let user = convert::user_id(user)?;
        let user = admin::set_suspended(&self.app, administrator, &user, suspended).await?;
        Ok(convert::user(&user))
    }
}

#[tonic::async_trait]
impl AdministrationService for Administration {
    async fn create_enrolment_code(
        &self,
        request: Request<CreateEnrolmentCodeRequest>,
    ) -> Result<Response<CreateEnrolmentCodeResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let (_, administrator) = caller.administrator()?;
        let request = request.into_inner();
        let user = convert::user_id(&request.user_id)?;
        let (kind, valid_for) = (
            convert::code_kind(request.kind)?,
            convert::valid_for(request.valid_for)?,
        );
        let made = enrol::create_code(&self.app, user, kind, valid_for, &administrator.to_string()).await?;
        Ok(Response::new(CreateEnrolmentCodeResponse {
            enrolment_code: made.code.as_str().to_owned(),
            expires_at: Some(made.expires_at.into()),
        }))
    }

    async fn list_users(
        &self,
        request: Request<ListUsersRequest>,
    ) -> Result<Response<ListUsersResponse>, Status> {
        Caller::of(&request)?.administrator()?;
        let request = request.into_inner();
        let (limit, after) = (convert::page_size(request.page_size)?, request.after_user_id);
        let after = if after.is_empty() {
            after
        } else {
            convert::after_user_id(&after)?.into()
        };
        let users = admin::list_users(&self.app, &after, limit).await?;
        let is_last = users.len() < limit as usize;
        let next = users.last().filter(|_| !is_last).map(|user| user.id.to_string());
        Ok(Response::new(ListUsersResponse {
            users: users.iter().map(convert::user).collect(),
            next_after_user_id: next.unwrap_or_default(),
        }))
    }

    async fn suspend_user(
        &self,
        request: Request<SuspendUserRequest>,
    ) -> Result<Response<SuspendUserResponse>, Status> {
        let user = self
            .set_suspended(&request, &request.get_ref().user_id, true)
            .await?;
        Ok(Response::new(SuspendUserResponse { user: Some(user) }))
    }

    async fn resume_user(
        &self,
        request: Request<ResumeUserRequest>,
    ) -> Result<Response<ResumeUserResponse>, Status> {
        let user = self
            .set_suspended(&request, &request.get_ref().user_id, false)
            .await?;
        Ok(Response::new(ResumeUserResponse { user: Some(user) }))
    }

    async fn issue_service_certificate(
        &self,
        request: Request<IssueServiceCertificateRequest>,
    ) -> Result<Response<IssueServiceCertificateResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let (_, administrator) = caller.administrator()?;
        let request = request.into_inner();
        let key = RequestedKey::read(&request.certification_request)?;
        let issued =
            service_certificate::issue(&self.app, &request.service_name, &key, administrator).await?;
        Ok(Response::new(IssueServiceCertificateResponse {
            chain: Some(convert::chain(issued.chain)),
        }))
    }

    async fn list_audit_events(
        &self,
        request: Request<ListAuditEventsRequest>,
    ) -> Result<Response<ListAuditEventsResponse>, Status> {
        Caller::of(&request)?.administrator()?;
        let request = request.into_inner();
        let limit = convert::page_size(request.page_size)?;
        let events = audit::list(&self.app, request.after_number, limit).await?;
        Ok(Response::new(ListAuditEventsResponse {
            events: events.into_iter().map(convert::audit_event).collect(),
        }))
    }
}

/// What other services do.
pub(crate) struct Internal {
    app: Arc<App>,
}

impl Internal {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl AuthenticationInternalService for Internal {
    async fn record_act(
        &self,
        request: Request<RecordActRequest>,
    ) -> Result<Response<RecordActResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let service = caller.service()?;
        let (administrator, act) = convert::service_act(&request.into_inner())?;
        record_act::record_act(&self.app, service, administrator, act).await?;
        Ok(Response::new(RecordActResponse {}))
    }
}
