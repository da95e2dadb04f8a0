//! A delivery service that lies to those who are connected to it: it hands everything on to a real one, and shows another log.
//!
//! It does what the real service could do. Where a lie moves entries, all positions and ids that a device says or hears are those of the log that it is
//! shown: nothing in the protocol tells it.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use valise_client_sdk::{GroupId, Reason, Refusal, Servers};
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use valise_proto::delivery::v1::delivery_service_server::{DeliveryService, DeliveryServiceServer};
use valise_proto::delivery::v1::subscribe_request::Message as FromDevice;
use valise_proto::delivery::v1::subscribe_response::Message as ToDevice;

use crate::service::Service;

/// Larger than any message.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// The id of an entry that no log has.
const FORGED_ID: &[u8] = &[0xEE; 8];

/// What is done to a group's log, by positions of the real one.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    /// This entry is not in it; those after it move up.
    Drop(u64),
    /// This entry is in it once more, right after itself; those after it move down.
    Replay(u64),
    /// This entry and the next have each other's place.
    Swap(u64),
    /// This entry was accepted an hour later.
    Later(u64),
    /// This entry is followed by another one in the same place.
    Instead(u64),
    /// The stream brings every entry twice, and all that were before it once more.
    Again,
    /// The stream leaves this entry out; reading the log brings it.
    Gap(u64),
    /// The stream brings this entry after the next one.
    Late(u64),
}

impl Lie {
    /// Where an entry is shown.
    const fn shown(self, real: u64) -> u64 {
        match self {
            Self::Drop(dropped) if real >= dropped => real - 1,
            Self::Replay(of) if real > of => real + 1,
            _ => real,
        }
    }

    /// How far of the real log whoever has read so far has read.
    fn real(self, shown: u64, known: impl Fn(u64) -> bool) -> u64 {
        match self {
            // What is left out is read with the entry before it.
            Self::Drop(dropped) if shown + 1 > dropped || (shown + 1 == dropped && known(dropped)) => {
                shown + 1
            }
            Self::Replay(of) if shown > of => shown - 1,
            Self::Swap(first) if shown == first => shown - 1,
            _ => shown,
        }
    }
}

/// What the liar tells of groups.
#[derive(Default)]
struct Tale {
    lies: HashMap<GroupId, Lie>,
    /// What the service has shown, by its own positions.
    known: BTreeMap<(GroupId, u64), wire::Entry>,
    /// Invitations are not handed on.
    uninviting: bool,
    /// How often it refuses to list groups.
    unlisted: u32,
}

impl Tale {
    fn lie(&self, group: &[u8]) -> Option<(GroupId, Lie)> {
        let group = GroupId::try_from(group).ok()?;
        self.lies.get(&group).map(|&lie| (group, lie))
    }

    /// What is shown instead of an entry, in the log.
    fn show(&mut self, entry: wire::Entry) -> Vec<wire::Entry> {
        let Ok(group) = GroupId::try_from(&*entry.group_id) else {
            return vec![entry];
        };
        let real = entry.position;
        self.known.insert((group, real), entry.clone());
        let Some(&lie) = self.lies.get(&group) else {
            return vec![entry];
        };
        let at = |position: u64, entry: &wire::Entry| wire::Entry {
            position,
            ..entry.clone()
        };
        match lie {
            // With what is shown next, or not at all.
            Lie::Drop(place) | Lie::Swap(place) if real == place => Vec::new(),
            Lie::Replay(of) if real == of => {
                let again = wire::Entry {
                    entry_id: FORGED_ID.into(),
                    ..at(real + 1, &entry)
                };
                vec![entry, again]
            }
            Lie::Swap(first) if real == first + 1 => {
                let other = self.known.get(&(group, first)).expect("it came before");
                vec![at(first, &entry), at(real, other)]
            }
            Lie::Later(late) if real == late => {
                let mut entry = entry;
                entry.accepted_at.as_mut().expect("an entry has a time").seconds += 3600;
                vec![entry]
            }
            Lie::Instead(place) if real == place => {
                let other = wire::Entry {
                    entry_id: FORGED_ID.into(),
                    ..entry.clone()
                };
                vec![entry, other]
            }
            lie => vec![at(lie.shown(real), &entry)],
        }
    }

    /// The same on a stream, where more can go wrong.
    fn stream(&mut self, entry: wire::Entry) -> Vec<wire::Entry> {
        let (real, lie) = (entry.position, self.lie(&entry.group_id));
        let shown = self.show(entry);
        match lie {
            Some((_, Lie::Gap(gap) | Lie::Late(gap))) if real == gap => Vec::new(),
            Some((group, Lie::Late(late))) if real == late + 1 => {
                let late = self.known.get(&(group, late)).cloned();
                shown.into_iter().chain(late).collect()
            }
            Some((group, Lie::Again)) => {
                let before = self.known.range((group, 0)..(group, real));
                let before: Vec<_> = before.map(|(_, entry)| entry.clone()).collect();
                [before, shown.clone(), shown].concat()
            }
            _ => shown,
        }
    }

