//! `valise devices`: the devices of the user.

use serde::Serialize;
use valise_client_sdk::{Client, DeviceId, DeviceSummary};

use crate::args::DevicesCommand;
use crate::error::CliError;
use crate::out::Out;
use crate::profile::Profile;
use crate::when::maybe_timestamp;

#[derive(Serialize)]
struct Line<'a> {
    device: String,
    name: &'a str,
    active: bool,
    administrator: bool,
    /// The one that asks.
    this: bool,
    enrolled_at: Option<String>,
    certificate_expires_at: Option<String>,
}

pub(crate) async fn run(command: DevicesCommand, profile: &Profile) -> Result<(), CliError> {
    let client = profile.open().await?;
    let outcome = act(command, &client).await;
    client.close().await;
    outcome
}

async fn act(command: DevicesCommand, client: &Client) -> Result<(), CliError> {
    let devices = client.devices().await?;
    match command {
        DevicesCommand::List { json } => print(&devices, client.device(), json),
        DevicesCommand::Rename { device, name } => {
            let device = find(&devices, &device)?;
            client.rename_device(device, &name).await?;
            Out::stdout().line(&format!("renamed {device}"))
        }
        DevicesCommand::Revoke { device } => {
            let device = find(&devices, &device)?;
            client.revoke_device(device).await?;
            Out::stdout().line(&format!("revoked {device}"))
        }
    }
}

/// One device a line.
pub(crate) fn print(devices: &[DeviceSummary], this: DeviceId, json: bool) -> Result<(), CliError> {
    let mut out = Out::stdout();
    for summary in devices {
        let line = Line {
            device: summary.device.to_string(),
            name: &summary.name,
            active: summary.active,
            administrator: summary.administrator,
            this: summary.device == this,
            enrolled_at: maybe_timestamp(summary.enrolled_at),
            certificate_expires_at: maybe_timestamp(summary.certificate_expires_at),
        };
        if json {
            out.json(&line)?;
        } else {
            out.line(&text(&line))?;
        }
    }
    Ok(())
}

fn text(line: &Line<'_>) -> String {
    let mut text = format!("{}  {:16}", line.device, crate::out::printable(line.name));
    if let Some(at) = &line.enrolled_at {
        text.push_str("  enrolled ");
        text.push_str(at);
    }
    for (is, what) in [
        (!line.active, "  revoked"),
        (line.administrator, "  administrator"),
        (line.this, "  (this one)"),
    ] {
        if is {
            text.push_str(what);
        }
    }
    text
}

/// By id, or by the beginning of one that only one device has.
fn find(devices: &[DeviceSummary], text: &str) -> Result<DeviceId, CliError> {
    let text = text.to_ascii_lowercase();
    let mut found = devices
        .iter()
        .map(|summary| summary.device)
        .filter(|id| id.to_string().starts_with(&text));
    match (found.next(), found.next()) {
        (Some(device), None) if !text.is_empty() => Ok(device),
        (None, _) => Err(CliError::failed(format!("this user has no device {text}"))),
        _ => Err(CliError::failed(format!(
            "more than one device begins with {text:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(id: &str) -> DeviceSummary {
        DeviceSummary {
            device: id.parse().unwrap(),
            name: String::new(),
            active: true,
            administrator: false,
            enrolled_at: None,
            certificate_expires_at: None,
        }
    }

    #[test]
    fn a_device_is_found_by_the_beginning_of_its_id() {
        let devices = [
            summary("0a000000-0000-4000-8000-000000000001"),
            summary("0b000000-0000-4000-8000-000000000002"),
        ];
        assert_eq!(find(&devices, "0B").unwrap(), devices[1].device);
        assert_eq!(
            find(&devices, &devices[0].device.to_string()).unwrap(),
            devices[0].device
        );
        for bad in ["", "0", "1"] {
            assert!(find(&devices, bad).is_err(), "{bad}");
        }
    }
}
