//! A device as an app uses it.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use valise_proto::authentication::v1 as wire;
use valise_proto::{DeviceId, GroupId, UserId};

use crate::engine::{Engine, MAX_GROUP_NAME};
use crate::session::{Session, enrol, upkeep};
use crate::transport::time;
use crate::{
    Administration, Connection, DeviceSummary, Error, EventId, Events, Group, Options, ProgressReports,
    Servers, Store, StoreKey,
};

/// An enrolled device: its groups, its events, its connection. Syncs in the background until it is closed or dropped.
pub struct Client {
    pub(crate) session: Arc<Session>,
}

impl Client {
    /// Enrols a new device with a one-time code from an administrator, publishes its key packages, and starts syncing.
    ///
    /// If that fails before the service has enrolled the device, the same again with the same store goes on with the same key;
    /// after that ([`Error::AlreadyEnrolled`]) [`Client::open`] goes on.
    pub async fn enrol(
        server: impl Into<Servers>,
        code: &str,
        device_name: &str,
        store: Store,
    ) -> Result<Self, Error> {
        Self::enrol_with(server, code, device_name, store, Options::default()).await
    }

    /// [`Client::enrol`] with options.
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
    pub async fn open(store: Store) -> Result<Self, Error> {
        Self::open_with(store, Options::default()).await
    }

    /// [`Client::open`] with options.
    pub async fn open_with(store: Store, options: Options) -> Result<Self, Error> {
        Ok(Self {
            session: Session::open(store, options).await?,
        })
    }

    /// Whose device this is.
    pub fn user(&self) -> &UserId {
        &self.session.user
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.session.device
    }

    /// Creates a group with this device as its only member. Resolves when the service has registered it.
    ///
    /// The name is told to members only, in messages: the service does not learn it. At most 256 bytes.
    pub async fn create_group(&self, name: &str) -> Result<Group, Error> {
        if name.len() > MAX_GROUP_NAME {
            return Err(Error::InvalidInput("a group's name has at most 256 bytes"));
        }
        let id = GroupId::random(&mut rand::rng());
        let span = tracing::info_span!("valise.create_group", group = %id);
        self.session
            .engine
            .create_group(id, name.to_owned(), span)
            .await?;
        Ok(Group {
            session: Arc::clone(&self.session),
            id,
        })
    }

    /// The groups of this device, oldest first, also those that it was removed from.
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
    pub async fn groups_elsewhere(&self) -> Result<Vec<GroupId>, Error> {
        self.session.groups_elsewhere().await
    }

    /// Brings this device into a group of another device of this user, by an external commit. All members see that it came in.
    /// Refused (NOT_A_MEMBER) where no device of this user is a member.
    pub async fn come_in(&self, id: GroupId) -> Result<Group, Error> {
        let span = tracing::info_span!("valise.come_in", group = %id);
        self.session.engine.rejoin(id, true, span).await?;
        Ok(Group {
            session: Arc::clone(&self.session),
            id,
        })
    }

    /// Events, beginning with the first that is not confirmed. Each call starts anew.
    pub fn events(&self) -> Events {
        let (sender, receiver) = mpsc::channel(256);
        self.session.feed_events(sender);
        Events { receiver }
    }

    /// Confirms all events up to and including this one: they are deleted from the store.
    pub async fn confirm(&self, event: EventId) -> Result<(), Error> {
        self.session.engine.run(move |engine| engine.confirm(event)).await
    }

    /// Waits until everything that the service had when this was called is applied, and the outbox is empty.
    pub async fn synced(&self) -> Result<(), Error> {
        self.session.synced().await
    }

    /// Does now what a running client does every quarter of an hour: new keys in groups where they are due, renewal of the device's
    /// certificate at two thirds of its life, key packages with the new one, and removal of stale members
    /// ([`KeyUpkeep`](crate::KeyUpkeep)). For apps that run only now and then; what it queues in groups is done when
    /// [`Client::synced`] says so.
    pub async fn upkeep(&self) -> Result<(), Error> {
        upkeep::tend(&self.session).await
    }

    /// Encrypts the store with another key; from then on only that one opens it. Nothing changes where the store is in memory.
    ///
    /// If the process ends meanwhile, either the old or the new key opens it: keep both until this returns.
    pub async fn change_store_key(&self, key: StoreKey) -> Result<(), Error> {
        self.session
            .engine
            .run(move |engine| engine.change_store_key(&key))
            .await
    }

    /// Is the device in touch with the service? The receiver tells each change.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.session.connection.subscribe()
    }

    /// Reports of long work: catching up, adding many. From now on; nothing is stored.
    pub fn progress(&self) -> ProgressReports {
        self.session.long_work.subscribe()
    }

    /// The devices of this user, oldest first.
    pub async fn devices(&self) -> Result<Vec<DeviceSummary>, Error> {
        self.devices_of(self.user()).await
    }

    /// The devices of any user (without names), oldest first: so that a device that nobody expected is noticed.
    pub async fn devices_of(&self, user: &UserId) -> Result<Vec<DeviceSummary>, Error> {
        let request = wire::ListDevicesRequest {
            user_id: user.to_string(),
        };
        let answer = self.session.transport.list_devices(request).await?;
        answer.devices.into_iter().map(device_summary).collect()
    }

    /// Changes the name of a device of this user.
    pub async fn rename_device(&self, device: DeviceId, name: &str) -> Result<(), Error> {
        let request = wire::RenameDeviceRequest {
            device_id: device.to_string(),
            name: name.to_owned(),
        };
        self.session.transport.rename_device(request).await?;
        Ok(())
    }

    /// Revokes a device of this user (administrators: any device), for ever.
    pub async fn revoke_device(&self, device: DeviceId) -> Result<(), Error> {
        let request = wire::RevokeDeviceRequest {
            device_id: device.to_string(),
        };
        self.session.transport.revoke_device(request).await?;
        Ok(())
    }

    /// What an administrator's device may do.
    pub fn administration(&self) -> Administration {
        Administration {
            session: Arc::clone(&self.session),
        }
    }

    /// Stops syncing and closes the store. Whatever is in the outbox is sent when the store is opened again.
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
