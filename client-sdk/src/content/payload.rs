//! The payload of an application message: what is in it, and the content itself.
//!
//! ```text
//! struct { uint8 version = 1; opaque content_type<V>; opaque body<V>; } Payload;
//! ```
//!
//! Messages of people are `application/mimi-content`; the group's profile is the SDK's own. Payloads of other types are passed to
//! the app as they are.

use tls_codec::{Serialize as _, VLBytes};
use valise_proto::{GroupId, Position, UserId};

use super::message_id::{MessageId, SALT, room_uri, sender_uri};
use super::mimi::{self, Mimi};
use super::part::{Body, Disposition, Part};
use super::{Content, GROUP_PROFILE, GROUP_RENAME};
use crate::Error;

pub(super) const MIMI: &str = "application/mimi-content";
const MAX_CONTENT_TYPE: usize = 255;
const VERSION: u8 = 1;

impl Content {
    /// The payload for what an app sends, with a new salt: each is another message, even if it says the same.
    pub(crate) fn to_payload(&self) -> Result<Vec<u8>, Error> {
        if self.is_the_sdks() {
            return Err(Error::InvalidInput("the content type is reserved"));
        }
        let mut salt = [0; SALT];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut salt);
        let message = self
            .mimi
            .encode(&salt)
            .ok_or(Error::InvalidInput("the content breaks a limit of its format"))?;
        encode(MIMI, &message)
    }

    /// The group's name, told by the one who adds right after the commit that adds.
    pub(crate) fn group_profile(name: &str) -> Result<Vec<u8>, Error> {
        encode(GROUP_PROFILE, name.as_bytes())
    }

    /// Another name for the group.
    pub(crate) fn group_rename(name: &str) -> Result<Vec<u8>, Error> {
        encode(GROUP_RENAME, name.as_bytes())
    }

    /// Reads what that user sent to that group. `None` where it is not as it must be, or claims to be of somebody else.
    pub(crate) fn from_payload(
        payload: &[u8],
        sender: &UserId,
        group: GroupId,
        position: Position,
    ) -> Option<Self> {
        let (content_type, body) = decode(payload)?;
        let (sender, room) = (sender_uri(sender), room_uri(group));
        if content_type != MIMI {
            // Messages without a salt: their place in the log tells them apart.
            let mut salt = [0; SALT];
            for (to, from) in salt.iter_mut().rev().zip(position.0.to_le_bytes()) {
                *to = from;
            }
            let part = Part::single(Disposition::RENDER, content_type.to_owned(), body.to_vec());
            return Some(Self {
                mimi: Mimi::new(part),
                sent: Some((MessageId::of(&sender, &room, payload, &salt), salt)),
            });
        }
        let decoded = mimi::decode(body)?;
        let claims = |claimed: Option<String>, is: &str| claimed.is_none_or(|claimed| claimed == is);
        let content = Self {
            sent: Some((MessageId::of(&sender, &room, body, &decoded.salt), decoded.salt)),
            mimi: decoded.mimi,
        };
        (claims(decoded.sender_uri, &sender) && claims(decoded.room_uri, &room) && !content.is_the_sdks())
            .then_some(content)
    }

    /// The SDK's own messages do not come from apps.
    fn is_the_sdks(&self) -> bool {
        matches!(&self.mimi.part.body, Body::Single { content_type, .. } if [GROUP_PROFILE, GROUP_RENAME].contains(&content_type.as_str()))
    }
}

fn encode(content_type: &str, body: &[u8]) -> Result<Vec<u8>, Error> {
    let mut payload = vec![VERSION];
    for part in [content_type.as_bytes(), body] {
        VLBytes::from(part)
            .tls_serialize(&mut payload)
            .map_err(|_| Error::InvalidInput("the content is too long"))?;
    }
    Ok(payload)
}

fn decode(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (&version, rest) = bytes.split_first()?;
    let (content_type, rest) = take_opaque(rest)?;
    let (body, rest) = take_opaque(rest)?;
    if version != VERSION || content_type.len() > MAX_CONTENT_TYPE || !rest.is_empty() {
        return None;
    }
    Some((std::str::from_utf8(content_type).ok()?, body))
}

