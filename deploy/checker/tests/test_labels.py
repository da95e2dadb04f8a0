"""Selectors that select nothing, or the wrong thing."""

from ..model import Overlay, at
from .scene import Scene, pod, resource

NAME = "app.kubernetes.io/name"


class LabelsTest(Scene):
    """One change each."""

    def test_a_deployment_that_does_not_select_its_pods(self) -> None:
        def change(overlay: Overlay) -> None:
            resource(overlay, "Deployment", "delivery-service")["spec"]["selector"]["matchLabels"][NAME] = "delivery"

        self.refused("Deployment/delivery-service: its selector does not match", change)

    def test_a_service_without_pods(self) -> None:
        def change(overlay: Overlay) -> None:
            resource(overlay, "Service", "delivery-service")["spec"]["selector"][NAME] = "delivery"

        self.refused("Service/delivery-service: its selector matches no pods", change)

    def test_a_service_of_two_deployments(self) -> None:
        def change(overlay: Overlay) -> None:
            spec = resource(overlay, "Service", "delivery-service")["spec"]
            spec["selector"] = {"app.kubernetes.io/part-of": "valise"}

        self.refused("Service/delivery-service: its selector matches Deployment/", change)

    def test_a_budget_without_pods(self) -> None:
        def change(overlay: Overlay) -> None:
            resource(overlay, "PodDisruptionBudget", "delivery-service")["spec"]["selector"]["matchLabels"] = {"a": "b"}

        self.refused("PodDisruptionBudget/delivery-service: its selector matches no pods", change)

    def test_a_policy_for_nobody(self) -> None:
        def change(overlay: Overlay) -> None:
            spec = resource(overlay, "NetworkPolicy", "delivery-service")["spec"]
            spec["podSelector"]["matchLabels"][NAME] = "delivery"

        self.refused("NetworkPolicy/delivery-service: its podSelector matches no pods", change)

    def test_a_policy_from_nobody(self) -> None:
        def change(overlay: Overlay) -> None:
            spec = resource(overlay, "NetworkPolicy", "delivery-service")["spec"]
            spec["ingress"][0]["from"][1]["podSelector"]["matchLabels"][NAME] = "directory"

        self.refused("NetworkPolicy/delivery-service: a podSelector of its ingress rules matches no pods", change)

    def test_an_autoscaler_without_target(self) -> None:
        def change(overlay: Overlay) -> None:
            resource(overlay, "HorizontalPodAutoscaler", "delivery-service")["spec"]["scaleTargetRef"]["name"] = "x"

        self.refused("there is no Deployment/x to scale", change)
        self.refused("Deployment/delivery-service: has no HorizontalPodAutoscaler", change)

    def test_a_spread_among_others(self) -> None:
        def change(overlay: Overlay) -> None:
            pod(overlay)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"][NAME] = "x"

        self.refused("its spread over kubernetes.io/hostname does not match", change)

    def test_a_deployment_without_its_parts(self) -> None:
        for kind in ("Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"):
            with self.subTest(kind):

                def change(overlay: Overlay, kind: str = kind) -> None:
                    overlay.resources.remove(resource(overlay, kind, "authentication-service"))

                self.refused(f"Deployment/authentication-service: has no {kind}", change)

    def test_pods_that_no_policy_restricts(self) -> None:
        def change(overlay: Overlay) -> None:
            for policy in overlay.of_kind("NetworkPolicy"):
                if "Ingress" in at(policy, "spec", "policyTypes"):
                    overlay.resources.remove(policy)

        self.refused("no NetworkPolicy restricts its ingress", change)

    def test_another_namespace(self) -> None:
        def change(overlay: Overlay) -> None:
            resource(overlay, "Service", "delivery-service")["metadata"]["namespace"] = "default"

        self.refused("Service/delivery-service: is in namespace default, not in valise", change)
