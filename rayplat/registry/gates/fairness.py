"""The gate on fairness: what the candidate's answers do to each group of a column."""

from __future__ import annotations

from dataclasses import dataclass

from rayplat.registry.gates.gate import (
    EVALUATE,
    Case,
    Finding,
    Gate,
    is_count,
    number,
    require_level,
    require_param,
    seen,
)
from rayplat.registry.statistics import proportion_difference, proportion_ratio
from rayplat.types import FairnessEvidence, FairnessGroup


@dataclass(frozen=True)
class Fairness:
    """Every group of ``column`` against the one that is selected most: its selection rate over that one's must be
    proven at least ``min_ratio`` (0.8 is the four-fifths rule), and the difference of their true-positive rates
    (equal opportunity; Hardt, Price, Srebro 2016) proven at most ``max_difference``; None asks for neither. Bounds are
    one-sided at ``level``, shared among all that are judged (Bonferroni). A group with fewer than ``min_rows`` rows or
    ``min_positives`` positives fails where it is ``required``, and is named but not judged elsewhere."""

    column: str
    min_ratio: float | None = 0.8
    max_difference: float | None = 0.1
    level: float = 0.95
    min_rows: int = 200
    min_positives: int = 30
    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_param("column", bool(self.column), "the name of a column")
        require_param("min_ratio", self.min_ratio is None or 0 < self.min_ratio <= 1, "a ratio above 0, at most 1")
        difference = self.max_difference
        require_param("max_difference", difference is None or 0 <= difference < 1, "a difference from 0, below 1")
        both = self.min_ratio is None and difference is None
        require_param("min_ratio", not both, "give a ratio, a difference or both")
        require_level(self.level)
        require_param("min_rows", self.min_rows >= 1, "at least 1")
        require_param("min_positives", self.min_positives >= 1, "at least 1")


def _fair(params: Fairness, case: Case) -> Finding:
    found, prefix = seen(case).fairness, f"{params.column}="
    if found is None:
        return False, "no fairness was measured"
    groups = [g for g in found.groups if g.segment.startswith(prefix)]
    if (problem := _miscounted(params, found, groups, seen(case).rows)) is not None:
        return False, problem
    judged = [g for g in groups if g.rows >= params.min_rows and g.positives >= params.min_positives]
    names = {g.segment for g in judged}
    for value in params.required:
        if prefix + value not in names:
            least = f"{params.min_rows} rows and {params.min_positives} positives are needed"
            return False, f"{prefix}{value} is missing or too small: {least}"
    if len(judged) < 2:
        return False, f"{len(judged)} groups of {params.column} have enough rows, at least 2 are needed"
    most = max(judged, key=lambda g: g.predicted_positives / g.rows)
    level = 1 - (1 - params.level) / (len(judged) - 1)
    findings = [_ratio(params, g, most, level) for g in judged if g is not most and params.min_ratio is not None]
    best = max(judged, key=lambda g: g.true_positives / g.positives)
    findings += [
        _difference(params, best, g, level) for g in judged if g is not best and params.max_difference is not None
    ]
    small = sorted(g.segment for g in groups if g.segment not in names)
    left_out = f"; too few rows to judge: {', '.join(small[:10])}" if small else ""
    failed = [reason for ok, reason in findings if not ok]
    return not failed, "; ".join((failed or [reason for _, reason in findings])[:4]) + left_out


def _miscounted(params: Fairness, found: FairnessEvidence, groups: list[FairnessGroup], rows: int) -> str | None:
    if number(found.threshold) is None:
        return f"the threshold {found.threshold!r} is no finite number"
    if len({g.segment for g in groups}) != len(groups):
        return f"a group of {params.column} is given twice"
    for g in groups:
        if not is_count(g.rows, g.positives, g.predicted_positives, g.true_positives):
            return f"{g} holds no counts"
        union = g.positives + g.predicted_positives - g.true_positives
        if g.true_positives > min(g.positives, g.predicted_positives) or union > g.rows:
            return f"the counts of {g.segment} do not add up: {g}"
    total = sum(g.rows for g in groups)
    if not is_count(rows) or total > rows:
        return f"the groups of {params.column} have {total} rows, all rows are {rows!r}"
    return None


def _ratio(params: Fairness, group: FairnessGroup, most: FairnessGroup, level: float) -> Finding:
    one, other = (group.predicted_positives, group.rows), (most.predicted_positives, most.rows)
    if not most.predicted_positives:
        return False, f"no row of {params.column} is predicted positive at this threshold"
    ratio, lower = (one[0] / one[1]) / (other[0] / other[1]), proportion_ratio(one, other, level)[0]
    text = f"{group.segment} is selected at {ratio:.3f} of the rate of {most.segment}, lower bound {lower:.3f}"
    wanted = params.min_ratio or 0.0
    return lower >= wanted, f"{text}, {wanted:g} is wanted"


def _difference(params: Fairness, best: FairnessGroup, group: FairnessGroup, level: float) -> Finding:
    one, other = (best.true_positives, best.positives), (group.true_positives, group.positives)
    gap, upper = one[0] / one[1] - other[0] / other[1], proportion_difference(one, other, level)[1]
    text = f"true-positive rate of {group.segment} is {gap:.3f} below {best.segment}, upper bound {upper:.3f}"
    most = params.max_difference or 0.0
    return upper <= most, f"{text}, {most:g} is permitted"


GATES = (Gate("fairness", EVALUATE, Fairness, _fair),)
