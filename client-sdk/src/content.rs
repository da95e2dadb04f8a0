//! What application messages carry.

use tls_codec::{Serialize as _, VLBytes};

use crate::Error;

const TEXT: &str = "text/plain;charset=utf-8";
/// The group's name, told to those who were just added by the one who added them. Not an app's.
pub(crate) const GROUP_PROFILE: &str = "application/vnd.valise.group-profile";
/// Another name for the group. Not an app's.
pub(crate) const GROUP_RENAME: &str = "application/vnd.valise.group-rename";
const MAX_CONTENT_TYPE: usize = 255;
const VERSION: u8 = 1;

/// What a message says: bytes and the media type (RFC 6838) that tells how to read them.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    content_type: String,
    body: Vec<u8>,
}

impl Content {
    /// Bytes of that media type.
    pub fn new(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            content_type: content_type.into(),
            body: body.into(),
        }
    }

    /// Plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(TEXT, text.into().into_bytes())
    }

    /// The media type.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The bytes.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        if self.content_type == TEXT {
            std::str::from_utf8(&self.body).ok()
        } else {
            None
        }
    }

    /// The payload of an application message, for what an app sends.
    ///
    /// ```text
    /// struct { uint8 version = 1; opaque content_type<V>; opaque body<V>; } Payload;
    /// ```
    pub(crate) fn to_payload(&self) -> Result<Vec<u8>, Error> {
        if [GROUP_PROFILE, GROUP_RENAME].contains(&self.content_type.as_str()) {
            return Err(Error::InvalidInput("the content type is reserved"));
        }
        self.encode()
    }

    pub(crate) fn group_profile(name: &str) -> Result<Vec<u8>, Error> {
        Self::new(GROUP_PROFILE, name.as_bytes()).encode()
    }

    pub(crate) fn group_rename(name: &str) -> Result<Vec<u8>, Error> {
        Self::new(GROUP_RENAME, name.as_bytes()).encode()
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        if self.content_type.is_empty() || self.content_type.len() > MAX_CONTENT_TYPE {
            return Err(Error::InvalidInput("the content type has 1 to 255 bytes"));
        }
        let mut payload = vec![VERSION];
        for part in [self.content_type.as_bytes(), &self.body] {
            VLBytes::from(part)
                .tls_serialize(&mut payload)
                .map_err(|_| Error::InvalidInput("the content is too long"))?;
        }
        Ok(payload)
    }

    pub(crate) fn from_payload(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (content_type, rest) = take_opaque(rest)?;
        let (body, rest) = take_opaque(rest)?;
        if version != VERSION || content_type.len() > MAX_CONTENT_TYPE || !rest.is_empty() {
            return None;
        }
        Some(Self {
            content_type: std::str::from_utf8(content_type).ok()?.to_owned(),
            body: body.to_vec(),
        })
    }
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

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

/// What people write is not for logs.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("content_type", &self.content_type)
            .field("bytes", &self.body.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_format_stays_as_it_is() {
        let payload = Content::new("a/b", *b"xyz").to_payload().unwrap();
        assert_eq!(payload, [&[1, 3][..], b"a/b", &[3], b"xyz"].concat());
        assert_eq!(
            Content::from_payload(&payload),
            Some(Content::new("a/b", *b"xyz"))
        );
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
            assert_eq!(Content::from_payload(&bad), None);
        }
    }

    #[test]
    fn long_contents_are_read_back() {
        for length in [0, 63, 64, 16_383, 16_384, 100_000] {
            let content = Content::new("a/b", vec![7; length]);
            assert_eq!(
                Content::from_payload(&content.to_payload().unwrap()),
                Some(content)
            );
        }
        // The length 3, but not in the shortest form.
        assert_eq!(Content::from_payload(&[1, 0x40, 3, b'a', b'/', b'b', 0]), None);
    }

    #[test]
    fn an_app_cannot_pose_as_the_library() {
        for reserved in [GROUP_PROFILE, GROUP_RENAME] {
            assert!(Content::new(reserved, *b"x").to_payload().is_err());
        }
    }

    #[test]
    fn debug_does_not_tell_what_was_written() {
        assert!(!format!("{:?}", Content::text("secret")).contains("secret"));
    }
}
