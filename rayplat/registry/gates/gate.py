"""What a gate is: a name, the stage it belongs to, its parameters, and a rule over a `Case`. Pure.

A rule answers (passed, reason); the reason names the numbers. Helpers here read evidence fail-closed: what is no count
or no finite number comes back as None, and the rule says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rayplat.errors import InvalidInput
from rayplat.types import Evidence, Experiment, GateResult, VerificationEvidence

VERIFY, EVALUATE, SHADOW, COMPARE = STAGES = ("verify", "evaluate", "shadow", "compare")
Finding = tuple[bool, str]
P = TypeVar("P")


@dataclass(frozen=True)
class Case:
    """All that a gate may look at. ``digest`` is the candidate's tree, ``champion`` the version the alias points at
    (None: it does not exist yet), ``custom`` what gates that run code have answered, by label."""

    digest: str
    champion: int | None
    evidence: Evidence | None = None
    verification: VerificationEvidence | None = None
    experiment: Experiment | None = None
    custom: Mapping[str, GateResult] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate(Generic[P]):
    """A built-in. ``params`` is a frozen dataclass that checks itself when it is made. ``waivable`` is false where no
    reason can be good enough."""

    name: str
    stage: str
    params: type[P]
    rule: Callable[[P, Case], Finding]
    waivable: bool = True


@dataclass(frozen=True)
class NoParams:
    """A gate without parameters."""


def seen(case: Case) -> Evidence:
    """The evidence of a case whose stage is decided on it; `decide` has made sure that there is one."""
    assert case.evidence is not None
    return case.evidence


def number(value: Any) -> float | None:
    """``value`` as a float, None where it is no finite number (a boolean is none)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def is_count(*values: Any) -> bool:
    """Whether all are whole numbers of at least 0."""
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)


def metric(metrics: Any, name: str) -> float | None:
    """A metric's value, None where it is missing or no finite number."""
    return number(metrics.get(name)) if isinstance(metrics, dict) else None


def no_metric(metrics: Any, name: str, of: str = "") -> Finding:
    """The refusal for a metric that `metric` did not find."""
    found = repr(metrics[name]) if isinstance(metrics, dict) and name in metrics else "missing"
    return False, f"{name}{of} is {found}, a finite number is needed"


def other_baseline(case: Case) -> str | None:
    """Why the evidence does not compare with the present champion, None where it does."""
    compared = seen(case).baseline_version
    if compared == case.champion and not isinstance(compared, bool):
        return None
    with_ = f"version {compared}" if compared is not None else "no version"
    now = f"points at version {case.champion}" if case.champion is not None else "does not exist"
    return f"the evidence compares with {with_}, but the alias {now}: evaluate again"


def require_param(name: str, holds: bool, rule: str) -> None:
    """`InvalidInput` for a parameter that breaks its rule; NaN breaks any, as it compares false."""
    if not holds:
        raise InvalidInput(f"params.{name}", rule)


def require_level(level: float) -> None:
    require_param("level", 0.5 < level < 1, "a one-sided confidence above 0.5 and below 1, such as 0.95")
