//! `valise enrol`: makes a new device in the profile.

use serde_json::json;
use valise_client_sdk::{Client, Error, Servers};

use crate::args::EnrolArgs;
use crate::error::CliError;
use crate::out::Out;
use crate::profile::Profile;

pub(crate) async fn run(arguments: EnrolArgs, profile: &Profile) -> Result<(), CliError> {
    let EnrolArgs {
        server,
        directory,
        delivery,
        certificate_authority,
        code,
        name,
        suites,
        json,
    } = arguments;
    let (directory, delivery) = (
        directory.unwrap_or_else(|| server.clone()),
        delivery.unwrap_or_else(|| server.clone()),
    );
    let mut servers = Servers::each(server, directory, delivery);
    if let Some(file) = certificate_authority {
        let pem = std::fs::read_to_string(&file)
            .map_err(CliError::io(format!("cannot read {}", file.display())))?;
        servers = servers.with_certificate_authority(pem);
    }
    let store = profile.prepare()?;
    // A device that is there keeps its note, whatever is wrong with this.
    if store.is_enrolled().await? {
        return Err(Error::AlreadyEnrolled.into());
    }
    // Noted first: a device without its note could not be opened.
    profile.set_suites(&suites)?;
    let client = Client::enrol_with(servers, &code, &name, store, profile.options()?).await?;
    let (user, device) = (client.user().to_string(), client.device().to_string());
    client.close().await;
    if json {
        Out::stdout().json(&json!({ "user": user, "device": device, "profile": profile.directory() }))
    } else {
        let directory = profile.directory().display();
        Out::stdout().line(&format!("enrolled {user}, device {device}, in {directory}"))
    }
}
