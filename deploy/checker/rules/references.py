"""What is named exists: in the overlay, or in the operator's documentation."""

import re
from collections.abc import Iterator
from typing import Any

from ..configuration import mounted
from ..context import Context
from ..model import Object, Overlay, Problem, Workload, at, listed, mapping, title
from ..settings import Kind, ListOf, Section, Type

PINNED = re.compile(r"[^@]+(:[\w][\w.-]{0,127})?@sha256:[0-9a-f]{64}|.+:(?!latest$)[\w][\w.-]{0,127}")


def secret_references(workload: Workload) -> Iterator[tuple[str, str | None]]:
    """Every Secret that a workload names, with the key; None for all of its keys."""
    for container in workload.containers:
        for reference in listed(container, "env"):
            if (wanted := at(reference, "valueFrom", "secretKeyRef")) is not None:
                yield str(wanted.get("name")), str(wanted.get("key"))
        for source in listed(container, "envFrom"):
            if "secretRef" in source:
                yield str(at(source, "secretRef", "name")), None
    for volume in listed(workload.pod, "volumes"):
        if (wanted := volume.get("secret")) is not None:
            items = listed(wanted, "items")
            yield from ((str(wanted.get("secretName")), str(item.get("key"))) for item in items)
            if not items:
                yield str(wanted.get("secretName")), None


def secrets_are_documented(context: Context) -> Iterator[Problem]:
    """And never defined here, with values."""
    for resource in context.overlay.of_kind("Secret"):
        yield Problem(title(resource), "a Secret with values must not be in the manifests")
    for workload in context.overlay.workloads:
        for secret, key in secret_references(workload):
            keys = context.project.secrets.get(secret)
            if keys is None:
                yield Problem(workload.title, f"Secret {secret} is not in the README's table")
            elif key is not None and key not in keys:
                yield Problem(workload.title, f"key {key} of Secret {secret} is not in the README's table")


def config_maps_exist(context: Context) -> Iterator[Problem]:
    """With the keys that are asked for."""
    for workload in context.overlay.workloads:
        for wanted, key in config_map_references(workload):
            found = context.overlay.find("ConfigMap", wanted)
            if found is None:
                yield Problem(workload.title, f"there is no ConfigMap {wanted}")
            elif key is not None and key not in mapping(found, "data"):
                yield Problem(workload.title, f"ConfigMap {wanted} has no key {key}")


def config_map_references(workload: Workload) -> Iterator[tuple[str, str | None]]:
    """Every ConfigMap that a workload names, with the key; None for all of its keys."""
    for container in workload.containers:
        for reference in listed(container, "env"):
            if (wanted := at(reference, "valueFrom", "configMapKeyRef")) is not None:
                yield str(wanted.get("name")), str(wanted.get("key"))
        for source in listed(container, "envFrom"):
            if "configMapRef" in source:
                yield str(at(source, "configMapRef", "name")), None
    for volume in listed(workload.pod, "volumes"):
        if (wanted := volume.get("configMap")) is not None:
            items = listed(wanted, "items")
            yield str(wanted.get("name")), None
            yield from ((str(wanted.get("name")), str(item.get("key"))) for item in items)


def accounts_exist(context: Context) -> Iterator[Problem]:
    """Each workload has a ServiceAccount of the overlay."""
    for workload in context.overlay.workloads:
        account = str(workload.pod.get("serviceAccountName"))
        if context.overlay.find("ServiceAccount", account) is None:
            yield Problem(workload.title, f"there is no ServiceAccount {account}")


def volumes_exist(context: Context) -> Iterator[Problem]:
    """What is mounted is a volume, and each volume is mounted."""
    for workload in context.overlay.workloads:
        volumes = {str(volume.get("name")) for volume in listed(workload.pod, "volumes")}
        mounts = {str(mount.get("name")) for found in workload.containers for mount in listed(found, "volumeMounts")}
        for missing in sorted(mounts - volumes):
            yield Problem(workload.title, f"there is no volume {missing}")
        for unused in sorted(volumes - mounts):
            yield Problem(workload.title, f"volume {unused} is not mounted")


def images_are_pinned(context: Context) -> Iterator[Problem]:
    """By tag or digest; `latest` is neither. And each is an image of a service of the project."""
    for _, container, where in context.overlay.containers:
        image = str(container.get("image", ""))
        if not PINNED.fullmatch(image):
            yield Problem(where, f"image {image} is not pinned by a tag or digest")
        if not any(found.container is container for found in context.configured):
            yield Problem(where, f"image {image} is of no service of this project")


def paths(type_: Type, value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The settings that are paths, with their values."""
    if isinstance(type_, Section) and isinstance(value, dict):
        for key, inner in value.items():
            if key in type_.settings:
                yield from paths(type_.settings[key].type, inner, f"{name}.{key}" if name else key)
    elif isinstance(type_, ListOf) and isinstance(value, list):
        for inner in value:
            yield from paths(type_.item, inner, name)
    elif type_ is Kind.PATH and isinstance(value, str):
        yield name, value


def files_are_mounted(context: Context) -> Iterator[Problem]:
    """A file that a configuration names comes from a volume that has it. A migration opens the database alone."""
    for configured in context.configured:
        settings = configured.configuration.service.settings
        for assignment in configured.configuration.assignments:
            value = assignment.value
            for step in reversed(assignment.path):
                value = {step: value}
            for name, path in paths(settings, value, ""):
                if configured.workload.is_job and name != "database_file":
                    continue
                problem = file_problem(context, configured.workload, configured.container, path)
                if problem:
                    yield Problem(configured.title, f"setting {name}: {path} {problem}")


def file_problem(context: Context, workload: Workload, container: Object, path: str) -> str | None:
    """Why the container does not find that file."""
    found = mounted(workload, container, path)
    if found is None:
        return "is not in a mounted volume"
    volume, file = found
    if "secret" in volume:
        keys = context.project.secrets.get(str(at(volume, "secret", "secretName")), frozenset())
    elif "configMap" in volume:
        keys = frozenset(config_map_keys(context.overlay, volume))
    else:
        return None
    items = listed(volume, "secret", "items") + listed(volume, "configMap", "items")
    names = {str(item.get("path")) for item in items} if items else keys
    return None if file in names else "is not a key of the volume's source"


def config_map_keys(overlay: Overlay, volume: Object) -> list[str]:
    """The keys of a volume's ConfigMap."""
    return list(mapping(overlay.find("ConfigMap", str(at(volume, "configMap", "name"))), "data"))


RULES = [
    secrets_are_documented,
    config_maps_exist,
    accounts_exist,
    volumes_exist,
    images_are_pinned,
    files_are_mounted,
]
