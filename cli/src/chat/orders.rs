//! What the user asked for, done by the client.

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use valise_client_sdk::{
    AddFailure, Added, Client, Content, Error, Group, GroupId, History, HistoryMessage, Kind, MessageId,
    Position, Role, UserId,
};

use super::model::{Happening, Known, Reading};

/// Messages that are read at once.
const PAGE: usize = 200;
/// Most messages that a search shows.
const MAX_FOUND: usize = 200;

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

/// What is remembered of what was said in a group.
pub(super) fn read(client: &Client, reading: Reading) -> Work<'_> {
    async move {
        vec![match remembered(client, &reading).await {
            Ok((messages, whole)) => Happening::Remembered {
                group: reading.group,
                messages,
                whole,
            },
            Err(error) => Happening::Ended(Err(error.to_string())),
        }]
    }
    .boxed_local()
}

/// The last messages, oldest first, and whether there are no others.
async fn remembered(client: &Client, reading: &Reading) -> Result<(Vec<HistoryMessage>, bool), Error> {
    let history = group(client, reading.group).await?.history();
    let (mut messages, mut whole) = page(&history, None).await?;
    let mut more = reading.more;
    while !whole && let Some(first) = messages.iter().find_map(HistoryMessage::position) {
        if reading.back_to.is_none_or(|back_to| first <= back_to) {
            if !more {
                break;
            }
            more = false;
        }
        let (mut earlier, is_first) = page(&history, Some(first)).await?;
        earlier.append(&mut messages);
        (messages, whole) = (earlier, is_first);
    }
    if let Some(back_to) = reading.back_to.filter(|_| !reading.more) {
        // Pages end elsewhere than before: what was not asked for would become more each time.
        let before = messages
            .iter()
            .take_while(|message| message.position().is_some_and(|position| position < back_to))
            .count();
        messages.drain(..before);
        whole &= before == 0;
    }
    Ok((messages, whole))
}

/// A page, and whether there is nothing before it.
async fn page(history: &History, before: Option<Position>) -> Result<(Vec<HistoryMessage>, bool), Error> {
    let page = history.page(before, PAGE).await?;
    let in_log = page.iter().filter(|message| message.position().is_some()).count();
    Ok((page, in_log < PAGE))
}

/// The user has seen these messages: those that expire after reading begin to. Nobody is told.
pub(super) fn mark_read(client: &Client, group: GroupId, messages: Vec<MessageId>) -> Work<'_> {
    async move {
        let marked = async {
            let history = self::group(client, group).await?.history();
            history.mark_read(&messages).await
        };
        match marked.await {
            Ok(()) => Vec::new(),
            Err(error) => vec![Happening::Ended(Err(error.to_string()))],
        }
    }
    .boxed_local()
}

pub(super) fn search(client: &Client, group: GroupId, words: String) -> Work<'_> {
    async move {
        vec![match found(client, group, &words).await {
            Ok(mut messages) => {
                messages.reverse();
                Happening::Found {
                    group,
                    words,
                    messages,
                }
            }
            Err(error) => Happening::Ended(Err(error.to_string())),
        }]
    }
    .boxed_local()
}

/// Newest first.
async fn found(client: &Client, group: GroupId, words: &str) -> Result<Vec<HistoryMessage>, Error> {
    let history = self::group(client, group).await?.history();
    history.search(words, MAX_FOUND).await
}

pub(super) fn send<'a>(ticket: u64, group: Option<Group>, content: Content) -> Work<'a> {
    async move {
        let outcome = match group {
            Some(group) => post(&group, content).await.map_err(|error| error.to_string()),
            None => Err("the group is gone".to_owned()),
        };
        vec![Happening::Sent { ticket, outcome }]
    }
    .boxed_local()
}

/// What is said is remembered, and shown, as soon as it is queued. Of what changes other messages nothing is seen before it is accepted.
async fn post(group: &Group, content: Content) -> Result<(), Error> {
    let is_said = matches!(content.kind(), Kind::Text(_) | Kind::Reply { .. });
    if is_said {
        group.queue(content).await.map(drop)
    } else {
        group.send(content).await.map(drop)
    }
}

/// Removes a message that was not sent.
pub(super) fn forget(client: &Client, group: GroupId, message: MessageId) -> Work<'_> {
    ended(async move {
        let history = self::group(client, group).await?.history();
        history.remove(message).await?;
        Ok(Ok("removed from this device".into()))
    })
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

pub(super) fn rejoin(client: &Client, group: GroupId) -> Work<'_> {
    ended(async move {
        let group = self::group(client, group).await?;
        group.rejoin().await?;
        let position = group.info().await?.position;
        Ok(Ok(format!("back in the group, from position {position} on")))
    })
}

pub(super) fn rename(client: &Client, group: GroupId, name: String) -> Work<'_> {
    ended(async move {
        self::group(client, group).await?.rename(&name).await?;
        Ok(Ok("renamed".into()))
    })
}

pub(super) fn set_role(client: &Client, group: GroupId, user: UserId, role: Role) -> Work<'_> {
    ended(async move {
        let group = self::group(client, group).await?;
        group.set_role(&user, role).await?;
        Ok(Ok(format!("{user}: {role} now")))
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
