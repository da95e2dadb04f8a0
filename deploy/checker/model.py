"""What an overlay renders to, and how to find one's way in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and with which resource."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def at(value: Any, *path: str | int) -> Any:
    """What is at the path, or None where there is nothing."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def listed(value: Any, *path: str | int) -> list[Any]:
    """The list at the path; an empty one where there is none."""
    found = at(value, *path)
    return found if isinstance(found, list) else []


def mapping(value: Any, *path: str | int) -> Object:
    """The mapping at the path; an empty one where there is none."""
    found = at(value, *path)
    return found if isinstance(found, dict) else {}


def kind(resource: Object) -> str:
    """Such as Deployment."""
    return str(resource.get("kind"))


def name(resource: Object) -> str:
    """The resource's name."""
    return str(at(resource, "metadata", "name"))


def title(resource: Object) -> str:
    """Kind and name, for people."""
    return f"{kind(resource)}/{name(resource)}"


@dataclass(frozen=True)
class Workload:
    """What makes pods."""

    resource: Object

    @property
    def title(self) -> str:
        """Kind and name."""
        return title(self.resource)

    @property
    def is_job(self) -> bool:
        """Whether its pods end by themselves."""
        return kind(self.resource) == "Job"

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its pods."""
        return mapping(self.resource, "spec", "template", "metadata", "labels")

    @property
    def pod(self) -> Object:
        """The specification of its pods."""
        return mapping(self.resource, "spec", "template", "spec")

    @property
    def containers(self) -> list[Object]:
        """All containers of its pods, those that run first among them."""
        return listed(self.pod, "initContainers") + listed(self.pod, "containers")

    @property
    def ports(self) -> dict[str, int]:
        """Ports of its containers by their names."""
        ports = [port for container in self.containers for port in listed(container, "ports")]
        return {str(port.get("name", port["containerPort"])): port["containerPort"] for port in ports}


@dataclass(frozen=True)
class Overlay:
    """The resources of one overlay."""

    name: str
    resources: list[Object]

    def of_kind(self, *kinds: str) -> list[Object]:
        """All resources of these kinds."""
        return [resource for resource in self.resources if kind(resource) in kinds]

    def find(self, wanted_kind: str, wanted_name: str) -> Object | None:
        """The resource of that kind and name."""
        return next((found for found in self.of_kind(wanted_kind) if name(found) == wanted_name), None)

    @property
    def workloads(self) -> list[Workload]:
        """All that makes pods."""
        return [Workload(resource) for resource in self.of_kind(*WORKLOADS)]

    @property
    def deployments(self) -> list[Workload]:
        """The workloads that serve."""
        return [workload for workload in self.workloads if not workload.is_job]

    @property
    def containers(self) -> Iterator[tuple[Workload, Object, str]]:
        """Every container, with its workload and a title."""
        for workload in self.workloads:
            for container in workload.containers:
                yield workload, container, f"{workload.title}: container {container.get('name')}"

    @property
    def namespace(self) -> str | None:
        """The name of its Namespace, if it has exactly one."""
        namespaces = [name(resource) for resource in self.of_kind("Namespace")]
        return namespaces[0] if len(namespaces) == 1 else None
