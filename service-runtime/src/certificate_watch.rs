//! Tells the operator in time that a certificate of the service is to be renewed: once that of its Ed25519 key has ended, with which it
//! also calls the authentication service, it gets no more access tokens, and refuses every call.

use std::time::Duration;

use opentelemetry::KeyValue;
use tokio_util::sync::CancellationToken;
use valise_clock::Clock;
use valise_device_certificate::ServiceIdentity;

use crate::names;

/// How often it is looked at.
const LOOK: Duration = Duration::from_hours(1);
/// Of so many looks one is written to the log: once a day.
const SAID: u64 = 24;

/// How a certificate stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Good,
    /// Two thirds of its life are over.
    Due,
    Ended,
}

/// And for how many seconds it is still valid. `now` is in seconds since 1970-01-01 UTC.
fn standing(identity: &ServiceIdentity, now: u64) -> (Standing, u64) {
    let left = identity.validity().end().saturating_sub(now);
    let standing = match left {
        0 => Standing::Ended,
        _ if identity.is_due(now) => Standing::Due,
        _ => Standing::Good,
    };
    (standing, left)
}

/// Looks every hour for how long the service's certificates are still valid, and tells by the gauge [`names::CERTIFICATE_REMAINING`];
/// once a day the log says which of them are to be renewed: those with less than a third of their life left. Until `stopping` is
/// cancelled.
pub async fn watch_certificates(
    identities: &[&ServiceIdentity],
    clock: &Clock,
    stopping: &CancellationToken,
) {
    let meter = opentelemetry::global::meter(names::SCOPE);
    let remaining = meter
        .u64_gauge(names::CERTIFICATE_REMAINING)
        .with_unit("s")
        .build();
    for look in 0_u64.. {
        let now = clock.unix_seconds();
        for identity in identities {
            let (standing, left) = standing(identity, now);
            let kind = identity.kind().to_string();
            remaining.record(left, &[KeyValue::new(names::KEY_KIND, kind.clone())]);
            if look.is_multiple_of(SAID) {
                say(standing, &kind, left);
            }
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn say(standing: Standing, kind: &str, left: u64) {
    let days = left / (24 * 60 * 60);
    match standing {
        Standing::Good => {}
        Standing::Due => {
            tracing::warn!(
                kind,
                days,
                "the service's certificate is to be renewed: less than a third of its life is left"
            );
        }
        Standing::Ended => tracing::error!(kind, "the service's certificate has ended: renew it"),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, KeyPair, SanType};
    use valise_device_certificate::{ServiceKey, service_uri};

    use super::*;

    #[test]
    fn a_certificate_is_due_in_its_last_third() {
        let key = ServiceKey::generate().unwrap();
        let request = key.request().unwrap();
        let mut request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let uri = service_uri("a.example", "delivery-service");
        request.params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        request.params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        request.params.not_after = rcgen::date_time_ymd(2030, 1, 31);
        let authority = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(CertificateParams::default(), authority).unwrap();
        let chain = vec![request.signed_by(&authority).unwrap().der().to_vec()];
        let identity = key.with_chain(chain).unwrap();

        let day = 24 * 60 * 60;
        let start = *identity.validity().start();
        let after = |days: u64| standing(&identity, start + days * day);
        assert_eq!(after(0), (Standing::Good, 30 * day));
        assert_eq!(after(19), (Standing::Good, 11 * day));
        assert_eq!(after(20), (Standing::Due, 10 * day));
        assert_eq!(after(29), (Standing::Due, day));
        assert_eq!(after(30), (Standing::Ended, 0));
        assert_eq!(after(300), (Standing::Ended, 0));
    }
}
