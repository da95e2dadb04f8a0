//! What an administrator's device may do.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use valise_proto::authentication::v1 as wire;
use valise_proto::delivery::v1::{self as delivery, RepairGroupRequest};
use valise_proto::{DeviceId, Epoch, GroupId, Position, UserId};

use crate::session::Session;
use crate::transport::{duration, time};
use crate::{CommitFault, Error, Repair};

/// Administration of the deployment. Refused (POLICY_DENIED) unless this device is an administrator's.
///
/// ```
/// # valise_tests::example::with_administrator(async |administrator, alice| {
/// for user in administrator.administration().users().await? {
///     println!("{}: {} devices", user.user, user.active_devices);
/// }
/// # Ok(()) });
/// ```
pub struct Administration {
    pub(crate) session: Arc<Session>,
}

/// What a device that enrols with a code will be.
///
/// ```
/// use valise_client_sdk::UserKind;
///
/// assert_eq!(UserKind::default(), UserKind::Device);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UserKind {
    /// A device.
    #[default]
    Device,
    /// A device that may also administer.
    Administrator,
}

/// A one-time code with which one device enrols.
///
/// ```
/// # valise_tests::example::with_administrator(async |administrator, alice| {
/// use std::time::Duration;
/// use valise_client_sdk::UserKind;
///
/// let code = administrator.administration()
///     .create_enrolment_code(alice.user(), UserKind::Device, Duration::from_secs(600))
///     .await?;
/// assert!(code.expires_at.is_some());
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentCode {
    /// The code, to be handed over on a trusted way.
    pub code: String,
    /// Until when it can be used.
    pub expires_at: Option<SystemTime>,
}

/// A user, as administrators see it.
///
/// ```
/// # valise_tests::example::with_administrator(async |administrator, alice| {
/// let users = administrator.administration().users().await?;
/// let suspended = users.iter().filter(|user| user.suspended).count();
/// assert_eq!(suspended, 0);
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserSummary {
    /// The user.
    pub user: UserId,
    /// Suspended by an administrator.
    pub suspended: bool,
    /// Number of its active devices.
    pub active_devices: u32,
    /// When it was first heard of.
    pub created_at: Option<SystemTime>,
}

/// One line of the audit log.
///
/// ```
/// # valise_tests::example::with_administrator(async |administrator, alice| {
/// for line in administrator.administration().audit(0).await? {
///     println!("{} {} {} {}", line.number, line.actor, line.action, line.subject);
/// }
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// 1, 2, 3… without a gap.
    pub number: u64,
    /// When it was written.
    pub at: Option<SystemTime>,
    /// Who did it: a device id, or `bootstrap`.
    pub actor: String,
    /// What, for example `device.revoked`.
    pub action: String,
    /// To whom: a user id, device id, service name or group id; of `group.reset` the old group id and the new one.
    pub subject: String,
}

/// Where a group stands, as the service sees it: nothing of what it says or is called.
///
/// ```
/// # valise_tests::example::with_administrator(async |administrator, alice| {
/// # let group = alice.create_group("Sound").await?.id();
/// let standing = administrator.administration().describe_group(group).await?;
/// assert_eq!((standing.members, standing.frozen, standing.successor), (1, false, None));
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupStanding {
    /// Its newest entry.
    pub position: Position,
    /// Its current epoch.
    pub epoch: Epoch,
    /// Number of members (devices).
    pub members: u32,
    /// Its log went back in time, and it waits for repair.
    pub frozen: bool,
    /// It was reset, and goes on under this id.
    pub successor: Option<GroupId>,
    /// It goes on for this one.
    pub predecessor: Option<GroupId>,
}

/// A commit that members could not process.
///
/// ```
/// # valise_tests::example::with_administrator(async |administrator, alice| {
/// for commit in administrator.administration().commit_reports(None).await? {
///     let devices: u32 = commit.faults.iter().map(|(_, devices)| devices).sum();
///     println!("{}: {devices} devices cannot process the commit at {}", commit.group, commit.position);
/// }
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportedCommit {
    /// The group.
    pub group: GroupId,
    /// The commit's position.
    pub position: Position,
    /// The epoch that it ended.
    pub epoch: Epoch,
    /// The device that submitted it.
    pub sender: Option<DeviceId>,
    /// What is wrong with it, and how many devices say so.
    pub faults: Vec<(CommitFault, u32)>,
    /// When the first report came.
    pub first_reported_at: Option<SystemTime>,
    /// When the last one came.
    pub last_reported_at: Option<SystemTime>,
}

