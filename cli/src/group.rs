//! `valise group`: groups, and who is in them.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use valise_client_sdk::{
    AddFailure, Added, Client, Group, GroupState, GroupStatus, Member, NewGroup, Policy, UserId,
};

use crate::args::GroupCommand;
use crate::error::CliError;
use crate::out::{Out, printable};
use crate::profile::Profile;
use crate::progress::ProgressLine;

/// How long a command waits for what it has left to send.
const LEAVING: Duration = Duration::from_secs(5);

pub(crate) async fn run(command: GroupCommand, profile: &Profile) -> Result<(), CliError> {
    let client = profile.open_synced().await?;
    let outcome = act(command, &client).await;
    client.close().await;
    outcome
}

async fn act(command: GroupCommand, client: &Client) -> Result<(), CliError> {
    let _progress = ProgressLine::start(client);
    match command {
        GroupCommand::New { name, with, json } => new(client, &name, &with, json).await,
        GroupCommand::Add { group, users, json } => add(client, &group, &users, json).await,
        GroupCommand::Remove { group, users, json } => {
            remove(&find(client, &group).await?, &users, json).await
        }
        GroupCommand::Leave { group } => {
            find(client, &group).await?.leave().await?;
            Out::stdout().line("asked to leave: it takes effect when another member's device commits it")
        }
        GroupCommand::Rejoin { group } => {
            let group = find(client, &group).await?;
            group.rejoin().await?;
            let position = group.info().await?.position;
            Out::stdout().line(&format!("back in the group, from position {position} on"))
        }
        GroupCommand::Elsewhere => {
            for id in client.groups_elsewhere().await? {
                Out::stdout().line(&id.to_string())?;
            }
            Ok(())
        }
        GroupCommand::ComeIn { group } => {
            let id = group
                .parse()
                .map_err(|_| CliError::failed("not a group's id: `group elsewhere` lists them"))?;
            client.come_in(id).await?;
            Out::stdout().line("in the group")
        }
        GroupCommand::Rename { group, name } => Ok(find(client, &group).await?.rename(&name).await?),
        GroupCommand::Role { group, user, role } => {
            Ok(find(client, &group).await?.set_role(user, role).await?)
        }
        GroupCommand::Policy(arguments) => {
            crate::roles::policy(&find(client, &arguments.group).await?, &arguments).await
        }
        GroupCommand::List { json } => list(client, json).await,
        GroupCommand::Show { group, json } => show(&find(client, &group).await?, json).await,
    }
}

async fn new(client: &Client, name: &str, with: &[UserId], json: bool) -> Result<(), CliError> {
    let (group, added) = if with.is_empty() {
        (client.create_group(name).await?, Added::default())
    } else {
        let NewGroup { group, added } = client.create_group_with(name, with).await?;
        (group, added)
    };
    if json {
        Out::stdout().json(&json!({ "group": group.id().to_string(), "name": name }))?;
    } else {
        Out::stdout().line(&group.id().to_string())?;
    }
    tell_name(client).await;
    tell(&added, json)
}

async fn add(client: &Client, group: &str, users: &[UserId], json: bool) -> Result<(), CliError> {
    let added = find(client, group).await?.add(users).await?;
    tell_name(client).await;
    tell(&added, json)
}

/// Whoever was added is told the group's name by a message, which leaves after the commit: else only when this profile is used again.
async fn tell_name(client: &Client) {
    if tokio::time::timeout(LEAVING, client.synced()).await.is_err() {
        tracing::debug!("the group's name is told later");
    }
}

/// A line for each device, and an error where one is not in the group now.
fn tell(added: &Added, json: bool) -> Result<(), CliError> {
    let mut out = Out::stdout();
    for (user, device) in &added.devices {
        if json {
            out.json(&json!({ "user": user, "device": device, "added": true }))?;
        } else {
            out.line(&format!("added {user}, device {device}"))?;
        }
    }
    let mut failed = 0;
    for (user, device, failure) in &added.failed {
        // It is what was asked for.
        failed += usize::from(*failure != AddFailure::AlreadyMember);
        let why = why(*failure);
        if json {
            out.json(&json!({ "user": user, "device": device, "added": false, "why": why }))?;
        } else {
            let device = device.map_or_else(String::new, |device| format!(", device {device}"));
            out.line(&format!("not added {user}{device}: {why}"))?;
        }
    }
    match failed {
        0 => Ok(()),
        1 => Err(CliError::failed("one was not added")),
        failed => Err(CliError::failed(format!("{failed} were not added"))),
    }
}

