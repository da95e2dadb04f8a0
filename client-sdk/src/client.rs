//! A device as an app uses it.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use valise_proto::authentication::v1 as wire;
use valise_proto::{DeviceId, GroupId, UserId};

use crate::engine::Engine;
use crate::session::{Session, enrol, upkeep};
use crate::transport::time;
use crate::{
    Administration, Connection, DeviceSummary, Error, EventId, Events, Group, Options, ProgressReports,
    Servers, Store, StoreKey,
};

/// An enrolled device: its groups, its events, its connection. Syncs in the background until it is closed or dropped.
///
/// ```
/// # valise_tests::example::with_people(async |alice, bob| {
/// let group = alice.create_group("Budget 2027").await?;
/// group.add(&[bob.user()]).await?;
/// group.send("Bonjour").await?;
/// alice.synced().await?; // everything so far is done and applied here
/// assert_eq!(alice.groups().await?.len(), 1);
/// alice.close().await;
/// # Ok(()) });
/// ```
pub struct Client {
    pub(crate) session: Arc<Session>,
}

impl Client {
    /// Enrols a new device with a one-time code from an administrator, publishes its key packages, and starts syncing.
    ///
    /// If that fails, or the process ends meanwhile, the same again with the same code and store goes on with the same key, and becomes
    /// the same device: also where the service has enrolled it and only the answer was lost, as long as the code is valid. Once the device
    /// knows that it is enrolled ([`Error::AlreadyEnrolled`]) [`Client::open`] goes on.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{Client, Store, StoreKey};
    ///
    /// let key = StoreKey::random(); // keep it in the platform's key store
    /// let alice = Client::enrol(server, code, "laptop", Store::file(folder.join("alice.valise"), key)).await?;
    /// assert_eq!(alice.user().name(), "alice");
    /// # Ok(()) });
    /// ```
    pub async fn enrol(
        server: impl Into<Servers>,
        code: &str,
        device_name: &str,
        store: Store,
    ) -> Result<Self, Error> {
        Self::enrol_with(server, code, device_name, store, Options::default()).await
    }

    /// [`Client::enrol`] with options.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{CipherSuite, Client, Options, Store};
    ///
    /// let mut options = Options::default();
    /// options.cipher_suite = CipherSuite::MlKem768X25519Aes128;
    /// let alice = Client::enrol_with(server, code, "laptop", Store::memory(), options).await?;
    /// alice.create_group("Safe from tomorrow's computers").await?;
    /// # Ok(()) });
    /// ```
    pub async fn enrol_with(
        server: impl Into<Servers>,
        code: &str,
        device_name: &str,
        store: Store,
        options: Options,
    ) -> Result<Self, Error> {
        let session = enrol::enrol(server.into(), code, device_name, store, options).await?;
        Ok(Self { session })
    }

    /// Opens the store of an enrolled device and starts syncing. Works without a connection.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{Client, Store, StoreKey};
    ///
    /// let (file, key) = (folder.join("alice.valise"), StoreKey::random());
    /// let alice = Client::enrol(server, code, "laptop", Store::file(&file, key.clone())).await?;
    /// alice.close().await;
    ///
    /// let alice = Client::open(Store::file(&file, key)).await?;
    /// alice.create_group("Budget 2027").await?;
    /// # Ok(()) });
    /// ```
    pub async fn open(store: Store) -> Result<Self, Error> {
        Self::open_with(store, Options::default()).await
    }

    /// [`Client::open`] with options.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{Client, Options, Store, StoreKey};
    ///
    /// let (file, key) = (folder.join("alice.valise"), StoreKey::random());
    /// # Client::enrol(server, code, "laptop", Store::file(&file, key.clone())).await?.close().await;
    /// let mut options = Options::default();
    /// options.history = false; // nothing that was said stays on the device
    /// let alice = Client::open_with(Store::file(&file, key), options).await?;
    /// # alice.close().await;
    /// # Ok(()) });
    /// ```
    pub async fn open_with(store: Store, options: Options) -> Result<Self, Error> {
        Ok(Self {
            session: Session::open(store, options).await?,
        })
    }

    /// Whose device this is.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// assert_eq!(bob.user().name(), "bob");
    /// # Ok(()) });
    /// ```
    pub fn user(&self) -> &UserId {
        &self.session.user
    }

    /// This device.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// assert_ne!(alice.device(), bob.device());
    /// # Ok(()) });
    /// ```
    pub fn device(&self) -> DeviceId {
        self.session.device
    }

    /// The groups of this device, oldest first, also those that it was removed from.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// for group in alice.groups().await? {
    ///     let state = group.info().await?;
    ///     println!("{}: {} members, {}", state.name, state.members, state.status);
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn groups(&self) -> Result<Vec<Group>, Error> {
        let ids = self.session.engine.run(Engine::group_ids).await?;
        Ok(ids
            .into_iter()
            .map(|id| Group {
                session: Arc::clone(&self.session),
                id,
            })
            .collect())
    }

