//! The name of a message: computed by every member alike.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use valise_proto::{GroupId, UserId};

use crate::Error;

/// SHA-256 in the IANA registry of named information hash algorithms, the first octet of each id.
const SHA_256: u8 = 1;
/// Random octets in each message (draft-ietf-mimi-content-09 §4.1).
pub(crate) const SALT: usize = 16;

/// The name of a message, by which others refer to it: the same on every device (draft-ietf-mimi-content-09 §3.3).
///
/// It is a hash of the sender, the group and the whole message with its random salt: nobody can make another message with the
/// same id, and ids of messages to come cannot be foreseen.
///
/// ```
/// use valise_client_sdk::MessageId;
///
/// let id = MessageId::from_bytes([1; 32]).unwrap();
/// assert_eq!(id.to_string().parse::<MessageId>().ok(), Some(id)); // for links, for example
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId([u8; 32]);

impl MessageId {
    /// The id with these bytes. `None` if it was made with an unknown hash algorithm: its first byte is not 1.
    ///
    /// ```
    /// use valise_client_sdk::MessageId;
    ///
    /// assert!(MessageId::from_bytes([1; 32]).is_some());
    /// assert!(MessageId::from_bytes([9; 32]).is_none());
    /// ```
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        bytes.starts_with(&[SHA_256]).then_some(Self(bytes))
    }

    /// Its bytes.
    ///
    /// ```
    /// use valise_client_sdk::MessageId;
    ///
    /// let id = MessageId::from_bytes([1; 32]).unwrap();
    /// assert_eq!(id.as_bytes(), &[1; 32]);
    /// ```
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        Self::from_bytes(bytes.try_into().ok()?)
    }

    /// The id of a message with that salt.
    pub(crate) fn of(sender: &str, room: &str, message: &[u8], salt: &[u8; SALT]) -> Self {
        let mut hash = Sha256::new();
        for uri in [sender, room] {
            // URIs are far shorter than 64 KiB.
            hash.update(u16::try_from(uri.len()).unwrap_or(u16::MAX).to_be_bytes());
            hash.update(uri.as_bytes());
        }
        hash.update(message);
        // Again, against extending the message (§3.3).
        hash.update(salt);
        let hash = hash.finalize();
        let mut id = [SHA_256; 32];
        for (to, from) in id.iter_mut().skip(1).zip(hash) {
            *to = from;
        }
        Self(id)
    }
}

/// What stands for the sender in ids: the user, whose devices are as one.
pub(crate) fn sender_uri(user: &UserId) -> String {
    user.uri()
}

/// What stands for the group in ids. It belongs to no domain (RFC 9562 §4).
pub(crate) fn room_uri(group: GroupId) -> String {
    format!("urn:uuid:{group}")
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

impl FromStr for MessageId {
    type Err = Error;

    /// Reads 64 hexadecimal digits, as written by `Display`.
    fn from_str(text: &str) -> Result<Self, Error> {
        const FORM: Error = Error::InvalidInput("a message id has 64 hexadecimal digits and begins with 01");
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(FORM);
        }
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|&[high, low]| Some(digit(high)? * 16 + digit(low)?))
            .collect();
        bytes.and_then(|bytes| Self::from_slice(&bytes)).ok_or(FORM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = MessageId::of("mimi://a.example/u/alice", "urn:uuid:x", b"message", &[7; SALT]);
        assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
        assert_eq!(id.as_bytes()[0], 1);
        for bad in [
            "",
            "01",
            "xx",
            &id.to_string().replacen("01", "02", 1),
            &id.to_string()[1..],
        ] {
            assert!(bad.parse::<MessageId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn where_the_sender_ends_and_the_group_begins_counts() {
        let of = |sender, room| MessageId::of(sender, room, b"message", &[7; SALT]);
        assert_ne!(of("ab", "c"), of("a", "bc"));
    }
}
