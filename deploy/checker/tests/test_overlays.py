"""The overlays as they are, and their schemas."""

import unittest

from ..context import context_of
from ..main import rule_problems
from ..model import Overlay
from ..render import overlays
from .scene import OVERLAYS, Scene, configure, parsed, project, texts


class OverlaysTest(Scene):
    """All is well."""

    def test_all_overlays_are_found(self) -> None:
        names = [str(path.relative_to(OVERLAYS)) for path in overlays(OVERLAYS)]
        self.assertEqual(names, ["local", "local/migrate", "ministry", "ministry/migrate"])

    def test_no_rule_is_against_them(self) -> None:
        for path in overlays(OVERLAYS):
            name = str(path.relative_to(OVERLAYS))
            with self.subTest(name):
                self.assertEqual(texts(rule_problems(parsed(name), project())), [])

    def test_devices_of_both_kinds_of_keys_can_be_in_groups(self) -> None:
        for name in ["local", "ministry"]:
            with self.subTest(name):
                delivery = next(
                    configured.configuration
                    for configured in context_of(parsed(name), project()).serving
                    if configured.configuration.service.name == "delivery-service"
                )
                for kind in ["", "p256_"]:
                    for file in ["key_file", "chain_file"]:
                        self.assertIsNotNone(delivery.get(kind + file), kind + file)

    def test_a_key_that_no_secret_has(self) -> None:
        def change(overlay: Overlay) -> None:
            configure(overlay, "delivery-service", "p256.key.pem", "p384.key.pem")

        self.refused("setting p256_key_file: /etc/valise/identity/p384.key.pem is not a key", change)


class SchemaTest(Scene):
    """What kubernetes-validate refuses."""

    def test_a_field_that_does_not_exist(self) -> None:
        self.refused_by_schema("revisionHistoryLimits", "revisionHistoryLimit:", "revisionHistoryLimits:")

    def test_a_value_of_the_wrong_type(self) -> None:
        self.refused_by_schema("minReadySeconds", "minReadySeconds: 5", "minReadySeconds: soon")

    def test_an_api_that_was_removed(self) -> None:
        self.refused_by_schema("policy/v1beta1", "apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n")

    def test_a_kind_that_does_not_exist(self) -> None:
        self.refused_by_schema("PodDisruption", "kind: PodDisruptionBudget", "kind: PodDisruption")


if __name__ == "__main__":
    unittest.main()
