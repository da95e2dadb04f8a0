//! The loop: keys, events, outcomes and signals change the model, the model is drawn.

use std::time::Duration;

use crossterm::event::EventStream;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ratatui::layout::Rect;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use valise_client_sdk::Client;
use valise_service_runtime::termination;

use super::model::{Happening, Model, Order, ReadMarks, ends_work, may_change_groups};
use super::orders::{self, Work};
use super::screen::Screen;
use super::{keys, view};
use crate::error::CliError;
use crate::feed::Feed;
use crate::profile::Profile;

/// How long messages may take that are on their way when the user quits. Those that take longer are sent by the next run.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Not everything that changes how a group stands is an event.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub(super) async fn run(group: Option<String>, profile: &Profile) -> Result<(), CliError> {
    let ended = ended_by_signal().map_err(CliError::io("cannot wait for signals"))?;
    let client = profile.open().await?;
    let outcome = async {
        let mut talk = Talk::new(&client, profile).await?;
        talk.go_on(group, &ended).await
    };
    let outcome = outcome.await;
    client.close().await;
    outcome
}

/// Cancelled by whatever signal ends a process that has a terminal: it must be given back first.
fn ended_by_signal() -> std::io::Result<CancellationToken> {
    let ended = termination()?;
    let (mut hangup, mut quit) = (signal(SignalKind::hangup())?, signal(SignalKind::quit())?);
    let by_others = ended.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
        by_others.cancel();
    });
    Ok(ended)
}

struct Talk<'a> {
    client: &'a Client,
    feed: Feed<'a>,
    model: Model,
    /// Begun, and so stored, in the order in which they were typed.
    sending: FuturesUnordered<Work<'a>>,
    working: FuturesUnordered<Work<'a>>,
    /// How the groups stand may have changed.
    stale: bool,
    refreshing: FuturesUnordered<Work<'a>>,
    /// What was said, one group at a time.
    reading: FuturesUnordered<Work<'a>>,
    /// What was seen of it.
    marking: FuturesUnordered<Work<'a>>,
    confirmed: ReadMarks,
}

impl<'a> Talk<'a> {
    async fn new(client: &'a Client, profile: &Profile) -> Result<Self, CliError> {
        let mut model = Model::new(client.user().clone(), client.device());
        model.update(Happening::Groups(orders::known_groups(client).await?));
        Ok(Self {
            client,
            feed: Feed::new(client, None, &profile.shown_file())?,
            model,
            sending: FuturesUnordered::new(),
            working: FuturesUnordered::new(),
            stale: false,
            refreshing: FuturesUnordered::new(),
            reading: FuturesUnordered::new(),
            marking: FuturesUnordered::new(),
            confirmed: ReadMarks::NOTHING,
        })
    }

    async fn go_on(&mut self, group: Option<String>, ended: &CancellationToken) -> Result<(), CliError> {
        if let Some(group) = group {
            for happening in orders::find(self.client, group).await {
                self.model.update(happening);
            }
        }
        let screen = Screen::take().map_err(CliError::io("cannot use the terminal"))?;
        let outcome = tokio::select! {
            outcome = self.on_screen(screen) => outcome,
            () = ended.cancelled() => Ok(()),
        };
        // The terminal is given back by now. What was seen is noted and what was said is heard, if it does not take long.
        let on_its_way = !self.sending.is_empty() || self.model.may_have_queued();
        let said = async {
            while self.marking.next().await.is_some() {}
            while self.sending.next().await.is_some() {}
            if on_its_way {
                let _ = self.client.synced().await;
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, said).await;
        outcome
    }

    /// Until the user quits.
    async fn on_screen(&mut self, mut screen: Screen) -> Result<(), CliError> {
        let mut keys = EventStream::new();
        let mut connection = self.client.connection();
        connection.mark_changed();
        let mut progress = self.client.progress();
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        loop {
            self.draw(&mut screen)?;
            self.confirm().await?;
            if self.stale && self.refreshing.is_empty() {
                self.stale = false;
                self.refreshing.push(orders::refresh(self.client));
            }
            if let Some((group, messages)) = self.model.next_seen() {
                self.marking.push(orders::mark_read(self.client, group, messages));
            }
            if self.reading.is_empty()
                && let Some(reading) = self.model.next_reading()
            {
                self.reading.push(orders::read(self.client, reading));
            }
            let happenings: Vec<Happening> = tokio::select! {
                key = keys.next() => {
                    let Some(key) = key else { return Ok(()) };
                    let key = key.map_err(CliError::io("cannot read the terminal"))?;
                    keys::action(key).map(Happening::Did).into_iter().collect()
                }
                events = self.feed.next() => {
                    let Some(events) = events else { return Err(valise_client_sdk::Error::Closed.into()) };
                    self.stale |= events.iter().any(|event| may_change_groups(&event.kind));
                    events
                        .into_iter()
                        .map(|event| Happening::Arrived(Box::new(event)))
                        .collect()
                }
                changed = connection.changed() => {
                    if changed.is_err() {
                        return Err(valise_client_sdk::Error::Closed.into());
                    }
                    self.stale = true;
                    vec![Happening::Connection(connection.borrow_and_update().clone())]
                }
                Some(progress) = progress.next() => {
                    self.stale |= ends_work(&progress);
                    vec![Happening::Progress(progress)]
                }
                Some(happenings) = self.sending.next() => happenings,
                Some(happenings) = self.working.next() => {
                    self.stale = true;
                    happenings
                }
                Some(happenings) = self.refreshing.next() => happenings,
                Some(happenings) = self.reading.next() => happenings,
                Some(happenings) = self.marking.next() => happenings,
                _ = look_again.tick() => {
                    self.stale = true;
                    Vec::new()
                }
            };
            for happening in happenings {
                match self.model.update(happening) {
                    Some(Order::Quit) => return Ok(()),
                    Some(order) => self.obey(order).await?,
                    None => {}
                }
            }
        }
    }

    fn draw(&mut self, screen: &mut Screen) -> Result<(), CliError> {
        let mut pane = Rect::ZERO;
        let model = &self.model;
        screen
            .draw(|frame| pane = view::draw(model, frame))
            .map_err(CliError::Output)?;
        let happening = Happening::Pane(pane.width.into(), pane.height.into());
        self.model.update(happening);
        Ok(())
    }

    /// What is in the model and was looked at does not come again.
    async fn confirm(&mut self) -> Result<(), CliError> {
        let read = self.model.read_marks();
        if read != self.confirmed {
            self.feed.confirm_read(read.all, &read.groups).await?;
            self.confirmed = read;
        }
        Ok(())
    }

    async fn obey(&mut self, order: Order) -> Result<(), CliError> {
        let client = self.client;
        let work = match order {
            Order::Send {
                ticket,
                group,
                content,
            } => {
                // Looked up before it is queued: so messages are stored in the order in which they were typed.
                let group = client.group(group).await?;
                self.sending.push(orders::send(ticket, group, *content));
                return Ok(());
            }
            Order::Add { group, users } => orders::add(client, group, users),
            Order::Remove { group, users } => orders::remove(client, group, users),
            Order::SetRole { group, user, role } => orders::set_role(client, group, user, role),
            Order::Rename { group, name } => orders::rename(client, group, name),
            Order::Leave { group } => orders::leave(client, group),
            Order::Rejoin { group } => orders::rejoin(client, group),
            Order::Search { group, words } => orders::search(client, group, words),
            Order::Forget { group, message } => orders::forget(client, group, message),
            Order::Create { name } => orders::create(client, name),
            Order::Quit => return Ok(()),
        };
        self.working.push(work);
        Ok(())
    }
}
