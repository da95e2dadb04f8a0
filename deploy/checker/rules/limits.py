"""Numbers that must go together: replicas, disruptions, seconds."""

import math
import re
from collections.abc import Iterator
from typing import Any

from ..context import Context
from ..model import Object, Problem, at, listed, mapping, name, title
from ..network import matches

# What a service's background tasks may take to end after its requests have (GRACE in the services' sources).
BACKGROUND_SECONDS = 10
DEFAULT_GRACEFUL_SHUTDOWN = 20
# What the delivery service keeps in memory of groups, and what it needs beside that.
DEFAULT_CACHED_MEMBERS = 250_000
MEMBER_BYTES = 3000
OTHER_BYTES = 1 << 30
BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def autoscalers_can_scale(context: Context) -> Iterator[Problem]:
    """Between limits that are possible, by what is measured, and alone."""
    for autoscaler in context.overlay.of_kind("HorizontalPodAutoscaler"):
        least, most = at(autoscaler, "spec", "minReplicas") or 1, at(autoscaler, "spec", "maxReplicas") or 0
        if least > most:
            yield Problem(title(autoscaler), f"minReplicas {least} is more than maxReplicas {most}")
        target = context.overlay.find("Deployment", str(at(autoscaler, "spec", "scaleTargetRef", "name")))
        if at(target, "spec", "replicas") is not None:
            yield Problem(title(autoscaler), "its Deployment sets replicas too: each rollout would undo the scaling")
        metrics = listed(autoscaler, "spec", "metrics")
        if not metrics:
            yield Problem(title(autoscaler), "has no metrics")
        for resource in (at(metric, "resource", "name") for metric in metrics if metric.get("type") == "Resource"):
            for container in listed(target, "spec", "template", "spec", "containers"):
                if at(container, "resources", "requests", resource) is None:
                    yield Problem(title(autoscaler), f"scales by {resource}, which a container does not request")


def replicas_at_least(context: Context, budget: Object) -> int:
    """How many replicas the Deployment of a budget has at least."""
    for workload in context.overlay.deployments:
        if matches(mapping(budget, "spec", "selector"), workload.labels):
            for autoscaler in context.overlay.of_kind("HorizontalPodAutoscaler"):
                if at(autoscaler, "spec", "scaleTargetRef", "name") == name(workload.resource):
                    return at(autoscaler, "spec", "minReplicas") or 1
            replicas = at(workload.resource, "spec", "replicas")
            return 1 if replicas is None else int(replicas)
    return 0


def share(value: Any, replicas: int) -> int:
    """A number, or a percentage of the replicas, rounded up as Kubernetes does."""
    if isinstance(value, str):
        return math.ceil(int(value.rstrip("%")) * replicas / 100)
    return int(value)


def budgets_allow_an_eviction(context: Context) -> Iterator[Problem]:
    """Else a node could never be drained."""
    for budget in context.overlay.of_kind("PodDisruptionBudget"):
        replicas = replicas_at_least(context, budget)
        least, most = at(budget, "spec", "minAvailable"), at(budget, "spec", "maxUnavailable")
        allowed = replicas - share(least, replicas) if least is not None else share(most or 0, replicas)
        if allowed < 1:
            yield Problem(title(budget), f"allows no eviction at {replicas} replicas")


def shutdown_has_time(context: Context) -> Iterator[Problem]:
    """The kubelet must not kill what is still ending."""
    for configured in context.serving:
        graceful = configured.configuration.number(DEFAULT_GRACEFUL_SHUTDOWN, "server", "graceful_shutdown_seconds")
        before = at(configured.container, "lifecycle", "preStop", "sleep", "seconds") or 0
        if not before:
            yield Problem(configured.title, "no preStop sleep: connections that come late are refused")
        if "exec" in mapping(configured.container, "lifecycle", "preStop"):
            yield Problem(configured.title, "preStop runs a program, and the image has none")
        needed = before + graceful + BACKGROUND_SECONDS
        given = configured.workload.pod.get("terminationGracePeriodSeconds", 30)
        if given < needed:
            yield Problem(configured.title, f"terminationGracePeriodSeconds {given} is less than {needed:.0f}")


def rollouts_lose_nothing(context: Context) -> Iterator[Problem]:
    """A new pod is ready before an old one goes."""
    for workload in context.overlay.deployments:
        strategy = mapping(workload.resource, "spec", "strategy")
        if strategy.get("type", "RollingUpdate") != "RollingUpdate":
            yield Problem(workload.title, "must be rolled out by RollingUpdate")
        if at(strategy, "rollingUpdate", "maxUnavailable") != 0 or at(strategy, "rollingUpdate", "maxSurge") == 0:
            yield Problem(workload.title, "a rollout must have maxUnavailable 0 and some maxSurge")


def migrations_end(context: Context) -> Iterator[Problem]:
    """A Job ends, does not start over for ever, and migrates."""
    for workload in (workload for workload in context.overlay.workloads if workload.is_job):
        if at(workload.resource, "spec", "activeDeadlineSeconds") is None:
            yield Problem(workload.title, "has no activeDeadlineSeconds")
        for container in workload.containers:
            if listed(container, "args")[:1] != ["migrate"]:
                yield Problem(workload.title, "does not run `migrate`")


def memory_holds_the_cache(context: Context) -> Iterator[Problem]:
    """Else the kernel ends the pod once it knows enough groups."""
    for configured in context.serving:
        if configured.configuration.service.name != "delivery-service":
            continue
        limit = re.fullmatch(r"(\d+)(\D*)", str(at(configured.container, "resources", "limits", "memory")))
        members = configured.configuration.number(DEFAULT_CACHED_MEMBERS, "cached_members")
        if limit and int(limit[1]) * BYTES.get(limit[2], 0) < members * MEMBER_BYTES + OTHER_BYTES:
            yield Problem(configured.title, f"memory {limit[0]} does not hold {members:.0f} cached_members")


RULES = [
    autoscalers_can_scale,
    budgets_allow_an_eviction,
    shutdown_has_time,
    rollouts_lose_nothing,
    migrations_end,
    memory_holds_the_cache,
]
