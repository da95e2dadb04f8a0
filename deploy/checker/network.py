"""Which traffic the NetworkPolicies of an overlay allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .model import Object, Overlay, listed, mapping


@dataclass(frozen=True)
class End:
    """One end of a connection: pods with these labels, in a namespace with these. No labels: whoever is there."""

    pod: dict[str, str] | None
    namespace: dict[str, str]


def matches(selector: Object | None, labels: dict[str, str] | None) -> bool:
    """Whether a label selector selects. None and an empty one select everything."""
    if not selector:
        return True
    if labels is None:
        return False
    if any(labels.get(key) != value for key, value in mapping(selector, "matchLabels").items()):
        return False
    return all(expression_holds(expression, labels) for expression in listed(selector, "matchExpressions"))


def expression_holds(expression: Object, labels: dict[str, str]) -> bool:
    """One of `matchExpressions`."""
    value, values = labels.get(str(expression.get("key"))), listed(expression, "values")
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False


def policies_of(overlay: Overlay, pod: dict[str, str], direction: str) -> list[Object]:
    """The policies that restrict these pods in that direction, `Ingress` or `Egress`."""
    return [
        policy
        for policy in overlay.of_kind("NetworkPolicy")
        if direction in listed(policy, "spec", "policyTypes") and matches(mapping(policy, "spec", "podSelector"), pod)
    ]


def peer_matches(peer: Object, end: End, own_namespace: dict[str, str]) -> bool:
    """Whether a peer of a rule is that end. What an ipBlock holds is not known: it is never a pod."""
    if "ipBlock" in peer:
        return False
    namespace = peer.get("namespaceSelector")
    if namespace is None and end.namespace != own_namespace:
        return False
    return matches(namespace, end.namespace) and matches(peer.get("podSelector"), end.pod)


def port_matches(rule: Object, number: int, names: dict[str, int]) -> bool:
    """Whether a rule holds for a TCP port, which may be given by one of the receiver's names."""
    ports = listed(rule, "ports")
    if not ports:
        return True
    for port in ports:
        wanted: Any = port.get("port")
        first = names.get(wanted) if isinstance(wanted, str) else wanted
        last = port.get("endPort", first)
        if port.get("protocol", "TCP") == "TCP" and (wanted is None or (first and first <= number <= last)):
            return True
    return False


def allows(
    overlay: Overlay, direction: str, pod: dict[str, str], other: End, number: int, names: dict[str, int]
) -> bool:
    """Whether pods may receive from, or send to, the other end on a port, whose names are the receiver's."""
    policies = policies_of(overlay, pod, direction)
    own = namespace_labels(overlay.namespace or "")
    side = "from" if direction == "Ingress" else "to"
    for rule in (rule for policy in policies for rule in listed(policy, "spec", direction.lower())):
        peers = listed(rule, side)
        if port_matches(rule, number, names) and (not peers or any(peer_matches(peer, other, own) for peer in peers)):
            return True
    return not policies


def reaches(overlay: Overlay, pod: dict[str, str], number: int) -> bool:
    """Whether pods may send to anybody at all on a port."""
    policies = policies_of(overlay, pod, "Egress")
    rules = [rule for policy in policies for rule in listed(policy, "spec", "egress")]
    return not policies or any(port_matches(rule, number, {}) for rule in rules)


def namespace_labels(name: str) -> dict[str, str]:
    """The label that every namespace has."""
    return {"kubernetes.io/metadata.name": name}
