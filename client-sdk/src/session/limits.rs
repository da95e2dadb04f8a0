//! Asks the service what it takes, and for how long it keeps entries: its settings may have changed since the device enrolled.

use valise_proto::delivery::v1::GetParametersRequest;

use super::Session;
use crate::Error;

/// Asks once.
pub(super) async fn ask(session: &Session) -> Result<(), Error> {
    let parameters = session.transport.get_parameters(GetParametersRequest {}).await?;
    session
        .engine
        .run(move |engine| engine.adopt_parameters(&parameters))
        .await
}