impl Administration {
    /// A code with which one device of that user enrols. Valid for 1 minute to 30 days.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// use std::time::Duration;
    /// use valise_client_sdk::{UserId, UserKind};
    ///
    /// let bob: UserId = "bob@valise.example".parse()?;
    /// let administration = administrator.administration();
    /// let day = Duration::from_secs(24 * 3600);
    /// let code = administration.create_enrolment_code(&bob, UserKind::Device, day).await?;
    /// println!("hand this over in person: {}", code.code);
    /// # Ok(()) });
    /// ```
    pub async fn create_enrolment_code(
        &self,
        user: &UserId,
        kind: UserKind,
        valid_for: Duration,
    ) -> Result<EnrolmentCode, Error> {
        let kind = match kind {
            UserKind::Device => wire::SubjectKind::Device,
            UserKind::Administrator => wire::SubjectKind::Administrator,
        };
        let request = wire::CreateEnrolmentCodeRequest {
            user_id: user.to_string(),
            valid_for: Some(duration(valid_for)),
            kind: kind.into(),
        };
        let answer = self.session.transport.create_enrolment_code(request).await?;
        Ok(EnrolmentCode {
            code: answer.enrolment_code,
            expires_at: answer.expires_at.and_then(time),
        })
    }

    /// All users, by user id.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// let users = administrator.administration().users().await?;
    /// assert!(users.iter().any(|user| &user.user == alice.user()));
    /// # Ok(()) });
    /// ```
    pub async fn users(&self) -> Result<Vec<UserSummary>, Error> {
        let mut users = Vec::new();
        let mut after_user_id = String::new();
        loop {
            let page = self
                .session
                .transport
                .list_users(wire::ListUsersRequest {
                    page_size: 1000,
                    after_user_id,
                })
                .await?;
            for user in page.users {
                users.push(user_summary(&user)?);
            }
            after_user_id = page.next_after_user_id;
            if after_user_id.is_empty() {
                return Ok(users);
            }
        }
    }

    /// Suspends a user: all services refuse its devices.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// use valise_client_sdk::Reason;
    ///
    /// administrator.administration().suspend(alice.user()).await?;
    /// let refused = alice.create_group("No").await.err().and_then(|error| error.reason());
    /// assert_eq!(refused, Some(Reason::UserSuspended));
    /// # Ok(()) });
    /// ```
    pub async fn suspend(&self, user: &UserId) -> Result<(), Error> {
        self.session
            .transport
            .suspend_user(wire::SuspendUserRequest {
                user_id: user.to_string(),
            })
            .await?;
        Ok(())
    }

    /// Ends a suspension.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// let administration = administrator.administration();
    /// administration.suspend(alice.user()).await?;
    /// administration.resume(alice.user()).await?;
    /// alice.create_group("Back at work").await?;
    /// # Ok(()) });
    /// ```
    pub async fn resume(&self, user: &UserId) -> Result<(), Error> {
        self.session
            .transport
            .resume_user(wire::ResumeUserRequest {
                user_id: user.to_string(),
            })
            .await?;
        Ok(())
    }

    /// Puts a group that the service has frozen back to the newest archived entry, goes on from there with what devices have given back,
    /// and opens it. Devices that have seen more join again; all others go on.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// use valise_client_sdk::Reason;
    ///
    /// # let group = alice.create_group("Sound").await?.id();
    /// // Only a frozen group can be repaired, and this one is sound.
    /// let refused = administrator.administration().repair_group(group, None).await;
    /// assert_eq!(refused.err().and_then(|error| error.reason()), Some(Reason::PolicyDenied));
    /// # Ok(()) });
    /// ```
    pub async fn repair_group(&self, group: GroupId, up_to: Option<Position>) -> Result<Repair, Error> {
        self.repair(group, up_to, false).await
    }

    /// What [`Administration::repair_group`] would do now. Devices that come online later may know more.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// # let group = alice.create_group("Sound").await?.id();
    /// // Look first. Here there is nothing to repair.
    /// let plan = administrator.administration().plan_repair(group, None).await;
    /// assert!(plan.is_err());
    /// # Ok(()) });
    /// ```
    pub async fn plan_repair(&self, group: GroupId, up_to: Option<Position>) -> Result<Repair, Error> {
        self.repair(group, up_to, true).await
    }

    async fn repair(&self, group: GroupId, up_to: Option<Position>, dry_run: bool) -> Result<Repair, Error> {
        let request = RepairGroupRequest {
            group_id: group.to_vec().into(),
            dry_run,
            // To take nothing at all from devices is to take nothing after the first entry, which is archived or will never be.
            up_to_position: up_to.map_or(0, |position| position.0.max(1)),
        };
        Repair::from_wire(self.session.transport.repair_group(request).await?)
    }

