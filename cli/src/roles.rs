//! Roles and what they allow, on the command line.

use valise_client_sdk::{Act, AfterBadCommit, ExternalJoin, Group, Policy, Retention, Role, UserId};

use crate::args::PolicyArgs;
use crate::error::CliError;
use crate::out::Out;

/// A role, by its name.
pub(crate) fn role(text: &str) -> Result<Role, String> {
    Role::from_text(text).ok_or_else(|| "one of reader, member, moderator, owner".into())
}

/// Who may come in without being added, by its name.
pub(crate) fn external_join(text: &str) -> Result<ExternalJoin, String> {
    [
        ExternalJoin::Nobody,
        ExternalJoin::MemberDevices,
        ExternalJoin::MemberUsers,
    ]
    .into_iter()
    .find(|join| join.as_str() == text)
    .ok_or_else(|| "one of nobody, member_devices, member_users".into())
}

/// What devices do after a commit that they cannot process, by its name.
pub(crate) fn after_bad_commit(text: &str) -> Result<AfterBadCommit, String> {
    [AfterBadCommit::Hold, AfterBadCommit::Rejoin]
        .into_iter()
        .find(|after| after.as_str() == text)
        .ok_or_else(|| "one of hold, rejoin".into())
}

/// How long the service keeps entries: that long at most, or as for other groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeptFor(Option<Retention>);

/// A number of seconds, or `default`.
pub(crate) fn kept_for(text: &str) -> Result<KeptFor, String> {
    if text == "default" {
        return Ok(KeptFor(None));
    }
    let retention = text.parse().ok().and_then(Retention::from_seconds);
    let retention = retention.ok_or("3600 to 31536000, or default")?;
    Ok(KeptFor(Some(retention)))
}

/// Changes the policy, if anything is to be changed; shows it, if nothing is.
pub(crate) async fn policy(group: &Group, arguments: &PolicyArgs) -> Result<(), CliError> {
    let before = group.policy().await?;
    let policy = changed(before, arguments);
    if policy != before {
        group.set_policy(policy).await?;
    }
    let mut out = Out::stdout();
    if arguments.json {
        out.json(&policy)
    } else {
        out.line(&words(policy))
    }
}

fn changed(before: Policy, arguments: &PolicyArgs) -> Policy {
    Policy {
        add: arguments.add.unwrap_or(before.add),
        remove: arguments.remove.unwrap_or(before.remove),
        rename: arguments.rename.unwrap_or(before.rename),
        change_roles: arguments.change_roles.unwrap_or(before.change_roles),
        send: arguments.send.unwrap_or(before.send),
        external_join: arguments.external_join.unwrap_or(before.external_join),
        bad_commit: arguments.bad_commit.unwrap_or(before.bad_commit),
        retention: arguments.retention.map_or(before.retention, |kept| kept.0),
    }
}

/// A policy on one line.
pub(crate) fn words(policy: Policy) -> String {
    let acts = Act::ALL.map(|act| {
        let name = match act {
            Act::Add => "add",
            Act::Remove => "remove",
            Act::Rename => "rename",
            Act::ChangeRoles => "change roles",
            Act::Send => "send",
        };
        format!("{name}: {}", policy.least(act))
    });
    let kept = policy
        .retention
        .map(|retention| format!(", kept for: {} s", retention.seconds()));
    format!(
        "{}, come in: {}, after a bad commit: {}{}",
        acts.join(", "),
        policy.external_join.as_str(),
        policy.bad_commit.as_str(),
        kept.unwrap_or_default()
    )
}

/// What became of roles, on one line.
pub(crate) fn changes(users: &[(UserId, Role)], policy: Option<&Policy>) -> String {
    let mut parts: Vec<String> = users
        .iter()
        .map(|(user, role)| format!("made {user} {role}"))
        .collect();
    parts.extend(policy.map(|policy| format!("set the policy: {}", words(*policy))));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_others_refused() {
        for known in Role::ALL {
            assert_eq!(role(known.as_str()), Ok(known));
        }
        assert!(role("king").unwrap_err().contains("moderator"));
        assert_eq!(external_join("nobody"), Ok(ExternalJoin::Nobody));
        assert!(external_join("everybody").is_err());
        assert_eq!(after_bad_commit("rejoin"), Ok(AfterBadCommit::Rejoin));
        assert!(after_bad_commit("forget").is_err());
        assert_eq!(kept_for("default"), Ok(KeptFor(None)));
        assert_eq!(kept_for("3600"), Ok(KeptFor(Retention::from_seconds(3600))));
        for wrong in ["3599", "31536001", "a day", ""] {
            assert!(kept_for(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_policy_reads_as_a_line() {
        assert_eq!(
            words(Policy::default()),
            "add: moderator, remove: moderator, rename: moderator, change roles: owner, send: member, come in: member_users, after a bad commit: hold"
        );
        let policy = Policy {
            retention: Retention::from_seconds(86_400),
            ..Policy::default()
        };
        assert!(words(policy).ends_with(", after a bad commit: hold, kept for: 86400 s"));
    }
}
