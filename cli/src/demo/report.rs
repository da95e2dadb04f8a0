//! What is known when the story has ended.

use std::collections::HashSet;
use std::fmt::Write;

use serde::Serialize;
use valise_client_sdk::{DeviceId, GroupId, GroupStatus};

use super::checks::{Check, Secrets};
use super::people::{Device, Heard, within};
use super::stored::Stored;
use crate::error::CliError;

/// How often devices that are not at the same epoch are asked again.
const SETTLING: usize = 50;

/// What is known at the end.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) group: String,
    pub(super) messages: usize,
    pub(super) devices: Vec<DeviceReport>,
    #[serde(skip)]
    pub(super) group_id: GroupId,
    #[serde(skip)]
    pub(super) sample: Heard,
    #[serde(skip)]
    pub(super) secrets: Secrets,
    /// Those that were made, and told, before the end.
    #[serde(skip)]
    pub(super) checks: Vec<Check>,
}

/// What one device sees at the end.
#[derive(Serialize)]
pub(super) struct DeviceReport {
    device: DeviceId,
    name: String,
    messages: usize,
    first_position: Option<u64>,
    last_position: Option<u64>,
    pub(super) status: String,
    pub(super) epoch: u64,
    /// Hex; empty where the device is no member.
    pub(super) epoch_authenticator: String,
}

impl DeviceReport {
    pub(super) async fn new(device: &Device, group: GroupId) -> Result<Self, CliError> {
        let group = device.group(group).await?;
        let state = group.info().await?;
        Ok(Self {
            device: device.id,
            name: device.label.clone(),
            messages: device.heard.len(),
            first_position: device.heard.first().map(|heard| heard.position.0),
            last_position: device.heard.last().map(|heard| heard.position.0),
            status: state.status.to_string(),
            epoch: state.epoch.0,
            epoch_authenticator: hex::encode(state.epoch_authenticator),
        })
    }

    fn line(&self) -> String {
        let Self {
            name,
            messages,
            first_position,
            last_position,
            status,
            epoch_authenticator,
            ..
        } = self;
        let position =
            |position: &Option<u64>| position.map_or_else(|| "-".into(), |number| number.to_string());
        let (first, last) = (position(first_position), position(last_position));
        let authenticator = epoch_authenticator.get(..16).unwrap_or("none");
        format!("  {name:16} {messages:6}  {first:>6} {last:>6}  {status:8}  {authenticator}")
    }
}

/// How all devices stand when they have applied the same part of the log. Their keys may still have changed after the last
/// message.
pub(super) async fn settled(devices: &[&Device], group: GroupId) -> Result<Vec<DeviceReport>, CliError> {
    let mut reports = Vec::new();
    for _ in 0..SETTLING {
        for device in devices {
            within("all devices are in step", device.client()?.synced()).await?;
        }
        reports.clear();
        for device in devices {
            reports.push(DeviceReport::new(device, group).await?);
        }
        let epochs: HashSet<u64> = members(&reports).map(|report| report.epoch).collect();
        if epochs.len() <= 1 {
            break;
        }
    }
    Ok(reports)
}

fn members(reports: &[DeviceReport]) -> impl Iterator<Item = &DeviceReport> {
    reports
        .iter()
        .filter(|report| report.status == GroupStatus::Active.to_string())
}

/// It is the same on all devices of an epoch, unless they were shown different logs.
pub(super) fn same_authenticator(reports: &[DeviceReport], expected: usize) -> Check {
    let found: HashSet<(u64, &str)> = members(reports)
        .map(|report| (report.epoch, report.epoch_authenticator.as_str()))
        .collect();
    let count = members(reports).count();
    let alike = found.len() == 1 && found.iter().all(|(_, authenticator)| !authenticator.is_empty());
    let epochs: Vec<String> = found.iter().map(|(epoch, _)| epoch.to_string()).collect();
    Check::new(
        "all members have the same epoch authenticator",
        alike && count == expected,
        format!("{count} devices of {expected}, epoch {}", epochs.join(", ")),
    )
}

/// What each device sees, what the service has, and whether all is as it should be.
pub(super) fn ending(report: &Report, stored: &Stored, checks: &[Check]) -> String {
    let mut text = String::from(
        "\nWhat each device sees:\n  device           messages  first   last  status    epoch authenticator\n",
    );
    for device in &report.devices {
        text.push_str(&device.line());
        text.push('\n');
    }
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\nWhat the service has:\n{}\n",
        stored.lines(&report.sample)
    );
    for check in checks.iter().skip(report.checks.len()) {
        text.push_str(&check.line());
        text.push('\n');
    }
    let wrong = checks.iter().filter(|check| !check.ok).count();
    let _ = match wrong {
        0 => writeln!(text, "\nAll {} checks hold.", checks.len()),
        wrong => writeln!(text, "\n{wrong} of {} checks DO NOT HOLD.", checks.len()),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: GroupStatus, epoch: u64, authenticator: &str) -> DeviceReport {
        DeviceReport {
            device: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
            name: String::new(),
            messages: 0,
            first_position: None,
            last_position: None,
            status: status.to_string(),
            epoch,
            epoch_authenticator: authenticator.into(),
        }
    }

    #[test]
    fn members_must_agree_and_others_do_not_count() {
        let active = |epoch, authenticator| report(GroupStatus::Active, epoch, authenticator);
        let removed = report(GroupStatus::Removed, 2, "");
        assert!(same_authenticator(&[active(3, "aa"), active(3, "aa"), removed], 2).ok);
        assert!(!same_authenticator(&[active(3, "aa"), active(3, "bb")], 2).ok);
        assert!(!same_authenticator(&[active(3, "aa"), active(4, "aa")], 2).ok);
        assert!(!same_authenticator(&[active(3, ""), active(3, "")], 2).ok);
        assert!(
            !same_authenticator(&[active(3, "aa")], 2).ok,
            "one is not a member"
        );
        assert!(!same_authenticator(&[], 0).ok);
    }
}
