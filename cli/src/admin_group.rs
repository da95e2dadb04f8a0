//! `valise admin group`: groups, as an administrator sees them.

use serde_json::{Value, json};
use valise_client_sdk::{Administration, GroupStanding, Position, ReportedCommit};

use crate::args::AdminGroupCommand;
use crate::error::CliError;
use crate::out::Out;
use crate::when::maybe_timestamp;

pub(crate) async fn run(command: AdminGroupCommand, administration: &Administration) -> Result<(), CliError> {
    let mut out = Out::stdout();
    match command {
        AdminGroupCommand::Repair {
            group,
            dry_run,
            up_to,
            json,
        } => {
            let up_to = up_to.map(Position);
            let repair = if dry_run {
                administration.plan_repair(group, up_to).await?
            } else {
                administration.repair_group(group, up_to).await?
            };
            crate::repair::print(&repair, group, dry_run, json, &mut out)
        }
        AdminGroupCommand::Reset { group, json } => {
            let successor = administration.reset_group(group).await?;
            if json {
                out.json(&json!({ "group": group.to_string(), "successor": successor.to_string() }))
            } else {
                out.line(&format!("reset {group}: it goes on as {successor}"))
            }
        }
        AdminGroupCommand::Reports { json } => {
            for commit in administration.commit_reports(None).await? {
                if json {
                    out.json(&as_json(&commit))?;
                } else {
                    out.line(&format!("{}  {}", commit.group, words(&commit)))?;
                }
            }
            Ok(())
        }
        AdminGroupCommand::Show { group, json } => {
            let standing = administration.describe_group(group).await?;
            let reports = administration.commit_reports(Some(group)).await?;
            if json {
                let reports: Vec<Value> = reports.iter().map(as_json).collect();
                return out.json(&json!({
                    "group": group.to_string(),
                    "position": standing.position.0,
                    "epoch": standing.epoch.0,
                    "members": standing.members,
                    "frozen": standing.frozen,
                    "successor": standing.successor.map(|group| group.to_string()),
                    "predecessor": standing.predecessor.map(|group| group.to_string()),
                    "reports": reports,
                }));
            }
            out.line(&standing_in_words(&standing))?;
            for commit in &reports {
                out.line(&format!("  {}", words(commit)))?;
            }
            Ok(())
        }
    }
}

fn standing_in_words(standing: &GroupStanding) -> String {
    let GroupStanding {
        position,
        epoch,
        members,
        frozen,
        successor,
        predecessor,
    } = standing;
    let mut parts = vec![format!("epoch {epoch}, position {position}, devices: {members}")];
    if *frozen {
        parts.push("frozen: its log went back in time".to_owned());
    }
    parts.extend(successor.map(|successor| format!("reset: it goes on as {successor}")));
    parts.extend(predecessor.map(|predecessor| format!("goes on for {predecessor}")));
    parts.join(", ")
}

fn words(commit: &ReportedCommit) -> String {
    let faults: Vec<String> = commit
        .faults
        .iter()
        .map(|(fault, devices)| format!("{fault} by {devices}"))
        .collect();
    let sender = commit.sender.map(|device| format!(" of device {device}"));
    format!(
        "commit at position {} (epoch {}){}: {}, last {}",
        commit.position,
        commit.epoch,
        sender.unwrap_or_default(),
        faults.join(", "),
        maybe_timestamp(commit.last_reported_at).unwrap_or_default()
    )
}

fn as_json(commit: &ReportedCommit) -> Value {
    let faults: Vec<Value> = commit
        .faults
        .iter()
        .map(|(fault, devices)| json!({ "fault": fault.to_string(), "devices": devices }))
        .collect();
    json!({
        "group": commit.group.to_string(),
        "position": commit.position.0,
        "epoch": commit.epoch.0,
        "sender": commit.sender.map(|device| device.to_string()),
        "faults": faults,
        "first_reported_at": maybe_timestamp(commit.first_reported_at),
        "last_reported_at": maybe_timestamp(commit.last_reported_at),
    })
}
