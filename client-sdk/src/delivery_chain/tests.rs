use proptest::prelude::*;

use super::*;

/// The specification: what it gives as test vectors is what this code computes.
const SPECIFICATION: &str = include_str!("../../../docs/verifiable-delivery.md");

fn link(position: u64) -> Link<'static> {
    Link {
        position: Position(position),
        kind: 3,
        epoch: 5,
        accepted_at: 1_700_000_000_123,
        entry_id: &[1, 2, 3, 4, 5, 6, 7, 8],
        sender: b"0b000000-0000-4000-8000-000000000002",
        message: b"first message",
    }
}

/// Name and value of each vector, in the order of the document.
fn computed() -> Vec<(&'static str, String)> {
    let context: Vec<u8> = (0..=99).collect();
    let origin = ChainValue::origin(Position(41), &context);
    let start = origin.start(1_700_000_000_000, &[9; 8]);
    let first = start.then(&link(42));
    let second = first.then(&Link {
        kind: 2,
        accepted_at: 1_700_000_000_456,
        entry_id: &[0xFF; 8],
        sender: b"",
        message: b"a proposal of the service",
        ..link(43)
    });
    let created = ChainValue::origin(Position::NONE, &context).start(0, b"");
    let claim = Claim {
        position: Position(43),
        value: second,
    };
    let claim: Vec<_> = claim.to_aad().iter().map(|byte| format!("{byte:02x}")).collect();
    let claim = claim.concat();
    vec![
        ("origin", origin.to_string()),
        ("start", start.to_string()),
        ("value at 42", first.to_string()),
        ("value at 43", second.to_string()),
        ("start of epoch 0", created.to_string()),
        ("claim", claim),
    ]
}

#[test]
fn the_specification_has_the_values_that_this_computes() {
    let given: Vec<(String, String)> = SPECIFICATION
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| vector ")?.split('|').map(str::trim);
            Some((
                cells.next()?.to_owned(),
                cells.next()?.trim_matches('`').to_owned(),
            ))
        })
        .collect();
    let computed: Vec<(String, String)> = computed()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    assert_eq!(given, computed);
}

#[test]
fn everything_that_the_service_says_of_an_entry_is_in_the_value() {
    let before = ChainValue::origin(Position(1), b"context");
    let value = before.then(&link(2));
    let others = [
        link(3),
        Link { kind: 2, ..link(2) },
        Link { epoch: 6, ..link(2) },
        Link {
            accepted_at: 1_700_000_000_124,
            ..link(2)
        },
        Link {
            entry_id: b"other id",
            ..link(2)
        },
        Link {
            sender: b"",
            ..link(2)
        },
        Link {
            message: b"another message",
            ..link(2)
        },
        // The same bytes, cut elsewhere.
        Link {
            entry_id: b"ab",
            sender: b"c",
            ..link(2)
        },
        Link {
            entry_id: b"a",
            sender: b"bc",
            ..link(2)
        },
    ];
    let mut values = vec![value, ChainValue::origin(Position(1), b"other").then(&link(2))];
    values.extend(others.iter().map(|other| before.then(other)));
    for (number, one) in values.iter().enumerate() {
        assert!(!values[..number].contains(one), "{number}");
    }
    let origin = ChainValue::origin(Position(1), b"x");
    assert_ne!(origin, ChainValue::origin(Position(2), b"x"));
    assert_ne!(origin.start(1, b"id"), origin.start(2, b"id"));
    assert_ne!(origin.start(1, b"id"), origin.start(1, b"di"));
}

#[test]
fn what_is_no_claim_of_this_version_says_nothing() {
    let claim = Claim {
        position: Position(7),
        value: ChainValue([3; 32]),
    };
    let aad = claim.to_aad();
    assert_eq!(Claim::read(&aad), Said::Claim(claim));
    assert_eq!(Claim::read(b""), Said::Nothing);
    assert_eq!(Claim::read(b"of another client"), Said::Nothing);
    let mut later = aad.clone();
    later[7] = 2;
    later.push(0);
    assert_eq!(Claim::read(&later), Said::Nothing);
    for length in MAGIC.len()..aad.len() {
        assert_eq!(Claim::read(&aad[..length]), Said::Malformed, "{length}");
    }
    let longer = [aad.as_slice(), &[0]].concat();
    assert_eq!(Claim::read(&longer), Said::Malformed);
}

proptest! {
    #[test]
    fn any_bytes_are_read_in_one_way(rest in proptest::collection::vec(any::<u8>(), 0..60), ours: bool) {
        let aad = if ours { [MAGIC, &[0, 1], &rest].concat() } else { rest };
        if let Said::Claim(claim) = Claim::read(&aad) {
            prop_assert_eq!(claim.to_aad(), aad);
        }
    }
}
