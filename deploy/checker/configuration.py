"""The configuration that a container starts with: its file, overridden by its environment."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from .model import Object, Overlay, Problem, Workload, at, listed, mapping
from .project import Project, Service
from .settings import Section, Unknown, problem_with


@dataclass(frozen=True)
class Assignment:
    """A setting that is given a value."""

    path: tuple[str, ...]
    value: Any
    origin: str
    lenient: bool


@dataclass(frozen=True)
class Configuration:
    """All settings of a container of a service."""

    service: Service
    assignments: list[Assignment]
    problems: list[Problem]

    def get(self, *path: str) -> Any:
        """The value of a setting, the environment's before the file's; None where it is not set."""
        for assignment in reversed(self.assignments):
            if assignment.path == path:
                return assignment.value
            if assignment.path == path[: len(assignment.path)]:
                inner = at(assignment.value, *path[len(assignment.path) :])
                if inner is not None:
                    return inner
        return None

    def number(self, default: float, *path: str) -> float:
        """The value of a setting that is a number; the default where it is not set, or secret."""
        value = self.get(*path)
        try:
            return default if value in (None, Unknown.SECRET) else float(value)
        except (TypeError, ValueError):
            # What it must be is another rule's business.
            return default

    def leaves(self) -> list[tuple[str, Any]]:
        """Every single value with the name of its setting."""
        found: list[tuple[str, Any]] = []
        for assignment in self.assignments:
            collect(".".join(assignment.path), assignment.value, found)
        return found


def collect(path: str, value: Any, found: list[tuple[str, Any]]) -> None:
    """The values in a table or list, or the one that it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            collect(f"{path}.{key}", inner, found)
    elif isinstance(value, list):
        for inner in value:
            collect(path, inner, found)
    else:
        found.append((path, value))


def image_name(container: Object) -> str:
    """The last part of the image's name, without tag and digest."""
    image = str(container.get("image", ""))
    return image.split("@")[0].rsplit("/", 1)[-1].split(":")[0]


def mounted(workload: Workload, container: Object, path: str) -> tuple[Object, str] | None:
    """The volume in which the container finds a path, and the rest of the path."""
    for mount in listed(container, "volumeMounts"):
        folder = str(mount.get("mountPath")).rstrip("/")
        if path.startswith(f"{folder}/"):
            volumes = [volume for volume in listed(workload.pod, "volumes") if volume.get("name") == mount.get("name")]
            return (volumes[0], path[len(folder) + 1 :]) if volumes else None
    return None


def configuration_of(overlay: Overlay, project: Project, workload: Workload, container: Object) -> Configuration | None:
    """The configuration of a container; None for one that runs no service of the project."""
    service = project.services.get(image_name(container))
    if service is None:
        return None
    where = f"{workload.title}: container {container.get('name')}"
    problems: list[Problem] = []
    assignments = file_settings(overlay, workload, container, where, problems)
    assignments += environment_settings(service, container)
    problems += judge(service, assignments, where)
    return Configuration(service, assignments, problems)


def file_settings(
    overlay: Overlay, workload: Workload, container: Object, where: str, problems: list[Problem]
) -> list[Assignment]:
    """The settings of the file that the last argument names."""
    arguments = listed(container, "args")
    path = str(arguments[-1]) if arguments else ""
    if not path.startswith("/"):
        problems.append(Problem(where, "names no configuration file in its arguments"))
        return []
    found = mounted(workload, container, path)
    config_map = overlay.find("ConfigMap", str(at(found[0], "configMap", "name"))) if found else None
    text = at(config_map, "data", found[1]) if found else None
    if text is None:
        problems.append(Problem(where, f"no ConfigMap has its configuration file {path}"))
        return []
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(Problem(where, f"{path} is not TOML: {error}"))
        return []
    return [Assignment((key,), value, path, False) for key, value in table.items()]


def environment_settings(service: Service, container: Object) -> list[Assignment]:
    """The settings of the variables with the service's prefix."""
    assignments = []
    for variable in listed(container, "env"):
        name = str(variable.get("name"))
        if name.startswith(f"{service.prefix}_"):
            path = tuple(name[len(service.prefix) + 1 :].lower().split("__"))
            value = variable.get("value", Unknown.SECRET) if "valueFrom" not in variable else Unknown.SECRET
            assignments.append(Assignment(path, value, name, True))
    return assignments


def judge(service: Service, assignments: list[Assignment], where: str) -> list[Problem]:
    """What is wrong with these settings."""
    problems = []
    for assignment in assignments:
        for what in misfits(service.settings, assignment.path, assignment.value, assignment.lenient):
            problems.append(Problem(where, f"{what} ({assignment.origin})"))
    tree: dict[str, Any] = {}
    for assignment in assignments:
        merge(tree, assignment.path, assignment.value)
    problems += [Problem(where, f"setting {name} is missing") for name in missing(service.settings, tree, "")]
    return problems


def misfits(section: Section, path: tuple[str, ...], value: Any, lenient: bool, above: str = "") -> list[str]:
    """Unknown names and impossible values, the section's own path being `above`."""
    name, rest = path[0], path[1:]
    setting = section.settings.get(name)
    full = f"{above}{name}"
    if setting is None:
        return [f"there is no setting {full}"]
    if rest and not isinstance(setting.type, Section):
        return [f"there is no setting {full}.{'.'.join(rest)}"]
    if rest and isinstance(setting.type, Section):
        return misfits(setting.type, rest, value, lenient, f"{full}.")
    if isinstance(setting.type, Section) and isinstance(value, dict):
        inner = setting.type
        return [what for key, entry in value.items() for what in misfits(inner, (key,), entry, lenient, f"{full}.")]
    found = problem_with(setting.type, value, lenient)
    return [f"setting {full} {found}"] if found else []


def merge(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Puts a value into a tree of tables."""
    for step in path[:-1]:
        inner = tree.get(step)
        tree[step] = dict(inner) if isinstance(inner, dict) else {}
        tree = tree[step]
    tree[path[-1]] = value


def missing(section: Section, tree: dict[str, Any], above: str) -> list[str]:
    """The required settings that are not set, also in sections that are there."""
    found = []
    for name, setting in section.settings.items():
        value = tree.get(name)
        if value is None and setting.required and tree.get(f"{name}_file") is None:
            found.append(f"{above}{name}")
        elif isinstance(setting.type, Section) and isinstance(value, dict):
            found += missing(setting.type, mapping(tree, name), f"{above}{name}.")
    return found
