"""Ports are the same wherever they are said, and probes ask what there is to ask."""

from collections.abc import Iterator
from typing import Any

from ..context import Configured, Context
from ..model import Problem, at, listed, mapping, title
from ..network import matches

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def services_lead_to_ports(context: Context) -> Iterator[Problem]:
    """A targetPort is a container's port."""
    for service in context.overlay.of_kind("Service"):
        selector = mapping(service, "spec", "selector")
        pods = [found for found in context.overlay.workloads if matches({"matchLabels": selector}, found.labels)]
        for port in listed(service, "spec", "ports"):
            target: Any = port.get("targetPort", port.get("port"))
            for workload in pods:
                if target not in workload.ports and target not in workload.ports.values():
                    yield Problem(title(service), f"targetPort {target} is no port of {workload.title}")


def policies_name_ports(context: Context) -> Iterator[Problem]:
    """What a NetworkPolicy lets in goes to a port that the pods have."""
    for policy in context.overlay.of_kind("NetworkPolicy"):
        selector = mapping(policy, "spec", "podSelector")
        pods = [found for found in context.overlay.workloads if matches(selector, found.labels)]
        for rule in listed(policy, "spec", "ingress"):
            for port in (port.get("port") for port in listed(rule, "ports")):
                for workload in pods:
                    if port not in workload.ports and port not in workload.ports.values():
                        yield Problem(title(policy), f"port {port} is no port of {workload.title}")
        for rule in listed(policy, "spec", "egress"):
            names = [port.get("port") for port in listed(rule, "ports") if isinstance(port.get("port"), str)]
            for peer in listed(rule, "to"):
                receivers = [w for w in context.overlay.workloads if matches(peer.get("podSelector"), w.labels)]
                for wrong in ((n, w) for n in names for w in receivers if n not in w.ports):
                    yield Problem(title(policy), f"port {wrong[0]} is no port of {wrong[1].title}")


def services_are_probed(context: Context) -> Iterator[Problem]:
    """By gRPC health: readiness by the service's name, liveness by a name that does not depend on stores."""
    for configured in context.serving:
        names = {probe: {context.project.liveness} for probe in PROBES}
        names["readinessProbe"] = set(configured.configuration.service.health)
        ports = [port["containerPort"] for port in listed(configured.container, "ports")]
        for probe in PROBES:
            grpc = at(configured.container, probe, "grpc")
            if grpc is None:
                yield Problem(configured.title, f"no {probe} by gRPC health")
                continue
            if grpc.get("service") not in names[probe]:
                wanted = " or ".join(sorted(names[probe]))
                yield Problem(configured.title, f"its {probe} asks for {grpc.get('service')}, not for {wanted}")
            if grpc.get("port") not in ports:
                yield Problem(configured.title, f"its {probe} asks port {grpc.get('port')}, which is no port of it")


def address(text: Any) -> tuple[str, int] | None:
    """Host and port of an address to listen on."""
    host, _, port = str(text).rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None


def listeners_are_reachable(context: Context) -> Iterator[Problem]:
    """The service listens where the Service and the probes look for it."""
    for configured in context.serving:
        ports = {port.get("name"): port["containerPort"] for port in listed(configured.container, "ports")}
        yield from listens(configured, "listen", ports.get("grpc"))
        probed = {at(configured.container, probe, "grpc", "port") for probe in PROBES} - {None}
        setting = "listen" if probed == {ports.get("grpc")} else "health_listen"
        for port in probed:
            yield from listens(configured, setting, port)
        # The kubelet's gRPC probes speak no TLS.
        if configured.configuration.get("server", "tls") is not None and setting == "listen":
            yield Problem(configured.title, "server.tls needs server.health_listen: probes speak no TLS")


def listens(configured: Configured, setting: str, port: int | None) -> Iterator[Problem]:
    """The setting of `server` is that port, on all addresses."""
    found = address(configured.configuration.get("server", setting))
    if found is None or found[0] not in ("0.0.0.0", "[::]") or found[1] != port:
        yield Problem(configured.title, f"server.{setting} is not 0.0.0.0:{port}")


RULES = [services_lead_to_ports, policies_name_ports, services_are_probed, listeners_are_reachable]
