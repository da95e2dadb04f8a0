//! People and their devices, and what each device heard.

use std::path::{Path, PathBuf};
use std::time::Duration;

use valise_client_sdk::{
    Client, Connection, DeviceId, Event, EventKind, Events, Group, GroupId, Position, Store, StoreKey, UserId,
};

use crate::error::CliError;

/// Nothing here takes so long unless something is wrong.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a device that should hear nothing is listened to.
const SILENCE: Duration = Duration::from_millis(250);

/// Waits, but not for ever.
pub(super) async fn within<T, E: Into<CliError>>(
    what: &str,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(CliError::failed(format!("waited in vain for this: {what}"))),
    }
}

/// A user with devices.
pub(super) struct Person {
    pub(super) user: UserId,
    pub(super) devices: Vec<Device>,
}

/// A message that a device showed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) position: Position,
    pub(super) sender: DeviceId,
    pub(super) text: String,
}

/// A device with its own store file.
pub(super) struct Device {
    /// For example `alice/phone`.
    pub(super) label: String,
    pub(super) id: DeviceId,
    file: PathBuf,
    key: StoreKey,
    running: Option<(Client, Events)>,
    /// What it heard, over all its restarts.
    pub(super) heard: Vec<Heard>,
    /// The last entry of the log of which it showed something.
    position: Position,
    pub(super) joined: bool,
    /// It has heard that it was removed.
    pub(super) removed: bool,
}

impl Device {
    pub(super) async fn enrol(
        url: &str,
        code: &str,
        user: &UserId,
        name: &str,
        directory: &Path,
    ) -> Result<Self, CliError> {
        let person = user.as_str().split('@').next().unwrap_or_default();
        let file = directory.join(format!("{person}-{name}.db"));
        let key = StoreKey::random();
        let client = Client::enrol(url, code, name, Store::file(&file, key.clone())).await?;
        let events = client.events();
        Ok(Self {
            label: format!("{person}/{name}"),
            id: client.device(),
            file,
            key,
            running: Some((client, events)),
            heard: Vec::new(),
            position: Position::NONE,
            joined: false,
            removed: false,
        })
    }

    pub(super) fn is_on(&self) -> bool {
        self.running.is_some()
    }

    fn running(&mut self) -> Result<&mut (Client, Events), CliError> {
        let label = &self.label;
        self.running
            .as_mut()
            .ok_or_else(|| CliError::failed(format!("{label} is off")))
    }

    pub(super) fn client(&self) -> Result<&Client, CliError> {
        match &self.running {
            Some((client, _)) => Ok(client),
            None => Err(CliError::failed(format!("{} is off", self.label))),
        }
    }

    pub(super) async fn group(&self, id: GroupId) -> Result<Group, CliError> {
        let group = self.client()?.group(id).await?;
        group.ok_or_else(|| CliError::failed(format!("{} does not know the group", self.label)))
    }

    /// Closes the store.
    pub(super) async fn switch_off(&mut self) {
        if let Some((client, _)) = self.running.take() {
            client.close().await;
        }
    }

    /// Opens the store file again.
    pub(super) async fn switch_on(&mut self) -> Result<(), CliError> {
        if self.running.is_none() {
            let client = Client::open(Store::file(&self.file, self.key.clone())).await?;
            let events = client.events();
            self.running = Some((client, events));
        }
        Ok(())
    }

    /// Until it has joined a group.
    pub(super) async fn hear_invitation(&mut self) -> Result<(), CliError> {
        self.hear("an invitation", |device| device.joined).await
    }

    /// Until it has shown that entry of the log, or has heard that it was removed.
    pub(super) async fn hear_until(&mut self, position: Position) -> Result<(), CliError> {
        self.hear("the last message", |device| {
            device.position >= position || device.removed
        })
        .await
    }

    /// Until it has heard that it was removed.
    pub(super) async fn hear_removal(&mut self) -> Result<(), CliError> {
        self.hear("its removal", |device| device.removed).await
    }

    async fn hear(&mut self, what: &str, enough: impl Fn(&Self) -> bool) -> Result<(), CliError> {
        while !enough(self) {
            let what = format!("{} hears {what}", self.label);
            let (_, events) = self.running()?;
            let event = within(&what, async {
                events
                    .next()
                    .await
                    .ok_or_else(|| CliError::failed("a client was closed"))
            });
            let event = event.await?;
            self.take(event).await?;
        }
        Ok(())
    }

    async fn take(&mut self, event: Event) -> Result<(), CliError> {
        self.position = self.position.max(event.position);
        match event.kind {
            EventKind::Message { sender, content } => self.heard.push(Heard {
                position: event.position,
                sender: sender.device,
                text: content.as_text().unwrap_or_default().to_owned(),
            }),
            EventKind::Joined { .. } => self.joined = true,
            EventKind::Removed { .. } => self.removed = true,
            // The devices of the one who makes the group are added by its first.
            EventKind::DeviceAdded { .. }
            | EventKind::MembersChanged { .. }
            | EventKind::GroupNamed { .. } => {}
            trouble => return Err(CliError::failed(format!("{}: {trouble:?}", self.label))),
        }
        self.client()?.confirm(event.id).await?;
        Ok(())
    }

    /// Whether the service, when it is asked for everything, gives it nothing more to show.
    pub(super) async fn hears_nothing_more(&mut self) -> Result<bool, CliError> {
        let label = self.label.clone();
        let (client, events) = self.running()?;
        let mut connection = client.connection();
        let live = connection.wait_for(|state| *state == Connection::Live);
        within(&format!("{label} is connected"), async {
            live.await
                .map(drop)
                .map_err(|_| CliError::failed("a client was closed"))
        })
        .await?;
        within(&format!("{label} is in step"), client.synced()).await?;
        Ok(tokio::time::timeout(SILENCE, events.next()).await.is_err())
    }
}
