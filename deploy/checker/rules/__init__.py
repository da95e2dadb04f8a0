"""What must hold in every overlay. Each rule yields what is wrong."""

from collections.abc import Callable, Iterator

from ..context import Context
from ..model import Problem
from . import agreement, hardening, labels, limits, ports, references, settings, traffic

Rule = Callable[[Context], Iterator[Problem]]

RULES: list[Rule] = [
    *labels.RULES,
    *ports.RULES,
    *limits.RULES,
    *references.RULES,
    *hardening.RULES,
    *settings.RULES,
    *traffic.RULES,
    *agreement.RULES,
]
