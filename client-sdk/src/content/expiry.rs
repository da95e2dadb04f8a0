//! When a message is deleted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Content;
use super::mimi::{self, Expires};

/// When a message is deleted everywhere, by all who keep to it.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use valise_client_sdk::{Content, Expiry};
///
/// let day = Duration::from_secs(24 * 3600);
/// let tomorrow = Content::text("Gone tomorrow").expiring(Expiry::At(SystemTime::now() + day));
/// let once = Content::text("Gone when read").expiring(Expiry::AfterRead(Duration::from_secs(60)));
/// assert_eq!(once.expiry(), Some(Expiry::AfterRead(Duration::from_secs(60))));
/// # assert!(tomorrow.expiry().is_some());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// At that time, to the second, at most a year ahead.
    At(SystemTime),
    /// So long after it was read, at most a year: on each device apart (on the sender's, after it was accepted).
    AfterRead(Duration),
}

impl Content {
    /// The same, until then. Fractions of a second are dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use valise_client_sdk::{Content, Expiry};
    ///
    /// let once = Content::text("Read me once").expiring(Expiry::AfterRead(Duration::from_secs(60)));
    /// assert!(once.expiry().is_some());
    /// ```
    pub fn expiring(mut self, expiry: Expiry) -> Self {
        let (relative, seconds) = match expiry {
            Expiry::At(at) => (false, at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
            Expiry::AfterRead(after) => (true, after.as_secs()),
        };
        self.mimi.expires = Some(Expires {
            relative,
            seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        });
        self
    }

    /// When it is deleted.
    ///
    /// ```
    /// use valise_client_sdk::Content;
    ///
    /// assert_eq!(Content::text("Stays").expiry(), None);
    /// ```
    pub fn expiry(&self) -> Option<Expiry> {
        let Expires { relative, seconds } = self.mimi.expires?;
        let seconds = Duration::from_secs(seconds.into());
        Some(if relative {
            Expiry::AfterRead(seconds)
        } else {
            Expiry::At(UNIX_EPOCH + seconds)
        })
    }

    /// Is it to be deleted later than anybody would mean? (§9.1) That time is of its acceptance, in seconds since 1970.
    pub(crate) fn expires_too_late(&self, accepted_at: u64) -> bool {
        self.mimi.expires.is_some_and(|expires| {
            !expires.relative && u64::from(expires.seconds) > accepted_at.saturating_add(mimi::YEAR)
        })
    }
}
