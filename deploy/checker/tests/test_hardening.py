"""Pods that may too much."""

from typing import Any

from ..model import Overlay
from .scene import Scene, container, pod, resource


class HardeningTest(Scene):
    """One change each."""

    def test_a_namespace_for_everything(self) -> None:
        def change(overlay: Overlay) -> None:
            labels = resource(overlay, "Namespace", "valise")["metadata"]["labels"]
            labels["pod-security.kubernetes.io/enforce"] = "baseline"

        self.refused("Namespace/valise: its label pod-security.kubernetes.io/enforce is not restricted", change)

    def test_pods(self) -> None:
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("runAsNonRoot must be true", {"securityContext": {"runAsUser": 1}}),
            ("runAsUser must be a number other than 0", {"securityContext": {"runAsUser": 0}}),
            ("seccompProfile must be RuntimeDefault", {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            ("automountServiceAccountToken must be false", {"automountServiceAccountToken": True}),
            ("enableServiceLinks must be false", {"enableServiceLinks": True}),
            ("hostNetwork must not be set", {"hostNetwork": True}),
            ("hostPID must not be set", {"hostPID": True}),
            (
                "volume host is of a kind that is not allowed",
                {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
            ),
            ("volume s can be read by everybody", {"volumes": [{"name": "s", "secret": {"defaultMode": 0o644}}]}),
            ("volume s can be read by everybody", {"volumes": [{"name": "s", "secret": {}}]}),
        ]
        for expected, values in wrong:
            with self.subTest(expected):

                def change(overlay: Overlay, values: dict[str, Any] = values) -> None:
                    pod(overlay).update(values)

                self.refused(expected, change)

    def test_containers(self) -> None:
        drop = {"drop": ["ALL"]}
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("allowPrivilegeEscalation must be false", {"allowPrivilegeEscalation": True}),
            ("readOnlyRootFilesystem must be true", {"readOnlyRootFilesystem": False}),
            ("capabilities must drop ALL", {"capabilities": {"drop": ["NET_RAW"]}}),
            ("capabilities must not be added", {"capabilities": {**drop, "add": ["NET_BIND_SERVICE"]}}),
            ("privileged must not be set", {"privileged": True}),
            ("runAsNonRoot must not be taken back", {"runAsNonRoot": False}),
            ("runAsUser must not be 0", {"runAsUser": 0}),
            ("seccompProfile must be RuntimeDefault", {"seccompProfile": {"type": "Unconfined"}}),
        ]
        for expected, values in wrong:
            with self.subTest(expected):

                def change(overlay: Overlay, values: dict[str, Any] = values) -> None:
                    container(overlay)["securityContext"].update(values)

                self.refused(expected, change)

    def test_a_container_without_a_security_context(self) -> None:
        self.refused(
            "container service: readOnlyRootFilesystem must be true",
            lambda overlay: container(overlay).pop("securityContext"),
        )

    def test_an_init_container_is_a_container(self) -> None:
        def change(overlay: Overlay) -> None:
            pod(overlay)["initContainers"] = [{"name": "first", "image": "delivery-service:1"}]

        self.refused("container first: capabilities must drop ALL", change)

    def test_a_writable_mount(self) -> None:
        self.refused(
            "writable mounts need a reason",
            lambda overlay: container(overlay)["volumeMounts"][0].pop("readOnly"),
        )

    def test_missing_resources(self) -> None:
        for group, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            with self.subTest(f"{group}.{name}"):

                def change(overlay: Overlay, group: str = group, name: str = name) -> None:
                    del container(overlay)["resources"][group][name]

                self.refused(f"resources.{group}.{name} is not set", change)


class MigrationsTest(Scene):
    """Jobs are held to the same."""

    overlay = "ministry/migrate"

    def test_a_job_that_runs_as_root(self) -> None:
        self.refused(
            "Job/delivery-service-migrate: runAsUser must be a number other than 0",
            lambda overlay: pod(overlay, "delivery-service-migrate", "Job")["securityContext"].update(runAsUser=0),
        )
