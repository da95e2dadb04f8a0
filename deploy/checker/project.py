"""What the project's sources and documents say about its services."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .rust import NotUnderstood, read_crate
from .settings import Section, read_settings, with_files

LOAD = re.compile(r"config::load\([^;]*?\"(VALISE_[A-Z_]+)\",\s*&\[([^\]]*)\]", re.DOTALL)
FULL_NAME = re.compile(r"\"(valise\.\w+\.v\d+\.\w+)\"")
GENERATED_NAME = re.compile(r"valise_proto::(\w+)::(v\d+)::(\w+)_server::(?:\{[^}]*?)?\bSERVICE_NAME")
LIVENESS = re.compile(r"pub const LIVENESS: &str = \"(\w+)\";")
SECRET_ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ((?:`[^`]+`(?:, )?)+) \|", re.MULTILINE)


@dataclass(frozen=True)
class Service:
    """One of the services: its folder and its image have the same name."""

    name: str
    prefix: str
    settings: Section
    health: frozenset[str]


@dataclass(frozen=True)
class Project:
    """What the manifests are held against."""

    services: dict[str, Service]
    liveness: str
    secrets: dict[str, frozenset[str]]


def read_project(root: Path) -> Project:
    """Reads the sources of all services, and the operator's documentation."""
    mains = sorted(root.glob("*/src/main.rs"))
    folders = [main.parent.parent for main in mains if (main.parent / "config.rs").is_file()]
    known = contract(root / "proto/protos")
    services = {folder.name: read_service(folder, known) for folder in folders}
    return Project(services, liveness(root), secrets((root / "deploy/README.md").read_text()))


def contract(protos: Path) -> frozenset[str]:
    """The full names of all gRPC services."""
    names = set()
    for file in protos.rglob("*.proto"):
        text = file.read_text()
        package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
        names |= {f"{package[1]}.{service}" for service in re.findall(r"^service (\w+)", text, re.MULTILINE) if package}
    return frozenset(names)


def read_service(folder: Path, known: frozenset[str]) -> Service:
    """Reads one service's sources."""
    files = sorted((folder / "src").rglob("*.rs"))
    source = "\n".join(file.read_text().split("#[cfg(test)]\nmod ")[0] for file in files)
    loads = LOAD.findall(source)
    prefixes = {prefix for prefix, _ in loads}
    if len(prefixes) != 1:
        raise NotUnderstood(f"{folder.name}: expected one prefix of environment variables, found {sorted(prefixes)}")
    health = set(FULL_NAME.findall(source))
    for package, version, service in GENERATED_NAME.findall(source):
        camel = "".join(word.capitalize() for word in service.split("_"))
        health.add(f"valise.{package}.{version}.{camel}")
    secret = {name for _, names in loads for name in re.findall(r"\"([^\"]+)\"", names)}
    settings = with_files(read_settings(read_crate(folder)), secret)
    return Service(folder.name, prefixes.pop(), settings, frozenset(health & known))


def liveness(root: Path) -> str:
    """The name under which health says that a process lives."""
    found = LIVENESS.search((root / "service-runtime/src/health.rs").read_text())
    if found is None:
        raise NotUnderstood("service-runtime: no LIVENESS")
    return found[1]


def secrets(readme: str) -> dict[str, frozenset[str]]:
    """The Secrets that the operator is told to make, with their keys, from the README's table."""
    rows = SECRET_ROW.findall(readme)
    return {name: frozenset(re.findall(r"`([^`]+)`", keys)) for name, keys in rows}
