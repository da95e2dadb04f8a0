//! Writing the parts of a message.

use super::{Body, MessageId, Output, Part, Semantics, Written};

pub(super) fn write_id(to: &mut Output, id: Option<MessageId>) -> Written {
    match id {
        None => to.null()?,
        Some(id) => to.bytes(id.as_bytes())?,
    };
    Ok(())
}

pub(super) fn write_part(to: &mut Output, part: &Part) -> Written {
    let fields = match &part.body {
        Body::Empty => 3,
        Body::Single { .. } | Body::Multi { .. } => 5,
        Body::External(_) => 15,
    };
    to.array(fields)?.u8(part.disposition.0)?.str(&part.language)?;
    match &part.body {
        Body::Empty => to.u8(0)?.ok(),
        Body::Single {
            content_type,
            content,
        } => to.u8(1)?.str(content_type)?.bytes(content)?.ok(),
        Body::External(external) => {
            to.u8(2)?.str(&external.content_type)?.str(&external.url)?;
            to.u32(external.expires)?.u64(external.size)?;
            to.u16(external.encryption)?.bytes(&external.key)?;
            to.bytes(&external.nonce)?.bytes(&external.aad)?;
            to.u8(external.hash_algorithm)?.bytes(&external.hash)?;
            to.str(&external.description)?.str(&external.filename)?.ok()
        }
        Body::Multi { semantics, parts } => {
            to.u8(3)?.u8(match semantics {
                Semantics::ChooseOne => 0,
                Semantics::SingleUnit => 1,
                Semantics::ProcessAll => 2,
            })?;
            to.array(parts.len() as u64)?;
            parts.iter().try_for_each(|part| write_part(to, part))
        }
    }
}
