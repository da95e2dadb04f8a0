//! A group as an app uses it.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::Instrument;
use valise_proto::{DeviceId, GroupId, UserId};

use crate::adding::Adding;
use crate::engine::{MAX_GROUP_NAME, Operation, Outcome};
use crate::session::Session;
use crate::{Added, Content, Error, GroupState, Member, MessageId, Pending, Policy, Removed, Role, Sent};

/// A group of this device. Cheap to clone.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// let state = group.info().await?;
/// assert_eq!((state.name.as_str(), state.members), ("Budget 2027", 2));
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct Group {
    pub(crate) session: Arc<Session>,
    pub(crate) id: GroupId,
}

/// Users, as [`UserId`]s or as text.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// use valise_client_sdk::UserId;
///
/// let ids: Vec<UserId> = vec![bob.user().clone()];
/// group.remove(&ids).await?;
/// group.add(&["bob@valise.example"]).await?; // the same, as text
/// # Ok(()) });
/// ```
pub trait Users {
    /// The users.
    fn users(&self) -> Result<Vec<UserId>, Error>;
}

impl<T: AsUser> Users for [T] {
    fn users(&self) -> Result<Vec<UserId>, Error> {
        self.iter().map(AsUser::user).collect()
    }
}

impl<T: AsUser> Users for Vec<T> {
    fn users(&self) -> Result<Vec<UserId>, Error> {
        self.as_slice().users()
    }
}

impl<T: AsUser, const N: usize> Users for [T; N] {
    fn users(&self) -> Result<Vec<UserId>, Error> {
        self.as_slice().users()
    }
}

/// One user, as a [`UserId`] or as text.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// use valise_client_sdk::Role;
///
/// group.set_role(bob.user(), Role::Moderator).await?;
/// group.set_role("bob@valise.example", Role::Member).await?; // the same user, as text
/// # Ok(()) });
/// ```
pub trait AsUser {
    /// The user.
    fn user(&self) -> Result<UserId, Error>;
}

impl AsUser for UserId {
    fn user(&self) -> Result<UserId, Error> {
        Ok(self.clone())
    }
}

impl AsUser for &UserId {
    fn user(&self) -> Result<UserId, Error> {
        Ok((*self).clone())
    }
}

impl AsUser for &str {
    fn user(&self) -> Result<UserId, Error> {
        self.parse()
            .map_err(|_| Error::InvalidInput("not a user id of the form name@domain"))
    }
}

impl AsUser for String {
    fn user(&self) -> Result<UserId, Error> {
        self.as_str().user()
    }
}

impl Group {
    /// Its id.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// assert_eq!(group.id(), of_bob.id());
    /// # Ok(()) });
    /// ```
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Its name; empty as long as nobody has told it, or where the store cannot be read.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// assert_eq!(group.name().await, "Budget 2027");
    /// # Ok(()) });
    /// ```
    pub async fn name(&self) -> String {
        self.info().await.map(|state| state.name).unwrap_or_default()
    }

    /// How it stands.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::GroupStatus;
    ///
    /// let state = group.info().await?;
    /// assert_eq!(state.status, GroupStatus::Active);
    /// # bob.synced().await?; alice.synced().await?;
    /// # let state = group.info().await?;
    /// // Equal on all devices that were shown the same log.
    /// assert_eq!(state.epoch_authenticator, of_bob.info().await?.epoch_authenticator);
    /// # Ok(()) });
    /// ```
    pub async fn info(&self) -> Result<GroupState, Error> {
        let id = self.id;
        self.session
            .engine
            .run(move |engine| engine.group_state(id))
            .await
    }

