//! Who is refused, as far as this process has heard.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use valise_proto::authentication::v1;
use valise_proto::{DeviceId, Reason, UserId};

/// After so long without a sign of life from the authentication service, every token is refused.
pub const MAX_SILENCE: Duration = Duration::from_secs(2);

/// One line of the revocation feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// 1, 2, 3… without a gap.
    pub number: u64,
    /// Who is refused, or no longer.
    pub subject: RevocationSubject,
    /// When.
    pub at: SystemTime,
}

/// What a line of the revocation feed is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RevocationSubject {
    /// This device is refused, for ever.
    Device {
        /// Its user.
        user: UserId,
        /// The device.
        device: DeviceId,
    },
    /// All devices of this user are refused.
    Suspended {
        /// Who.
        user: UserId,
    },
    /// They are no longer refused for that reason.
    Resumed {
        /// Who.
        user: UserId,
    },
}

impl From<&Revocation> for v1::Revocation {
    fn from(revocation: &Revocation) -> Self {
        use v1::revocation::Subject;
        let (subject, user_id) = match &revocation.subject {
            RevocationSubject::Device { user, device } => {
                (Subject::DeviceId(device.to_string()), user.to_string())
            }
            RevocationSubject::Suspended { user } => {
                (Subject::SuspendedUserId(user.to_string()), String::new())
            }
            RevocationSubject::Resumed { user } => (Subject::ResumedUserId(user.to_string()), String::new()),
        };
        Self {
            number: revocation.number,
            subject: Some(subject),
            at: Some(revocation.at.into()),
            user_id,
        }
    }
}

impl TryFrom<v1::Revocation> for Revocation {
    type Error = FeedError;

    fn try_from(wire: v1::Revocation) -> Result<Self, FeedError> {
        use v1::revocation::Subject;
        let user = |text: &str| text.parse::<UserId>().map_err(|_| FeedError::Malformed);
        let subject = match wire.subject.ok_or(FeedError::Malformed)? {
            Subject::DeviceId(device) => RevocationSubject::Device {
                user: user(&wire.user_id)?,
                device: device.parse().map_err(|_| FeedError::Malformed)?,
            },
            Subject::SuspendedUserId(suspended) => RevocationSubject::Suspended {
                user: user(&suspended)?,
            },
            Subject::ResumedUserId(resumed) => RevocationSubject::Resumed {
                user: user(&resumed)?,
            },
        };
        let at = wire.at.and_then(time).ok_or(FeedError::Malformed)?;
        Ok(Self {
            number: wire.number,
            subject,
            at,
        })
    }
}