/// Reads an `opaque<V>` (RFC 9420 §2.1.2). Not with tls_codec, whose debug builds panic where bytes are missing: what a member
/// sends must not stop anybody's engine.
fn take_opaque(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, mut rest) = bytes.split_first()?;
    let mut length = usize::from(first & 0x3F);
    let more = match first >> 6 {
        0 => 0,
        1 => 1,
        2 => 3,
        _ => return None,
    };
    for _ in 0..more {
        let (&next, after) = rest.split_first()?;
        length = (length << 8) | usize::from(next);
        rest = after;
    }
    let shortest = match length {
        0..0x40 => 0,
        0x40..0x4000 => 1,
        _ => 3,
    };
    if more == shortest {
        rest.split_at_checked(length)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId::from_bytes([7; 16]);

    fn alice() -> UserId {
        "alice@a.example".parse().unwrap()
    }

    fn read(payload: &[u8]) -> Option<Content> {
        Content::from_payload(payload, &alice(), GROUP, Position(5))
    }

    #[test]
    fn the_payload_format_stays_as_it_is() {
        let payload = Content::new("a/b", *b"xyz").to_payload().unwrap();
        let message = [
            &[0x87, 0x50][..],
            &payload[29..45],
            b"\xf6\x40\xf6\xf6\xa0\x85\x01\x60\x01\x63a/b\x43xyz",
        ];
        let message = message.concat();
        let length = u8::try_from(message.len()).unwrap();
        let expected = [&[1, 24][..], b"application/mimi-content", &[length], &message].concat();
        assert_eq!(payload, expected);
        assert_eq!(read(&payload), Some(Content::new("a/b", *b"xyz")));
    }

    #[test]
    fn the_same_said_twice_is_two_messages_and_everybody_calls_them_the_same() {
        let (one, two) = (Content::text("x"), Content::text("x"));
        let (one, two) = (one.to_payload().unwrap(), two.to_payload().unwrap());
        let (first, second) = (read(&one).unwrap(), read(&two).unwrap());
        assert_eq!(first, second, "they say the same");
        assert_ne!(first.id(), second.id());
        assert_eq!(first.id(), read(&one).unwrap().id());
        let by_bob =
            Content::from_payload(&one, &"bob@a.example".parse().unwrap(), GROUP, Position(5)).unwrap();
        assert_ne!(by_bob.id(), first.id());
    }

    #[test]
    fn other_payloads_are_not_read() {
        let good = Content::text("x").to_payload().unwrap();
        let mut newer = good.clone();
        newer[0] = 2;
        for bad in [
            Vec::new(),
            newer,
            [good.as_slice(), &[0]].concat(),
            good[..good.len() - 1].to_vec(),
        ] {
            assert_eq!(read(&bad), None);
        }
    }

    #[test]
    fn long_contents_are_read_back() {
        for length in [0, 63, 64, 16_383, 16_384, 100_000] {
            let content = Content::new("a/b", vec![7; length]);
            assert_eq!(read(&content.to_payload().unwrap()), Some(content));
        }
        // The length 3, but not in the shortest form.
        assert_eq!(read(&[1, 0x40, 3, b'a', b'/', b'b', 0]), None);
    }

    #[test]
    fn payloads_of_other_types_are_passed_on() {
        let payload = encode("application/vnd.other", b"xyz").unwrap();
        let content = read(&payload).unwrap();
        assert_eq!(
            (content.content_type(), content.body()),
            ("application/vnd.other", &b"xyz"[..])
        );
        let later = Content::from_payload(&payload, &alice(), GROUP, Position(6)).unwrap();
        assert_ne!(content.id(), later.id());
    }

    #[test]
    fn an_app_cannot_pose_as_the_library() {
        let posing = Content::new(GROUP_PROFILE, *b"x");
        assert!(posing.to_payload().is_err());
        let message = posing.mimi.encode(&[0; SALT]).unwrap();
        assert_eq!(read(&encode(MIMI, &message).unwrap()), None);
        let told = read(&Content::group_profile("Budget").unwrap()).unwrap();
        assert_eq!(
            (told.content_type(), told.body()),
            (GROUP_PROFILE, &b"Budget"[..])
        );
    }

    #[test]
    fn a_message_says_nothing_false_about_its_sender_or_group() {
        let with = |key: u8, uri: &str| {
            let mut content = Content::text("x");
            let length = u8::try_from(uri.len()).unwrap();
            content.mimi.extensions = [&[0xA1, key, 0x78, length][..], uri.as_bytes()].concat();
            read(&content.to_payload().unwrap())
        };
        assert!(with(1, "mimi://a.example/u/alice").is_some());
        assert!(with(1, "mimi://a.example/u/mallory").is_none());
        assert!(with(2, &room_uri(GROUP)).is_some());
        assert!(with(2, "urn:uuid:07070707-0707-0707-0707-070707070708").is_none());
    }
}
