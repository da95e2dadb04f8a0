//! Identifiers that can only be valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text or some bytes are not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not of the form `name@domain` with the allowed characters and lengths.
    #[error("not a user id of the form name@domain")]
    User,
    /// Not a UUID.
    #[error("not a device id (a UUID)")]
    Device,
    /// Not 16 bytes, or not a UUID as text.
    #[error("not a group id (16 bytes, a UUID as text)")]
    Group,
    /// Not 16 bytes.
    #[error("not an idempotency key (16 bytes)")]
    IdempotencyKey,
    /// Not 8 bytes.
    #[error("not an entry id (8 bytes)")]
    Entry,
}

/// A user, for example `alice@interieur.example`.
///
/// The part before the `@` has 1 to 64 of `a-z 0-9 . _ -`; the domain has at least two labels, at most 253 characters in
/// all. Always lower case. Its URI is `mimi://interieur.example/u/alice` (IETF MIMI).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

impl UserId {
    /// The part before the `@`.
    pub fn name(&self) -> &str {
        self.0.split_once('@').map_or("", |(name, _)| name)
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, domain)| domain)
    }

    /// As text, `name@domain`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The user's URI, `mimi://domain/u/name`.
    pub fn uri(&self) -> String {
        format!("mimi://{}/u/{}", self.domain(), self.name())
    }

    /// The user whose URI this is.
    pub fn from_uri(uri: &str) -> Result<Self, IdError> {
        let (domain, name) = uri
            .strip_prefix("mimi://")
            .and_then(|rest| rest.split_once("/u/"))
            .ok_or(IdError::User)?;
        format!("{name}@{domain}").parse()
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl FromStr for UserId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() > 64 + 1 + 253 {
            return Err(IdError::User);
        }
        let text = text.to_ascii_lowercase();
        let (name, domain) = text.split_once('@').ok_or(IdError::User)?;
        let name_ok = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        let domain_ok = domain.len() <= 253 && domain.contains('.') && domain.split('.').all(is_label);
        if name_ok && domain_ok {
            Ok(Self(text))
        } else {
            Err(IdError::User)
        }
    }
}

impl TryFrom<String> for UserId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> Self {
        id.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Users are personal: a `Debug` output does not name them.
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserId(…)")
    }
}

/// A device of a user: a random UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceId(Uuid);

impl DeviceId {
    /// A device with this UUID.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Its UUID.
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// The device's URI in the domain of its user, `mimi://domain/d/uuid`.
    pub fn uri(&self, user: &UserId) -> String {
        format!("mimi://{}/d/{}", user.domain(), self)
    }
}

impl FromStr for DeviceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        hyphenated(text).map(Self).ok_or(IdError::Device)
    }
}

/// Only the lower-case hyphenated form, so that an identifier has one spelling.
fn hyphenated(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    (uuid.hyphenated().to_string() == text).then_some(uuid)
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({})", self.0.hyphenated())
    }
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// With these bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Its bytes, owned.
            pub fn to_vec(&self) -> Vec<u8> {
                self.0.to_vec()
            }

            /// A new random one.
            pub fn random(rng: &mut impl rand::CryptoRng) -> Self {
                let mut bytes = [0; $len];
                rand::Rng::fill_bytes(rng, &mut bytes);
                Self(bytes)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map(Self).map_err(|_| $error)
            }
        }
    };
}

bytes_id!(
    /// An MLS group id (RFC 9420 §8.1) of this deployment: 16 random bytes, shown as a UUID.
    GroupId, 16, IdError::Group
);
bytes_id!(
    /// Names one request of a client, so that a repeat is answered, not done again: 16 random bytes.
    IdempotencyKey, 16, IdError::IdempotencyKey
);
bytes_id!(
    /// Tells an entry from another one that took its position after a loss of data: 8 random bytes.
    EntryId, 8, IdError::Entry
);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl FromStr for GroupId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        hyphenated(text)
            .map(|uuid| Self(uuid.into_bytes()))
            .ok_or(IdError::Group)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({self})")
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({})", Uuid::from_bytes(self.0).simple())
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryId({:016x})", u64::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_have_one_spelling_and_a_uri() {
        let user: UserId = "Alice@Interieur.example".parse().unwrap();
        assert_eq!(user.as_str(), "alice@interieur.example");
        assert_eq!(user.uri(), "mimi://interieur.example/u/alice");
        assert_eq!(UserId::from_uri(&user.uri()).unwrap(), user);
    }

    #[test]
    fn user_ids_refuse_what_could_confuse() {
        let long = format!("{}@a.b", "x".repeat(65));
        for text in [
            "",
            "@",
            "alice",
            "alice@",
            "@a.b",
            "a@b",
            "a b@c.d",
            "a/u/b@c.d",
            "a@c..d",
            "a@-c.d",
            "é@c.d",
            &long,
        ] {
            assert_eq!(text.parse::<UserId>(), Err(IdError::User), "{text}");
        }
    }

    #[test]
    fn uuids_have_one_spelling() {
        let text = "0190c1a2-7d2e-7c4b-9a51-0123456789ab";
        assert_eq!(text.parse::<DeviceId>().unwrap().to_string(), text);
        assert_eq!(text.parse::<GroupId>().unwrap().to_string(), text);
        assert!(text.to_uppercase().parse::<DeviceId>().is_err());
        assert!(text.replace('-', "").parse::<GroupId>().is_err());
    }

    #[test]
    fn debug_does_not_name_a_user() {
        let user: UserId = "alice@interieur.example".parse().unwrap();
        assert!(!format!("{user:?}").contains("alice"));
    }
}
