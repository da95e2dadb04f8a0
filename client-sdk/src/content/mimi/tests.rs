use proptest::prelude::*;

use super::*;

const EXAMPLES: &str = include_str!("examples.txt");
const ROOM: &str = "mimi://example.com/r/engineering_team";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

fn examples() -> impl Iterator<Item = (&'static str, &'static str, MessageId, Vec<u8>)> {
    let lines = EXAMPLES.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [name, sender, id, message] = fields[..] else {
            panic!("{line}")
        };
        (name, sender, id.parse().unwrap(), hex(message))
    })
}

fn example(wanted: &str) -> Vec<u8> {
    examples().find(|(name, ..)| *name == wanted).unwrap().3
}

#[test]
fn the_drafts_examples_are_read_and_written_and_have_their_ids() {
    let mut count = 0;
    for (name, sender, id, message) in examples() {
        let decoded = decode(&message).unwrap_or_else(|| panic!("{name} is not read"));
        assert_eq!(decoded.mimi.encode(&decoded.salt).unwrap(), message, "{name}");
        assert_eq!(MessageId::of(sender, ROOM, &message, &decoded.salt), id, "{name}");
        assert_eq!(decoded.sender_uri.as_deref(), Some(sender), "{name}");
        assert_eq!(decoded.room_uri.as_deref(), Some(ROOM), "{name}");
        count += 1;
    }
    assert_eq!(count, 13);
}

#[test]
fn what_the_examples_say_is_understood() {
    let ids: Vec<_> = examples().map(|(_, _, id, _)| id).collect();
    let edit = decode(&example("edit")).unwrap().mimi;
    assert_eq!((edit.replaces, edit.in_reply_to), (Some(ids[1]), Some(ids[0])));
    let delete = decode(&example("delete")).unwrap().mimi;
    assert!(delete.part.body == Body::Empty && delete.replaces == Some(ids[1]));
    let expiring = decode(&example("expiring")).unwrap().mimi.expires.unwrap();
    assert!(!expiring.relative && expiring.seconds == 1_644_390_004);
    let conference = decode(&example("conferencing")).unwrap().mimi;
    assert_eq!(conference.topic, b"Foo 118");
    assert!(
        matches!(conference.part.body, Body::External(external) if external.url == "https://example.com/join/12345")
    );
    let nested = decode(&example("multipart-3")).unwrap().mimi.part;
    assert_eq!(nested.singles().len(), 6);
}

#[test]
fn there_is_one_encoding_of_a_message() {
    let good = example("original");
    let at = good.len() - 59;
    assert_eq!(good[at..at + 2], [0x58, 0x39], "the length of the text");
    // A longer length, an indefinite one, something behind.
    let longer = [&good[..at], &[0x59, 0, 0x39], &good[at + 2..]].concat();
    let indefinite = [&good[..at], &[0x5F, 0x58, 0x39], &good[at + 2..], &[0xFF]].concat();
    let more = [good.as_slice(), &[0]].concat();
    let mut array = good.clone();
    array[0] = 0x88;
    for bad in [longer, indefinite, more, array] {
        assert!(decode(&bad).is_none());
    }
    for cut in 0..good.len() {
        assert!(decode(&good[..cut]).is_none(), "cut at {cut}");
    }
}

/// A message with these extensions.
fn with_extensions(extensions: &str) -> Option<Decoded> {
    let part = Part::single(Disposition::RENDER, "a/b".to_owned(), b"x".to_vec());
    let mut mimi = Mimi::new(part);
    mimi.extensions = hex(extensions);
    decode(&mimi.write(&[7; SALT]).unwrap())
}

#[test]
fn unknown_extensions_are_passed_on() {
    // {1: "a", 256: [[h'1234', 32("http://example.com")], [h'3456', 5771]]}, the example of §6.3.
    let example =
        "a201616119010082824212 34d82072687474703a2f2f6578616d706c652e636f6d8242345619168b".replace(' ', "");
    let decoded = with_extensions(&example).unwrap();
    assert_eq!(decoded.mimi.extensions, hex(&example));
    assert_eq!(decoded.sender_uri.as_deref(), Some("a"));
    for good in [
        "a0",
        "a103a1412001",
        "a1613001",
        "a120f97e00",
        "a103fb3ff199999999999a",
        "a103f6",
        "a103f5",
        "a103f7",
    ] {
        assert!(with_extensions(good).is_some(), "{good}");
    }
}