pub(crate) fn why(failure: AddFailure) -> String {
    match failure {
        AddFailure::UnknownUser => "no device of this user is known".into(),
        AddFailure::NoKeyPackage => "the device has no key package for this group".into(),
        AddFailure::Revoked => "the device is revoked, or the user suspended".into(),
        AddFailure::RateLimited => "too many invitations of this device: try again later".into(),
        AddFailure::AlreadyMember => "is a member already".into(),
        AddFailure::BadKeyPackage(rule) => format!("its key package breaks the rule {rule}"),
        AddFailure::CommitFailed(Some(reason)) => format!("refused: {reason}"),
        _ => "the commit failed".into(),
    }
}

async fn remove(group: &Group, users: &[UserId], json: bool) -> Result<(), CliError> {
    let members = group.members().await?;
    if let Some(user) = users
        .iter()
        .find(|user| !members.iter().any(|member| member.user == **user))
    {
        return Err(CliError::failed(format!("{user} is not a member")));
    }
    let removed = group.remove(users).await?;
    let mut out = Out::stdout();
    for peer in &removed.devices {
        if json {
            out.json(&json!({ "user": peer.user, "device": peer.device, "removed": true }))?;
        } else {
            out.line(&format!("removed {}, device {}", peer.user, peer.device))?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Line {
    group: String,
    name: String,
    status: String,
    epoch: u64,
    position: u64,
    /// For example `0x0001`; empty where it is not known.
    cipher_suite: String,
    members: usize,
    /// Hex; empty where the device is no member.
    epoch_authenticator: String,
    /// The newest position whose sender was shown another history.
    #[serde(skip_serializing_if = "Option::is_none")]
    forked_at: Option<u64>,
    /// Where it was reset: under which id it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
}

impl Line {
    fn new(group: &Group, state: GroupState) -> Self {
        Self {
            group: group.id().to_string(),
            status: state.status.to_string(),
            epoch: state.epoch.0,
            position: state.position.0,
            cipher_suite: state
                .cipher_suite
                .map_or_else(String::new, |suite| suite.to_string()),
            members: state.members,
            epoch_authenticator: hex::encode(state.epoch_authenticator),
            forked_at: state.forked_at.map(|position| position.0),
            name: state.name,
            successor: state.successor.map(|group| group.to_string()),
        }
    }
}

async fn list(client: &Client, json: bool) -> Result<(), CliError> {
    let mut out = Out::stdout();
    for group in client.groups().await? {
        let line = Line::new(&group, group.info().await?);
        if json {
            out.json(&line)?;
        } else {
            let Line {
                group,
                name,
                status,
                members,
                ..
            } = line;
            out.line(&format!(
                "{group}  {}  {status}, devices: {members}",
                printable(&name)
            ))?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct MemberLine {
    user: String,
    device: String,
    role: &'static str,
    leaf_index: u32,
}

impl From<Member> for MemberLine {
    fn from(member: Member) -> Self {
        Self {
            user: member.user.to_string(),
            device: member.device.to_string(),
            role: member.role.as_str(),
            leaf_index: member.leaf_index,
        }
    }
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    group: Line,
    /// `null` where the device is no member.
    policy: Option<Policy>,
    roster: Vec<MemberLine>,
}

async fn show(group: &Group, json: bool) -> Result<(), CliError> {
    let state = group.info().await?;
    let (line, state) = (Line::new(group, state.clone()), state.status);
    let policy = group.policy().await.ok();
    let roster: Vec<MemberLine> = group.members().await?.into_iter().map(MemberLine::from).collect();
    let mut out = Out::stdout();
    if json {
        return out.json(&Shown {
            group: line,
            policy,
            roster,
        });
    }
    let Line {
        group,
        name,
        status,
        epoch,
        position,
        cipher_suite,
        members,
        epoch_authenticator,
        forked_at,
        successor,
    } = line;
    out.line(&format!("{} ({group})", printable(&name)))?;
    out.line(&format!(
        "{status}, epoch {epoch}, position {position}, devices: {members}"
    ))?;
    if let Some(successor) = successor {
        out.line(&format!("an administrator ended it: it goes on as {successor}"))?;
    }
    if !cipher_suite.is_empty() {
        out.line(&format!("cipher suite {cipher_suite}"))?;
    }
    if let Some(advice) = advice(state) {
        out.line(advice)?;
    }
    if let Some(position) = forked_at {
        out.line(&format!(
            "members were shown different histories: whoever sent position {position} saw another one than this device"
        ))?;
    }
    out.line(&format!(
        "epoch authenticator (the same on all devices): {epoch_authenticator}"
    ))?;
    if let Some(policy) = policy {
        out.line(&format!("policy: {}", crate::roles::words(policy)))?;
    }
    for MemberLine {
        user, device, role, ..
    } in roster
    {
        out.line(&format!("  {user}  {role}  device {device}"))?;
    }
    Ok(())
}

/// What somebody can do about a group that this device cannot go on in.
fn advice(status: GroupStatus) -> Option<&'static str> {
    match status {
        GroupStatus::HeldByBadCommit => Some(
            "held: ask another member whether the group is as it should be; if so, `valise group rejoin`",
        ),
        GroupStatus::LogRegressed => Some(
            "it goes on by itself when the log is repaired; if that was done without this device's place, `valise group rejoin`",
        ),
        GroupStatus::Lost | GroupStatus::WelcomeUnusable => {
            Some("this device can come back: `valise group rejoin`")
        }
        GroupStatus::Rejoining => Some("on its way back: messages are queued"),
        _ => None,
    }
}

/// What a group is looked up by.
struct Candidate {
    id: String,
    name: String,
    /// Not removed from it, for example.
    alive: bool,
}

/// By id, by name, or by the beginning of an id, where only one group has it.
pub(crate) async fn find(client: &Client, text: &str) -> Result<Group, CliError> {
    let mut groups = client.groups().await?;
    let mut candidates = Vec::with_capacity(groups.len());
    for group in &groups {
        let state = group.info().await?;
        candidates.push(Candidate {
            id: group.id().to_string(),
            name: state.name,
            alive: !matches!(
                state.status,
                GroupStatus::Removed | GroupStatus::WelcomeUnusable | GroupStatus::Reset
            ),
        });
    }
    let index = choose(&candidates, text).map_err(CliError::Failed)?;
    Ok(groups.swap_remove(index))
}

fn choose(candidates: &[Candidate], text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(index) = candidates.iter().position(|candidate| candidate.id == lower) {
        return Ok(index);
    }
    let all = |is: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        let indices = candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| is(candidate));
        indices.map(|(index, _)| index).collect()
    };
    let named = all(&|candidate| candidate.name == text);
    let prefixed = all(&|candidate| !lower.is_empty() && candidate.id.starts_with(&lower));
    for found in [named, prefixed] {
        let alive: Vec<usize> = found
            .iter()
            .copied()
            .filter(|&index| candidates[index].alive)
            .collect();
        match (found.as_slice(), alive.as_slice()) {
            ([], _) => {}
            ([one], _) | (_, [one]) => return Ok(*one),
            _ => {
                let ids: Vec<&str> = found.iter().map(|&index| candidates[index].id.as_str()).collect();
                return Err(format!(
                    "more than one group is meant by {text:?}: {}",
                    ids.join(", ")
                ));
            }
        }
    }
    Err(format!(
        "there is no group {text:?} on this device: see `valise group list`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate> {
        let candidate = |id: &str, name: &str, alive| Candidate {
            id: id.into(),
            name: name.into(),
            alive,
        };
        vec![
            candidate("aa00", "Budget", false),
            candidate("aa11", "Budget", true),
            candidate("bb22", "Twice", true),
            candidate("bc33", "Twice", true),
            candidate("cc44", "aa11", true),
        ]
    }

    #[test]
    fn a_group_is_found_by_id_name_or_beginning_of_its_id() {
        let groups = candidates();
        assert_eq!(choose(&groups, "aa00"), Ok(0));
        assert_eq!(choose(&groups, "Budget"), Ok(1), "the one that is alive");
        assert_eq!(choose(&groups, "BB"), Ok(2));
        assert_eq!(choose(&groups, "aa11"), Ok(1), "an id comes before a name");
        assert_eq!(choose(&groups, "aa"), Ok(1));
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let groups = candidates();
        assert!(choose(&groups, "Twice").unwrap_err().contains("bb22, bc33"));
        assert!(choose(&groups, "b").is_err());
        assert!(choose(&groups, "").is_err());
        assert!(choose(&groups, "budget").is_err());
        assert!(choose(&[], "x").unwrap_err().contains("group list"));
    }
}
