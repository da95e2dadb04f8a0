//! What must be true, and what was said so that it can be looked for.

use std::collections::HashMap;

use serde::Serialize;
use valise_client_sdk::{DeviceId, Position, StoreKey};

use super::people::Heard;

/// Something that must be true.
#[derive(Clone, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    detail: String,
}

impl Check {
    pub(super) fn new(name: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self {
            name,
            ok,
            detail: detail.into(),
        }
    }

    pub(super) fn line(&self) -> String {
        let mark = if self.ok { "ok" } else { "WRONG" };
        format!("  [{mark}] {} ({})", self.name, self.detail)
    }
}

/// Words that appear in every message and in the group's name, and nowhere else in the world.
pub(super) struct Secrets {
    mark: String,
}

impl Secrets {
    pub(super) fn new() -> Self {
        let random = StoreKey::random();
        Self {
            mark: format!("secret-{}", hex::encode(&random.as_bytes()[..6])),
        }
    }

    /// What is searched for.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    pub(super) fn group_name(&self) -> String {
        format!("Budget {}", self.mark)
    }

    pub(super) fn message(&self, round: usize, number: usize, speaker: &str) -> String {
        format!("{} {round}.{number} says {speaker}", self.mark)
    }
}

/// What part of the log a device may read.
pub(super) struct Entitlement {
    pub(super) device: DeviceId,
    /// Everything after it.
    since: Position,
    /// Nothing after it.
    pub(super) until: Option<Position>,
}

impl Entitlement {
    pub(super) fn since(device: DeviceId, since: Position) -> Self {
        Self {
            device,
            since,
            until: None,
        }
    }

    fn covers(&self, position: Position) -> bool {
        position > self.since && self.until.is_none_or(|until| position <= until)
    }
}

/// Compares what each device heard with what it may hear.
pub(super) fn entitlements<'d>(
    entitlements: &[Entitlement],
    said: &[Heard],
    heard: impl Iterator<Item = (DeviceId, &'d [Heard])>,
) -> Vec<Check> {
    let heard: HashMap<DeviceId, &[Heard]> = heard.collect();
    let of = |entitlement: &Entitlement| heard.get(&entitlement.device).copied().unwrap_or_default();
    let exact = entitlements
        .iter()
        .filter(|entitlement| {
            let may: Vec<&Heard> = said
                .iter()
                .filter(|said| entitlement.covers(said.position))
                .collect();
            of(entitlement).iter().eq(may)
        })
        .count();
    let (late, early): (Vec<&Entitlement>, Vec<&Entitlement>) = (
        entitlements
            .iter()
            .filter(|entitlement| entitlement.since != Position::NONE)
            .collect(),
        entitlements
            .iter()
            .filter(|entitlement| entitlement.until.is_some())
            .collect(),
    );
    let before = |entitlement: &Entitlement| {
        said.iter()
            .filter(|said| said.position <= entitlement.since)
            .count()
    };
    let after = |entitlement: &Entitlement| {
        said.iter()
            .filter(|said| entitlement.until.is_some_and(|until| said.position > until))
            .count()
    };
    let within = |entitlement: &&Entitlement| {
        of(entitlement)
            .iter()
            .all(|heard| entitlement.covers(heard.position))
    };
    vec![
        Check::new(
            "every device shows exactly what it may read, each message once, all in one order",
            exact == entitlements.len() && heard.len() == entitlements.len(),
            format!("{exact} of {} devices", entitlements.len()),
        ),
        Check::new(
            "a new device cannot read back",
            !late.is_empty() && late.iter().all(|late| before(late) > 0) && late.iter().all(within),
            format!(
                "{} messages before it",
                late.first().map_or(0, |late| before(late))
            ),
        ),
        Check::new(
            "a removed device has nothing of what was said later",
            !early.is_empty() && early.iter().all(|early| after(early) > 0) && early.iter().all(within),
            format!(
                "{} messages after it",
                early.first().map_or(0, |early| after(early))
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u8) -> DeviceId {
        format!("00000000-0000-4000-8000-0000000000{number:02x}")
            .parse()
            .unwrap()
    }

    fn said(positions: &[u64]) -> Vec<Heard> {
        let heard = |position: &u64| Heard {
            position: Position(*position),
            sender: device(1),
            text: format!("text {position}"),
        };
        positions.iter().map(heard).collect()
    }

    /// Of: all that may be read, reading back, reading on.
    fn judge(old: &[u64], removed: &[u64], new: &[u64]) -> Vec<bool> {
        let who = [
            Entitlement::since(device(1), Position::NONE),
            Entitlement {
                until: Some(Position(4)),
                ..Entitlement::since(device(2), Position::NONE)
            },
            Entitlement::since(device(3), Position(6)),
        ];
        let heard = [
            (device(1), said(old)),
            (device(2), said(removed)),
            (device(3), said(new)),
        ];
        let heard = heard.iter().map(|(device, heard)| (*device, heard.as_slice()));
        entitlements(&who, &said(&[2, 3, 5, 7]), heard)
            .iter()
            .map(|check| check.ok)
            .collect()
    }

    #[test]
    fn what_should_be_heard_is_told_from_what_should_not() {
        assert_eq!(judge(&[2, 3, 5, 7], &[2, 3], &[7]), [true, true, true]);
        assert_eq!(
            judge(&[2, 3, 5], &[2, 3], &[7]),
            [false, true, true],
            "one is missing"
        );
        assert_eq!(
            judge(&[2, 5, 3, 7], &[2, 3], &[7]),
            [false, true, true],
            "another order"
        );
        assert_eq!(
            judge(&[2, 3, 3, 5, 7], &[2, 3], &[7]),
            [false, true, true],
            "one is there twice"
        );
        assert_eq!(
            judge(&[2, 3, 5, 7], &[2, 3, 5], &[7]),
            [false, true, false],
            "reads on"
        );
        assert_eq!(
            judge(&[2, 3, 5, 7], &[2, 3], &[5, 7]),
            [false, false, true],
            "reads back"
        );
    }

    #[test]
    fn every_text_has_the_mark() {
        let secrets = Secrets::new();
        assert!(secrets.message(1, 2, "alice/phone").contains(secrets.mark()));
        assert!(secrets.group_name().contains(secrets.mark()));
        assert_ne!(secrets.mark(), Secrets::new().mark());
    }
}