/// By hand: prost's own conversion overflows on the least number of seconds.
fn time(at: prost_types::Timestamp) -> Option<SystemTime> {
    let since = Duration::new(u64::try_from(at.seconds).ok()?, u32::try_from(at.nanos).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// Why what was fed cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A line of the feed, a key set or a trust bundle is not what it should be.
    #[error("the authentication service sent something malformed")]
    Malformed,
    /// Lines of the feed are missing: follow it again from the newest number that is known.
    #[error("lines of the revocation feed are missing")]
    Missed,
    /// The feed has fewer lines than are known here: its store went back in time. Follow it again from the start.
    #[error("the revocation feed went back in time")]
    WentBack,
}

/// A fold of the feed.
#[derive(Default)]
pub(crate) struct RevocationState {
    log: Vec<Revocation>,
    newest: u64,
    devices: HashSet<DeviceId>,
    suspended: HashSet<UserId>,
    heard_at: Option<Instant>,
}

impl RevocationState {
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// The lines above a number.
    pub(crate) fn after(&self, number: u64) -> Vec<Revocation> {
        self.log
            .iter()
            .filter(|line| line.number > number)
            .cloned()
            .collect()
    }

    /// Takes the next line; false for one that is known already.
    pub(crate) fn apply(&mut self, revocation: &Revocation) -> Result<bool, FeedError> {
        if revocation.number <= self.newest {
            return Ok(false);
        }
        if revocation.number != self.newest + 1 {
            return Err(FeedError::Missed);
        }
        match &revocation.subject {
            RevocationSubject::Device { device, .. } => {
                self.devices.insert(*device);
            }
            RevocationSubject::Suspended { user } => {
                self.suspended.insert(user.clone());
            }
            RevocationSubject::Resumed { user } => {
                self.suspended.remove(user);
            }
        }
        self.newest = revocation.number;
        self.log.push(revocation.clone());
        Ok(true)
    }

    /// The authentication service lives, and this is its newest number.
    pub(crate) fn heard(&mut self, newest: u64) -> Result<(), FeedError> {
        match newest.cmp(&self.newest) {
            std::cmp::Ordering::Equal => {
                self.heard_at = Some(Instant::now());
                Ok(())
            }
            std::cmp::Ordering::Greater => Err(FeedError::Missed),
            std::cmp::Ordering::Less => Err(FeedError::WentBack),
        }
    }

    /// Before the feed is followed again from its start. Nobody who was refused is let in meanwhile: not before the
    /// next sign of life, and a revoked device never.
    pub(crate) fn start_over(&mut self) {
        self.log.clear();
        self.newest = 0;
        self.suspended.clear();
        self.heard_at = None;
    }

    /// Heard from the authentication service lately?
    pub(crate) fn is_current(&self) -> bool {
        self.heard_at.is_some_and(|at| at.elapsed() <= MAX_SILENCE)
    }

    /// Why tokens of that device are refused now, if they are.
    pub(crate) fn refusal(&self, user: &UserId, device: DeviceId) -> Option<Reason> {
        if self.devices.contains(&device) {
            Some(Reason::DeviceRevoked)
        } else if self.suspended.contains(user) {
            Some(Reason::UserSuspended)
        } else {
            self.silence()
        }
    }

    /// Why every token is refused now, if they are.
    pub(crate) fn silence(&self) -> Option<Reason> {
        if self.is_current() {
            None
        } else {
            Some(Reason::StoreUnavailable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserId {
        "alice@interieur.example".parse().unwrap()
    }

    fn line(number: u64, subject: RevocationSubject) -> Revocation {
        Revocation {
            number,
            subject,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        }
    }

    fn device() -> DeviceId {
        DeviceId::from_uuid(uuid::Uuid::from_u128(7))
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_let_in_before_the_first_and_two_seconds_after_the_last_sign_of_life() {
        let mut state = RevocationState::default();
        assert_eq!(state.refusal(&user(), device()), Some(Reason::StoreUnavailable));
        state.heard(0).unwrap();
        assert_eq!(state.refusal(&user(), device()), None);
        tokio::time::advance(Duration::from_millis(2000)).await;
        assert_eq!(state.refusal(&user(), device()), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(state.refusal(&user(), device()), Some(Reason::StoreUnavailable));
        assert_eq!(state.silence(), Some(Reason::StoreUnavailable));
        state.heard(0).unwrap();
        assert_eq!(state.silence(), None);
    }

    #[tokio::test]
    async fn lines_are_taken_in_order_and_a_gap_is_noticed() {
        let mut state = RevocationState::default();
        let suspended = line(1, RevocationSubject::Suspended { user: user() });
        let resumed = line(2, RevocationSubject::Resumed { user: user() });
        let revoked = line(
            3,
            RevocationSubject::Device {
                user: user(),
                device: device(),
            },
        );
        assert_eq!(state.apply(&resumed), Err(FeedError::Missed));
        assert_eq!(state.heard(1), Err(FeedError::Missed));
        assert!(state.apply(&suspended).unwrap());
        assert!(!state.apply(&suspended).unwrap());
        state.heard(1).unwrap();
        assert_eq!(state.refusal(&user(), device()), Some(Reason::UserSuspended));
        assert!(state.apply(&resumed).unwrap());
        assert_eq!(state.refusal(&user(), device()), None);
        assert!(state.apply(&revoked).unwrap());
        assert_eq!(state.refusal(&user(), device()), Some(Reason::DeviceRevoked));
        assert_eq!(state.after(1), [resumed, revoked]);
    }

    #[tokio::test]
    async fn a_feed_that_went_back_lets_nobody_in_until_it_is_followed_again() {
        let mut state = RevocationState::default();
        state
            .apply(&line(
                1,
                RevocationSubject::Device {
                    user: user(),
                    device: device(),
                },
            ))
            .unwrap();
        assert_eq!(state.heard(0), Err(FeedError::WentBack));
        state.start_over();
        assert_eq!(state.silence(), Some(Reason::StoreUnavailable));
        state.heard(0).unwrap();
        assert_eq!(
            state.refusal(&user(), device()),
            Some(Reason::DeviceRevoked),
            "for ever"
        );
    }

    #[test]
    fn lines_survive_the_way_over_the_wire() {
        let subjects = [
            RevocationSubject::Device {
                user: user(),
                device: device(),
            },
            RevocationSubject::Suspended { user: user() },
            RevocationSubject::Resumed { user: user() },
        ];
        for subject in subjects {
            let revocation = line(9, subject);
            assert_eq!(
                Revocation::try_from(v1::Revocation::from(&revocation)).unwrap(),
                revocation
            );
        }
        assert_eq!(
            Revocation::try_from(v1::Revocation::default()),
            Err(FeedError::Malformed)
        );
    }
}
