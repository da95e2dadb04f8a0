//! What comes in from outside is read here, into types that can only be valid.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use valise_group_rules::RuleViolation;
use valise_proto::{EntryId, GroupId, IdempotencyKey, Reason, Refusal};

/// A field that must hold 1 to `limit` bytes.
pub(crate) fn sized<'a>(field: &str, bytes: &'a [u8], limit: usize) -> Result<&'a [u8], Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::malformed(field));
    }
    if bytes.len() > limit {
        return Err(Refusal::too_large(field, limit));
    }
    Ok(bytes)
}

pub(crate) fn group_id(field: &str, bytes: &[u8]) -> Result<GroupId, Refusal> {
    GroupId::try_from(bytes).map_err(|_| Refusal::malformed(field))
}

/// What tells one submission from another, and from its own repeats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Submission {
    pub(crate) key: IdempotencyKey,
    /// The client may have sent it before.
    pub(crate) may_be_repeat: bool,
}

impl Submission {
    pub(crate) fn read(key: &[u8], may_be_repeat: bool) -> Result<Self, Refusal> {
        let key = idempotency_key(key)?;
        Ok(Self { key, may_be_repeat })
    }
}

pub(crate) fn idempotency_key(bytes: &[u8]) -> Result<IdempotencyKey, Refusal> {
    IdempotencyKey::try_from(bytes).map_err(|_| Refusal::malformed("idempotency_key"))
}

/// A message that cannot even be read is `MALFORMED`; one that can be read and breaks a rule has that rule's reason.
pub(crate) fn unreadable(field: &'static str) -> impl Fn(RuleViolation) -> Refusal {
    move |violation| Refusal::malformed(field).with("rule", violation.0)
}

/// A rule's refusal.
pub(crate) fn broken(reason: Reason) -> impl Fn(RuleViolation) -> Refusal {
    move |violation| Refusal::new(reason).with("rule", violation.0)
}

/// Milliseconds since 1970-01-01 UTC as the wire has it.
pub(crate) fn timestamp(unix_millis: u64) -> prost_types::Timestamp {
    let at: SystemTime = UNIX_EPOCH + Duration::from_millis(unix_millis);
    at.into()
}

/// A new entry's id.
pub(crate) fn new_entry_id() -> EntryId {
    EntryId::random(&mut rand::rng())
}