    /// A device's place, as the service knows it.
    fn place(&self, cursor: &mut wire::GroupCursor) {
        let Some((group, lie)) = self.lie(&cursor.group_id) else {
            return;
        };
        let Some(cursor) = &mut cursor.cursor else {
            return;
        };
        let real = lie.real(cursor.position, |real| self.known.contains_key(&(group, real)));
        if let Some(entry) = self.known.get(&(group, real)) {
            cursor.entry_id = entry.entry_id.clone();
        }
        cursor.position = real;
    }

    fn hear(&self, mut request: wire::SubscribeRequest) -> wire::SubscribeRequest {
        let cursors = match &mut request.message {
            Some(FromDevice::Start(start)) => &mut start.groups,
            Some(FromDevice::Ack(ack)) => &mut ack.groups,
            Some(FromDevice::ChangeGroups(change)) => &mut change.add,
            _ => return request,
        };
        for cursor in cursors {
            self.place(cursor);
        }
        request
    }

    fn tell(&mut self, response: wire::SubscribeResponse) -> Vec<wire::SubscribeResponse> {
        match response.message {
            Some(ToDevice::Entry(entry)) => {
                let entries = self.stream(entry).into_iter();
                entries
                    .map(|entry| wire::SubscribeResponse {
                        message: Some(ToDevice::Entry(entry)),
                    })
                    .collect()
            }
            // As if there were something else in its place: a device takes note of that, too.
            Some(ToDevice::InboxItem(item)) if self.uninviting && is_invitation(&item) => {
                let nothing = wire::InboxItem { item: None, ..item };
                vec![wire::SubscribeResponse {
                    message: Some(ToDevice::InboxItem(nothing)),
                }]
            }
            message => vec![wire::SubscribeResponse { message }],
        }
    }
}

fn is_invitation(item: &wire::InboxItem) -> bool {
    matches!(item.item, Some(wire::inbox_item::Item::Welcome(_)))
}

type Shown = BoxStream<'static, Result<wire::SubscribeResponse, Status>>;

/// The real service's client, and the tale.
#[derive(Clone)]
struct Mouth {
    client: DeliveryServiceClient<Channel>,
    tale: Arc<Mutex<Tale>>,
}

/// A running liar. What it lies about is said group by group; until then it is honest.
pub struct Liar {
    servers: Servers,
    tale: Arc<Mutex<Tale>>,
    serving: JoinHandle<()>,
}

