//! What every backend must do. A backend's tests call [`run`] with what makes an empty store, and [`run_on_replicas`] with
//! what opens an empty one twice.

mod answers;
mod devices;
mod enrolment;
mod records;
mod replicas;
mod users;

pub(crate) use replicas::run_on_replicas;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;
use valise_proto::{DeviceId, UserId};

use super::{
    Act, CodeHash, CodeOutcome, DeviceKind, EnrolOutcome, NewCode, NewDevice, ServiceCertificate, Store,
};

/// Runs everything, each part on an empty store.
pub(crate) async fn run<S: Store>(mut empty: impl AsyncFnMut() -> S) {
    records::secrets_stay(&empty().await).await;
    enrolment::a_code_enrols_one_device(&empty().await).await;
    enrolment::a_code_ends(&empty().await).await;
    answers::an_answer_is_for_one_code_and_key(&empty().await).await;
    answers::an_answer_ends(&empty().await).await;
    answers::an_answer_shows_the_device_as_it_is(&empty().await).await;
    answers::what_is_refused_leaves_no_answer(&empty().await).await;
    enrolment::a_refused_enrolment_changes_nothing(&empty().await).await;
    enrolment::one_of_many_wins(Arc::new(empty().await)).await;
    enrolment::bootstrap_codes_replace_each_other(&empty().await).await;
    devices::keys_belong_to_one_holder(&empty().await).await;
    devices::devices_are_listed_renamed_and_renewed(&empty().await).await;
    devices::a_revocation_happens_once(&empty().await).await;
    users::users_are_suspended_and_resumed(&empty().await).await;
    users::users_are_listed_in_pages(&empty().await).await;
    records::services_have_keys_until_they_end(&empty().await).await;
    records::assertions_are_used_once(&empty().await).await;
    records::acts_elsewhere_are_written_down(&empty().await).await;
    records::logs_have_no_gaps(Arc::new(empty().await)).await;
    enrolment::a_user_has_so_many_devices(Arc::new(empty().await)).await;
}

pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_900_000_000 + seconds)
}

pub(crate) fn user(name: &str) -> UserId {
    format!("{name}@interieur.example").parse().unwrap()
}

pub(crate) fn act(seconds: u64, action: &'static str) -> Act {
    Act {
        at: at(seconds),
        actor: "actor".into(),
        action,
        subject: "subject".into(),
    }
}

pub(crate) fn hash(n: u8) -> CodeHash {
    [n; 32]
}

pub(crate) fn code(n: u8, name: &str) -> NewCode {
    NewCode {
        hash: hash(n),
        user: user(name),
        kind: DeviceKind::Device,
        bootstrap: false,
        expires_at: at(1000),
    }
}

pub(crate) fn device(n: u8) -> NewDevice {
    NewDevice {
        id: DeviceId::from_uuid(Uuid::from_u128(n.into())),
        name: format!("device {n}"),
        public_key: vec![n; 32],
        // Two values in DER, one of them empty.
        chain: vec![vec![0x04, 2, n, n], vec![0x30, 0]],
        certificate_expires_at: at(5000),
    }
}

fn certificate(n: u8, name: &str, expires_at: SystemTime) -> ServiceCertificate {
    ServiceCertificate {
        name: name.into(),
        public_key: vec![n; 32],
        certificate: vec![n; 300],
        expires_at,
    }
}

/// A device of that user, by way of a code; its key, code and id are all made of `n`.
pub(crate) async fn enrolled<S: Store>(store: &S, n: u8, name: &str, seconds: u64) -> DeviceId {
    let made = store
        .create_code(&code(n, name), &act(seconds, "code"))
        .await
        .unwrap();
    assert_eq!(made, CodeOutcome::Created);
    let enrolled = store
        .enrol(&hash(n), &device(n), &act(seconds, "enrol"))
        .await
        .unwrap();
    assert_eq!(enrolled, EnrolOutcome::Enrolled);
    device(n).id
}

async fn actions<S: Store>(store: &S) -> Vec<String> {
    let events = store.audit_events(0, 1000).await.unwrap();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.number, index as u64 + 1, "no gap");
    }
    events.into_iter().map(|event| event.action).collect()
}
