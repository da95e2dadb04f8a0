//! B4: from the send to its delivery on another device's stream, against the send alone.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use valise_proto::delivery::v1::subscribe_request::Message as Out;
use valise_proto::delivery::v1::subscribe_response::Message as In;
use valise_proto::delivery::v1::{
    Ack, Cursor, GroupCursor, Heartbeat, Start, SubscribeRequest, SubscribeResponse,
};

use crate::b3_one_send::micros;
use crate::group::{Joiner, Member};
use crate::raw::Device;
use crate::report::{Goal, Line, Side, percentile};
use crate::{Bench, Result};

const SENDS: usize = 300;
/// Without a delivery for so long, something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut devices = bench.administrator.devices(&bench.server, 2).await?;
    let (mut receiver, mut sender) = (devices.swap_remove(1), devices.swap_remove(0));
    let mut member = Member::create(&sender).await?;
    let joiner = Joiner::new(&receiver.identity)?;
    member.add(&sender, &[joiner]).await?;

    let mut position = member.position;
    let (mut alone, mut delivered) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=bench.args.rounds {
        sender.renew().await?;
        receiver.renew().await?;
        let sends = bench.args.times(SENDS);
        let (mut send, mut delivery) = (Vec::new(), Vec::new());
        for message in member.encrypt_many(&sender.identity, sends)? {
            let began = Instant::now();
            sender.send(message).await?;
            send.push(micros(began));
            position += 1;
        }
        let messages = member.encrypt_many(&sender.identity, sends)?;
        let mut stream = Stream::open(&receiver, &member, position).await?;
        for message in messages {
            let began = Instant::now();
            let sent = tokio::spawn(sender.send(message));
            let arrived = tokio::time::timeout(PATIENCE, stream.next_entry()).await??;
            delivery.push((arrived - began).as_secs_f64() * 1e6);
            sent.await??;
            position += 1;
        }
        // The first warms up.
        if round > 0 {
            for (index, percent) in [50, 99].into_iter().enumerate() {
                alone[index].push(percentile(&mut send, percent));
                delivered[index].push(percentile(&mut delivery, percent));
            }
        }
    }
    let line = |what: &str, delivered: Vec<f64>, alone: Vec<f64>, goal| {
        let valise = Side::new("send to delivery", "us", delivered);
        Line::ratio("B4", what, valise, Side::new("send, accepted", "us", alone), goal)
    };
    let ([alone_50, alone_99], [delivered_50, delivered_99]) = (alone, delivered);
    Ok(vec![
        line(
            "delivery to one device, idle, p50",
            delivered_50,
            alone_50,
            Goal::AtMost(1.5),
        ),
        line(
            "delivery to one device, idle, p99",
            delivered_99,
            alone_99,
            Goal::None,
        ),
    ])
}

/// A device's stream over one group.
struct Stream {
    group: Vec<u8>,
    out: mpsc::Sender<SubscribeRequest>,
    responses: Streaming<SubscribeResponse>,
}

impl Stream {
    /// Opens the stream after that position and waits until it is live.
    async fn open(device: &Device, member: &Member, position: u64) -> Result<Self> {
        let group = member.mls.group_id().to_vec();
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

    /// When the next entry came.
    async fn next_entry(&mut self) -> Result<Instant> {
        loop {
            if let In::Entry(entry) = self.next().await? {
                let arrived = Instant::now();
                let groups = vec![cursor(&self.group, entry.position)];
                self.say(Out::Ack(Ack {
                    groups,
                    inbox_number: 0,
                }))
                .await?;
                return Ok(arrived);
            }
        }
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
