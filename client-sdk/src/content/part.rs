//! Bodies of messages, which can be nested.

/// How a part is meant (draft-ietf-mimi-content-09 §4.4, §8.2.2). Unknown values are to be treated like [`Self::RENDER`].
///
/// ```
/// use valise_client_sdk::Disposition;
///
/// assert_ne!(Disposition::INLINE, Disposition::ATTACHMENT);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Disposition(pub u8);

impl Disposition {
    /// To be shown.
    pub const RENDER: Self = Self(1);
    /// A reaction to another message, such as an emoji.
    pub const REACTION: Self = Self(2);
    /// To be shown among the messages.
    pub const INLINE: Self = Self(4);
    /// To be downloaded.
    pub const ATTACHMENT: Self = Self(6);
    /// A preview that the sender made.
    pub const PREVIEW: Self = Self(8);
}

/// What belongs together how (§4.4).
///
/// ```
/// use valise_client_sdk::{Body, Content, Disposition, Part, Semantics};
///
/// let part = |content_type: &str, content: &str| Part {
///     disposition: Disposition::RENDER,
///     language: String::new(),
///     body: Body::Single { content_type: content_type.to_owned(), content: content.as_bytes().to_vec() },
/// };
/// // The same twice: the receiver shows what it knows best.
/// let either = Content::from_part(Part {
///     disposition: Disposition::RENDER,
///     language: String::new(),
///     body: Body::Multi {
///         semantics: Semantics::ChooseOne,
///         parts: vec![
///             part("text/markdown;charset=utf-8", "**Bonjour**"),
///             part("text/plain;charset=utf-8", "Bonjour"),
///         ],
///     },
/// });
/// assert_eq!(either.as_text(), Some("**Bonjour**"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Semantics {
    /// The receiver takes one of the parts.
    ChooseOne,
    /// All parts, or none if one of them is not understood.
    SingleUnit,
    /// Each part that is understood.
    ProcessAll,
}

/// A body, or a part of one (`NestedPart`, §4.4). Parts are nested at most 4 levels deep, and a message has at most 1,024.
///
/// ```
/// use valise_client_sdk::{Body, Content, Disposition, Part};
///
/// let french = Content::from_part(Part {
///     disposition: Disposition::RENDER,
///     language: "fr".to_owned(),
///     body: Body::Single {
///         content_type: "text/plain;charset=utf-8".to_owned(),
///         content: b"Bonjour".to_vec(),
///     },
/// });
/// assert_eq!(french.part().language, "fr");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// How it is meant.
    pub disposition: Disposition,
    /// Language tags (RFC 5646), separated by commas; or empty.
    pub language: String,
    /// What it is.
    pub body: Body,
}

/// What a part is.
///
/// ```
/// use valise_client_sdk::{Body, Content};
///
/// assert!(matches!(Content::text("Bonjour").part().body, Body::Single { .. }));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// Nothing: of a message that deletes another.
    Empty,
    /// Bytes of a media type.
    Single {
        /// The media type (RFC 6838), at most 255 bytes.
        content_type: String,
        /// The bytes.
        content: Vec<u8>,
    },
    /// Something that is fetched from elsewhere. The SDK does not fetch it.
    External(Box<External>),
    /// At least two parts.
    Multi {
        /// How they belong together.
        semantics: Semantics,
        /// The parts.
        parts: Vec<Part>,
    },
}

/// Content that is elsewhere, usually encrypted (§4.5).
///
/// ```
/// use valise_client_sdk::External;
///
/// let file = External {
///     content_type: "application/pdf".to_owned(),
///     url: "https://files.interieur.example/7c1e".to_owned(),
///     size: 123_456,
///     filename: "budget.pdf".to_owned(),
///     ..External::default()
/// };
/// assert_eq!(file.encryption, 0); // it lies there in clear: better not
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct External {
    /// The media type.
    pub content_type: String,
    /// Where it can be fetched.
    pub url: String,
    /// Until when, in seconds since 1970-01-01 UTC; 0: for ever.
    pub expires: u32,
    /// Its size in bytes; 0: unknown.
    pub size: u64,
    /// AEAD algorithm (IANA) with which it is encrypted; 0: it is not.
    pub encryption: u16,
    /// AEAD key.
    pub key: Vec<u8>,
    /// AEAD nonce.
    pub nonce: Vec<u8>,
    /// AEAD additional data.
    pub aad: Vec<u8>,
    /// Named information hash algorithm (IANA); 0: none.
    pub hash_algorithm: u8,
    /// Hash of what is at the URL.
    pub hash: Vec<u8>,
    /// A description.
    pub description: String,
    /// A file name that the sender suggests. It is to be cleaned before it is used.
    pub filename: String,
}

impl Part {
    pub(super) fn single(disposition: Disposition, content_type: String, content: Vec<u8>) -> Self {
        Self {
            disposition,
            language: String::new(),
            body: Body::Single {
                content_type,
                content,
            },
        }
    }

    /// The parts that hold bytes, depth first.
    pub(super) fn singles(&self) -> Vec<(&str, &[u8])> {
        match &self.body {
            Body::Single {
                content_type,
                content,
            } => vec![(content_type.as_str(), content.as_slice())],
            Body::Multi { parts, .. } => parts.iter().flat_map(Self::singles).collect(),
            Body::Empty | Body::External(_) => Vec::new(),
        }
    }
}

/// The text of bytes of that type, where they are one. Markdown may be shown as it is (§7.1).
pub(super) fn text_of<'a>((content_type, content): (&str, &'a [u8])) -> Option<&'a str> {
    let mut parameters = content_type.split(';').map(str::trim);
    let media_type = parameters.next()?;
    let is_text = ["text/plain", "text/markdown"]
        .iter()
        .any(|text| media_type.eq_ignore_ascii_case(text));
    let readable = parameters.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
            let value = value.trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("us-ascii")
        }
        _ => true,
    });
    (is_text && readable)
        .then(|| std::str::from_utf8(content).ok())
        .flatten()
}

/// What people write is not for logs, nor are the keys of what they attach.
impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut part = f.debug_struct("Part");
        part.field("disposition", &self.disposition.0);
        match &self.body {
            Body::Empty => part.field("body", &"empty"),
            Body::Single {
                content_type,
                content,
            } => part
                .field("content_type", content_type)
                .field("bytes", &content.len()),
            Body::External(external) => part.field("external", &external.content_type),
            Body::Multi { parts, .. } => part.field("parts", parts),
        };
        part.finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Single { .. } => "Single",
            Self::External(_) => "External",
            Self::Multi { .. } => "Multi",
        })
    }
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "External({}, {} bytes)", self.content_type, self.size)
    }
}
