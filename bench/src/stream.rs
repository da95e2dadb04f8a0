//! A device's stream, without the SDK.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use valise_proto::delivery::v1::subscribe_request::Message as Out;
use valise_proto::delivery::v1::subscribe_response::Message as In;
use valise_proto::delivery::v1::{
    Ack, Cursor, GroupCursor, Heartbeat, Start, SubscribeRequest, SubscribeResponse,
};

use crate::Result;
use crate::raw::Device;

/// A device's stream over one group.
pub(crate) struct Stream {
    group: Vec<u8>,
    out: mpsc::Sender<SubscribeRequest>,
    responses: Streaming<SubscribeResponse>,
}

impl Stream {
    /// Opens the stream after that position and waits until it is live.
    pub(crate) async fn open(device: &Device, group: &[u8], position: u64) -> Result<Self> {
        let group = group.to_vec();
        let (out, requests) = mpsc::channel(64);
        let start = Start {
            groups: vec![cursor(&group, position)],
            inbox_cursor: 0,
        };
        out.send(SubscribeRequest {
            message: Some(Out::Start(start)),
        })
        .await?;
        let request = device.request(ReceiverStream::new(requests));
        let responses = device.delivery().subscribe(request).await?.into_inner();
        let mut stream = Self {
            group,
            out,
            responses,
        };
        while !matches!(stream.next().await?, In::CaughtUp(_)) {}
        Ok(stream)
    }

    /// When the next entry came, and its position.
    pub(crate) async fn next_entry(&mut self) -> Result<(Instant, u64)> {
        loop {
            if let In::Entry(entry) = self.next().await? {
                return Ok((Instant::now(), entry.position));
            }
        }
    }

    /// All entries up to there have been applied.
    pub(crate) async fn acknowledge(&self, position: u64) -> Result<()> {
        let groups = vec![cursor(&self.group, position)];
        let ack = Ack {
            groups,
            inbox_number: 0,
        };
        self.say(Out::Ack(ack)).await
    }

    async fn next(&mut self) -> Result<In> {
        let response = self.responses.message().await?.ok_or("the stream ended")?;
        let message = response.message.ok_or("an empty message")?;
        match &message {
            In::InboxItem(item) => {
                self.say(Out::Ack(Ack {
                    groups: Vec::new(),
                    inbox_number: item.number,
                }))
                .await?;
            }
            In::Heartbeat(_) => self.say(Out::Heartbeat(Heartbeat {})).await?,
            In::GroupEnded(_) => return Err("the stream lost its group".into()),
            _ => {}
        }
        Ok(message)
    }

    async fn say(&self, message: Out) -> Result<()> {
        Ok(self
            .out
            .send(SubscribeRequest {
                message: Some(message),
            })
            .await?)
    }
}

fn cursor(group: &[u8], position: u64) -> GroupCursor {
    let cursor = Cursor {
        position,
        ..Cursor::default()
    };
    GroupCursor {
        group_id: group.to_vec().into(),
        cursor: Some(cursor),
    }
}
