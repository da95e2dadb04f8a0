"""Renders overlays and holds them against the schemas of Kubernetes."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from .model import Overlay, Problem

# The oldest release that the manifests are for, and the newest with a schema here.
KUBERNETES_VERSIONS = ("1.32", "1.37")
KIND = re.compile(r"^kind: Kustomization$", re.MULTILINE)


class CannotRender(Exception):
    """What kubectl says."""


def tool(name: str) -> str:
    """A program of this Python's environment, else of the path."""
    beside = Path(sys.prefix) / "bin" / name
    return str(beside) if beside.exists() else name


def overlays(folder: Path) -> list[Path]:
    """All folders below that can be applied: components cannot."""
    files = sorted(folder.rglob("kustomization.yaml"))
    return [file.parent for file in files if KIND.search(file.read_text())]


def render(folder: Path) -> str:
    """The manifests of an overlay, as `kubectl apply -k` would send them."""
    command = [tool("kubectl"), "kustomize", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotRender("kubectl is not installed: see tools/requirements.txt") from error
    # It warns of what is deprecated and goes on.
    if done.returncode != 0 or done.stderr.strip():
        raise CannotRender(done.stderr.strip() or f"kubectl ended with {done.returncode}")
    return done.stdout


def parse(name: str, manifests: str) -> Overlay:
    """The resources in rendered manifests."""
    return Overlay(name, [resource for resource in yaml.safe_load_all(manifests) if resource])


def schema_problems(manifests: str) -> Iterator[Problem]:
    """What `kubernetes-validate --strict` says, its warnings of unknown or removed kinds included."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(manifests)
        file.flush()
        command = [tool("kubernetes-validate"), "--strict", "--quiet"]
        for version in KUBERNETES_VERSIONS:
            command += ["-k", version]
        done = subprocess.run([*command, file.name], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).replace(file.name, "").splitlines()
    yield from (Problem("schema", " ".join(line.split())) for line in said if line.strip())
    if done.returncode != 0 and not said:
        yield Problem("schema", f"kubernetes-validate ended with {done.returncode}")
