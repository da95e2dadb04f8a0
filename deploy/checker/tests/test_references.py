"""Names of what does not exist."""

from functools import partial
from typing import Any

from ..main import unused_secrets
from ..model import Overlay
from ..project import secrets
from .scene import Scene, configure, container, parsed, pod, project


def secret_in_a_variable(name: str, key: str) -> Any:
    """One more variable, from a Secret."""
    variable = {"name": "VALISE_DELIVERY_DATABASE", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}
    return lambda overlay: container(overlay).setdefault("env", []).append(variable)


class ReferencesTest(Scene):
    """One change each."""

    def image(self, image: str) -> Any:
        """Another image."""

        def change(overlay: Overlay) -> None:
            container(overlay)["image"] = image

        return change

    def test_a_secret_that_is_not_documented(self) -> None:
        self.refused("Secret postgres is not in the README's table", secret_in_a_variable("postgres", "url"))

    def test_a_key_that_is_not_documented(self) -> None:
        self.refused(
            "key uri of Secret delivery-service-database is not in the README's table",
            secret_in_a_variable("delivery-service-database", "uri"),
        )

    def test_a_secret_in_a_variable(self) -> None:
        self.refused(
            "variable VALISE_DELIVERY_DATABASE holds a Secret: mount it",
            secret_in_a_variable("delivery-service-database", "url"),
        )

    def test_a_secret_that_is_not_mounted(self) -> None:
        for name, path in (
            ("database_file", "/etc/valise/database/url"),
            ("redis.urls_file", "/etc/valise/redis/urls"),
        ):
            with self.subTest(name):
                self.refused(
                    f"setting {name}: {path}s is not a key of the volume's source",
                    partial(configure, service="delivery-service", old=path, new=f"{path}s"),
                )

    def test_a_migration_has_its_database(self) -> None:
        self.overlay = "ministry/migrate"
        self.refused(
            "setting database_file: /etc/valise/url is not in a mounted volume",
            lambda overlay: configure(overlay, "delivery-service", "/etc/valise/database/url", "/etc/valise/url"),
        )

    def test_a_volume_of_an_unknown_secret(self) -> None:
        def change(overlay: Overlay) -> None:
            next(v for v in pod(overlay)["volumes"] if v["name"] == "tls")["secret"]["secretName"] = "tls"

        self.refused("Secret tls is not in the README's table", change)

    def test_a_secret_with_values(self) -> None:
        def change(overlay: Overlay) -> None:
            metadata = {"name": "delivery-service-database", "namespace": "valise"}
            overlay.resources.append({"apiVersion": "v1", "kind": "Secret", "metadata": metadata})

        self.refused("a Secret with values must not be in the manifests", change)

    def test_a_documented_secret_that_nobody_uses(self) -> None:
        found = [problem.what for problem in unused_secrets(project(), [parsed("local")])]
        self.assertIn("no overlay uses the Secret authentication-service-root", found)

    def test_the_table_is_read(self) -> None:
        self.assertEqual(secrets("| `a-b` | `x.pem`, `y` | it |\n| `c` | none |"), {"a-b": frozenset({"x.pem", "y"})})

    def test_a_config_map_that_does_not_exist(self) -> None:
        def change(overlay: Overlay) -> None:
            volume = next(v for v in pod(overlay)["volumes"] if v["name"] == "configuration")
            volume["configMap"]["name"] = "delivery"

        self.refused("there is no ConfigMap delivery", change)

    def test_a_configuration_file_that_does_not_exist(self) -> None:
        def change(overlay: Overlay) -> None:
            container(overlay)["args"] = ["/etc/valise/configuration/delivery.toml"]

        self.refused("no ConfigMap has its configuration file", change)

    def test_an_account_that_does_not_exist(self) -> None:
        def change(overlay: Overlay) -> None:
            pod(overlay)["serviceAccountName"] = "delivery"

        self.refused("there is no ServiceAccount delivery", change)

    def test_volumes_and_mounts_that_do_not_go_together(self) -> None:
        def change(overlay: Overlay) -> None:
            container(overlay)["volumeMounts"][0]["name"] = "files"

        self.refused("there is no volume files", change)
        self.refused("is not mounted", change)

    def test_images_that_are_not_pinned(self) -> None:
        for image in ("delivery-service", "a.example/delivery-service:latest", "a.example:5000/delivery-service"):
            with self.subTest(image):
                self.refused(f"image {image} is not pinned", self.image(image))

    def test_images_that_are(self) -> None:
        digest = "sha256:" + 64 * "a"
        for image in (
            f"delivery-service@{digest}",
            f"a.example:5000/delivery-service:1@{digest}",
            "delivery-service:1",
        ):
            with self.subTest(image):
                self.accepted(self.image(image))

    def test_an_image_of_another_project(self) -> None:
        self.refused("image redis:7 is of no service of this project", self.image("redis:7"))

    def test_files_that_are_not_mounted(self) -> None:
        self.refused(
            "setting key_file: /etc/valise/key.pem is not in a mounted volume",
            lambda overlay: configure(
                overlay, "delivery-service", "/etc/valise/identity/key.pem", "/etc/valise/key.pem"
            ),
        )
        self.refused(
            "setting server.tls.key: /etc/valise/tls/key.pem is not a key of the volume's source",
            lambda overlay: configure(
                overlay, "delivery-service", "/etc/valise/tls/tls.key", "/etc/valise/tls/key.pem"
            ),
        )
