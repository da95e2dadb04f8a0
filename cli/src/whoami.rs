//! `valise whoami`: whose device the profile holds. Works without a connection.

use serde_json::json;

use crate::error::CliError;
use crate::out::Out;
use crate::profile::Profile;

pub(crate) async fn run(json: bool, profile: &Profile) -> Result<(), CliError> {
    let client = profile.open().await?;
    let (user, device) = (client.user().to_string(), client.device().to_string());
    client.close().await;
    if json {
        Out::stdout().json(&json!({ "user": user, "device": device, "profile": profile.directory() }))
    } else {
        Out::stdout().line(&format!("{user}, device {device}"))
    }
}
