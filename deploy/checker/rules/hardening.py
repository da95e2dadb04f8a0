"""Nothing may more than it needs: what Pod Security calls restricted, and a little more."""

from collections.abc import Iterator

from ..context import Context
from ..model import Object, Problem, at, listed, mapping, title

LEVEL = "pod-security.kubernetes.io/enforce"
HOST = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")
VOLUMES = ("configMap", "secret", "emptyDir", "projected", "persistentVolumeClaim")


def namespaces_are_restricted(context: Context) -> Iterator[Problem]:
    """Also for what else is started there."""
    for namespace in context.overlay.of_kind("Namespace"):
        if at(namespace, "metadata", "labels", LEVEL) != "restricted":
            yield Problem(title(namespace), f"its label {LEVEL} is not restricted")


def pods_are_restricted(context: Context) -> Iterator[Problem]:
    """No root, no host, no token of the API server, no variables of other Services."""
    for workload in context.overlay.workloads:
        pod, security = workload.pod, mapping(workload.pod, "securityContext")
        wrong = {
            "runAsNonRoot must be true": security.get("runAsNonRoot") is not True,
            "runAsUser must be a number other than 0": not security.get("runAsUser"),
            "seccompProfile must be RuntimeDefault": at(security, "seccompProfile", "type") != "RuntimeDefault",
            "automountServiceAccountToken must be false": pod.get("automountServiceAccountToken") is not False,
            "enableServiceLinks must be false": pod.get("enableServiceLinks") is not False,
        }
        wrong |= {f"{key} must not be set": bool(pod.get(key)) for key in HOST}
        yield from (Problem(workload.title, what) for what, so in wrong.items() if so)
        for volume in listed(pod, "volumes"):
            yield from (Problem(workload.title, what) for what in volume_problems(volume))
    for account in context.overlay.of_kind("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield Problem(title(account), "automountServiceAccountToken must be false")


def volume_problems(volume: Object) -> Iterator[str]:
    """Only volumes of harmless kinds, and secrets that nobody else reads."""
    if not any(source in volume for source in VOLUMES):
        yield f"volume {volume.get('name')} is of a kind that is not allowed"
    mode = at(volume, "secret", "defaultMode")
    if "secret" in volume and (mode is None or mode & 0o007):
        yield f"volume {volume.get('name')} can be read by everybody: set defaultMode 0440"


def containers_are_restricted(context: Context) -> Iterator[Problem]:
    """They cannot become more than they are, nor write."""
    for _, container, where in context.overlay.containers:
        security = mapping(container, "securityContext")
        wrong = {
            "allowPrivilegeEscalation must be false": security.get("allowPrivilegeEscalation") is not False,
            "readOnlyRootFilesystem must be true": security.get("readOnlyRootFilesystem") is not True,
            "capabilities must drop ALL": listed(security, "capabilities", "drop") != ["ALL"],
            "capabilities must not be added": bool(listed(security, "capabilities", "add")),
            "privileged must not be set": bool(security.get("privileged")),
            "runAsNonRoot must not be taken back": security.get("runAsNonRoot") is False,
            "runAsUser must not be 0": security.get("runAsUser") == 0,
            "seccompProfile must be RuntimeDefault": at(security, "seccompProfile", "type")
            not in (None, "RuntimeDefault"),
            "hostPort must not be set": any("hostPort" in port for port in listed(container, "ports")),
            "writable mounts need a reason": any(
                mount.get("readOnly") is not True for mount in listed(container, "volumeMounts")
            ),
        }
        yield from (Problem(where, what) for what, so in wrong.items() if so)


def containers_have_resources(context: Context) -> Iterator[Problem]:
    """What they need, and how much memory they may take."""
    for _, container, where in context.overlay.containers:
        for path in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if at(container, "resources", *path) is None:
                yield Problem(where, f"resources.{'.'.join(path)} is not set")


RULES = [
    namespaces_are_restricted,
    pods_are_restricted,
    containers_are_restricted,
    containers_have_resources,
]
