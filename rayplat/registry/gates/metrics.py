"""Gates on metrics: bounds, and the candidate against the champion, over all rows and segment by segment."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayplat.registry.gates.gate import (
    EVALUATE,
    Case,
    Finding,
    Gate,
    is_count,
    metric,
    no_metric,
    number,
    other_baseline,
    require_level,
    require_param,
    seen,
)
from rayplat.registry.statistics import quantile
from rayplat.types import Comparison, Evidence

_MORE_IS_BETTER = {"auc": True, "accuracy": True, "log_loss": False, "brier": False}
_FIRST = "the alias does not exist yet: nothing to compare with"
_TOLERANCE = 1e-6  # between figures that are one another's difference, in floats that went through JSON


@dataclass(frozen=True)
class MetricFloor:
    """``metric`` must be at least ``floor``."""

    metric: str = "auc"
    floor: float = 0.6

    def __post_init__(self) -> None:
        require_param("floor", math.isfinite(self.floor), "a finite number")


@dataclass(frozen=True)
class LeakCeiling:
    """``metric`` above ``ceiling`` is not believed: the future has probably leaked into the features."""

    metric: str = "auc"
    ceiling: float = 0.8

    def __post_init__(self) -> None:
        require_param("ceiling", math.isfinite(self.ceiling), "a finite number")


@dataclass(frozen=True)
class BetterThanChampion:
    """The point estimate of ``metric`` (more is better) must be at least the champion's plus ``min_gain``."""

    metric: str = "auc"
    min_gain: float = 0.0

    def __post_init__(self) -> None:
        require_param("min_gain", math.isfinite(self.min_gain), "a finite number, in the metric's unit")


@dataclass(frozen=True)
class ChampionInterval:
    """The lower bound of the paired gain over the champion, one-sided at ``level``, must be at least ``min_gain`` (a
    proven gain) or, where that is None, at least ``-margin`` (proven not to be worse by more than that)."""

    metric: str = "auc"
    margin: float = 0.0
    min_gain: float | None = None
    level: float = 0.95
    min_rows: int = 1000
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        _check_comparison(self)
        require_param("min_rows", self.min_rows >= 2, "at least 2")


@dataclass(frozen=True)
class Segments:
    """`ChampionInterval` in every segment of ``column`` with ``min_rows`` rows; the worst decides. ``required``
    segments must have that many, others with fewer are named but not judged. ``floor``: what ``metric`` must reach in
    each (``higher_is_better`` turns it into a ceiling)."""

    column: str
    metric: str = "auc"
    required: tuple[str, ...] = ()
    margin: float = 0.0
    min_gain: float | None = None
    floor: float | None = None
    level: float = 0.95
    min_rows: int = 200
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        require_param("column", bool(self.column), "the name of a column")
        _check_comparison(self)
        require_param("min_rows", self.min_rows >= 2, "at least 2")
        require_param("floor", self.floor is None or math.isfinite(self.floor), "a finite number")


def _check_comparison(params: ChampionInterval | Segments) -> None:
    require_param("margin", 0 <= params.margin < math.inf, "a finite number, at least 0, in the metric's unit")
    require_param("min_gain", params.min_gain is None or math.isfinite(params.min_gain), "a finite number")
    require_param("min_gain", params.min_gain is None or params.margin == 0, "give a margin or a gain, not both")
    require_level(params.level)
    known = params.higher_is_better is not None or params.metric in _MORE_IS_BETTER
    require_param("higher_is_better", known, f"say whether more is better of {params.metric!r}")


def _floor(params: MetricFloor, case: Case) -> Finding:
    metrics = seen(case).candidate
    value = metric(metrics, params.metric)
    if value is None:
        return no_metric(metrics, params.metric)
    return value >= params.floor, f"{params.metric} {value:.4f}, the floor is {params.floor}"


def _ceiling(params: LeakCeiling, case: Case) -> Finding:
    metrics = seen(case).candidate
    value = metric(metrics, params.metric)
    if value is None:
        return no_metric(metrics, params.metric)
    if value > params.ceiling:
        return (
            False,
            f"{params.metric} {value:.4f} is above {params.ceiling}: suspected leakage of the future into features",
        )
    return True, f"{params.metric} {value:.4f} is not above {params.ceiling}"


def _better(params: BetterThanChampion, case: Case) -> Finding:
    if (refusal := other_baseline(case)) is not None:
        return False, refusal
    if case.champion is None:
        return True, _FIRST
    evidence, name = seen(case), params.metric
    value, base = metric(evidence.candidate, name), metric(evidence.baseline, name)
    if value is None:
        return no_metric(evidence.candidate, name)
    if base is None:
        return no_metric(evidence.baseline, name, f" of version {case.champion}")
    reason = f"{name} {value:.4f} against {base:.4f} of version {case.champion}, wanted gain {params.min_gain}"
    return value >= base + params.min_gain, reason


