//! The form of messages: draft-ietf-mimi-content-09, in deterministic CBOR (§6; RFC 8949 §4.2.1).
//!
//! Whatever arrives here was sent by a member, but members may be hostile: reading is bounded in depth and number, and only the
//! one right encoding of a message is accepted. Nothing is kept of a message that breaks a rule.

mod write;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::message_id::{MessageId, SALT};
use super::part::{Body, Disposition, External, Part, Semantics};
use write::{write_id, write_part};

/// Deepest nesting, of parts and of extensions (§6.3).
const MAX_DEPTH: usize = 4;
/// Most parts of a message (§9.1).
const MAX_PARTS: usize = 1024;
/// Longest topic (§9.1).
const MAX_TOPIC: usize = 4096;
/// Longest name of an extension (§4.3), and our own bound for media types, languages and file names.
const MAX_NAME: usize = 255;
/// Our own bound for URLs, descriptions, and what encrypts external content.
const MAX_FIELD: usize = 8192;
/// Integer keys must be exact in a double (§6.2).
const MAX_KEY: i128 = (1 << 53) - 1;
/// Longest time until a message expires, in seconds (§9.1).
pub(super) const YEAR: u64 = 366 * 24 * 3600;
/// `{}`
const NO_EXTENSIONS: u8 = 0xA0;

type Output = Encoder<Vec<u8>>;
type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

/// A message without its salt (`mimiContent`, §4.1).
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Mimi {
    pub(super) replaces: Option<MessageId>,
    pub(super) topic: Vec<u8>,
    pub(super) expires: Option<Expires>,
    pub(super) in_reply_to: Option<MessageId>,
    /// The map as it was encoded: what this version does not know is passed on.
    pub(super) extensions: Vec<u8>,
    pub(super) part: Part,
}

/// What people write is not for logs.
impl std::fmt::Debug for Mimi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mimi({:?})", self.part)
    }
}

/// `Expiration`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Expires {
    pub(super) relative: bool,
    /// After reading, or since 1970-01-01 UTC.
    pub(super) seconds: u32,
}

/// What a message says about itself.
pub(super) struct Decoded {
    pub(super) mimi: Mimi,
    pub(super) salt: [u8; SALT],
    pub(super) sender_uri: Option<String>,
    pub(super) room_uri: Option<String>,
}

impl Mimi {
    pub(super) fn new(part: Part) -> Self {
        Self {
            replaces: None,
            topic: Vec::new(),
            expires: None,
            in_reply_to: None,
            extensions: vec![NO_EXTENSIONS],
            part,
        }
    }

    /// The bytes of a message. `None` if it breaks a limit, so that nothing is sent that others would refuse.
    pub(super) fn encode(&self, salt: &[u8; SALT]) -> Option<Vec<u8>> {
        let bytes = self.write(salt)?;
        decode(&bytes).map(|_| bytes)
    }

    /// The bytes of a message that keeps all limits: it was read before.
    pub(super) fn write(&self, salt: &[u8; SALT]) -> Option<Vec<u8>> {
        let mut to = Encoder::new(Vec::new());
        self.write_to(&mut to, salt).ok()?;
        Some(to.into_writer())
    }

    fn write_to(&self, to: &mut Output, salt: &[u8; SALT]) -> Written {
        to.array(7)?.bytes(salt)?;
        write_id(to, self.replaces)?;
        to.bytes(&self.topic)?;
        match self.expires {
            None => to.null()?,
            Some(expires) => to.array(2)?.bool(expires.relative)?.u32(expires.seconds)?,
        };
        write_id(to, self.in_reply_to)?;
        to.writer_mut().extend_from_slice(&self.extensions);
        write_part(to, &self.part)
    }
}

/// Reads a message; `None` where anything about it is wrong.
pub(super) fn decode(bytes: &[u8]) -> Option<Decoded> {
    let decoded = Reader {
        from: Decoder::new(bytes),
        parts: 0,
    }
    .message()?;
    // One encoding only: no longer lengths, no other order, nothing behind.
    (decoded.mimi.write(&decoded.salt)?.as_slice() == bytes).then_some(decoded)
}

struct Reader<'a> {
    from: Decoder<'a>,
    parts: usize,
}

