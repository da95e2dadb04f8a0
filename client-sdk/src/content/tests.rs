use std::time::{Duration, UNIX_EPOCH};

use super::kind::MAX_EMOJI;
use super::*;

fn id(byte: u8) -> MessageId {
    let mut bytes = [byte; 32];
    bytes[0] = 1;
    MessageId::from_bytes(bytes).unwrap()
}

#[test]
fn contents_are_of_their_kind() {
    assert_eq!(Content::text("a").kind(), Kind::Text("a"));
    let (to, of) = (id(5), id(5));
    assert_eq!(Content::reply(to, "b").kind(), Kind::Reply { to, text: "b" });
    let emojis = vec!["❤"];
    assert_eq!(Content::reaction(to, "❤").kind(), Kind::Reaction { to, emojis });
    assert_eq!(Content::edit(of, "c").kind(), Kind::Edit { of, text: "c" });
    assert_eq!(Content::delete(of).kind(), Kind::Delete { of });
    let report = vec![(id(1), ReceiptStatus::READ), (id(2), ReceiptStatus::READ)];
    assert_eq!(
        Content::read_receipt(&[id(1), id(2)]).kind(),
        Kind::Receipt(report)
    );
    assert_eq!(Content::new("image/png", *b"x").kind(), Kind::Other);
    assert_eq!(
        Content::new("image/png", *b"x").in_place_of(of).kind(),
        Kind::Other
    );
}

#[test]
fn a_reaction_of_many_words_is_a_reply() {
    let long = "x".repeat(MAX_EMOJI + 1);
    let content = Content::reaction(id(5), long.clone());
    assert_eq!(
        content.kind(),
        Kind::Reply {
            to: id(5),
            text: &long
        }
    );
}

#[test]
fn several_reactions_stay_apart() {
    let part = |text: &str| Part::single(Disposition::REACTION, TEXT.to_owned(), text.into());
    let content = Content::from_part(Part {
        disposition: Disposition::REACTION,
        language: String::new(),
        body: Body::Multi {
            semantics: Semantics::ProcessAll,
            parts: vec![part("❤"), part("🥳")],
        },
    });
    let emojis = vec!["❤", "🥳"];
    assert_eq!(
        content.in_answer_to(id(5)).kind(),
        Kind::Reaction { to: id(5), emojis }
    );
}

#[test]
fn text_is_what_can_be_read_as_text() {
    let text =
        |content_type: &str, body: &[u8]| Content::new(content_type, body).as_text().map(str::to_owned);
    assert_eq!(
        text("text/markdown;variant=GFM-MIMI", b"_x_").as_deref(),
        Some("_x_")
    );
    assert_eq!(text("Text/Plain; charset=UTF-8", b"x").as_deref(), Some("x"));
    assert_eq!(text("text/plain;charset=iso-8859-1", b"x"), None);
    assert_eq!(text("text/html", b"x"), None);
    assert_eq!(text("text/plain", b"\xff"), None);
}

#[test]
fn expiry_is_read_as_it_was_asked_for() {
    let after = Expiry::AfterRead(Duration::from_secs(60));
    let at = Expiry::At(UNIX_EPOCH + Duration::from_secs(1_644_390_004));
    for expiry in [after, at] {
        assert_eq!(Content::text("x").expiring(expiry).expiry(), Some(expiry));
    }
    let for_ages = Content::text("x").expiring(Expiry::AfterRead(Duration::MAX));
    assert!(for_ages.to_payload().is_err());
    assert!(Content::text("x").expiring(at).expires_too_late(1_600_000_000));
    assert!(!Content::text("x").expiring(at).expires_too_late(1_644_390_000));
}

#[test]
fn what_others_would_refuse_is_not_sent() {
    let empty = Content::from_part(Part {
        disposition: Disposition::RENDER,
        language: String::new(),
        body: Body::Empty,
    });
    assert!(empty.to_payload().is_err());
    assert!(Content::new("x".repeat(256), *b"").to_payload().is_err());
}

#[test]
fn debug_does_not_tell_what_was_written() {
    let content = Content::reply(id(5), "secret");
    assert!(!format!("{content:?} {:?} {:?}", content.kind(), content.part()).contains("secret"));
}
