"""What every rule looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .configuration import Configuration, configuration_of
from .model import Object, Overlay, Workload
from .project import Project


@dataclass(frozen=True)
class Configured:
    """A container of a service, with its configuration."""

    workload: Workload
    container: Object
    title: str
    configuration: Configuration


@dataclass(frozen=True)
class Context:
    """An overlay, and what it is held against."""

    overlay: Overlay
    project: Project
    configured: list[Configured]

    @property
    def serving(self) -> Iterator[Configured]:
        """The containers that serve, migrations left out."""
        return (configured for configured in self.configured if not configured.workload.is_job)


def context_of(overlay: Overlay, project: Project) -> Context:
    """Reads all configurations of the overlay."""
    configured = []
    for workload, container, title in overlay.containers:
        configuration = configuration_of(overlay, project, workload, container)
        if configuration is not None:
            configured.append(Configured(workload, container, title, configuration))
    return Context(overlay, project, configured)