    /// One group of this device.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let same = alice.group(group.id()).await?.ok_or("unknown")?;
    /// assert_eq!(same.id(), group.id());
    /// # Ok(()) });
    /// ```
    pub async fn group(&self, id: GroupId) -> Result<Option<Group>, Error> {
        let known = self
            .session
            .engine
            .run(move |engine| engine.knows_group(id))
            .await?;
        Ok(known.then(|| Group {
            session: Arc::clone(&self.session),
            id,
        }))
    }

    /// Groups that other devices of this user are members of, and this device is not and never was, by id. It may come in
    /// ([`Client::come_in`]); how old messages get to it is another matter.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// // What another device of this user is in, and this one is not.
    /// let mut asked_for = Vec::new();
    /// for id in bob.groups_elsewhere().await? {
    ///     asked_for.push(id); // an app asks the user, then: bob.come_in(id).await?
    /// }
    /// assert!(asked_for.is_empty());
    /// # Ok(()) });
    /// ```
    pub async fn groups_elsewhere(&self) -> Result<Vec<GroupId>, Error> {
        self.session.groups_elsewhere().await
    }

    /// Brings this device into a group of another device of this user, by an external commit. All members see that it came in.
    /// Refused (NOT_A_MEMBER) where no device of this user is a member.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::{Error, Reason};
    ///
    /// # let id = bob.create_group("Bob's").await?.id();
    /// // In a group that no device of this user is in, this one has no business.
    /// let refused = alice.come_in(id).await.err().and_then(|error| error.reason());
    /// assert_eq!(refused, Some(Reason::NotAMember));
    /// # Ok(()) });
    /// ```
    pub async fn come_in(&self, id: GroupId) -> Result<Group, Error> {
        let span = tracing::info_span!("valise.come_in", group = %id);
        self.session.rejoin(id, true, span).await?;
        Ok(Group {
            session: Arc::clone(&self.session),
            id,
        })
    }

    /// Events, beginning with the first that is not confirmed. Each call starts anew.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::EventKind;
    ///
    /// of_bob.send("Bonjour").await?;
    /// let mut events = alice.events();
    /// while let Some(event) = events.next().await {
    ///     if let EventKind::Message { sender, content } = event.kind {
    ///         assert_eq!((sender.user.name(), content.as_text()), ("bob", Some("Bonjour")));
    ///         alice.confirm(event.id).await?; // with all before it; until then they come again after every restart
    ///         break;
    ///     }
    /// }
    /// # Ok(()) });
    /// ```
    pub fn events(&self) -> Events {
        let (sender, receiver) = mpsc::channel(256);
        self.session.feed_events(sender);
        Events { receiver }
    }

    /// Confirms all events up to and including this one: they are deleted from the store.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let event = alice.events().next().await.ok_or("closed")?;
    /// alice.confirm(event.id).await?;
    /// // From now on `events`, also after a restart, begins after it.
    /// # Ok(()) });
    /// ```
    pub async fn confirm(&self, event: EventId) -> Result<(), Error> {
        self.session.engine.run(move |engine| engine.confirm(event)).await
    }

    /// Waits until everything that the service had when this was called is applied, and the outbox is empty. Without a connection it waits for
    /// one; but it ends with [`Error::Refused`] as soon as the service refuses this device
    /// ([`OfflineReason::Refused`](crate::OfflineReason::Refused)) or another client of it has taken over (`DISPLACED`), and with
    /// [`Error::Closed`] when this client is closed.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::SendStatus;
    ///
    /// let id = group.queue("Bonjour").await?;
    /// alice.synced().await?;
    /// let message = group.history().message(id).await?.ok_or("forgotten")?;
    /// assert!(matches!(message.status, SendStatus::Accepted { .. }));
    /// # Ok(()) });
    /// ```
    pub async fn synced(&self) -> Result<(), Error> {
        self.session.synced().await
    }

    /// Does now what a running client does every quarter of an hour: new keys in groups where they are due, renewal of the device's
    /// certificate at two thirds of its life, key packages with the new one and in place of those that were used or have ended, and
    /// removal of stale members ([`KeyUpkeep`](crate::KeyUpkeep)). For apps that run only now and then; what it queues in groups is done when
    /// [`Client::synced`] says so.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// alice.upkeep().await?;
    /// alice.synced().await?;
    /// # Ok(()) });
    /// ```
    pub async fn upkeep(&self) -> Result<(), Error> {
        upkeep::tend(&self.session).await
    }

