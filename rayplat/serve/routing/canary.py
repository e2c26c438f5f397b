"""Whether a canary takes its next step, waits, or goes back. Pure: counts, signals and the time are handed in.

Looked at every few seconds, an ordinary test would sooner or later condemn every canary. The one here may be looked at
as often as one likes: a mixture sequential test of a proportion (Robbins 1970; Howard et al. 2021, "Time-uniform,
nonparametric, nonasymptotic confidence sequences"), with a uniform mixture over the proportions above the limit.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rayplat.serve.routing.counts import VariantCounts
from rayplat.types import Canary, CanaryState, Signal

RISK = 0.01  # that a canary no worse than its limits is ever rolled back within one step, by each of the two rules
_SLOW = 0.01  # what is above the p99


class CanaryAction(enum.StrEnum):
    STEP = "step"
    HOLD = "hold"
    ROLLBACK = "rollback"
    DONE = "done"


@dataclass(frozen=True)
class CanaryDecision:
    action: CanaryAction
    reason: str


@dataclass(frozen=True)
class CanaryCounts:
    """What the canary and the alias beside it answered since the present step began."""

    canary: VariantCounts
    primary: VariantCounts


class CanaryPolicy:
    """Rolls back on evidence, steps on time and numbers, and says why."""

    def decide(self, canary: Canary, counts: CanaryCounts, signals: Sequence[Signal], now: datetime) -> CanaryDecision:
        """What happens to ``canary`` at ``now``. ``signals`` are those about the version that it is; of each kind the
        newest counts, if it came since the step began. A paused canary takes no step, and is watched all the same."""
        if canary.state not in (CanaryState.RAMPING, CanaryState.PAUSED):
            return CanaryDecision(CanaryAction.HOLD, f"it is {canary.state.value.replace('_', ' ')}")
        against = _signal(canary, signals) or _errors(canary, counts) or _slowness(canary, counts)
        if against is not None:
            return CanaryDecision(CanaryAction.ROLLBACK, against)
        if canary.state is CanaryState.PAUSED:
            return CanaryDecision(CanaryAction.HOLD, "it is paused")
        return _forward(canary, counts.canary, now)


def lower_bound(events: int, trials: int, risk: float = RISK) -> float:
    """A proportion that is certainly exceeded: the chance that the true one is ever at or below this bound, however
    often one looks while ``trials`` grow, is at most ``risk``."""
    if events == 0:
        return 0.0
    low, high = 0.0, events / trials
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(events, trials, middle, risk) else (low, middle)
    return low


def exceeds(events: int, trials: int, limit: float, risk: float = RISK) -> bool:
    """Whether ``events`` of ``trials`` show a proportion above ``limit``, at any look, at that risk."""
    from scipy import special

    if events == 0 or limit >= 1 or events / trials <= limit:
        return False
    if limit <= 0:
        return True
    others = trials - events
    mixture = special.betaln(events + 1, others + 1) + _log(special.betaincc(events + 1, others + 1, limit))
    mixture -= math.log1p(-limit)
    at_limit = events * math.log(limit) + others * math.log1p(-limit)
    return bool(mixture - at_limit >= -math.log(risk))


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _signal(canary: Canary, signals: Sequence[Signal]) -> str | None:
    newest: dict[str, Signal] = {}
    for signal in signals:
        known = newest.get(signal.kind)
        if known is None or signal.at > known.at:
            newest[signal.kind] = signal
    for kind in canary.watch:
        found = newest.get(kind)
        if found is not None and found.bad and (canary.since is None or found.at >= canary.since):
            return f"{kind}: {found.detail or 'bad'} (version {found.version}, said by {found.by})"
    return None


def _errors(canary: Canary, counts: CanaryCounts) -> str | None:
    seen, beside = counts.canary, counts.primary
    limit = max(canary.max_error_rate, beside.error_rate)
    if not exceeds(seen.errors, seen.requests, limit):
        return None
    least = lower_bound(seen.errors, seen.requests)
    return (
        f"errors: {seen.errors} of {seen.requests} requests failed (at least {least:.2%}), the limit is "
        f"{canary.max_error_rate:.2%} and {beside.errors} of {beside.requests} failed beside it"
    )


def _slowness(canary: Canary, counts: CanaryCounts) -> str | None:
    seen, beside = counts.canary, counts.primary
    if canary.max_p99_ratio is None or beside.answers < canary.min_requests or not seen.answers:
        return None
    usual_ms = beside.quantile_ms(0.99)
    slow = seen.slower(canary.max_p99_ratio * usual_ms)
    if not exceeds(slow, seen.answers, _SLOW):
        return None
    return (
        f"latency: p99 {seen.quantile_ms(0.99):.3g} ms, more than {canary.max_p99_ratio:g} times the "
        f"{usual_ms:.3g} ms beside it ({slow} of {seen.answers} answers were slower than that)"
    )


def _forward(canary: Canary, seen: VariantCounts, now: datetime) -> CanaryDecision:
    held_s = (now - canary.since).total_seconds() if canary.since is not None else 0.0
    if held_s < canary.hold_s:
        return CanaryDecision(CanaryAction.HOLD, f"{held_s:.0f} of {canary.hold_s:g} s at this step")
    if seen.requests < canary.min_requests:
        reason = f"{seen.requests} of {canary.min_requests} requests at this step"
        return CanaryDecision(CanaryAction.HOLD, reason)
    well = f"{seen.requests} requests, {seen.errors} failed, in {held_s:.0f} s"
    if canary.step + 1 == len(canary.steps):
        return CanaryDecision(CanaryAction.DONE, well)
    return CanaryDecision(CanaryAction.STEP, well)
