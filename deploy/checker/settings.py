"""The settings that a service knows: names, kinds of values, and which must be there."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .rust import Crate, Definition, Member, NotUnderstood

KNOWN_SERDE = {
    *("alias", "default", "deny_unknown_fields", "deserialize_with", "flatten", "from"),
    *("rename", "rename_all", "skip", "transparent", "try_from"),
}
INTEGERS = re.compile(r"(NonZero)?([ui](8|16|32|64|128|size)|[UI](8|16|32|64|128|size))")


class Unknown(Enum):
    """The value of a setting that comes from a Secret."""

    SECRET = "secret"


class Kind(Enum):
    """What a value may be."""

    TEXT = "text"
    PATH = "path"
    NUMBER = "number"
    INTEGER = "whole number"
    BOOLEAN = "boolean"


LEAVES = {
    "String": Kind.TEXT,
    "SocketAddr": Kind.TEXT,
    "PathBuf": Kind.PATH,
    "Duration": Kind.NUMBER,
    "f32": Kind.NUMBER,
    "f64": Kind.NUMBER,
    "bool": Kind.BOOLEAN,
}


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class ListOf:
    """Any number of them."""

    item: Type


@dataclass(frozen=True)
class Section:
    """A table of settings."""

    settings: dict[str, Setting]


Type = Kind | Choice | ListOf | Section


@dataclass(frozen=True)
class Setting:
    """A setting of a section."""

    type: Type
    required: bool


def read_settings(crate: Crate) -> Section:
    """The settings of a crate's `Config`."""
    definition = crate.find("Config")
    if definition is None:
        raise NotUnderstood(f"{crate.folder.name} has no type Config that can be deserialized")
    return section_of(crate, definition)


def with_files(section: Section, secrets: set[str], above: str = "") -> Section:
    """The same settings; those that are secret may be given as the path of a file, too."""
    settings: dict[str, Setting] = {}
    for name, setting in section.settings.items():
        settings[name] = setting
        if isinstance(setting.type, Section):
            settings[name] = Setting(with_files(setting.type, secrets, f"{above}{name}."), setting.required)
        elif f"{above}{name}" in secrets:
            settings[f"{name}_file"] = Setting(Kind.PATH, False)
    return Section(settings)


def section_of(crate: Crate, definition: Definition) -> Section:
    """The settings of a struct."""
    understand(definition.name, definition.serde)
    if "deny_unknown_fields" not in definition.serde and not any("flatten" in m.serde for m in definition.members):
        raise NotUnderstood(f"{definition.name} is not deny_unknown_fields: a misspelt setting would not be seen")
    settings: dict[str, Setting] = {}
    for member in definition.members:
        understand(f"{definition.name}.{member.name}", member.serde)
        if "skip" in member.serde:
            continue
        if "flatten" in member.serde:
            inner = type_of(crate, member.type)
            if not isinstance(inner, Section):
                raise NotUnderstood(f"{definition.name}.{member.name}: flatten of what is not a section")
            settings |= inner.settings
            continue
        setting = Setting(type_of(crate, member.type), is_required(definition, member))
        for name in names_of(definition, member):
            settings[name] = setting
    return Section(settings)


def is_required(definition: Definition, member: Member) -> bool:
    """Whether a field must be set."""
    if "default" in member.serde or "default" in definition.serde:
        return False
    # With a function of its own, serde does not know that an Option may be left out.
    return member.type[0] != "Option" or "deserialize_with" in member.serde


def understand(where: str, serde: dict[str, str | None]) -> None:
    """An attribute that this reader does not know may change everything."""
    for attribute in serde.keys() - KNOWN_SERDE:
        raise NotUnderstood(f"{where}: serde attribute {attribute}")


def names_of(definition: Definition, member: Member) -> list[str]:
    """How a field or variant is written in a file."""
    name = member.serde.get("rename") or renamed(member.name, definition.serde.get("rename_all"))
    alias = member.serde.get("alias")
    return [name, alias] if alias else [name]


def renamed(name: str, rule: str | None) -> str:
    """A name after `rename_all`."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    match rule:
        case None:
            return name
        case "lowercase":
            return name.lower()
        case "snake_case":
            return snake
        case "kebab-case":
            return snake.replace("_", "-")
    raise NotUnderstood(f"rename_all = {rule}")


def type_of(crate: Crate, tokens: list[str]) -> Type:
    """What a field of that Rust type may be set to."""
    generic = tokens.index("<") if "<" in tokens else len(tokens)
    name, arguments = tokens[generic - 1], tokens[generic + 1 : -1]
    if name == "Option":
        return type_of(crate, arguments)
    if name in ("Vec", "BTreeSet", "HashSet"):
        return ListOf(type_of(crate, arguments))
    if name in LEAVES:
        return LEAVES[name]
    if INTEGERS.fullmatch(name):
        return Kind.INTEGER
    definition = crate.find(name)
    if definition is None:
        raise NotUnderstood(f"{crate.folder.name}: type {' '.join(tokens)}")
    replaced = definition.serde.get("try_from") or definition.serde.get("from")
    if replaced:
        return type_of(crate, [replaced])
    match definition.keyword:
        case "struct":
            return section_of(crate, definition)
        case "enum":
            return choice_of(definition)
        case "newtype":
            understand(definition.name, definition.serde)
            return type_of(crate, definition.members[0].type)
    return Kind.TEXT


def choice_of(definition: Definition) -> Choice:
    """The words of an enum."""
    understand(definition.name, definition.serde)
    for variant in definition.members:
        if variant.type:
            raise NotUnderstood(f"{definition.name}.{variant.name} is more than a word")
    return Choice(tuple(name for variant in definition.members for name in names_of(definition, variant)))


def problem_with(type_: Type, value: Any, lenient: bool) -> str | None:
    """Why a value cannot be one of that type. `lenient`: it comes from the environment, where all is text."""
    if value is Unknown.SECRET:
        return "a section is not one value" if isinstance(type_, Section) else None
    if lenient and isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = parsed(value)
    match type_:
        case Choice(words):
            return None if value in words else f"is none of {', '.join(words)}"
        case ListOf(item):
            if not isinstance(value, list):
                return "is not a list"
            return next((found for entry in value if (found := problem_with(item, entry, lenient))), None)
        case Section():
            return None if isinstance(value, dict) else "is not a section"
    if lenient and isinstance(value, str):
        value = parsed(value)
        if type_ in (Kind.TEXT, Kind.PATH):
            value = str(value)
    fits = {
        Kind.TEXT: isinstance(value, str),
        Kind.PATH: isinstance(value, str),
        Kind.BOOLEAN: isinstance(value, bool),
        Kind.INTEGER: isinstance(value, int) and not isinstance(value, bool),
        Kind.NUMBER: isinstance(value, int | float) and not isinstance(value, bool),
    }
    return None if fits[type_] else f"is not a {type_.value}"


def parsed(text: str) -> Any:
    """A variable's value as TOML, where it is that."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
