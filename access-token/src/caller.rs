//! Who is calling.

use tonic::Request;
use valise_proto::{DeviceId, Reason, Refusal, UserId};

/// Who a valid access token was issued to. [`TokenLayer`](crate::TokenLayer) puts it into the request's extensions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A device of a user.
    Device {
        /// Its user.
        user: UserId,
        /// The device.
        device: DeviceId,
        /// May it administer?
        administrator: bool,
    },
    /// A service of the deployment.
    Service {
        /// For example `delivery-service`.
        name: String,
    },
}

impl Caller {
    /// The caller of a request; `TOKEN_INVALID` where no layer let it through with a token.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Refusal> {
        request
            .extensions()
            .get::<Self>()
            .ok_or_else(|| Reason::TokenInvalid.into())
    }

    /// The user and device; `POLICY_DENIED` (rule `device_only`) for services.
    pub fn device(&self) -> Result<(&UserId, DeviceId), Refusal> {
        match self {
            Self::Device { user, device, .. } => Ok((user, *device)),
            Self::Service { .. } => Err(denied("device_only")),
        }
    }

    /// The user and device of an administrator; `POLICY_DENIED` (rule `administrator_only`) for all others.
    pub fn administrator(&self) -> Result<(&UserId, DeviceId), Refusal> {
        match self {
            Self::Device {
                user,
                device,
                administrator: true,
            } => Ok((user, *device)),
            Self::Device { .. } | Self::Service { .. } => Err(denied("administrator_only")),
        }
    }

    /// The service's name; `POLICY_DENIED` (rule `service_only`) for devices.
    pub fn service(&self) -> Result<&str, Refusal> {
        match self {
            Self::Service { name } => Ok(name),
            Self::Device { .. } => Err(denied("service_only")),
        }
    }
}

fn denied(rule: &str) -> Refusal {
    Refusal::new(Reason::PolicyDenied).with("rule", rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_caller_is_let_through_its_own_door_only() {
        let user: UserId = "alice@interieur.example".parse().unwrap();
        let device = DeviceId::from_uuid(uuid::Uuid::new_v4());
        let plain = Caller::Device {
            user: user.clone(),
            device,
            administrator: false,
        };
        let administrator = Caller::Device {
            user: user.clone(),
            device,
            administrator: true,
        };
        let service = Caller::Service {
            name: "delivery-service".into(),
        };
        assert_eq!(plain.device().unwrap(), (&user, device));
        assert_eq!(administrator.administrator().unwrap(), (&user, device));
        assert_eq!(service.service().unwrap(), "delivery-service");
        for refused in [
            plain.administrator().err(),
            service.administrator().err(),
            service.device().err(),
        ] {
            assert_eq!(refused.unwrap().reason, Reason::PolicyDenied);
        }
        assert_eq!(administrator.service().unwrap_err().reason, Reason::PolicyDenied);
        assert_eq!(
            Caller::of(&Request::new(())).unwrap_err().reason,
            Reason::TokenInvalid
        );
    }
}
