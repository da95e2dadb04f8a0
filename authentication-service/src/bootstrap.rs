//! What the operator does at the service itself, before there is an administrator. All of it is in the audit log, as done
//! by `bootstrap`.

use std::time::Duration;

use valise_device_certificate::{KeyKind, ServiceIdentity, ServiceKey};
use valise_proto::{Reason, Refusal, UserId};

use crate::audit::{self, Action, BOOTSTRAP};
use crate::certificate::RequestedKey;
use crate::enrol::{self, Kind, NewEnrolmentCode};
use crate::error::Error;
use crate::store::DeviceKind;
use crate::{Service, service_certificate};

impl Service {
    /// A code with which the first administrator enrols, valid for 24 hours; `None` once one has. It may be asked for at
    /// every start: each code makes those before it void.
    pub async fn bootstrap(&self, administrator: &UserId) -> Result<Option<NewEnrolmentCode>, Refusal> {
        self.try_bootstrap(administrator).await.map_err(Refusal::from)
    }

    async fn try_bootstrap(&self, administrator: &UserId) -> Result<Option<NewEnrolmentCode>, Error> {
        let app = &self.app;
        app.check_domain(administrator)?;
        let (code, new) = enrol::new_code(
            app,
            administrator.clone(),
            DeviceKind::Administrator,
            enrol::DEFAULT_VALIDITY,
            true,
        );
        let act = audit::act(app.now(), BOOTSTRAP, Action::EnrolmentCodeCreated, administrator);
        let made = app.store.create_bootstrap_code(&new, &act).await?;
        Ok(made.then_some(NewEnrolmentCode {
            code,
            expires_at: new.expires_at,
        }))
    }

    /// A code with which one device of that user enrols, valid for 1 minute to 30 days. Errors: `POLICY_DENIED` where
    /// the domain is not allowed, `USER_SUSPENDED`, `MALFORMED`.
    pub async fn create_enrolment_code(
        &self,
        user: &UserId,
        kind: Kind,
        valid_for: Duration,
    ) -> Result<NewEnrolmentCode, Refusal> {
        let made = enrol::create_code(&self.app, user.clone(), kind.into(), valid_for, BOOTSTRAP);
        made.await.map_err(Refusal::from)
    }

    /// A new key of that kind with a certificate for one of [`SERVICE_NAMES`](crate::SERVICE_NAMES).
    pub async fn issue_service_identity(
        &self,
        name: &str,
        kind: KeyKind,
    ) -> Result<ServiceIdentity, Refusal> {
        let key = ServiceKey::generate_of(kind).map_err(|_| Refusal::new(Reason::Internal))?;
        self.certify_service_key(name, key).await
    }

    /// A certificate for a key that is there, of one of [`SERVICE_NAMES`](crate::SERVICE_NAMES): that is how a service's certificate is
    /// renewed. Errors: `INVALID_CERTIFICATE_REQUEST` where the key belongs to somebody else, `MALFORMED`.
    pub async fn certify_service_key(&self, name: &str, key: ServiceKey) -> Result<ServiceIdentity, Refusal> {
        let unusable = |_| Refusal::new(Reason::Internal);
        let request = RequestedKey::read(&key.request().map_err(unusable)?)?;
        let issued = service_certificate::issue(&self.app, name, &request, BOOTSTRAP).await?;
        key.with_chain(issued.chain).map_err(unusable)
    }
}
