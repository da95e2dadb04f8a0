//! Enrolment: one proof of identity becomes a device.

use std::sync::Arc;

use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer as _;
use valise_device_certificate::{KeyKind, TrustBundle, certification_request};
use valise_group_rules::{credential, identify, identify_sender};
use valise_proto::Reason;
use valise_proto::authentication::v1 as wire;
use valise_proto::delivery::v1::GetParametersRequest;

use super::{Session, blocking, stock};
use crate::kill_point::{self, Step};
use crate::store::{Database, Enrolled};
use crate::transport::{Channels, DeviceKey, Transport, enrol as call};
use crate::{Error, Options, Servers, Store, mls};

const ENROL: &str = "enrol";
const FETCH: &str = "fetch_parameters";

/// Enrols a new device and starts it; returns when others can add it to groups.
pub(crate) async fn enrol(
    servers: Servers,
    code: &str,
    device_name: &str,
    store: Store,
    options: Options,
) -> Result<Arc<Session>, Error> {
    let channels = Channels::new(&servers)?;
    let db = blocking(move || Database::open(&store)).await?;
    let mut signer = device_key(&db, &servers, &options)?;
    kill_point::reached(ENROL, Step::Stored);
    let mut answer = ask(&channels, code, device_name, &signer).await;
    if answer.as_ref().is_err_and(is_key_in_use) {
        // It has enrolled before, with a code that has ended since, and was not told. Nobody can be told any more: that key is lost.
        signer = new_key(&db, &servers, options.cipher_suite.key_kind())?;
        answer = ask(&channels, code, device_name, &signer).await;
    }
    let answer = answer?;
    kill_point::reached(ENROL, Step::Answered);
    let enrolled = judge(answer, &signer, &options)?;
    kill_point::reached(ENROL, Step::BeforeApplied);
    db.put_enrolled(&enrolled)?;
    kill_point::reached(ENROL, Step::Applied);
    let (db, enrolled) = complete(db, enrolled, signer.public(), &channels, &options).await?;
    let public_key = signer.to_public_vec();
    let session = Session::start(db, &enrolled, &public_key, channels, options).await?;
    if let Err(error) = stock::publish(&session).await {
        // The device is enrolled; its packages are published as soon as they can be.
        tracing::warn!(%error, "the first key packages could not be published");
    }
    Ok(session)
}

/// The same code and key as often as it takes: they get the same answer.
async fn ask(
    channels: &Channels,
    code: &str,
    device_name: &str,
    signer: &SignatureKeyPair,
) -> Result<wire::EnrolResponse, Error> {
    let request = certification_request(signer.public(), |message| signer.sign(message).ok())?;
    kill_point::reached(ENROL, Step::Sending);
    let request = wire::EnrolRequest {
        proof: Some(wire::enrol_request::Proof::EnrolmentCode(code.to_owned())),
        certification_request: request,
        device_name: device_name.to_owned(),
    };
    call(channels, request).await
}

fn is_key_in_use(error: &Error) -> bool {
    let Error::Refused(refusal) = error else {
        return false;
    };
    refusal.reason == Reason::InvalidCertificateRequest
        && refusal
            .metadata
            .get("rule")
            .is_some_and(|rule| rule == "key_in_use")
}

/// Without the deployment's parameters no group can be made. Whoever opens a store that lacks them asks for them.
///
/// Takes the database and gives it back: a reference to it across an `await` would tie the app's future to its thread.
pub(super) async fn complete(
    db: Database,
    mut enrolled: Enrolled,
    signature_key: &[u8],
    channels: &Channels,
    options: &Options,
) -> Result<(Database, Enrolled), Error> {
    if enrolled.external_sender.is_empty() {
        let key = DeviceKey {
            device: enrolled.device,
            signer: mls::load_signer(&db.connection, signature_key)?,
        };
        let transport = Transport::new(channels.clone(), key, options.clock.clone());
        kill_point::reached(FETCH, Step::Sending);
        let parameters = transport.get_parameters(GetParametersRequest {}).await?;
        kill_point::reached(FETCH, Step::Answered);
        let seconds = |duration: Option<prost_types::Duration>| {
            duration.map_or(0, |duration| u64::try_from(duration.seconds).unwrap_or(0))
        };
        enrolled.retention = seconds(parameters.retention);
        enrolled.entry_copies = seconds(parameters.entry_copies);
        let external_sender = mls::told_sender(&parameters, signature_key);
        if external_sender.is_empty() {
            return Err(Error::KeyKindNotServed);
        }
        let bundle = TrustBundle::from_der(enrolled.trust_bundle.iter().cloned())?;
        identify_sender(&mls::external_sender(external_sender)?, &bundle)?;
        enrolled.external_sender = external_sender.to_vec();
        kill_point::reached(FETCH, Step::BeforeApplied);
        db.put_enrolled(&enrolled)?;
        if let Some(limits) = parameters.limits {
            db.put_limits(&limits)?;
        }
        kill_point::reached(FETCH, Step::Applied);
    }
    Ok((db, enrolled))
}

/// The key is stored before anybody is asked: an enrolment whose answer was lost goes on with the same key.
fn device_key(db: &Database, servers: &Servers, options: &Options) -> Result<SignatureKeyPair, Error> {
    let kind = options.cipher_suite.key_kind();
    options.fit(kind)?;
    let same = |key: &[u8]| KeyKind::of(key) == Some(kind);
    match db.device()? {
        Some(row) if row.enrolled.is_some() => Err(Error::AlreadyEnrolled),
        Some(row) if row.servers == *servers && same(&row.signature_key) => {
            mls::load_signer(&db.connection, &row.signature_key)
        }
        _ => new_key(db, servers, kind),
    }
}

fn new_key(db: &Database, servers: &Servers, kind: KeyKind) -> Result<SignatureKeyPair, Error> {
    let signer = mls::new_signer(&db.connection, kind)?;
    kill_point::reached(ENROL, Step::BeforeStored);
    db.put_new_device(servers, signer.public())?;
    Ok(signer)
}

/// Are all suites of the options for a key like the device's?
pub(super) fn fit(options: &Options, signer: &SignatureKeyPair) -> Result<(), Error> {
    let kind =
        KeyKind::of(signer.public()).ok_or_else(|| Error::mls("loading the device's key")(&"of no kind"))?;
    options.fit(kind)
}

/// The certificate is for this key, is trusted, and says what the answer says.
fn judge(
    answer: wire::EnrolResponse,
    signer: &SignatureKeyPair,
    options: &Options,
) -> Result<Enrolled, Error> {
    let chain = answer.chain.ok_or(Error::Unreachable)?.certificates;
    let trust_bundle = answer.trust_bundle.ok_or(Error::Unreachable)?.certificates;
    let bundle = TrustBundle::from_der(trust_bundle.iter().cloned())?;
    let identity = identify(
        &credential(&chain),
        signer.public(),
        &bundle,
        options.clock.unix_seconds(),
    )?;
    let named = identity.user.as_str() == answer.user_id && identity.device.to_string() == answer.device_id;
    if !named {
        return Err(Error::Rule("certificate_names"));
    }
    Ok(Enrolled {
        user: identity.user,
        device: identity.device,
        chain,
        trust_bundle,
        external_sender: Vec::new(),
        retention: 0,
        entry_copies: 0,
    })
}
