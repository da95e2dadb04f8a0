"""What tests work on: the real overlays, rendered once, and the project as its sources are."""

from __future__ import annotations

import copy
import functools
import unittest
from collections.abc import Callable

from ..main import ROOT, rule_problems
from ..model import Object, Overlay, Problem, at
from ..project import Project, read_project
from ..render import parse, render, schema_problems

OVERLAYS = ROOT / "deploy/kubernetes/overlays"


@functools.cache
def manifests(name: str) -> str:
    """A rendered overlay."""
    return render(OVERLAYS / name)


@functools.cache
def parsed(name: str) -> Overlay:
    """Its resources, which must not be changed."""
    return parse(name, manifests(name))


@functools.cache
def project() -> Project:
    """The project's sources."""
    return read_project(ROOT)


def changed(name: str, change: Callable[[Overlay], None]) -> Overlay:
    """A copy of the overlay with a change."""
    overlay = copy.deepcopy(parsed(name))
    change(overlay)
    return overlay


@functools.cache
def unchanged(name: str) -> list[str]:
    """What the rules have against the overlay as it is: nothing, if all is well."""
    return texts(rule_problems(parsed(name), project()))


def resource(overlay: Overlay, kind: str, name: str) -> Object:
    """A resource that is there."""
    found = overlay.find(kind, name)
    if found is None:
        raise AssertionError(f"no {kind}/{name}")
    return found


def pod(overlay: Overlay, name: str = "delivery-service", kind: str = "Deployment") -> Object:
    """The specification of a workload's pods."""
    found = at(resource(overlay, kind, name), "spec", "template", "spec")
    assert isinstance(found, dict)
    return found


def container(overlay: Overlay, name: str = "delivery-service", kind: str = "Deployment") -> Object:
    """The container of a workload."""
    found = at(pod(overlay, name, kind), "containers", 0)
    assert isinstance(found, dict)
    return found


def configure(overlay: Overlay, service: str, old: str, new: str) -> None:
    """Changes a service's configuration file."""
    for config_map in overlay.of_kind("ConfigMap"):
        if str(at(config_map, "metadata", "name")).startswith(service):
            text = config_map["data"]["service.toml"]
            if old not in text:
                raise AssertionError(f"{old!r} is not in the configuration of {service}")
            config_map["data"]["service.toml"] = text.replace(old, new, 1)


class Scene(unittest.TestCase):
    """Tests that change one thing and expect to hear of it."""

    overlay = "ministry"

    def refused(self, expected: str, change: Callable[[Overlay], None]) -> None:
        """The rules find the change, and name it so."""
        self.assertFalse(any(expected in problem for problem in unchanged(self.overlay)), f"{expected!r} anyway")
        found = rule_problems(changed(self.overlay, change), project())
        self.assertTrue(any(expected in str(problem) for problem in found), f"{expected!r} not in {texts(found)}")

    def accepted(self, change: Callable[[Overlay], None]) -> None:
        """The rules have nothing against the change."""
        self.assertEqual(texts(rule_problems(changed(self.overlay, change), project())), [])

    def refused_by_schema(self, expected: str, old: str, new: str) -> None:
        """The schemas do not allow the manifests with `new` in place of the first `old`."""
        text = manifests(self.overlay)
        self.assertIn(old, text)
        found = texts(list(schema_problems(text.replace(old, new, 1))))
        self.assertTrue(any(expected in problem for problem in found), f"{expected!r} not in {found}")


def texts(problems: list[Problem]) -> list[str]:
    """For people."""
    return [str(problem) for problem in problems]