    /// Encrypts the store with another key; from then on only that one opens it. Nothing changes where the store is in memory.
    ///
    /// If the process ends meanwhile, either the old or the new key opens it: keep both until this returns.
    ///
    /// ```
    /// # valise_tests::example::with_server(async |server, code, folder| {
    /// use valise_client_sdk::{Client, Store, StoreKey};
    ///
    /// let (file, old, new) = (folder.join("alice.valise"), StoreKey::random(), StoreKey::random());
    /// let alice = Client::enrol(server, code, "laptop", Store::file(&file, old)).await?;
    /// alice.change_store_key(new.clone()).await?; // keep both until this returns
    /// alice.close().await;
    /// Client::open(Store::file(&file, new)).await?;
    /// # Ok(()) });
    /// ```
    pub async fn change_store_key(&self, key: StoreKey) -> Result<(), Error> {
        self.session
            .engine
            .run(move |engine| engine.change_store_key(&key))
            .await
    }

    /// Is the device in touch with the service? The receiver tells each change.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// use valise_client_sdk::Connection;
    ///
    /// let mut connection = alice.connection();
    /// connection.wait_for(|connection| *connection == Connection::Live).await?;
    /// # Ok(()) });
    /// ```
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.session.connection.subscribe()
    }

    /// Reports of long work: catching up, adding many. From now on; nothing is stored.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// use valise_client_sdk::Work;
    ///
    /// let mut progress = alice.progress();
    /// let group = alice.create_group("Everybody").await?;
    /// group.add(&[bob.user()]).await?;
    /// while let Some(report) = progress.next().await {
    ///     if report.work == Work::Adding(group.id()) && report.finished {
    ///         assert_eq!((report.done, report.total), (1, Some(1)));
    ///         break;
    ///     }
    /// }
    /// # Ok(()) });
    /// ```
    pub fn progress(&self) -> ProgressReports {
        self.session.long_work.subscribe()
    }

    /// The devices of this user, oldest first.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// for device in alice.devices().await? {
    ///     println!("{}{}", device.name, if device.device == alice.device() { " (this one)" } else { "" });
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn devices(&self) -> Result<Vec<DeviceSummary>, Error> {
        self.devices_of(self.user()).await
    }

    /// The devices of any user (without names), oldest first: so that a device that nobody expected is noticed.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// let devices = alice.devices_of(bob.user()).await?;
    /// assert_eq!(devices[0].device, bob.device());
    /// # Ok(()) });
    /// ```
    pub async fn devices_of(&self, user: &UserId) -> Result<Vec<DeviceSummary>, Error> {
        let request = wire::ListDevicesRequest {
            user_id: user.to_string(),
        };
        let answer = self.session.transport.list_devices(request).await?;
        answer.devices.into_iter().map(device_summary).collect()
    }

    /// Changes the name of a device of this user.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// alice.rename_device(alice.device(), "laptop at the office").await?;
    /// assert_eq!(alice.devices().await?[0].name, "laptop at the office");
    /// # Ok(()) });
    /// ```
    pub async fn rename_device(&self, device: DeviceId, name: &str) -> Result<(), Error> {
        let request = wire::RenameDeviceRequest {
            device_id: device.to_string(),
            name: name.to_owned(),
        };
        self.session.transport.rename_device(request).await?;
        Ok(())
    }

    /// Revokes a device of this user (administrators: any device), for ever.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// use valise_client_sdk::{Error, Reason};
    ///
    /// alice.revoke_device(alice.device()).await?; // it was stolen
    /// let refused = alice.create_group("Too late").await.err().and_then(|error| error.reason());
    /// assert_eq!(refused, Some(Reason::DeviceRevoked));
    /// # Ok(()) });
    /// ```
    pub async fn revoke_device(&self, device: DeviceId) -> Result<(), Error> {
        let request = wire::RevokeDeviceRequest {
            device_id: device.to_string(),
        };
        self.session.transport.revoke_device(request).await?;
        Ok(())
    }

    /// What an administrator's device may do.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// use valise_client_sdk::Reason;
    ///
    /// // Alice is no administrator.
    /// let refused = alice.administration().users().await.err().and_then(|error| error.reason());
    /// assert_eq!(refused, Some(Reason::PolicyDenied));
    /// # Ok(()) });
    /// ```
    pub fn administration(&self) -> Administration {
        Administration {
            session: Arc::clone(&self.session),
        }
    }

    /// Stops syncing and closes the store. Whatever is in the outbox is sent when the store is opened again.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// let group = alice.create_group("Notes").await?;
    /// group.queue("To be sent the next time, if not now").await?;
    /// alice.close().await;
    /// # Ok(()) });
    /// ```
    pub async fn close(self) {
        self.session.close().await;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.session.shut_down();
    }
}

fn device_summary(device: wire::Device) -> Result<DeviceSummary, Error> {
    Ok(DeviceSummary {
        active: device.state() == wire::DeviceState::Active,
        administrator: device.kind() == wire::SubjectKind::Administrator,
        device: device.device_id.parse().map_err(|_| Error::Unreachable)?,
        name: device.name,
        enrolled_at: device.enrolled_at.and_then(time),
        certificate_expires_at: device.certificate_expires_at.and_then(time),
    })
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.session.device)
    }
}
