"""Settings that several services must have alike."""

from collections.abc import Iterator

from ..context import Configured, Context
from ..model import Problem

ISSUERS = {"delivery-service": ("token_issuer",), "key-package-directory": ("peers", "issuer")}
RETENTIONS = {"delivery-service": ("retention_seconds",), "key-package-directory": ("packages", "retention_seconds")}
DEFAULT_RETENTION = 30 * 24 * 3600


def by_service(context: Context) -> dict[str, Configured]:
    """The serving containers by the service that they run."""
    return {found.configuration.service.name: found for found in context.serving}


def issuers_agree(context: Context) -> Iterator[Problem]:
    """All expect the tokens that the authentication service issues."""
    serving = by_service(context)
    authentication = serving.get("authentication-service")
    if authentication is None:
        return
    settings = authentication.configuration
    issuer = settings.get("issuer") or f"valise://{settings.get('trust_domain')}"
    for service, path in ISSUERS.items():
        found = serving.get(service)
        if found is not None and found.configuration.get(*path) != issuer:
            yield Problem(found.title, f"setting {'.'.join(path)} is not {issuer}, which the tokens have")


def retentions_agree(context: Context) -> Iterator[Problem]:
    """A package must live as long as its Add may be read."""
    serving = by_service(context)
    values: dict[str, float] = {}
    for service, path in RETENTIONS.items():
        if service in serving:
            values[service] = serving[service].configuration.number(DEFAULT_RETENTION, *path)
    if len(set(values.values())) > 1:
        said = ", ".join(f"{service} {value:.0f} s" for service, value in values.items())
        yield Problem(context.overlay.name, f"the services keep entries and packages for different times: {said}")


RULES = [issuers_agree, retentions_agree]