    /// Its members, by leaf. Empty where the device is no member.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// for member in group.members().await? {
    ///     println!("{} with device {}, {}", member.user, member.device, member.role);
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        let id = self.id;
        self.session.engine.run(move |engine| engine.members(id)).await
    }

    /// Sends a message. It is stored before it leaves: dropping the future, or a crash, does not take it back. Resolves when the
    /// service has accepted it. What it does here (its place in the history, an edit, a reaction) is done when it has come back in the
    /// group's log, like everybody's messages: [`crate::Client::synced`] waits for that.
    ///
    /// If the group's log goes back in time meanwhile ([`crate::GroupStatus::LogRegressed`]), the answer is that error, though the message may
    /// have left: then it is sent once more when the group goes on. Likewise, where the user is suspended or the device revoked while it is
    /// not known whether an earlier try was accepted, or where the service keeps failing: the answer is that error, and the same request goes
    /// out again until its outcome is known. What became of it is in [`crate::SendStatus`].
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::Content;
    ///
    /// let sent = group.send("Bonjour").await?;
    /// println!("entry {} of the group's log", sent.position);
    /// group.send(Content::new("image/png", [0x89, b'P', b'N', b'G'])).await?;
    /// # Ok(()) });
    /// ```
    pub async fn send(&self, content: impl Into<Content>) -> Result<Sent, Error> {
        let payload = content.into().to_payload()?;
        let span = tracing::info_span!("valise.send", group = %self.id, bytes = payload.len());
        match self.submit(Operation::Send { payload }, span).await? {
            Outcome::Sent(sent) => Ok(sent),
            _ => Err(Error::Closed),
        }
    }

    /// Queues a message and does not wait for the service: resolves when it is stored, also without a connection. How it fares is
    /// in [`Self::history`]; if it fails, [`crate::EventKind::OperationFailed`] tells.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let id = group.queue("Bonjour").await?;
    /// // At once, and without a connection, it is in the history.
    /// assert!(group.history().message(id).await?.is_some());
    /// # Ok(()) });
    /// ```
    pub async fn queue(&self, content: impl Into<Content>) -> Result<MessageId, Error> {
        let payload = content.into().to_payload()?;
        let id = self.id;
        self.session
            .engine
            .run(move |engine| engine.queue_message(id, payload))
            .await
    }

    /// Sends a message to the devices that are connected now. It is tried once, never stored, and may be lost.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::Content;
    ///
    /// group.send_ephemeral(Content::new("application/vnd.example.typing", [])).await?;
    /// # Ok(()) });
    /// ```
    pub async fn send_ephemeral(&self, content: impl Into<Content>) -> Result<(), Error> {
        let payload = content.into().to_payload()?;
        let id = self.id;
        let span = tracing::info_span!("valise.send_ephemeral", group = %id);
        async {
            let message = self
                .session
                .engine
                .run(move |engine| engine.encrypt_ephemeral(id, &payload))
                .await?;
            self.session.transport.send_ephemeral(message).await
        }
        .instrument(span)
        .await
    }

    /// Adds all devices of these users; says for each device what became of it. More than 256 devices are added with several
    /// commits. By default takes a moderator.
    ///
    /// All of them are stored before anything leaves: dropping the future, or a crash, does not take it back, and each device is added once
    /// or has failed in the end. Where nobody waits any more, [`crate::EventKind::MembersChanged`] tells who was added, and
    /// [`crate::EventKind::OperationFailed`] who was not. As long as the directory cannot be reached, it waits. There is an error
    /// only where nobody was added, and not for a reason of each device; or where it is not known yet what becomes of some: the group stands
    /// still, the service refuses this device, or the client was closed.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// use valise_client_sdk::AddFailure;
    ///
    /// let group = alice.create_group("Budget 2027").await?;
    /// let added = group.add(&["bob@valise.example", "nobody@valise.example"]).await?;
    /// assert_eq!(added.devices, [(bob.user().clone(), bob.device())]);
    /// for (user, device, failure) in added.failed {
    ///     assert_eq!((user.name(), device, failure), ("nobody", None, AddFailure::UnknownUser));
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn add(&self, users: &(impl Users + ?Sized)) -> Result<Added, Error> {
        let users = distinct(users.users()?);
        let span = tracing::info_span!("valise.add", group = %self.id, users = users.len());
        let (adding, adder) = Adding::begin(&self.session.long_work, self.id, users.len(), span);
        let id = self.id;
        self.session
            .engine
            .run(move |engine| engine.begin_add(id, &users, adder))
            .await?;
        adding.end().await.into_result()
    }

    /// Removes all devices of these users, also those that are added before the removal is accepted. Their roles end, where this device
    /// may change roles. By default takes a moderator.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let removed = group.remove(&[bob.user()]).await?;
    /// assert_eq!(removed.devices[0].device, bob.device());
    /// # Ok(()) });
    /// ```
    pub async fn remove(&self, users: &(impl Users + ?Sized)) -> Result<Removed, Error> {
        let users = distinct(users.users()?);
        if users.contains(&self.session.user) {
            return Err(removes_itself());
        }
        let span = tracing::info_span!("valise.remove", group = %self.id, users = users.len());
        self.remove_with(Operation::RemoveUsers { users }, span).await
    }

    /// Removes one device.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// // One of somebody's devices, for example one that was lost.
    /// let removed = group.remove_device(bob.device()).await?;
    /// assert_eq!(removed.devices.len(), 1);
    /// # Ok(()) });
    /// ```
    pub async fn remove_device(&self, device: DeviceId) -> Result<Removed, Error> {
        if device == self.session.device {
            return Err(removes_itself());
        }
        let span = tracing::info_span!("valise.remove", group = %self.id, devices = 1);
        let devices = vec![device];
        self.remove_with(Operation::Remove { devices }, span).await
    }

    async fn remove_with(&self, operation: Operation, span: tracing::Span) -> Result<Removed, Error> {
        match self.submit(operation, span).await? {
            Outcome::Committed { removed, .. } => Ok(Removed { devices: removed }),
            _ => Err(Error::Closed),
        }
    }

    /// Leaves the group: proposes the removal of this device, which another member commits. Resolves when the proposal is
    /// accepted; [`crate::EventKind::Removed`] follows.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// of_bob.leave().await?;
    /// # Ok(()) });
    /// ```
    pub async fn leave(&self) -> Result<(), Error> {
        let span = tracing::info_span!("valise.leave", group = %self.id);
        self.submit(Operation::Leave, span).await.map(drop)
    }

    /// Changes this device's keys in the group (post-compromise security) with a commit.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let before = group.info().await?.epoch;
    /// group.self_update().await?;
    /// assert!(group.info().await?.epoch > before);
    /// # Ok(()) });
    /// ```
    pub async fn self_update(&self) -> Result<(), Error> {
        let span = tracing::info_span!("valise.self_update", group = %self.id);
        self.submit(Operation::SelfUpdate, span).await.map(drop)
    }

    /// Brings this device back into a group that it cannot go on in ([`crate::GroupStatus`]: held by a bad commit, lost, quarantined,
    /// log regressed, invitation unusable), by an external commit (RFC 9420 §12.4.3.2) on the group's current state. It is stored
    /// before anything leaves, and goes on after a crash. Resolves when the service has accepted it; the device reads and sends from
    /// there on, and what was between cannot be read ([`crate::EventKind::Rejoined`]). On a group in use it does nothing.
    ///
    /// After a bad commit, first find out whether others have the group as it should be: this trusts what the service shows now.
    ///
    /// Refused ([`GroupStatus::LogRegressed`](crate::GroupStatus::LogRegressed)) as long as the service waits for the group's log to be
    /// repaired: what this device has of it may be missing there.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// // A button for a group in trouble. This one is in use: nothing happens.
    /// group.rejoin().await?;
    /// # Ok(()) });
    /// ```
    pub async fn rejoin(&self) -> Result<(), Error> {
        let span = tracing::info_span!("valise.rejoin", group = %self.id);
        self.session.rejoin(self.id, false, span).await
    }

    /// Gives the group another name, by a message: the service does not learn it. At most 256 bytes. By default takes a moderator. Resolves
    /// when the service has accepted it; the name is another one when it has come back in the group's log.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// group.rename("Budget 2028").await?;
    /// alice.synced().await?;
    /// assert_eq!(group.name().await, "Budget 2028");
    /// # Ok(()) });
    /// ```
    pub async fn rename(&self, name: &str) -> Result<(), Error> {
        if name.len() > MAX_GROUP_NAME {
            return Err(Error::InvalidInput("a group's name has at most 256 bytes"));
        }
        let payload = Content::group_rename(name)?;
        let span = tracing::info_span!("valise.rename", group = %self.id);
        self.submit(Operation::Rename { payload }, span).await.map(drop)
    }

    /// Makes a user of the group something else, with a commit. Nobody raises anybody above oneself or touches who is above oneself, and
    /// the last owner stays one. By default takes an owner. Resolves when it is done here.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::{Reason, Role};
    ///
    /// group.set_role(bob.user(), Role::Reader).await?;
    /// bob.synced().await?;
    /// assert!(of_bob.send("May I?").await.is_err());
    /// # Ok(()) });
    /// ```
    pub async fn set_role(&self, user: impl AsUser, role: Role) -> Result<(), Error> {
        let user = user.user()?;
        let span = tracing::info_span!("valise.set_role", group = %self.id);
        self.submit(Operation::SetRole { user, role }, span)
            .await
            .map(drop)
    }

    /// What roles allow.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::Role;
    ///
    /// assert_eq!(group.policy().await?.add, Role::Moderator);
    /// # Ok(()) });
    /// ```
    pub async fn policy(&self) -> Result<Policy, Error> {
        let id = self.id;
        self.session.engine.run(move |engine| engine.policy(id)).await
    }

    /// Changes what roles allow, with a commit. By default takes an owner.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// use valise_client_sdk::{Act, Role};
    ///
    /// // In this group every member may add.
    /// let policy = group.policy().await?.with(Act::Add, Role::Member);
    /// group.set_policy(policy).await?;
    /// # Ok(()) });
    /// ```
    pub async fn set_policy(&self, policy: Policy) -> Result<(), Error> {
        let span = tracing::info_span!("valise.set_policy", group = %self.id);
        self.submit(Operation::SetPolicy { policy }, span).await.map(drop)
    }

    /// What was asked of the group and is not done yet, in the order in which it is done; also what was asked before a restart.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let id = group.queue("Bonjour").await?;
    /// for waiting in group.pending().await? {
    ///     assert_eq!((waiting.operation.as_str(), waiting.message), ("send", Some(id)));
    /// }
    /// alice.synced().await?;
    /// assert_eq!(group.pending().await?, []);
    /// # Ok(()) });
    /// ```
    pub async fn pending(&self) -> Result<Vec<Pending>, Error> {
        let id = self.id;
        self.session.engine.run(move |engine| engine.pending(id)).await
    }

    async fn submit(&self, operation: Operation, span: tracing::Span) -> Result<Outcome, Error> {
        self.session.engine.submit(self.id, operation, span).await
    }
}

fn removes_itself() -> Error {
    Error::InvalidInput("a device does not remove itself: leave")
}

pub(crate) fn distinct(users: Vec<UserId>) -> Vec<UserId> {
    let mut seen = HashSet::new();
    users
        .into_iter()
        .filter(|user| seen.insert(user.clone()))
        .collect()
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({})", self.id)
    }
}
