"""Reads, from a crate's source, which settings its configuration type has.

It understands structs and enums that derive `Deserialize`, with the serde attributes that configuration uses, and
takes a type with a hand-written `Deserialize` for one value. What it does not understand is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = re.compile(
    r"""(?P<skip>//[^\n]*|/\*.*?\*/|\s+)
    |(?P<raw>b?r(?P<hashes>\#*)".*?"(?P=hashes))
    |(?P<text>"(?:\\.|[^"\\])*")
    |(?P<char>'(?:\\.|[^'\\])')
    |(?P<other>'?\w+|->|=>|::|.)""",
    re.VERBOSE | re.DOTALL,
)
OPENING = {"(": ")", "[": "]", "{": "}", "<": ">"}


class NotUnderstood(Exception):
    """The source says something that this reader does not know."""


@dataclass(frozen=True)
class Member:
    """A field of a struct or newtype, or a variant of an enum."""

    name: str
    type: list[str]
    serde: dict[str, str | None]


@dataclass(frozen=True)
class Definition:
    """A type that can be deserialized."""

    keyword: str
    name: str
    serde: dict[str, str | None] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)


def tokens_of(source: str) -> list[str]:
    """The source without comments and white space."""
    return [match.group() for match in TOKEN.finditer(source) if match.lastgroup != "skip"]


def group_end(tokens: list[str], start: int) -> int:
    """The index of the bracket that closes the one at `start`."""
    closing, depth = OPENING[tokens[start]], 0
    for index in range(start, len(tokens)):
        if tokens[index] == tokens[start]:
            depth += 1
        elif tokens[index] == closing:
            depth -= 1
            if depth == 0:
                return index
    raise NotUnderstood(f"a {tokens[start]} is not closed")


def split(tokens: list[str]) -> Iterator[list[str]]:
    """The parts between the commas that are in no brackets."""
    part: list[str] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token == ",":
            yield part
            part = []
        elif token in OPENING:
            end = group_end(tokens, index)
            part += tokens[index : end + 1]
            index = end
        else:
            part.append(token)
        index += 1
    if part:
        yield part


def attributes(tokens: list[str], index: int) -> tuple[list[list[str]], int]:
    """The attributes that begin at `index`, without their brackets, and where they end."""
    found: list[list[str]] = []
    while index + 1 < len(tokens) and tokens[index] == "#" and tokens[index + 1] == "[":
        end = group_end(tokens, index + 1)
        found.append(tokens[index + 2 : end])
        index = end + 1
    return found, index


def serde_of(found: list[list[str]]) -> dict[str, str | None]:
    """The settings of all `#[serde(…)]`."""
    serde: dict[str, str | None] = {}
    for attribute in found:
        if attribute[:2] != ["serde", "("]:
            continue
        for part in split(attribute[2:-1]):
            serde[part[0]] = part[2].strip('"') if part[1:2] == ["="] else None
    return serde


def derives(found: list[list[str]]) -> bool:
    """Whether `Deserialize` is derived."""
    return any(attribute[0] == "derive" and "Deserialize" in attribute for attribute in found)


def visibility_end(tokens: list[str], index: int) -> int:
    """Where a `pub` or `pub(crate)` at `index` ends."""
    if index < len(tokens) and tokens[index] == "pub":
        index += 1
        if index < len(tokens) and tokens[index] == "(":
            index = group_end(tokens, index) + 1
    return index


def members_of(keyword: str, body: list[str]) -> Iterator[Member]:
    """The fields or variants in a definition's braces."""
    for part in split(body):
        found, index = attributes(part, 0)
        index = visibility_end(part, index)
        rest = part[index + 1 :]
        if keyword == "struct" and rest[:1] != [":"]:
            raise NotUnderstood(f"field {part[index]} has no type")
        yield Member(part[index], rest[1:] if keyword == "struct" else rest, serde_of(found))


def definition(word: str, name: str, serde: dict[str, str | None], body: list[str]) -> Definition:
    """A type whose members are in `body`, which begins with its bracket."""
    if body[0] == "{":
        return Definition(word, name, serde, list(members_of(word, body[1:])))
    index = visibility_end(body, 1)
    return Definition("newtype", name, serde, [Member("0", body[index:], {})])


def definitions(source: str) -> Iterator[Definition]:
    """All types in a file that can be deserialized, but those of its tests."""
    tokens = tokens_of(source)
    index = 0
    while index < len(tokens):
        found, after = attributes(tokens, index)
        after = visibility_end(tokens, after)
        word = tokens[after] if after < len(tokens) else ""
        if word == "mod" and ["cfg", "(", "test", ")"] in found and tokens[after + 2] == "{":
            index = group_end(tokens, after + 2) + 1
        elif word in ("struct", "enum") and tokens[after + 2] in ("{", "(") and derives(found):
            end = group_end(tokens, after + 2)
            yield definition(word, tokens[after + 1], serde_of(found), tokens[after + 2 : end])
            index = end + 1
        elif word == "impl":
            header = tokens[after : tokens.index("{", after)]
            if "Deserialize" in header and "for" in header:
                yield Definition("impl", header[header.index("for") + 1])
            index = after + len(header)
        else:
            index = max(after, index + 1)


@dataclass(frozen=True)
class Crate:
    """The definitions of a crate, and the workspace's crates that it uses."""

    folder: Path
    types: dict[str, Definition]
    uses: list[Crate]

    def find(self, name: str) -> Definition | None:
        """The crate's own type of that name, else that of a crate that it uses."""
        if name in self.types:
            return self.types[name]
        found = [crate.types[name] for crate in self.uses if name in crate.types]
        if len(found) > 1:
            raise NotUnderstood(f"{self.folder.name}: several crates have a type {name}")
        return found[0] if found else None


def read_crate(folder: Path, with_uses: bool = True) -> Crate:
    """Reads a crate's sources, and those of the workspace's crates that it depends on."""
    types: dict[str, Definition] = {}
    for file in sorted((folder / "src").rglob("*.rs")):
        for found in definitions(file.read_text()):
            # A derived definition says more than the fact that there is one.
            if found.keyword != "impl" or found.name not in types:
                types[found.name] = found
    uses = []
    if with_uses:
        manifest = (folder / "Cargo.toml").read_text().split("[dev-dependencies]")[0]
        names = re.findall(r"^valise-([a-z-]+)\.workspace", manifest, re.MULTILINE)
        folders = [folder.parent / used for used in names if (folder.parent / used / "src").is_dir()]
        uses = [read_crate(used, with_uses=False) for used in folders]
    return Crate(folder, types, uses)
