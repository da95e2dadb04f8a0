"""Reading configuration types."""

import unittest
from pathlib import Path

from ..rust import Crate, Definition, NotUnderstood, definitions
from ..settings import Choice, Kind, ListOf, Section, problem_with, read_settings

SOURCE = """
//! struct Ignored { in_a_comment: u8 }
/// Docs with "quotes' and { braces.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// It says #[serde(default)] here only.
    pub database: std::path::PathBuf,
    #[serde(default = "text::default", rename = "name")]
    pub(crate) title: String,
    pub hosts: Vec<Url>,
    pub inner: Option<Inner>,
    #[serde(
        rename = "wait_seconds",
        deserialize_with = "seconds",
    )]
    pub wait: Duration,
    #[serde(deserialize_with = "maybe")]
    pub maybe: Option<u16>,
    pub pairs: Option<Vec<Inner>>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Inner {
    mode: Mode,
    on: bool,
    many: NonZeroUsize,
    ratio: f64,
    key: Secret,
}

#[derive(Clone, Deserialize)]
struct Secret(pub String);

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    OneByOne,
    #[serde(rename = "all")]
    Together,
}

pub struct Url(String);

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> { todo('{') }
}

#[cfg(test)]
mod tests {
    #[derive(Deserialize)]
    struct Config { nothing: u8 }
}
"""


def crate(source: str) -> Crate:
    """A crate of one file."""
    return Crate(Path("crate"), {definition.name: definition for definition in definitions(source)}, [])


def settings(source: str) -> Section:
    """What it can be configured with."""
    return read_settings(crate(source))


class RustTest(unittest.TestCase):
    """What is understood, and what is not."""

    def test_types_are_read(self) -> None:
        found = settings(SOURCE).settings
        self.assertEqual(list(found), ["database", "name", "hosts", "inner", "wait_seconds", "maybe", "pairs"])
        required = [name for name, setting in found.items() if setting.required]
        self.assertEqual(required, ["database", "hosts", "wait_seconds", "maybe"])
        self.assertEqual(found["database"].type, Kind.PATH)
        self.assertEqual(found["hosts"].type, ListOf(Kind.TEXT))
        self.assertEqual(found["wait_seconds"].type, Kind.NUMBER)
        inner = found["inner"].type
        assert isinstance(inner, Section)
        self.assertEqual(inner.settings["mode"].type, Choice(("one_by_one", "all")))
        self.assertEqual(inner.settings["many"].type, Kind.INTEGER)
        self.assertEqual(inner.settings["key"].type, Kind.TEXT)
        self.assertFalse(any(setting.required for setting in inner.settings.values()))
        self.assertEqual(found["pairs"].type, ListOf(inner))

    def test_what_is_not_understood_is_an_error(self) -> None:
        for old, new in (
            ("#[serde(deny_unknown_fields)]", ""),
            ("deny_unknown_fields)]\npub", 'deny_unknown_fields, tag = "kind")]\npub'),
            ("Vec<Url>", "Vec<SomethingElse>"),
            ("Together,", "Together(u8),"),
            ("snake_case", "SCREAMING"),
            ("struct Config", "struct Configuration"),
        ):
            with self.subTest(new), self.assertRaises(NotUnderstood):
                settings(SOURCE.replace(old, new, 1))

    def test_a_hand_written_type_is_known(self) -> None:
        self.assertEqual(crate(SOURCE).types["Url"], Definition("impl", "Url"))

    def test_values_are_judged(self) -> None:
        self.assertIsNone(problem_with(Kind.NUMBER, 1.5, lenient=False))
        self.assertEqual(problem_with(Kind.INTEGER, 1.5, lenient=False), "is not a whole number")
        self.assertEqual(problem_with(Kind.INTEGER, True, lenient=False), "is not a whole number")
        self.assertEqual(problem_with(Kind.BOOLEAN, "true", lenient=False), "is not a boolean")
        self.assertIsNone(problem_with(Kind.BOOLEAN, "true", lenient=True))
        self.assertIsNone(problem_with(Kind.TEXT, "1234", lenient=True))
        self.assertEqual(problem_with(Choice(("a", "b")), "c", lenient=False), "is none of a, b")
