"""Checks every overlay and says what is wrong, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .context import Context, context_of
from .model import Overlay, Problem
from .project import Project, read_project
from .render import CannotRender, overlays, parse, render, schema_problems
from .rules import RULES
from .rules.references import secret_references
from .rust import NotUnderstood

ROOT = Path(__file__).resolve().parents[2]


def rule_problems(overlay: Overlay, project: Project) -> list[Problem]:
    """What the rules find, each once."""
    context: Context = context_of(overlay, project)
    return list(dict.fromkeys(problem for rule in RULES for problem in rule(context)))


def unused_secrets(project: Project, rendered: list[Overlay]) -> Iterator[Problem]:
    """An operator must not be told to make what nobody reads."""
    workloads = [workload for overlay in rendered for workload in overlay.workloads]
    used = {secret for workload in workloads for secret, _ in secret_references(workload)}
    for secret in sorted(project.secrets.keys() - used):
        yield Problem("README.md", f"no overlay uses the Secret {secret}")


def report(name: str, count: int, problems: list[Problem]) -> None:
    """One line where all is well, else one for each problem."""
    if not problems:
        print(f"{name}: {count} resources, {len(RULES)} rules: ok")
    for problem in problems:
        print(f"{name}: {problem}")


def check(root: Path) -> int:
    """Checks all overlays. The number of problems."""
    project = read_project(root)
    folder = root / "deploy/kubernetes/overlays"
    found, rendered = 0, []
    for path in overlays(folder):
        name = str(path.relative_to(folder))
        try:
            manifests = render(path)
        except CannotRender as error:
            report(name, 0, [Problem("kubectl kustomize", str(error))])
            found += 1
            continue
        overlay = parse(name, manifests)
        rendered.append(overlay)
        problems = [*schema_problems(manifests), *rule_problems(overlay, project)]
        report(name, len(overlay.resources), problems)
        found += len(problems)
    unused = list(unused_secrets(project, rendered))
    for problem in unused:
        print(problem)
    return found + len(unused) + (not rendered)


def main() -> int:
    """The exit code."""
    try:
        found = check(ROOT)
    except NotUnderstood as error:
        print(f"the services' configuration types cannot be read: {error}")
        return 2
    print(f"{found} problems" if found else "no problems")
    return 1 if found else 0
