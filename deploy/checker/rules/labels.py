"""Selectors select what they are meant to."""

from collections.abc import Iterator

from ..context import Context
from ..model import Object, Overlay, Problem, Workload, at, kind, listed, mapping, name, title
from ..network import matches, policies_of

CLUSTER_WIDE = ("Namespace",)


def selected(overlay: Overlay, selector: Object) -> list[Workload]:
    """The workloads whose pods a selector selects; none by an empty one."""
    return [workload for workload in overlay.workloads if selector and matches(selector, workload.labels)]


def deployments_select_their_pods(context: Context) -> Iterator[Problem]:
    """The API server refuses a Deployment that does not."""
    for workload in context.overlay.deployments:
        selector = mapping(workload.resource, "spec", "selector")
        if not selector or not matches(selector, workload.labels):
            yield Problem(workload.title, "its selector does not match its own pods' labels")


def services_and_budgets_select_one_deployment(context: Context) -> Iterator[Problem]:
    """A selector of a Service or PodDisruptionBudget that matches nothing does nothing, silently."""
    for resource in context.overlay.of_kind("Service", "PodDisruptionBudget"):
        selector = mapping(resource, "spec", "selector")
        if kind(resource) == "Service":
            selector = {"matchLabels": selector} if selector else {}
        found = [workload.title for workload in selected(context.overlay, selector)]
        if len(found) != 1 or found[0].startswith("Job/"):
            yield Problem(title(resource), f"its selector matches {', '.join(found) or 'no pods'}, not one Deployment")


def policies_select_pods(context: Context) -> Iterator[Problem]:
    """A NetworkPolicy for nobody, or from and to nobody, is misspelt."""
    for policy in context.overlay.of_kind("NetworkPolicy"):
        pods = mapping(policy, "spec", "podSelector")
        if pods and not selected(context.overlay, pods):
            yield Problem(title(policy), "its podSelector matches no pods")
        rules = [(side, rule) for side in ("ingress", "egress") for rule in listed(policy, "spec", side)]
        for side, rule in rules:
            for peer in listed(rule, "from") + listed(rule, "to"):
                own = "namespaceSelector" not in peer and "podSelector" in peer
                if own and peer["podSelector"] and not selected(context.overlay, peer["podSelector"]):
                    yield Problem(title(policy), f"a podSelector of its {side} rules matches no pods")


def autoscalers_have_targets(context: Context) -> Iterator[Problem]:
    """The target exists."""
    for autoscaler in context.overlay.of_kind("HorizontalPodAutoscaler"):
        target = mapping(autoscaler, "spec", "scaleTargetRef")
        found = context.overlay.find(str(target.get("kind")), str(target.get("name")))
        if found is None or found.get("apiVersion") != target.get("apiVersion"):
            yield Problem(title(autoscaler), f"there is no {target.get('kind')}/{target.get('name')} to scale")


def pods_spread_among_themselves(context: Context) -> Iterator[Problem]:
    """Replicas must be held apart from each other, not from something else."""
    for workload in context.overlay.deployments:
        constraints = listed(workload.pod, "topologySpreadConstraints")
        if not constraints:
            yield Problem(workload.title, "no topologySpreadConstraints: all replicas may be on one node")
        for constraint in constraints:
            selector = constraint.get("labelSelector")
            if not selector or not matches(selector, workload.labels):
                topology = constraint.get("topologyKey")
                yield Problem(workload.title, f"its spread over {topology} does not match its own pods' labels")


def deployments_are_complete(context: Context) -> Iterator[Problem]:
    """Each has what belongs to it, and nobody reaches it or is reached by it unless a policy says so."""
    overlay = context.overlay
    for workload in overlay.deployments:
        services = [{"matchLabels": mapping(service, "spec", "selector")} for service in overlay.of_kind("Service")]
        budgets = [mapping(budget, "spec", "selector") for budget in overlay.of_kind("PodDisruptionBudget")]
        scaled = [mapping(scaler, "spec", "scaleTargetRef") for scaler in overlay.of_kind("HorizontalPodAutoscaler")]
        parts = {
            "Service": any(matches(selector, workload.labels) for selector in services),
            "PodDisruptionBudget": any(matches(selector, workload.labels) for selector in budgets),
            "HorizontalPodAutoscaler": any(target.get("name") == name(workload.resource) for target in scaled),
        }
        yield from (Problem(workload.title, f"has no {part}") for part, there in parts.items() if not there)
    for workload in overlay.workloads:
        for direction in ("Ingress", "Egress"):
            if not policies_of(overlay, workload.labels, direction):
                yield Problem(workload.title, f"no NetworkPolicy restricts its {direction.lower()}")


def all_live_in_one_namespace(context: Context) -> Iterator[Problem]:
    """The overlay's own."""
    namespace = context.overlay.namespace
    if namespace is None:
        yield Problem(context.overlay.name, "must have exactly one Namespace")
    for resource in context.overlay.resources:
        found = at(resource, "metadata", "namespace")
        if kind(resource) not in CLUSTER_WIDE and found != namespace:
            yield Problem(title(resource), f"is in namespace {found}, not in {namespace}")


RULES = [
    deployments_select_their_pods,
    services_and_budgets_select_one_deployment,
    policies_select_pods,
    autoscalers_have_targets,
    pods_spread_among_themselves,
    deployments_are_complete,
    all_live_in_one_namespace,
]
