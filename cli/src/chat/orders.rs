//! What the user asked for, done by the client.

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use valise_client_sdk::{AddFailure, Added, Client, Error, Group, GroupId, UserId};

use super::model::{Happening, Known};

/// Something that is being done; what has happened when it is.
pub(super) type Work<'a> = LocalBoxFuture<'a, Vec<Happening>>;

/// How all groups stand.
pub(super) async fn known_groups(client: &Client) -> Result<Vec<Known>, Error> {
    let mut known = Vec::new();
    for group in client.groups().await? {
        known.push(Known {
            id: group.id(),
            state: group.info().await?,
            members: group.members().await?,
        });
    }
    Ok(known)
}

/// The groups as they stand now, for the model.
pub(super) fn refresh(client: &Client) -> Work<'_> {
    async move {
        vec![match known_groups(client).await {
            Ok(known) => Happening::Groups(known),
            Err(error) => Happening::Ended(Err(error.to_string())),
        }]
    }
    .boxed_local()
}

/// Shows a group as soon as there is one that is meant by this text.
pub(super) fn find(client: &Client, text: String) -> Work<'_> {
    async move {
        vec![match crate::group::find(client, &text).await {
            Ok(group) => Happening::Open(group.id()),
            Err(error) => Happening::Ended(Err(error.line())),
        }]
    }
    .boxed_local()
}

pub(super) fn send<'a>(ticket: u64, group: Option<Group>, text: String) -> Work<'a> {
    async move {
        let outcome = match group {
            Some(group) => group
                .send(text)
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
            None => Err("the group is gone".to_owned()),
        };
        vec![Happening::Sent { ticket, outcome }]
    }
    .boxed_local()
}

pub(super) fn add(client: &Client, group: GroupId, users: Vec<UserId>) -> Work<'_> {
    ended(async move {
        let added = self::group(client, group).await?.add(&users).await?;
        Ok(what_was_added(&added))
    })
}

pub(super) fn remove(client: &Client, group: GroupId, users: Vec<UserId>) -> Work<'_> {
    ended(async move {
        let group = self::group(client, group).await?;
        let members = group.members().await?;
        let stranger = users
            .iter()
            .find(|user| !members.iter().any(|member| member.user == **user));
        if let Some(stranger) = stranger {
            return Ok(Err(format!("{stranger} is not a member")));
        }
        let removed = group.remove(&users).await?;
        Ok(Ok(format!("removed, devices: {}", removed.devices.len())))
    })
}

pub(super) fn leave(client: &Client, group: GroupId) -> Work<'_> {
    ended(async move {
        self::group(client, group).await?.leave().await?;
        Ok(Ok(
            "asked to leave: it takes effect when another member's device commits it".into(),
        ))
    })
}

pub(super) fn create(client: &Client, name: String) -> Work<'_> {
    async move {
        let group = match client.create_group(&name).await {
            Ok(group) => group,
            Err(error) => return vec![Happening::Ended(Err(error.to_string()))],
        };
        let mut happenings = refresh(client).await;
        happenings.push(Happening::Open(group.id()));
        happenings
    }
    .boxed_local()
}

/// Something of which there is a line to be said when it has ended.
fn ended<'a>(work: impl Future<Output = Result<Result<String, String>, Error>> + 'a) -> Work<'a> {
    async move {
        let told = work.await.unwrap_or_else(|error| Err(error.to_string()));
        vec![Happening::Ended(told)]
    }
    .boxed_local()
}

async fn group(client: &Client, id: GroupId) -> Result<Group, Error> {
    client.group(id).await?.ok_or(Error::UnknownGroup(id))
}

fn what_was_added(added: &Added) -> Result<String, String> {
    let not_added: Vec<String> = added
        .failed
        .iter()
        .filter(|(_, _, failure)| *failure != AddFailure::AlreadyMember)
        .map(|(user, _, failure)| format!("{user}: {}", crate::group::why(*failure)))
        .collect();
    let count = added.devices.len();
    match (count, not_added.as_slice()) {
        (0, []) => Ok("nobody was added: all are members already".into()),
        (_, []) => Ok(format!("added, devices: {count}")),
        (_, not_added) => Err(format!(
            "added, devices: {count}; not added: {}",
            not_added.join("; ")
        )),
    }
}
