"""The peers that a configuration names can be reached, through the policies, in the protocol that they speak."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from ..context import Configured, Context
from ..model import Object, Problem, listed, mapping, title
from ..network import End, allows, matches, namespace_labels, reaches

CLEAR, TLS = "kubernetes.io/h2c", "https"
# Where a service keeps things, and the port by which that is known.
STORES = {("database",): 5432, ("redis", "urls"): 6379}


def peers_are_reached(context: Context) -> Iterator[Problem]:
    """Every http URL in a configuration."""
    for configured in context.serving:
        for name, value in configured.configuration.leaves():
            if isinstance(value, str) and value.startswith(("http://", "https://")):
                for what in peer_problems(context, configured, value):
                    yield Problem(configured.title, f"setting {name}: {what}")


def peer_problems(context: Context, configured: Configured, text: str) -> Iterator[str]:
    """Why the peer at a URL cannot be reached."""
    url = urlsplit(text)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    labels = host.removesuffix(".cluster.local").removesuffix(".svc").split(".")
    if len(labels) > 2:
        # Outside of the cluster: no label says who that is.
        if not reaches(context.overlay, configured.workload.labels, port):
            yield f"no NetworkPolicy lets the pods reach port {port}"
    elif len(labels) == 2 and labels[1] != context.overlay.namespace:
        other = End(None, namespace_labels(labels[1]))
        if not allows(context.overlay, "Egress", configured.workload.labels, other, port, {}):
            yield f"no NetworkPolicy lets the pods reach {host}:{port}"
    else:
        service = context.overlay.find("Service", labels[0])
        if service is None:
            yield f"there is no Service {labels[0]}"
        else:
            yield from service_problems(context, configured, service, url.scheme, port)


def service_problems(
    context: Context, configured: Configured, service: Object, scheme: str, port: int
) -> Iterator[str]:
    """Why a Service of the overlay cannot be reached."""
    ports = [found for found in listed(service, "spec", "ports") if found.get("port") == port]
    if not ports:
        yield f"{title(service)} has no port {port}"
        return
    selector = {"matchLabels": mapping(service, "spec", "selector")}
    own = namespace_labels(context.overlay.namespace or "")
    for receiver in (found for found in context.serving if matches(selector, found.workload.labels)):
        secured = receiver.configuration.get("server", "tls") is not None
        if secured != (scheme == "https"):
            yield f"{receiver.workload.title} speaks {'TLS only' if secured else 'no TLS'}"
        names = receiver.workload.ports
        target = ports[0].get("targetPort", port)
        number = names.get(target, 0) if isinstance(target, str) else int(target)
        here, there = configured.workload.labels, receiver.workload.labels
        if not allows(context.overlay, "Egress", here, End(there, own), number, names):
            yield f"no NetworkPolicy lets {configured.workload.title} reach {receiver.workload.title}"
        if not allows(context.overlay, "Ingress", there, End(here, own), number, names):
            yield f"no NetworkPolicy lets {receiver.workload.title} be reached by {configured.workload.title}"


def stores_are_reached(context: Context) -> Iterator[Problem]:
    """Where they are is secret; that they may be asked at all is not."""
    for configured in context.configured:
        for path, port in STORES.items():
            wanted = is_set(configured, path) and (path == ("database",) or not_job(configured))
            if wanted and not reaches(context.overlay, configured.workload.labels, port):
                yield Problem(configured.title, f"no NetworkPolicy lets the pods reach port {port}")


def is_set(configured: Configured, path: tuple[str, ...]) -> bool:
    """Whether a secret is given, as it is or as a file."""
    settings = configured.configuration
    return settings.get(*path) is not None or settings.get(*path[:-1], f"{path[-1]}_file") is not None


def not_job(configured: Configured) -> bool:
    """Whether it serves. A migration needs its database alone."""
    return not configured.workload.is_job


def gateways_know_the_protocol(context: Context) -> Iterator[Problem]:
    """`appProtocol` says what is spoken behind a Service."""
    for service in context.overlay.of_kind("Service"):
        selector = {"matchLabels": mapping(service, "spec", "selector")}
        for receiver in (found for found in context.serving if matches(selector, found.workload.labels)):
            wanted = CLEAR if receiver.configuration.get("server", "tls") is None else TLS
            for port in listed(service, "spec", "ports"):
                if port.get("appProtocol") != wanted:
                    yield Problem(title(service), f"appProtocol of port {port.get('name')} is not {wanted}")


RULES = [peers_are_reached, stores_are_reached, gateways_know_the_protocol]
