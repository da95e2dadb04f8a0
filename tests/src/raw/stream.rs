//! A device's stream, message by message.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use valise_proto::Refusal;
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::inbox_item::Item;
use valise_proto::delivery::v1::subscribe_request::Message as Out;
use valise_proto::delivery::v1::subscribe_response::Message as In;

use super::{Door, refusal};
use crate::wait::soon;

/// An open stream.
pub struct Stream {
    out: mpsc::Sender<wire::SubscribeRequest>,
    incoming: Streaming<wire::SubscribeResponse>,
}

/// A cursor for a group.
pub fn cursor(group: &[u8], position: u64, entry_id: &[u8]) -> wire::GroupCursor {
    wire::GroupCursor {
        group_id: group.to_vec().into(),
        cursor: Some(wire::Cursor {
            position,
            entry_id: entry_id.to_vec().into(),
        }),
    }
}

/// The cursor after an entry.
pub fn after(entry: &wire::Entry) -> wire::GroupCursor {
    cursor(&entry.group_id, entry.position, &entry.entry_id)
}

impl Stream {
    /// Opens it with these cursors.
    pub async fn open(
        door: &Door,
        groups: Vec<wire::GroupCursor>,
        inbox_cursor: u64,
    ) -> Result<Self, Refusal> {
        Self::open_with(door, vec![Out::Start(wire::Start { groups, inbox_cursor })]).await
    }

    /// Opens it with whatever it says first.
    pub async fn open_with(door: &Door, first: Vec<Out>) -> Result<Self, Refusal> {
        let (out, requests) = mpsc::channel(1024);
        for message in first {
            out.send(wire::SubscribeRequest {
                message: Some(message),
            })
            .await
            .unwrap();
        }
        let answer = soon(door.delivery().subscribe(ReceiverStream::new(requests))).await;
        let incoming = answer.map_err(|status| refusal(&status))?.into_inner();
        Ok(Self { out, incoming })
    }

    /// Says something.
    pub async fn say(&self, message: Out) {
        // Where the stream has ended, its other direction tells why.
        let _ = self
            .out
            .send(wire::SubscribeRequest {
                message: Some(message),
            })
            .await;
    }

    /// Says nothing, in a message.
    pub async fn say_nothing(&self) {
        let _ = self.out.send(wire::SubscribeRequest { message: None }).await;
    }

    /// Acknowledges entries of groups.
    pub async fn ack(&self, groups: Vec<wire::GroupCursor>) {
        self.say(Out::Ack(wire::Ack {
            groups,
            inbox_number: 0,
        }))
        .await;
    }

    /// Acknowledges inbox items.
    pub async fn ack_inbox(&self, inbox_number: u64) {
        self.say(Out::Ack(wire::Ack {
            groups: Vec::new(),
            inbox_number,
        }))
        .await;
    }

    /// The next message but heartbeats, or why the stream ended.
    pub async fn next(&mut self) -> Result<In, Refusal> {
        loop {
            match self.next_of_any_kind().await? {
                In::Heartbeat(_) => {}
                message => return Ok(message),
            }
        }
    }

    /// The next message, or why the stream ended.
    pub async fn next_of_any_kind(&mut self) -> Result<In, Refusal> {
        match soon(self.incoming.message()).await {
            Ok(Some(response)) => Ok(response.message.expect("a message says something")),
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => Err(refusal(&status)),
        }
    }

    /// The next message but heartbeats, which is an entry.
    pub async fn entry(&mut self) -> wire::Entry {
        match self.next().await {
            Ok(In::Entry(entry)) => entry,
            other => panic!("not an entry: {other:?}"),
        }
    }

    /// The next message but heartbeats, which says that the device has caught up.
    pub async fn caught_up(&mut self) {
        match self.next().await {
            Ok(In::CaughtUp(_)) => {}
            other => panic!("not caught up: {other:?}"),
        }
    }

    /// The next message but heartbeats, which says that a group has ended.
    pub async fn group_ended(&mut self) -> wire::GroupEnded {
        match self.next().await {
            Ok(In::GroupEnded(ended)) => ended,
            other => panic!("no group ended: {other:?}"),
        }
    }

    /// The next inbox item that is about a group, not about key packages.
    pub async fn invitation_or_news(&mut self) -> Item {
        loop {
            match self.inbox_item().await.item.unwrap() {
                Item::LowStock(_) => {}
                item => return item,
            }
        }
    }

    /// The next message but heartbeats, which is an inbox item.
    pub async fn inbox_item(&mut self) -> wire::InboxItem {
        match self.next().await {
            Ok(In::InboxItem(item)) => item,
            other => panic!("not an inbox item: {other:?}"),
        }
    }
}
