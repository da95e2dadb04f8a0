//! Asks the services what may have changed since the device enrolled: what the delivery service takes, for how long it keeps entries, and which
//! authorities the deployment trusts.

use valise_proto::authentication::v1::GetTrustBundleRequest;
use valise_proto::delivery::v1::GetParametersRequest;

use super::Session;
use crate::Error;

/// Asks once.
pub(super) async fn ask(session: &Session) -> Result<(), Error> {
    let trusted = ask_trust_bundle(session).await;
    let parameters = session.transport.get_parameters(GetParametersRequest {}).await?;
    session
        .engine
        .run(move |engine| engine.adopt_parameters(&parameters))
        .await?;
    trusted
}

/// From the service, and over the connection, that the device has trusted with this when it enrolled.
async fn ask_trust_bundle(session: &Session) -> Result<(), Error> {
    let answer = session
        .transport
        .get_trust_bundle(GetTrustBundleRequest {})
        .await?;
    let certificates = answer.trust_bundle.ok_or(Error::Unreachable)?.certificates;
    session
        .engine
        .run(move |engine| engine.adopt_trust_bundle(certificates))
        .await
}
