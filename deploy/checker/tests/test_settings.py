"""Settings that the services do not know, and peers that they cannot reach."""

from collections.abc import Callable
from typing import Any

from ..model import Overlay, at
from .scene import Scene, configure, container, resource

DELIVERY = "delivery-service"


def line(service: str, old: str, new: str) -> Callable[[Overlay], None]:
    """A change of a configuration file."""
    return lambda overlay: configure(overlay, service, old, new)


class SettingsTest(Scene):
    """One change each."""

    def variable(self, name: str, value: str) -> Callable[[Overlay], None]:
        """One more variable."""
        return lambda overlay: container(overlay).setdefault("env", []).append({"name": name, "value": value})

    def test_keys_that_do_not_exist(self) -> None:
        self.refused("there is no setting key (", line(DELIVERY, "key_file", "key"))
        self.refused("there is no setting server.port", line(DELIVERY, "[server]\n", "[server]\nport = 1\n"))
        self.refused("there is no setting storage", line(DELIVERY, "[server]\n", "[storage]\nfile = 'x'\n[server]\n"))
        self.refused("there is no setting redis.hosts", line(DELIVERY, "[redis]\n", "[redis]\nhosts = []\n"))
        self.refused("there is no setting server.tls.ca", line(DELIVERY, "tls = { ", "tls = { ca = 'x', "))

    def test_keys_that_are_missing(self) -> None:
        self.refused("setting key_file is missing", line(DELIVERY, "key_file", "# key_file"))
        self.refused("setting peers.issuer is missing", line("key-package-directory", "issuer", "# issuer"))
        self.refused(
            "setting server.tls.key is missing",
            line(DELIVERY, ', key = "/etc/valise/tls/tls.key"', ""),
        )

    def test_values_that_cannot_be(self) -> None:
        self.refused("setting redis.mode is none of", line(DELIVERY, 'mode = "cluster"', 'mode = "clustered"'))
        self.refused(
            "setting redis.wait_replicas is not a whole number",
            line(DELIVERY, "wait_replicas = 1", "wait_replicas = 'one'"),
        )
        self.refused(
            "setting server.reflection is not a boolean", line(DELIVERY, "reflection = false", "reflection = 0")
        )
        self.refused("setting domains is not a list", line("authentication-service", "domains = [", "domains = '' # ["))
        self.refused("setting limits is not a section", line(DELIVERY, "key_file", "limits = 1\nkey_file"))

    def test_a_file_that_is_not_toml(self) -> None:
        self.refused("is not TOML", line(DELIVERY, "key_file = ", "key_file "))

    def test_variables_that_do_not_exist(self) -> None:
        self.refused(
            "there is no setting redis.url (VALISE_DELIVERY_REDIS__URL)",
            self.variable("VALISE_DELIVERY_REDIS__URL", "x"),
        )
        self.refused("variable VALISE_DATABASE does not begin", self.variable("VALISE_DATABASE", "x"))

    def test_variables_that_cannot_be(self) -> None:
        name = "VALISE_DELIVERY_RETENTION_SECONDS"
        self.refused("setting retention_seconds is not a whole number", self.variable(name, "a month"))
        self.accepted(self.variable(name, "2592000"))
        self.refused("setting redis.urls is not a list", self.variable("VALISE_DELIVERY_REDIS__URLS", "redis://redis"))
        self.accepted(self.variable("VALISE_DELIVERY_REDIS__URLS", '["redis://redis"]'))

    def test_secrets_that_have_to_be_set(self) -> None:
        self.refused("setting database is missing", line(DELIVERY, "database_file", "# database_file"))
        self.refused("setting redis.urls is missing", line(DELIVERY, "urls_file", "# urls_file"))

    def test_files_for_what_is_no_secret(self) -> None:
        self.refused("there is no setting token_issuer_file", line(DELIVERY, "token_issuer", "token_issuer_file"))

    def test_variables_from_everywhere(self) -> None:
        def change(overlay: Overlay) -> None:
            container(overlay)["envFrom"] = [{"configMapRef": {"name": "x"}}]

        self.refused("envFrom hides which settings are set", change)

    def test_secrets_in_a_file(self) -> None:
        added = 'urls = ["redis://valise:hush@redis"]\n'
        self.refused(
            "setting redis.urls shows a URL with credentials", line(DELIVERY, "[redis]\n", f"[redis]\n{added}")
        )
        self.refused(
            "setting redis.password must come from a Secret", line(DELIVERY, "[redis]\n", "[redis]\npassword = 'x'\n")
        )

    def test_a_migration_is_judged_too(self) -> None:
        self.overlay = "ministry/migrate"
        self.refused("Job/delivery-service-migrate: container migrate: there is no", line(DELIVERY, "key_file", "key"))


