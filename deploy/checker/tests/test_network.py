"""What a NetworkPolicy allows."""

import unittest
from typing import Any

from ..model import Object, Overlay
from ..network import End, allows, matches, namespace_labels, reaches

OWN = namespace_labels("valise")
A, B = {"app": "a"}, {"app": "b"}


def overlay(*rules: Object, direction: str = "Egress") -> Overlay:
    """One policy for the pods `a`."""
    spec: Object = {"podSelector": {"matchLabels": A}, "policyTypes": [direction], direction.lower(): list(rules)}
    policy = {"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec}
    return Overlay("test", [{"kind": "Namespace", "metadata": {"name": "valise"}}, policy])


def to(*peers: Object, **rest: Any) -> Object:
    """A rule of egress."""
    return {"to": list(peers), **rest}


class NetworkTest(unittest.TestCase):
    """As Kubernetes documents it."""

    def allowed(self, found: Overlay, other: End, number: int = 1, **names: int) -> bool:
        """From the pods `a`."""
        return allows(found, "Egress", A, other, number, names)

    def test_selectors(self) -> None:
        self.assertTrue(matches({}, A))
        self.assertTrue(matches({"matchLabels": A}, A))
        self.assertFalse(matches({"matchLabels": A}, B))
        for operator, values, expected in (
            ("In", ["a"], True),
            ("In", ["b"], False),
            ("NotIn", ["a"], False),
            ("Exists", [], True),
            ("DoesNotExist", [], False),
            ("Maybe", [], False),
        ):
            expression = {"key": "app", "operator": operator, "values": values}
            self.assertEqual(matches({"matchExpressions": [expression]}, A), expected, operator)

    def test_no_policy_allows_everything_and_an_empty_one_nothing(self) -> None:
        self.assertTrue(allows(overlay(), "Ingress", A, End(B, OWN), 1, {}))
        self.assertFalse(self.allowed(overlay(), End(B, OWN)))
        self.assertTrue(allows(overlay(), "Egress", B, End(A, OWN), 1, {}))

    def test_peers(self) -> None:
        pods = {"podSelector": {"matchLabels": B}}
        self.assertTrue(self.allowed(overlay(to(pods)), End(B, OWN)))
        self.assertFalse(self.allowed(overlay(to(pods)), End(A, OWN)))
        self.assertFalse(self.allowed(overlay(to(pods)), End(B, namespace_labels("other"))))
        everywhere = {"namespaceSelector": {}, **pods}
        self.assertTrue(self.allowed(overlay(to(everywhere)), End(B, namespace_labels("other"))))
        self.assertFalse(self.allowed(overlay(to({"ipBlock": {"cidr": "0.0.0.0/0"}})), End(B, OWN)))
        self.assertTrue(self.allowed(overlay({}), End(B, OWN)))

    def test_ports(self) -> None:
        def rule(**port: Any) -> Overlay:
            return overlay(to(ports=[port]))

        self.assertTrue(self.allowed(rule(port=5), End(B, OWN), 5))
        self.assertFalse(self.allowed(rule(port=5), End(B, OWN), 6))
        self.assertTrue(self.allowed(rule(port=5, endPort=7), End(B, OWN), 6))
        self.assertFalse(self.allowed(rule(port=5, protocol="UDP"), End(B, OWN), 5))
        self.assertTrue(self.allowed(rule(port="grpc"), End(B, OWN), 5, grpc=5))
        self.assertFalse(self.allowed(rule(port="grpc"), End(B, OWN), 5, health=5))
        self.assertTrue(reaches(rule(port=5), A, 5))
        self.assertFalse(reaches(rule(port=5), A, 6))