impl Liar {
    /// On a free port of 127.0.0.1, before that service.
    pub async fn before(service: &Service) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tale = Arc::new(Mutex::new(Tale::default()));
        let client =
            DeliveryServiceClient::new(service.connect().await).max_decoding_message_size(MAX_MESSAGE);
        let mouth = Mouth {
            client,
            tale: tale.clone(),
        };
        let server = DeliveryServiceServer::new(mouth).max_decoding_message_size(MAX_MESSAGE);
        let serving = Server::builder()
            .add_service(server)
            .serve_with_incoming(TcpListenerStream::new(listener));
        Self {
            servers: Servers::each(service.url(), service.url(), url),
            tale,
            serving: tokio::spawn(async move { serving.await.unwrap() }),
        }
    }

    /// For devices that are lied to.
    pub fn servers(&self) -> Servers {
        self.servers.clone()
    }

    /// From now on no invitation gets to a device.
    pub fn keep_invitations(&self) {
        self.tale.lock().uninviting = true;
    }

    /// The next time that a device asks for its groups, it is refused.
    pub fn refuse_to_list_once(&self) {
        self.tale.lock().unlisted = 1;
    }

    /// From now on, about what is not shown yet.
    pub fn lie(&self, group: GroupId, lie: Lie) {
        self.tale.lock().lies.insert(group, lie);
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Mouth {
    /// An accepted request has the place that its entry will be shown at. Its group is only in the MLS message.
    fn accepted(&self, message: &[u8], accepted: &mut Option<wire::Accepted>) {
        let tale = self.tale.lock();
        let lie = tale
            .lies
            .iter()
            .find(|(group, _)| message.windows(16).any(|bytes| bytes == group.as_bytes()));
        if let (Some((_, lie)), Some(accepted)) = (lie, accepted) {
            accepted.position = lie.shown(accepted.position);
        }
    }

    /// A part of the log, as it is shown.
    async fn read(
        &self,
        mut request: Request<wire::ReadEntriesRequest>,
    ) -> Result<Response<wire::ReadEntriesResponse>, Status> {
        let group = request.get_ref().group_id.clone();
        {
            let tale = self.tale.lock();
            if let Some((group, lie)) = tale.lie(&group) {
                let after = &mut request.get_mut().after_position;
                *after = lie.real(*after, |real| tale.known.contains_key(&(group, real)));
            }
        }
        let mut response = self.client.clone().read_entries(request).await?;
        let mut tale = self.tale.lock();
        let page = response.get_mut();
        let entries = std::mem::take(&mut page.entries);
        page.entries = entries.into_iter().flat_map(|entry| tale.show(entry)).collect();
        if let Some((_, lie)) = tale.lie(&group) {
            page.last_position = lie.shown(page.last_position);
        }
        Ok(response)
    }

    async fn list(
        &self,
        request: Request<wire::ListGroupsRequest>,
    ) -> Result<Response<wire::ListGroupsResponse>, Status> {
        {
            let mut tale = self.tale.lock();
            if tale.unlisted > 0 {
                tale.unlisted -= 1;
                return Err(Refusal::new(Reason::Malformed).into());
            }
        }
        self.client.clone().list_groups(request).await
    }

    /// The device's stream, as it is shown.
    async fn follow(
        &self,
        request: Request<Streaming<wire::SubscribeRequest>>,
    ) -> Result<Response<Shown>, Status> {
        let (metadata, _, said) = request.into_parts();
        let tale = self.tale.clone();
        let said = said
            .take_while(|message| std::future::ready(message.is_ok()))
            .filter_map(move |message| {
                std::future::ready(message.ok().map(|message| tale.lock().hear(message)))
            });
        let mut request = Request::new(said);
        *request.metadata_mut() = metadata;
        let (metadata, heard, _) = self.client.clone().subscribe(request).await?.into_parts();
        let tale = self.tale.clone();
        let heard = heard.flat_map(move |message| {
            let messages: Vec<_> = match message {
                Ok(message) => tale.lock().tell(message).into_iter().map(Ok).collect(),
                Err(status) => vec![Err(status)],
            };
            stream::iter(messages)
        });
        let mut response = Response::new(heard.boxed());
        *response.metadata_mut() = metadata;
        Ok(response)
    }
}

/// Every request: those that are handed on as they are, and those whose answer says where an entry is.
macro_rules! speak {
    (
        hand_on { $($same:ident: $same_request:ident -> $same_response:ident,)+ }
        place { $($placed:ident: $request:ident.$message:ident -> $response:ident,)+ }
    ) => {
        #[tonic::async_trait]
        impl DeliveryService for Mouth {
            $(
                async fn $same(
                    &self,
                    request: Request<wire::$same_request>,
                ) -> Result<Response<wire::$same_response>, Status> {
                    self.client.clone().$same(request).await
                }
            )+
            $(
                async fn $placed(
                    &self,
                    request: Request<wire::$request>,
                ) -> Result<Response<wire::$response>, Status> {
                    let message = request.get_ref().$message.clone();
                    let mut response = self.client.clone().$placed(request).await?;
                    self.accepted(&message, &mut response.get_mut().accepted);
                    Ok(response)
                }
            )+

            async fn read_entries(
                &self,
                request: Request<wire::ReadEntriesRequest>,
            ) -> Result<Response<wire::ReadEntriesResponse>, Status> {
                self.read(request).await
            }

            async fn list_groups(
                &self,
                request: Request<wire::ListGroupsRequest>,
            ) -> Result<Response<wire::ListGroupsResponse>, Status> {
                self.list(request).await
            }

            type SubscribeStream = Shown;

            async fn subscribe(
                &self,
                request: Request<Streaming<wire::SubscribeRequest>>,
            ) -> Result<Response<Shown>, Status> {
                self.follow(request).await
            }
        }
    };
}

speak! {
    hand_on {
        get_parameters: GetParametersRequest -> GetParametersResponse,
        create_group: CreateGroupRequest -> CreateGroupResponse,
        send_ephemeral: SendEphemeralRequest -> SendEphemeralResponse,
        get_group_info: GetGroupInfoRequest -> GetGroupInfoResponse,
        get_ratchet_tree: GetRatchetTreeRequest -> GetRatchetTreeResponse,
        report_commit: ReportCommitRequest -> ReportCommitResponse,
        get_log_standing: GetLogStandingRequest -> GetLogStandingResponse,
        offer_entries: OfferEntriesRequest -> OfferEntriesResponse,
    }
    place {
        submit_commit: SubmitCommitRequest.commit -> SubmitCommitResponse,
        submit_external_commit: SubmitExternalCommitRequest.commit -> SubmitExternalCommitResponse,
        submit_proposal: SubmitProposalRequest.proposal -> SubmitProposalResponse,
        send_message: SendMessageRequest.mls_message -> SendMessageResponse,
    }
}