def _interval(params: ChampionInterval, case: Case) -> Finding:
    if (refusal := other_baseline(case)) is not None:
        return False, refusal
    if case.champion is None:
        return True, _FIRST
    evidence = seen(case)
    found = [c for c in evidence.comparisons if (c.metric, c.segment) == (params.metric, "")]
    if len(found) != 1:
        return False, f"{len(found)} comparisons of {params.metric} over all rows were given, exactly one is needed"
    for metrics, compared in ((evidence.candidate, found[0].candidate), (evidence.baseline, found[0].baseline)):
        stated, value = metric(metrics, params.metric), number(compared)
        if stated is not None and value is not None and abs(stated - value) > _TOLERANCE:
            return False, f"{params.metric} is {stated} among the metrics, but {compared} in the comparison"
    if is_count(found[0].rows) and found[0].rows < params.min_rows:
        return False, f"{found[0].rows} rows compared, at least {params.min_rows} are needed"
    return _bound(params, found[0], evidence)


def _bound(params: ChampionInterval | Segments, found: Comparison, evidence: Evidence) -> Finding:
    """Whether the lower bound of the gain is high enough; every number is checked first."""
    name = f"{found.metric}{f' where {found.segment}' if found.segment else ''}"
    higher = _MORE_IS_BETTER.get(params.metric) if params.higher_is_better is None else params.higher_is_better
    if found.higher_is_better is not higher:
        return False, f"the evidence takes {'more' if found.higher_is_better else 'less'} {name} for better"
    if not is_count(found.rows) or not is_count(evidence.rows) or found.rows > evidence.rows:
        return False, f"{found.rows!r} rows of {evidence.rows!r} for {name} is no count"
    values = [number(v) for v in (found.candidate, found.baseline, found.difference, found.standard_error)]
    if None in values:
        return False, f"{name}: candidate, baseline, difference and standard error must be finite numbers: {found}"
    candidate, baseline, difference, error = (float(v) for v in values if v is not None)
    if abs(candidate - baseline - difference) > _TOLERANCE:
        return False, f"{name}: {candidate} - {baseline} is not {difference}"
    if error < 0 or (error == 0 and difference != 0):
        return False, f"{name}: a standard error of {error} for a difference of {difference} cannot be"
    gain = difference if higher else -difference
    lower = gain - quantile(params.level) * error
    wanted = params.min_gain if params.min_gain is not None else -params.margin
    reason = (
        f"gain in {name} {gain:+.4f} ± {error:.4f} over {found.rows} rows: lower bound {lower:+.4f} "
        f"at {params.level:g}, {wanted:+g} is wanted"
    )
    return lower >= wanted, reason


def _segments(params: Segments, case: Case) -> Finding:
    if (refusal := other_baseline(case)) is not None:
        return False, refusal
    evidence, prefix = seen(case), f"{params.column}="
    found = [c for c in evidence.comparisons if c.metric == params.metric and c.segment.startswith(prefix)]
    counts = {c.segment.removeprefix(prefix): c.rows for c in found}
    if len(counts) != len(found):
        return False, f"a segment of {params.column} is given twice"
    if not is_count(evidence.rows, *counts.values()) or sum(counts.values()) > evidence.rows:
        return (
            False,
            f"the segments of {params.column} have {list(counts.values())} rows, all rows are {evidence.rows!r}",
        )
    for value in params.required:
        if counts.get(value, 0) < params.min_rows:
            return False, f"{prefix}{value} has {counts.get(value, 0)} rows, at least {params.min_rows} are needed"
    judged = [c for c in found if c.rows >= params.min_rows]
    if not judged:
        return False, f"no segment of {params.column} has {params.min_rows} rows"
    findings = [_segment(params, c, case) for c in judged]
    small = sorted(value for value, rows in counts.items() if rows < params.min_rows)
    left_out = f"; too few rows to judge: {', '.join(small[:10])}" if small else ""
    failed = [reason for ok, reason in findings if not ok]
    if failed:
        return False, f"{len(failed)} of {len(judged)} segments: {'; '.join(failed[:3])}{left_out}"
    return True, f"all {len(judged)} segments of {params.column}, such as: {findings[0][1]}{left_out}"


def _segment(params: Segments, found: Comparison, case: Case) -> Finding:
    value = number(found.candidate)
    if value is None:
        return False, f"{params.metric} where {found.segment} is {found.candidate!r}, a finite number is needed"
    if params.floor is not None:
        good = value >= params.floor if found.higher_is_better else value <= params.floor
        if not good:
            return False, f"{params.metric} where {found.segment} is {value:.4f}, {params.floor} is wanted"
    if case.champion is None:
        return True, f"{params.metric} where {found.segment} is {value:.4f}; {_FIRST}"
    return _bound(params, found, seen(case))


GATES = (
    Gate("metric_floor", EVALUATE, MetricFloor, _floor),
    Gate("leak_ceiling", EVALUATE, LeakCeiling, _ceiling),
    Gate("better_than_champion", EVALUATE, BetterThanChampion, _better),
    Gate("champion_interval", EVALUATE, ChampionInterval, _interval),
    Gate("segments", EVALUATE, Segments, _segments),
)
