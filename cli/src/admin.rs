//! `valise admin`: what an administrator's device may do.

use serde_json::json;
use valise_client_sdk::{Administration, Client, UserKind, UserSummary};

use crate::args::AdminCommand;
use crate::error::CliError;
use crate::out::{Out, printable};
use crate::profile::Profile;
use crate::when::maybe_timestamp;

/// Lines of the audit log that come at once.
const PAGE: usize = 1000;

pub(crate) async fn run(command: AdminCommand, profile: &Profile) -> Result<(), CliError> {
    let client = profile.open().await?;
    let outcome = act(command, &client).await;
    client.close().await;
    outcome
}

async fn act(command: AdminCommand, client: &Client) -> Result<(), CliError> {
    let administration = client.administration();
    let mut out = Out::stdout();
    match command {
        AdminCommand::Code {
            user,
            administrator,
            valid_for,
            json,
        } => {
            let kind = if administrator {
                UserKind::Administrator
            } else {
                UserKind::Device
            };
            let code = administration
                .create_enrolment_code(&user, kind, valid_for)
                .await?;
            if json {
                let expires_at = maybe_timestamp(code.expires_at);
                out.json(&json!({ "user": user, "code": code.code, "expires_at": expires_at }))
            } else {
                out.line(&code.code)
            }
        }
        AdminCommand::Users { json } => users(&administration.users().await?, json, &mut out),
        AdminCommand::Suspend { user } => {
            administration.suspend(&user).await?;
            out.line(&format!("suspended {user}"))
        }
        AdminCommand::Resume { user } => {
            administration.resume(&user).await?;
            out.line(&format!("resumed {user}"))
        }
        AdminCommand::Devices { user, json } => {
            crate::devices::print(&client.devices_of(&user).await?, client.device(), json)
        }
        AdminCommand::Revoke { device } => {
            client.revoke_device(device).await?;
            out.line(&format!("revoked {device}"))
        }
        AdminCommand::Group { command } => crate::admin_group::run(command, &administration).await,
        AdminCommand::Audit { after, json } => audit(&administration, after, json, &mut out).await,
    }
}

fn users(users: &[UserSummary], json: bool, out: &mut Out) -> Result<(), CliError> {
    for UserSummary {
        user,
        suspended,
        active_devices,
        created_at,
    } in users
    {
        let created_at = maybe_timestamp(*created_at);
        if json {
            out.json(&json!({
                "user": user,
                "suspended": suspended,
                "active_devices": active_devices,
                "created_at": created_at,
            }))?;
        } else {
            let suspended = if *suspended { "  suspended" } else { "" };
            let created = created_at.unwrap_or_default();
            out.line(&format!(
                "{user}  devices: {active_devices}  since {created}{suspended}"
            ))?;
        }
    }
    Ok(())
}

async fn audit(
    administration: &Administration,
    mut after: u64,
    json: bool,
    out: &mut Out,
) -> Result<(), CliError> {
    loop {
        let page = administration.audit(after).await?;
        for event in &page {
            let at = maybe_timestamp(event.at);
            if json {
                out.json(&json!({
                    "number": event.number,
                    "at": at,
                    "actor": event.actor,
                    "action": event.action,
                    "subject": event.subject,
                }))?;
            } else {
                let (number, at) = (event.number, at.unwrap_or_default());
                let (actor, action, subject) = (
                    printable(&event.actor),
                    printable(&event.action),
                    printable(&event.subject),
                );
                out.line(&format!("{number:6}  {at}  {action}  {subject}  by {actor}"))?;
            }
        }
        match page.last() {
            Some(last) if page.len() >= PAGE => after = last.number,
            _ => return Ok(()),
        }
    }
}