    /// Ends a group for ever, for its members to go on under a new id, which is returned. They do so by themselves. Of a group that was reset before
    /// it is the first one.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// # let group = alice.create_group("Sound").await?.id();
    /// let successor = administrator.administration().reset_group(group).await?;
    /// // Again, it is the same one.
    /// assert_eq!(administrator.administration().reset_group(group).await?, successor);
    /// # Ok(()) });
    /// ```
    pub async fn reset_group(&self, group: GroupId) -> Result<GroupId, Error> {
        let request = delivery::ResetGroupRequest {
            group_id: group.to_vec().into(),
        };
        let reset = self.session.transport.reset_group(request).await?;
        id(&reset.successor_group_id)?.ok_or(Error::Unreachable)
    }

    /// Where a group stands.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// # let group = alice.create_group("Sound").await?.id();
    /// println!("epoch {}", administrator.administration().describe_group(group).await?.epoch);
    /// # Ok(()) });
    /// ```
    pub async fn describe_group(&self, group: GroupId) -> Result<GroupStanding, Error> {
        let request = delivery::DescribeGroupRequest {
            group_id: group.to_vec().into(),
        };
        let standing = self.session.transport.describe_group(request).await?;
        Ok(GroupStanding {
            position: Position(standing.position),
            epoch: Epoch(standing.epoch),
            members: standing.members,
            frozen: standing.frozen,
            successor: id(&standing.successor_group_id)?,
            predecessor: id(&standing.predecessor_group_id)?,
        })
    }

    /// The commits that members could not process, of one group or of all, by group id and position.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// let reports = administrator.administration().commit_reports(None).await?;
    /// assert!(reports.is_empty());
    /// # Ok(()) });
    /// ```
    pub async fn commit_reports(&self, group: Option<GroupId>) -> Result<Vec<ReportedCommit>, Error> {
        let mut commits: Vec<ReportedCommit> = Vec::new();
        loop {
            let last = commits.last();
            let request = delivery::ListCommitReportsRequest {
                group_id: group.map(|group| group.to_vec()).unwrap_or_default().into(),
                page_size: PAGE,
                after_group_id: last.map(|last| last.group.to_vec()).unwrap_or_default().into(),
                after_position: last.map_or(0, |last| last.position.0),
            };
            let page = self.session.transport.list_commit_reports(request).await?.commits;
            let is_last = page.len() < PAGE as usize;
            for commit in page {
                commits.push(reported(&commit)?);
            }
            if is_last {
                return Ok(commits);
            }
        }
    }

    /// The audit log after that number, oldest first, at most 1,000 lines.
    ///
    /// ```
    /// # valise_tests::example::with_administrator(async |administrator, alice| {
    /// let lines = administrator.administration().audit(0).await?;
    /// assert!(lines.iter().any(|line| line.action == "device.enrolled"));
    /// # Ok(()) });
    /// ```
    pub async fn audit(&self, after: u64) -> Result<Vec<AuditEvent>, Error> {
        let request = wire::ListAuditEventsRequest {
            after_number: after,
            page_size: 1000,
        };
        let page = self.session.transport.list_audit_events(request).await?;
        let line = |event: wire::AuditEvent| AuditEvent {
            number: event.number,
            at: event.at.and_then(time),
            actor: event.actor,
            action: event.action,
            subject: event.subject,
        };
        Ok(page.events.into_iter().map(line).collect())
    }
}

/// Reports that are asked for at once.
const PAGE: u32 = 1000;

fn id(bytes: &[u8]) -> Result<Option<GroupId>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    GroupId::try_from(bytes).map(Some).map_err(|_| Error::Unreachable)
}

fn reported(commit: &delivery::ReportedCommit) -> Result<ReportedCommit, Error> {
    Ok(ReportedCommit {
        group: id(&commit.group_id)?.ok_or(Error::Unreachable)?,
        position: Position(commit.position),
        epoch: Epoch(commit.epoch),
        sender: commit.sender_device_id.parse().ok(),
        faults: commit
            .faults
            .iter()
            .map(|count| (CommitFault::from_wire(count.fault()), count.devices))
            .collect(),
        first_reported_at: commit.first_reported_at.and_then(time),
        last_reported_at: commit.last_reported_at.and_then(time),
    })
}

fn user_summary(user: &wire::User) -> Result<UserSummary, Error> {
    Ok(UserSummary {
        suspended: user.state() == wire::UserState::Suspended,
        active_devices: user.active_devices,
        created_at: user.created_at.and_then(time),
        user: user.user_id.parse().map_err(|_| Error::Unreachable)?,
    })
}

impl std::fmt::Debug for Administration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Administration")
    }
}
