//! What became of messages at somebody's: draft-mahy-mimi-message-status-01, in deterministic CBOR.

use minicbor::{Decoder, Encoder};

use super::message_id::MessageId;

/// The media type of a report.
pub(super) const MEDIA_TYPE: &str = "application/mimi-message-status";
/// Most messages of a report: as many as a screen shows, many times over.
pub(super) const MAX_MESSAGES: usize = 1024;

/// What became of a message at somebody's (draft-mahy-mimi-message-status-01 §3).
///
/// ```
/// use valise_client_sdk::ReceiptStatus;
///
/// assert_ne!(ReceiptStatus::DELIVERED, ReceiptStatus::READ);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReceiptStatus(pub u8);

impl ReceiptStatus {
    /// Not read (any more).
    pub const UNREAD: Self = Self(0);
    /// It has arrived.
    pub const DELIVERED: Self = Self(1);
    /// It was read.
    pub const READ: Self = Self(2);
}

pub(super) fn encode(report: &[(MessageId, ReceiptStatus)]) -> Vec<u8> {
    let mut to = Encoder::new(Vec::new());
    // Writing to a vector does not fail.
    let _ = write(&mut to, report);
    to.into_writer()
}

fn write(
    to: &mut Encoder<Vec<u8>>,
    report: &[(MessageId, ReceiptStatus)],
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    to.array(report.len() as u64)?;
    for (message, status) in report {
        to.array(2)?.bytes(message.as_bytes())?.u8(status.0)?;
    }
    Ok(())
}

pub(super) fn decode(bytes: &[u8]) -> Option<Vec<(MessageId, ReceiptStatus)>> {
    let mut from = Decoder::new(bytes);
    let length = usize::try_from(from.array().ok()??).ok()?;
    if length > MAX_MESSAGES {
        return None;
    }
    let mut report = Vec::new();
    for _ in 0..length {
        if from.array().ok()? != Some(2) {
            return None;
        }
        let message = MessageId::from_slice(from.bytes().ok()?)?;
        report.push((message, ReceiptStatus(from.u8().ok()?)));
    }
    (encode(&report) == bytes).then_some(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of §5.
    #[test]
    fn the_drafts_example_is_read_and_written() {
        let bytes = hex(concat!(
            "84",
            "825820017ce54837404c3696e0c747b985cb172716d0ed0a3d249ca63ace7d82a096f402",
            "825820015354973c2b65ca937bf1e035ae53a5ab80e947afa43d46920d4202e5cc0b2702",
            "825820018d825adf9f6be00dcafc5704c4102f5022e74219d0b603e4ba7622654042af00",
            "82582001e59db8173939facc2c8a4a0f0ae8d0c7a11a81239626630c9464a8d6717a0303",
        ));
        let report = decode(&bytes).unwrap();
        let statuses: Vec<_> = report.iter().map(|(_, status)| status.0).collect();
        assert_eq!(statuses, [2, 2, 0, 3]);
        assert_eq!(encode(&report), bytes);
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None);
        }
        assert_eq!(decode(&[bytes.as_slice(), &[0]].concat()), None);
        // The same length, written longer.
        assert_eq!(decode(&[&[0x98, 4], &bytes[1..]].concat()), None);
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits
            .chunks(2)
            .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
            .collect()
    }
}
