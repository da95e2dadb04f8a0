"""Every variable and every key of a configuration is a setting that the service knows."""

from collections.abc import Iterator

from ..context import Context
from ..model import Problem, at, listed


def settings_are_known(context: Context) -> Iterator[Problem]:
    """Names, values, and what must be there, judged by the service's own configuration type."""
    for configured in context.configured:
        yield from configured.configuration.problems


def variables_belong_to_the_service(context: Context) -> Iterator[Problem]:
    """A variable that the service does not read is misspelt."""
    for configured in context.configured:
        prefix = configured.configuration.service.prefix
        for variable in listed(configured.container, "env"):
            if not str(variable.get("name")).startswith(f"{prefix}_"):
                yield Problem(configured.title, f"variable {variable.get('name')} does not begin with {prefix}_")
        if listed(configured.container, "envFrom"):
            yield Problem(configured.title, "envFrom hides which settings are set")


def secrets_are_not_in_configurations(context: Context) -> Iterator[Problem]:
    """A URL with a password, or a password, belongs into a Secret."""
    for configured in context.configured:
        for name, value in configured.configuration.leaves():
            if not isinstance(value, str):
                continue
            if "://" in value and "@" in value:
                yield Problem(configured.title, f"setting {name} shows a URL with credentials")
            if name.rsplit(".", 1)[-1] in ("password", "secret", "token"):
                yield Problem(configured.title, f"setting {name} must come from a Secret")


def secrets_are_not_in_variables(context: Context) -> Iterator[Problem]:
    """Whatever sees a process sees its environment, and so does every process that it starts."""
    for _, container, where in context.overlay.containers:
        for variable in listed(container, "env"):
            if at(variable, "valueFrom", "secretKeyRef") is not None:
                yield Problem(where, f"variable {variable.get('name')} holds a Secret: mount it and name the file")


RULES = [
    settings_are_known,
    variables_belong_to_the_service,
    secrets_are_not_in_configurations,
    secrets_are_not_in_variables,
]
