"""The overlays as they are, and their schemas."""

import unittest

from ..main import rule_problems
from ..render import overlays
from .scene import OVERLAYS, Scene, parsed, project, texts


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
