"""Gates on what the candidate did beside the champion with live requests: as a shadow, and in an A/B test."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayplat.registry import clustered, sequential
from rayplat.registry.gates.gate import (
    COMPARE,
    SHADOW,
    Case,
    Finding,
    Gate,
    is_count,
    number,
    other_baseline,
    require_level,
    require_param,
    seen,
)
from rayplat.registry.statistics import quantile, wilson
from rayplat.types import ExperimentEvidence, SegmentAgreement, ShadowEvidence

_FIRST = "the alias does not exist yet: there is no live traffic to compare on"
_REQUESTS, _SEGMENT_REQUESTS = 200, 50  # needed unless a policy says otherwise or wants fewer pairs
_MISMATCH = 1e-4  # a split this unlikely under the design's share means that requests were lost or misrouted


@dataclass(frozen=True)
class ShadowAgreement:
    """Of at least ``min_pairs`` of rows in at least ``min_requests`` (None: ``min_pairs``, at most 200; rows of one
    request are not independent): the lower bound of the agreement (Wilson's by requests, `clustered.proportion`) and
    the upper bounds of the share of failed requests and of the mean score shift (absolute), one-sided at ``level``; p99
    of the candidate over the primary's; the agreement in each of the ``segments`` (``column=value``) with at least
    ``min_segment_pairs`` in ``min_segment_requests`` (None: ``min_segment_pairs``, at most 50)."""

    min_agreement: float = 0.95
    min_pairs: int = 1000
    max_error_rate: float = 0.01
    max_latency_ratio: float = 1.5
    max_score_shift: float | None = None
    level: float = 0.95
    segments: tuple[str, ...] = ()
    min_segment_pairs: int = 200
    min_requests: int | None = None
    min_segment_requests: int | None = None

    def __post_init__(self) -> None:
        require_param("min_agreement", 0 < self.min_agreement <= 1, "a share above 0, at most 1")
        require_param("min_pairs", self.min_pairs >= 1, "at least 1")
        require_param("max_error_rate", 0 <= self.max_error_rate < 1, "a share of at least 0, below 1")
        require_param("max_latency_ratio", 0 < self.max_latency_ratio < math.inf, "a finite number above 0")
        shift = self.max_score_shift
        require_param("max_score_shift", shift is None or 0 < shift < math.inf, "a finite number above 0")
        require_level(self.level)
        require_param("min_segment_pairs", self.min_segment_pairs >= 1, "at least 1")
        for name, least in (("min_requests", self.min_requests), ("min_segment_requests", self.min_segment_requests)):
            require_param(name, least is None or least >= 1, "at least 1")

    @property
    def least(self) -> tuple[int, int]:
        """Pairs and requests that are needed."""
        return self.min_pairs, min(self.min_pairs, _REQUESTS) if self.min_requests is None else self.min_requests

    @property
    def least_of_segment(self) -> tuple[int, int]:
        """Pairs and requests that are needed in a segment."""
        pairs, requests = self.min_segment_pairs, self.min_segment_requests
        return pairs, min(pairs, _SEGMENT_REQUESTS) if requests is None else requests


@dataclass(frozen=True)
class ExperimentWon:
    """The candidate has won the recorded A/B test on ``metric``, whose alpha and margin are at most these, with
    ``min_samples`` in each arm."""

    metric: str
    max_alpha: float = 0.05
    max_margin: float = 0.0
    min_samples: int = 1000

    def __post_init__(self) -> None:
        require_param("metric", bool(self.metric), "the name of what the test measures")
        require_param("max_alpha", 0 < self.max_alpha <= 0.2, "above 0, at most 0.2")
        require_param("max_margin", 0 <= self.max_margin < math.inf, "a finite number, at least 0")
        require_param("min_samples", self.min_samples >= 30, "at least 30")


def _shadow(params: ShadowAgreement, case: Case) -> Finding:
    if (refusal := other_baseline(case)) is not None:
        return False, refusal
    if case.champion is None:
        return True, _FIRST
    found = seen(case).shadow
    if found is None:
        return False, "no shadow has run"
    if not is_count(found.pairs, found.agreed, found.errors) or found.agreed > found.pairs:
        return False, f"{found.agreed!r} of {found.pairs!r} pairs agree with {found.errors!r} errors is no count"
    whole = SegmentAgreement("", found.pairs, found.agreed, found.requests, found.design_effect)
    if (problem := _too_few(whole, params.least)) is not None:
        return False, problem
    findings = [_agreement(params, whole), _errors(params, found), _latencies(params, found), *_shift(params, found)]
    findings += [_segment(params, found, segment) for segment in params.segments]
    failed = [reason for ok, reason in findings if not ok]
    return not failed, "; ".join(failed or [reason for _, reason in findings])


def _too_few(found: SegmentAgreement, least: tuple[int, int]) -> str | None:
    """Why the pairs and the requests that they came in are no ground for a decision."""
    if found.pairs < least[0]:
        return f"{found.pairs} pairs, at least {least[0]} are needed"
    if not is_count(found.requests) or found.requests > found.pairs:
        return f"{found.pairs} pairs in {found.requests!r} requests is no count"
    if found.requests == 0:
        return "it does not say in how many requests the pairs came: measure again with `rayplat serve compare`"
    if found.requests < least[1]:
        return f"{found.pairs} pairs in {found.requests} requests, at least {least[1]} requests are needed"
    effect = number(found.design_effect)
    if found.requests < found.pairs and (effect is None or effect < 1):
        return f"its design effect {found.design_effect!r} is no number of at least 1"
    return None


def _agreement(params: ShadowAgreement, found: SegmentAgreement) -> Finding:
    lower = clustered.proportion(found.agreed, found.pairs, found.requests, found.design_effect or 1.0, params.level)[0]
    reason = f"{found.agreed} of {found.pairs} pairs in {found.requests} requests agree, lower bound {lower:.4f}"
    return lower >= params.min_agreement, f"{reason}, {params.min_agreement:g} is wanted"


def _errors(params: ShadowAgreement, found: ShadowEvidence) -> Finding:
    asked = found.requests + found.errors
    upper = wilson(found.errors, asked, params.level)[1]
    if found.errors == 0:  # the exact bound where nothing failed: (1 - upper)^n = 1 - level
        upper = 1 - (1 - params.level) ** (1 / asked)
    most = params.max_error_rate
    reason = f"{found.errors} of {asked} requests failed, upper bound {upper:.4%}, at most {most:.4%} may"
    return upper <= most if most > 0 else found.errors == 0, reason


def _latencies(params: ShadowAgreement, found: ShadowEvidence) -> Finding:
    given = (found.candidate_p50_ms, found.candidate_p99_ms, found.primary_p50_ms, found.primary_p99_ms)
    values = [number(v) for v in given]
    if any(v is None or v <= 0 for v in values):
        return False, f"latencies {given} are no positive numbers"
    p50, p99, primary_p50, primary_p99 = (float(v) for v in values if v is not None)
    if p50 > p99 or primary_p50 > primary_p99:
        return False, f"latencies {given}: a p50 is above its p99"
    ratio = p99 / primary_p99
    return (
        ratio <= params.max_latency_ratio,
        f"p99 is {ratio:.2f} of the primary's, at most {params.max_latency_ratio:g}",
    )


def _shift(params: ShadowAgreement, found: ShadowEvidence) -> list[Finding]:
    shift, error = number(found.score_shift), number(found.score_shift_error)
    if shift is None or error is None or error < 0:
        return [(False, f"score shift {found.score_shift!r} ± {found.score_shift_error!r} is no finite number")]
    if params.max_score_shift is None:
        return []
    upper = abs(shift) + (clustered.quantile(params.level, found.requests) * error if error else 0.0)
    return [
        (
            upper <= params.max_score_shift,
            f"scores shift by {shift:+.4f}, bound {upper:.4f}, {params.max_score_shift:g}",
        )
    ]


def _segment(params: ShadowAgreement, found: ShadowEvidence, segment: str) -> Finding:
    given = [s for s in found.by_segment if s.segment == segment]
    if len(given) != 1:
        return False, f"{segment} is given {len(given)} times, exactly once is needed"
    one = given[0]
    if not is_count(one.pairs, one.agreed) or not one.agreed <= one.pairs <= found.pairs:
        return False, f"{segment}: {one.agreed!r} of {one.pairs!r} pairs is no count"
    if (problem := _too_few(one, params.least_of_segment)) is not None:
        return False, f"{segment}: {problem}"
    if one.requests > found.requests:
        return False, f"{segment}: {one.requests} requests of {found.requests} is no count"
    ok, reason = _agreement(params, one)
    return ok, f"{segment}: {reason}"


def _experiment(params: ExperimentWon, case: Case) -> Finding:
    if (refusal := other_baseline(case)) is not None:
        return False, refusal
    if case.champion is None:
        return True, _FIRST
    found = seen(case).experiment
    if found is None:
        return False, "no experiment has run"
    problem = _undesigned(params, case, found) or _miscounted(params, found)
    if problem is not None:
        return False, problem
    seen_now = sequential.look(found)
    samples = f"{found.candidate.samples} and {found.baseline.samples} samples"
    gain = f"gain in {params.metric} {seen_now.gain:+.5f} ± {seen_now.standard_error:.5f} over {samples}"
    reason = f"{gain}: ratio {seen_now.ratio:.4g}, {1 / found.design.alpha:g} wins"
    return seen_now.won, reason


def _undesigned(params: ExperimentWon, case: Case, found: ExperimentEvidence) -> str | None:
    """Why this is not the test that was fixed before it began."""
    sequential.check_design(found.design)
    digest, recorded = sequential.design_digest(found.design), case.experiment
    if recorded is None:
        return "no design was recorded before the test: start the experiment first"
    if recorded.design_digest != digest:
        return f"the evidence has the design {digest}, recorded before the test was {recorded.design_digest}"
    if found.first_outcome_at < recorded.started_at:
        return f"its first outcome at {found.first_outcome_at} is older than its design, of {recorded.started_at}"
    if found.design.metric != params.metric:
        return f"the test measures {found.design.metric!r}, the policy asks for {params.metric!r}"
    if found.design.alpha > params.max_alpha or found.design.margin > params.max_margin:
        return (
            f"its alpha {found.design.alpha:g} and margin {found.design.margin:g} may be "
            f"{params.max_alpha:g} and {params.max_margin:g} at most"
        )
    return None


def _miscounted(params: ExperimentWon, found: ExperimentEvidence) -> str | None:
    """Why these are no counts of that test."""
    design, arms = found.design, (found.candidate, found.baseline)
    for arm in arms:
        total, squares = number(arm.total), number(arm.squares)
        if not is_count(arm.samples) or total is None or squares is None or squares < 0:
            return f"{arm} is no count of outcomes"
        if design.kind == "proportion" and not (squares == total and 0 <= total <= arm.samples and total == int(total)):
            return f"{arm} holds no successes: a whole number of at most its samples, equal to its squares"
        if arm.samples and squares * arm.samples < total * total * (1 - 1e-9):
            return f"{arm} cannot be: the squares are less than the sum allows"
    n, m = found.candidate.samples, found.baseline.samples
    least = max(params.min_samples, design.min_samples)
    if min(n, m) < least:
        return f"{n} and {m} samples, at least {least} in each arm are needed"
    if n + m > design.max_samples:
        return f"{n + m} samples, the test was to end at {design.max_samples}"
    z = (n - (n + m) * design.share) / math.sqrt((n + m) * design.share * (1 - design.share))
    if abs(z) > quantile(1 - _MISMATCH / 2):
        return f"{n} of {n + m} samples are the candidate's, the design gives it {design.share:g}: requests were lost"
    return None


GATES = (
    Gate("shadow_agreement", SHADOW, ShadowAgreement, _shadow),
    Gate("experiment", COMPARE, ExperimentWon, _experiment),
)