class AgreementTest(Scene):
    """Services that would not understand each other."""

    def test_another_issuer(self) -> None:
        self.refused(
            "setting token_issuer is not valise://interieur.example",
            line(DELIVERY, "valise://interieur.example", "valise://valise.example"),
        )
        self.refused(
            "setting peers.issuer is not valise://x",
            line("authentication-service", "domains =", "issuer = 'valise://x'\ndomains ="),
        )

    def test_another_retention(self) -> None:
        self.refused("the services keep entries and packages for different times", line(DELIVERY, "2592000", "86400"))


class TrafficTest(Scene):
    """Peers."""

    def rules(self, policy: str, change: Callable[[Any], object]) -> Callable[[Overlay], None]:
        """A change of a NetworkPolicy's rules."""

        def changed(overlay: Overlay) -> None:
            change(resource(overlay, "NetworkPolicy", policy)["spec"])

        return changed

    def test_a_peer_that_does_not_exist(self) -> None:
        self.refused(
            "setting authentication_url: there is no Service authentication",
            line(DELIVERY, "https://authentication-service:", "https://authentication:"),
        )

    def test_a_port_that_does_not_exist(self) -> None:
        self.refused(
            "Service/authentication-service has no port 443",
            line(DELIVERY, "https://authentication-service:50051", "https://authentication-service"),
        )

    def test_a_peer_that_speaks_tls_only(self) -> None:
        self.refused(
            "Deployment/authentication-service speaks TLS only",
            line(DELIVERY, "https://authentication-service", "http://authentication-service"),
        )

    def test_a_protocol_that_is_not_spoken(self) -> None:
        def change(overlay: Overlay) -> None:
            resource(overlay, "Service", DELIVERY)["spec"]["ports"][0]["appProtocol"] = "kubernetes.io/h2c"

        self.refused("appProtocol of port grpc is not https", change)

    def test_a_way_out_that_is_closed(self) -> None:
        self.refused(
            "no NetworkPolicy lets Deployment/delivery-service reach Deployment/authentication-service",
            self.rules(DELIVERY, lambda spec: spec["egress"].clear()),
        )

    def test_a_way_in_that_is_closed(self) -> None:
        def change(spec: Any) -> None:
            peers = at(spec, "ingress", 0, "from")
            peers[:] = [peer for peer in peers if "delivery-service" not in str(peer)]

        self.refused(
            "no NetworkPolicy lets Deployment/authentication-service be reached by Deployment/delivery-service",
            self.rules("authentication-service", change),
        )

    def test_a_way_to_another_port(self) -> None:
        self.refused(
            "no NetworkPolicy lets Deployment/delivery-service reach Deployment/authentication-service",
            self.rules(DELIVERY, lambda spec: spec["egress"][0]["ports"][0].update(port="health")),
        )

    def test_stores_that_cannot_be_reached(self) -> None:
        for policy, port in (("to-postgresql", 5432), ("to-redis", 6379)):
            with self.subTest(policy):
                self.refused(
                    f"no NetworkPolicy lets the pods reach port {port}",
                    self.rules(policy, lambda spec: spec["egress"][0]["ports"][0].update(port=1)),
                )

    def test_a_collector_that_cannot_be_reached(self) -> None:
        self.refused(
            "no NetworkPolicy lets the pods reach collector.observability:4317",
            lambda overlay: overlay.resources.remove(resource(overlay, "NetworkPolicy", "to-collector")),
        )
