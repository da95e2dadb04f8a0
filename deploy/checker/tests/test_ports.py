"""Ports that lead nowhere, and probes that ask the wrong thing."""

from ..model import Overlay
from .scene import Scene, configure, container, resource


class PortsTest(Scene):
    """One change each."""

    def test_a_service_to_a_port_that_is_not_there(self) -> None:
        def change(overlay: Overlay) -> None:
            resource(overlay, "Service", "delivery-service")["spec"]["ports"][0]["targetPort"] = "http"

        self.refused("Service/delivery-service: targetPort http is no port of Deployment/delivery-service", change)

    def test_a_policy_for_a_port_that_is_not_there(self) -> None:
        def change(overlay: Overlay) -> None:
            spec = resource(overlay, "NetworkPolicy", "delivery-service")["spec"]
            spec["ingress"][0]["ports"][0]["port"] = 50053

        self.refused("NetworkPolicy/delivery-service: port 50053 is no port of", change)

    def test_a_policy_to_a_port_that_is_not_there(self) -> None:
        def change(overlay: Overlay) -> None:
            spec = resource(overlay, "NetworkPolicy", "delivery-service")["spec"]
            spec["egress"][0]["ports"][0]["port"] = "http"

        self.refused("NetworkPolicy/delivery-service: port http is no port of", change)

    def test_a_missing_probe(self) -> None:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            with self.subTest(probe):

                def change(overlay: Overlay, probe: str = probe) -> None:
                    container(overlay)[probe] = {"tcpSocket": {"port": 50052}}

                self.refused(f"no {probe} by gRPC health", change)

    def test_a_probe_of_another_port(self) -> None:
        def change(overlay: Overlay) -> None:
            container(overlay)["livenessProbe"]["grpc"]["port"] = 8080

        self.refused("its livenessProbe asks port 8080, which is no port of it", change)

    def test_a_probe_of_another_service(self) -> None:
        def change(overlay: Overlay) -> None:
            name = "valise.directory.v1.KeyPackageDirectoryService"
            container(overlay)["readinessProbe"]["grpc"]["service"] = name

        self.refused("not for valise.delivery.v1.", change)

    def test_liveness_that_depends_on_stores(self) -> None:
        def change(overlay: Overlay) -> None:
            container(overlay)["livenessProbe"]["grpc"]["service"] = "valise.delivery.v1.DeliveryService"

        self.refused("its livenessProbe asks for valise.delivery.v1.DeliveryService, not for live", change)

    def test_every_service_has_its_own_name(self) -> None:
        for service in ("authentication-service", "key-package-directory", "delivery-service"):
            with self.subTest(service):

                def change(overlay: Overlay, service: str = service) -> None:
                    container(overlay, service)["readinessProbe"]["grpc"]["service"] = "valise.x.v1.X"

                self.refused(f"Deployment/{service}: container service: its readinessProbe asks for", change)

    def test_a_service_that_listens_elsewhere(self) -> None:
        self.refused(
            "server.listen is not 0.0.0.0:50051",
            lambda overlay: configure(overlay, "delivery-service", "0.0.0.0:50051", "0.0.0.0:50053"),
        )

    def test_a_service_that_listens_to_itself(self) -> None:
        self.refused(
            "server.listen is not 0.0.0.0:50051",
            lambda overlay: configure(overlay, "delivery-service", "0.0.0.0:50051", "127.0.0.1:50051"),
        )

    def test_probes_without_a_listener(self) -> None:
        self.refused(
            "server.health_listen is not 0.0.0.0:50052",
            lambda overlay: configure(overlay, "delivery-service", 'health_listen = "0.0.0.0:50052"\n', ""),
        )

    def test_probes_that_would_have_to_speak_tls(self) -> None:
        def change(overlay: Overlay) -> None:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                container(overlay)[probe]["grpc"]["port"] = 50051

        self.refused("server.tls needs server.health_listen", change)
