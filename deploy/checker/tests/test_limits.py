"""Numbers that cannot go together."""

from typing import Any

from ..model import Overlay
from .scene import Scene, configure, container, pod, resource


class LimitsTest(Scene):
    """One change each."""

    def scaler(self, **spec: Any) -> Any:
        """A change of the autoscaler."""

        def change(overlay: Overlay) -> None:
            resource(overlay, "HorizontalPodAutoscaler", "delivery-service")["spec"].update(spec)

        return change

    def budget(self, **spec: Any) -> Any:
        """Another limit for the budget."""

        def change(overlay: Overlay) -> None:
            found = resource(overlay, "PodDisruptionBudget", "delivery-service")["spec"]
            found.pop("maxUnavailable")
            found.update(spec)

        return change

    def test_fewer_replicas_at_most_than_at_least(self) -> None:
        self.refused("minReplicas 3 is more than maxReplicas 2", self.scaler(maxReplicas=2))

    def test_scaling_by_nothing(self) -> None:
        self.refused("has no metrics", self.scaler(metrics=[]))

    def test_scaling_by_what_is_not_requested(self) -> None:
        def change(overlay: Overlay) -> None:
            del container(overlay)["resources"]["requests"]["cpu"]

        self.refused("scales by cpu, which a container does not request", change)

    def test_replicas_in_two_places(self) -> None:
        def change(overlay: Overlay) -> None:
            resource(overlay, "Deployment", "delivery-service")["spec"]["replicas"] = 3

        self.refused("its Deployment sets replicas too", change)

    def test_budgets_that_allow_no_eviction(self) -> None:
        for spec in ({"minAvailable": 3}, {"minAvailable": "67%"}, {"maxUnavailable": 0}, {"maxUnavailable": "0%"}):
            with self.subTest(spec):
                self.refused("allows no eviction at 3 replicas", self.budget(**spec))

    def test_budgets_that_allow_one(self) -> None:
        for spec in ({"minAvailable": 2}, {"minAvailable": "66%"}, {"maxUnavailable": "1%"}):
            with self.subTest(spec):
                self.accepted(self.budget(**spec))

    def test_a_shutdown_that_is_cut_short(self) -> None:
        def change(overlay: Overlay) -> None:
            pod(overlay)["terminationGracePeriodSeconds"] = 34

        self.refused("terminationGracePeriodSeconds 34 is less than 35", change)
        self.refused(
            "terminationGracePeriodSeconds 45 is less than 75",
            lambda overlay: configure(
                overlay, "delivery-service", "[server]\n", "[server]\ngraceful_shutdown_seconds = 60\n"
            ),
        )

    def test_a_pod_that_goes_before_it_is_known(self) -> None:
        def change(overlay: Overlay) -> None:
            del container(overlay)["lifecycle"]

        self.refused("no preStop sleep", change)

    def test_a_program_that_is_not_in_the_image(self) -> None:
        def change(overlay: Overlay) -> None:
            container(overlay)["lifecycle"]["preStop"] = {"exec": {"command": ["sleep", "5"]}}

        self.refused("preStop runs a program", change)

    def test_memory_for_fewer_groups_than_are_kept(self) -> None:
        def change(overlay: Overlay) -> None:
            container(overlay)["resources"]["limits"]["memory"] = "1500Mi"

        self.refused("memory 1500Mi does not hold 250000 cached_members", change)
        self.refused(
            "memory 2Gi does not hold 400000 cached_members",
            lambda overlay: configure(overlay, "delivery-service", "key_file", "cached_members = 400000\nkey_file"),
        )

    def test_a_rollout_with_fewer_replicas(self) -> None:
        def change(overlay: Overlay) -> None:
            spec = resource(overlay, "Deployment", "delivery-service")["spec"]
            spec["strategy"]["rollingUpdate"]["maxUnavailable"] = 1

        self.refused("a rollout must have maxUnavailable 0", change)


class MigrationsTest(Scene):
    """Jobs."""

    overlay = "ministry/migrate"

    def test_one_that_never_ends(self) -> None:
        def change(overlay: Overlay) -> None:
            del resource(overlay, "Job", "delivery-service-migrate")["spec"]["activeDeadlineSeconds"]

        self.refused("has no activeDeadlineSeconds", change)

    def test_one_that_serves(self) -> None:
        def change(overlay: Overlay) -> None:
            container(overlay, "delivery-service-migrate", "Job")["args"].remove("migrate")

        self.refused("does not run `migrate`", change)