impl Reader<'_> {
    fn message(&mut self) -> Option<Decoded> {
        self.array(7)?;
        let salt = self.from.bytes().ok()?.try_into().ok()?;
        let replaces = self.id()?;
        let topic = self.bytes(MAX_TOPIC)?;
        let expires = self.expires()?;
        let in_reply_to = self.id()?;
        let (extensions, sender_uri, room_uri) = self.extensions()?;
        let part = self.part(1)?;
        let mimi = Mimi {
            replaces,
            topic,
            expires,
            in_reply_to,
            extensions,
            part,
        };
        // Nothing is said only in place of something else (§4.4).
        (mimi.part.body != Body::Empty || replaces.is_some()).then_some(Decoded {
            mimi,
            salt,
            sender_uri,
            room_uri,
        })
    }

    fn array(&mut self, length: u64) -> Option<()> {
        (self.from.array().ok()? == Some(length)).then_some(())
    }

    fn bytes(&mut self, limit: usize) -> Option<Vec<u8>> {
        let bytes = self.from.bytes().ok()?;
        (bytes.len() <= limit).then(|| bytes.to_vec())
    }

    fn text(&mut self, limit: usize) -> Option<String> {
        let text = self.from.str().ok()?;
        (text.len() <= limit).then(|| text.to_owned())
    }

    fn is_null(&mut self) -> Option<bool> {
        let null = self.from.datatype().ok()? == Type::Null;
        if null {
            self.from.null().ok()?;
        }
        Some(null)
    }

    #[expect(clippy::option_option, reason = "the outer one is whether it can be read")]
    fn id(&mut self) -> Option<Option<MessageId>> {
        if self.is_null()? {
            return Some(None);
        }
        Some(Some(MessageId::from_slice(self.from.bytes().ok()?)?))
    }

    #[expect(clippy::option_option, reason = "the outer one is whether it can be read")]
    fn expires(&mut self) -> Option<Option<Expires>> {
        if self.is_null()? {
            return Some(None);
        }
        self.array(2)?;
        let relative = self.from.bool().ok()?;
        let seconds = self.from.u32().ok()?;
        if relative && u64::from(seconds) > YEAR {
            return None;
        }
        Some(Some(Expires { relative, seconds }))
    }

    /// The extensions as they are encoded, and the two that are known (§4.3, §8.2.1).
    fn extensions(&mut self) -> Option<(Vec<u8>, Option<String>, Option<String>)> {
        let mut to = Encoder::new(Vec::new());
        let (mut sender, mut room) = (None, None);
        let entries = self.from.map().ok()??;
        to.map(entries).ok()?;
        let mut last = Vec::new();
        for _ in 0..entries {
            last = self.key(&mut to, &last, true)?;
            match last.as_slice() {
                [1] => sender = Some(self.uri(&mut to)?),
                [2] => room = Some(self.uri(&mut to)?),
                _ => self.value(&mut to, 2)?,
            }
        }
        Some((to.into_writer(), sender, room))
    }

    fn uri(&mut self, to: &mut Output) -> Option<String> {
        let uri = self.text(MAX_FIELD)?;
        to.str(&uri).ok()?;
        Some(uri)
    }

    /// A key of a map, which is greater than the last (RFC 8949 §4.2.1). Those of extensions are numbers or names (§6.2).
    fn key(&mut self, to: &mut Output, last: &[u8], of_extension: bool) -> Option<Vec<u8>> {
        let mut key = Encoder::new(Vec::new());
        match self.from.datatype().ok()? {
            Type::String => {
                let name = self.from.str().ok()?;
                if of_extension && !(1..=MAX_NAME).contains(&name.len()) {
                    return None;
                }
                key.str(name).ok()?;
            }
            Type::Bytes if !of_extension => {
                key.bytes(self.from.bytes().ok()?).ok()?;
            }
            _ => {
                let number = self.from.int().ok()?;
                if !(-MAX_KEY..=MAX_KEY).contains(&i128::from(number)) {
                    return None;
                }
                key.int(number).ok()?;
            }
        }
        let key = key.into_writer();
        to.writer_mut().extend_from_slice(&key);
        (last < key.as_slice()).then_some(key)
    }

    /// Any value, at that level of nesting if it has something inside.
    fn value(&mut self, to: &mut Output, depth: usize) -> Option<()> {
        let kind = self.from.datatype().ok()?;
        if matches!(kind, Type::Array | Type::Map | Type::Tag) && depth > MAX_DEPTH {
            return None;
        }
        match kind {
            Type::Bool => to.bool(self.from.bool().ok()?).ok()?.ok().ok(),
            Type::Null => {
                self.from.null().ok()?;
                to.null().ok()?.ok().ok()
            }
            Type::Undefined => {
                self.from.undefined().ok()?;
                to.undefined().ok()?.ok().ok()
            }
            Type::Simple => to.simple(self.from.simple().ok()?).ok()?.ok().ok(),
            Type::Bytes => to.bytes(self.from.bytes().ok()?).ok()?.ok().ok(),
            Type::String => to.str(self.from.str().ok()?).ok()?.ok().ok(),
            Type::F16 => self.float(to, 3),
            Type::F32 => self.float(to, 5),
            Type::F64 => self.float(to, 9),
            Type::Tag => {
                to.tag(self.from.tag().ok()?).ok()?;
                self.value(to, depth + 1)
            }
            Type::Array => {
                let length = self.from.array().ok()??;
                to.array(length).ok()?;
                (0..length).try_for_each(|_| self.value(to, depth + 1))
            }
            Type::Map => {
                let length = self.from.map().ok()??;
                to.map(length).ok()?;
                let mut last = Vec::new();
                for _ in 0..length {
                    last = self.key(to, &last, false)?;
                    self.value(to, depth + 1)?;
                }
                Some(())
            }
            Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::Int => to.int(self.from.int().ok()?).ok()?.ok().ok(),
            // Of indefinite length, or not of this world.
            _ => None,
        }
    }

    /// Passed on as it is. Of the many that are not numbers only one may be sent (§6.2).
    fn float(&mut self, to: &mut Output, length: usize) -> Option<()> {
        let start = self.from.position();
        let raw = self.from.input().get(start..start.checked_add(length)?)?;
        let (_, value) = raw.split_first()?;
        let is_number = match value.len() {
            2 => {
                let half = u16::from_be_bytes(value.try_into().ok()?);
                half & 0x7C00 != 0x7C00 || half.trailing_zeros() >= 10 || half == 0x7E00
            }
            4 => !f32::from_be_bytes(value.try_into().ok()?).is_nan(),
            _ => !f64::from_be_bytes(value.try_into().ok()?).is_nan(),
        };
        to.writer_mut().extend_from_slice(raw);
        self.from.set_position(start + length);
        is_number.then_some(())
    }

    fn part(&mut self, depth: usize) -> Option<Part> {
        self.parts += 1;
        if depth > MAX_DEPTH || self.parts > MAX_PARTS {
            return None;
        }
        let fields = self.from.array().ok()??;
        let disposition = Disposition(self.from.u8().ok()?);
        let language = self.text(MAX_NAME)?;
        let body = match (self.from.u8().ok()?, fields) {
            (0, 3) => Body::Empty,
            (1, 5) => Body::Single {
                content_type: self.text(MAX_NAME)?,
                content: self.bytes(usize::MAX)?,
            },
            (2, 15) => Body::External(Box::new(self.external()?)),
            (3, 5) => self.multi(depth)?,
            _ => return None,
        };
        Some(Part {
            disposition,
            language,
            body,
        })
    }

    fn external(&mut self) -> Option<External> {
        Some(External {
            content_type: self.text(MAX_NAME)?,
            url: self.text(MAX_FIELD)?,
            expires: self.from.u32().ok()?,
            size: self.from.u64().ok()?,
            encryption: self.from.u16().ok()?,
            key: self.bytes(MAX_FIELD)?,
            nonce: self.bytes(MAX_FIELD)?,
            aad: self.bytes(MAX_FIELD)?,
            hash_algorithm: self.from.u8().ok()?,
            hash: self.bytes(MAX_FIELD)?,
            description: self.text(MAX_FIELD)?,
            filename: self.text(MAX_NAME)?,
        })
    }

    fn multi(&mut self, depth: usize) -> Option<Body> {
        let semantics = match self.from.u8().ok()? {
            0 => Semantics::ChooseOne,
            1 => Semantics::SingleUnit,
            2 => Semantics::ProcessAll,
            _ => return None,
        };
        let length = self.from.array().ok()??;
        if length < 2 {
            return None;
        }
        let parts = (0..length).map(|_| self.part(depth + 1)).collect::<Option<_>>()?;
        Some(Body::Multi { semantics, parts })
    }
}

#[cfg(test)]
mod tests;