#[test]
fn bad_extensions_are_refused() {
    for (what, bad) in [
        ("two of one name", "a203000300"),
        ("not sorted", "a204000300"),
        ("a name of bytes", "a1410300"),
        ("no name", "a16000"),
        ("a name that is no number of a double", "a11b002000000000000000"),
        ("a sender that is no text", "a10101"),
        ("not sorted inside", "a103a204000300"),
        ("an array inside by floating point", "a103a1f9000000"),
        ("too deep", "a1038181818100"),
        ("too deep in tags", "a10381d820d820d82000"),
        ("of indefinite length", "bf0300ff"),
        ("a number written longer", "a1031801"),
        ("not a number", "a103f97e01"),
        ("not a number, longer", "a103fa7fc00000"),
        ("no UTF-8", "a10361ff"),
    ] {
        assert!(with_extensions(bad).is_none(), "{what}");
    }
    assert!(with_extensions("a10381818100").is_some(), "just deep enough");
}

fn nested(depth: usize) -> Part {
    let single = || Part::single(Disposition::RENDER, "a/b".to_owned(), b"x".to_vec());
    if depth == 1 {
        return single();
    }
    Part {
        disposition: Disposition::RENDER,
        language: String::new(),
        body: Body::Multi {
            semantics: Semantics::ProcessAll,
            parts: vec![nested(depth - 1), single()],
        },
    }
}

fn wide(parts: usize) -> Part {
    Part {
        disposition: Disposition::RENDER,
        language: String::new(),
        body: Body::Multi {
            semantics: Semantics::ProcessAll,
            parts: (0..parts).map(|_| nested(1)).collect(),
        },
    }
}

#[test]
fn parts_are_neither_too_deep_nor_too_many() {
    let good = |part: Part| Mimi::new(part).encode(&[7; SALT]).is_some();
    assert!(good(nested(4)));
    assert!(!good(nested(5)));
    assert!(good(wide(MAX_PARTS - 1)));
    assert!(!good(wide(MAX_PARTS)));
    assert!(!good(wide(1)), "several are at least two");
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    // Arrays in arrays, as an extension and as a part.
    let head = format!("8750{}f640f6f6", "07".repeat(16));
    for nest in [
        format!("a103{}", "81".repeat(100_000)),
        format!("a0{}", "850160030182".repeat(100_000)),
    ] {
        assert!(decode(&hex(&format!("{head}{nest}"))).is_none());
    }
    // A length that nobody can have sent.
    let bytes = hex(&format!("{head}a1039b{}", "ff".repeat(8)));
    assert!(decode(&bytes).is_none());
}

fn ids() -> impl Strategy<Value = Option<MessageId>> {
    proptest::option::of(any::<[u8; 32]>().prop_map(|mut bytes| {
        bytes[0] = 1;
        MessageId::from_bytes(bytes).unwrap()
    }))
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..80)
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter)
}

fn parts() -> impl Strategy<Value = Part> {
    let single = (text(), bytes()).prop_map(|(content_type, content)| Body::Single {
        content_type,
        content,
    });
    let external = (text(), text(), any::<(u32, u64, u16, u8)>(), bytes(), bytes()).prop_map(
        |(content_type, url, (expires, size, encryption, hash_algorithm), key, hash)| {
            Body::External(Box::new(External {
                filename: content_type.clone(),
                description: url.clone(),
                nonce: hash.clone(),
                aad: key.clone(),
                content_type,
                url,
                expires,
                size,
                encryption,
                key,
                hash_algorithm,
                hash,
            }))
        },
    );
    let part = |body| {
        (any::<u8>(), text(), body).prop_map(|(disposition, language, body)| Part {
            disposition: Disposition(disposition),
            language,
            body,
        })
    };
    part(prop_oneof![single, external].boxed()).prop_recursive(3, 20, 4, move |inner| {
        let semantics = prop_oneof![
            Just(Semantics::ChooseOne),
            Just(Semantics::SingleUnit),
            Just(Semantics::ProcessAll)
        ];
        let multi = (semantics, proptest::collection::vec(inner, 2..4))
            .prop_map(|(semantics, parts)| Body::Multi { semantics, parts });
        part(multi.boxed())
    })
}

prop_compose! {
    fn messages()(
        (replaces, in_reply_to) in (ids(), ids()),
        topic in bytes(),
        expires in proptest::option::of((any::<bool>(), 0..31_000_000u32)),
        part in parts(),
    ) -> Mimi {
        let expires = expires.map(|(relative, seconds)| Expires { relative, seconds });
        Mimi { replaces, topic, expires, in_reply_to, ..Mimi::new(part) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(message in messages(), salt in any::<[u8; SALT]>()) {
        let bytes = message.encode(&salt).expect("within all limits");
        let decoded = decode(&bytes).unwrap();
        prop_assert!(decoded.mimi == message);
        prop_assert_eq!(decoded.salt, salt);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    /// Nearly right is where the mistakes are.
    #[test]
    fn changed_messages_are_read_as_they_are_written_or_not_at_all(
        message in messages(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = message.encode(&[7; SALT]).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(decoded) = decode(&bytes) {
            prop_assert_eq!(decoded.mimi.encode(&decoded.salt).unwrap(), bytes);
        }
    }
}
