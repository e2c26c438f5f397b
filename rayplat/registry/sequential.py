"""The A/B test: a design that is fixed first, and an answer that may be looked at as often as one likes. Pure.

It is the mixture sequential probability ratio test (Robbins 1970; Johari, Koomen, Pekelis, Walsh, "Always valid
inference: continuous monitoring of A/B tests", Operations Research 70(3), 2022). Under the hypothesis that the gain is
at most ``-margin``, the ratio below is a nonnegative supermartingale, so by Ville's inequality the chance that it ever
reaches 1/alpha is at most alpha, however often and whenever one looks. ``greater`` mixes over gains with a half-normal
(positive gains only), ``two-sided`` with a normal, both of variance ``mixing_variance``. The variances of the outcomes
are estimated, so this holds for large samples: no look counts before ``min_samples`` in each arm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rayplat.errors import InvalidInput
from rayplat.registry import documents
from rayplat.registry.statistics import Array
from rayplat.types import ArmOutcomes, ExperimentDesign, ExperimentEvidence

KINDS = ("proportion", "mean")
SIDES = ("greater", "two-sided")
_LEAST_SAMPLES = 30  # in each arm: below, an estimated variance is no basis for a normal approximation
_PATHS, _LOOKS = 2000, 200


@dataclass(frozen=True)
class Look:
    """One look: the gain of the candidate (oriented, so that more is better), its standard error, the test's ratio
    (1/alpha and more rejects) and whether the candidate has won."""

    gain: float
    standard_error: float
    ratio: float
    won: bool


def check_design(design: ExperimentDesign) -> ExperimentDesign:
    """``design`` itself, or `InvalidInput` naming the field."""
    documents.check(design, "design")
    for field, allowed in (("kind", KINDS), ("sides", SIDES)):
        if getattr(design, field) not in allowed:
            raise InvalidInput(f"design.{field}", f"{getattr(design, field)!r} is none of {', '.join(allowed)}")
    rules = {
        "metric": (bool(design.metric), "a name is needed"),
        "alpha": (0 < design.alpha <= 0.2, "above 0 and at most 0.2"),
        "min_effect": (0 < design.min_effect < math.inf, "a finite number above 0"),
        "variance": (0 < design.variance < math.inf, "a finite number above 0"),
        "min_samples": (design.min_samples >= _LEAST_SAMPLES, f"at least {_LEAST_SAMPLES} in each arm"),
        "max_samples": (
            design.max_samples >= 2 * design.min_samples,
            "at least twice min_samples: it counts both arms",
        ),
        "margin": (0 <= design.margin < math.inf, "a finite number, at least 0"),
        "mixing_variance": (0 <= design.mixing_variance < math.inf, "a finite number, at least 0"),
        "share": (0.01 <= design.share <= 0.99, "between 0.01 and 0.99"),
    }
    for field, (holds, rule) in rules.items():
        if not holds:
            raise InvalidInput(f"design.{field}", f"{getattr(design, field)!r}: {rule}")
    return design


def design_digest(design: ExperimentDesign) -> str:
    """What names the design: recorded before the first outcome, and asked for with the result."""
    return documents.digest(design)


def look(evidence: ExperimentEvidence) -> Look:
    """What the counts of ``evidence`` say under its design. NaN and not won where an arm has no variance."""
    design = evidence.design
    (mean_c, variance_c), (mean_b, variance_b) = _moments(evidence.candidate), _moments(evidence.baseline)
    gain = mean_c - mean_b if design.higher_is_better else mean_b - mean_c
    variance = variance_c / evidence.candidate.samples + variance_b / evidence.baseline.samples
    if not variance > 0:
        return Look(gain, math.nan, math.nan, False)
    log_ratio = float(_log_ratio(design, np.array([gain + design.margin]), np.array([variance]))[0])
    won = log_ratio >= -math.log(design.alpha) and gain > -design.margin
    return Look(gain, math.sqrt(variance), math.exp(min(log_ratio, 700.0)), won)


def power(design: ExperimentDesign, gain: float | None = None, seed: int = 0) -> float:
    """The chance that the candidate wins by ``max_samples`` if its gain is ``gain`` (None: ``min_effect``), looking
    200 times; simulated with 2,000 paths. ``gain=-margin`` gives the false-positive rate."""
    found = design.min_effect if gain is None else gain
    samples = np.linspace(0, design.max_samples, _LOOKS + 1)[1:]
    least = design.min_samples / min(design.share, 1 - design.share)
    per_sample = design.variance / design.share + design.variance / (1 - design.share)
    information = samples / per_sample
    steps = np.diff(information, prepend=0.0)
    noise = np.random.default_rng(seed).normal(size=(_PATHS, _LOOKS)) * np.sqrt(steps)
    estimate = found + np.cumsum(noise, axis=1) / information
    ratios = _log_ratio(design, estimate + design.margin, np.broadcast_to(1 / information, estimate.shape))
    won = (ratios >= -math.log(design.alpha)) & (estimate > -design.margin) & (samples >= least)
    return float(won.any(axis=1).mean())


def _log_ratio(design: ExperimentDesign, excess: Array, variance: Array) -> Array:
    """log of the mixture's likelihood ratio for an ``excess`` over the hypothesis, estimated with ``variance``."""
    mixing = design.mixing_variance or design.min_effect**2
    total = variance + mixing
    log_ratio = 0.5 * np.log(variance / total) + excess**2 * mixing / (2 * variance * total)
    if design.sides == "two-sided":
        return np.asarray(log_ratio)
    z = excess * np.sqrt(mixing / (variance * total))
    return np.asarray(log_ratio + math.log(2) + _log_normal_cdf(z))


def _log_normal_cdf(z: Array) -> Array:
    from scipy.special import log_ndtr

    return np.asarray(log_ndtr(z))


def _moments(arm: ArmOutcomes) -> tuple[float, float]:
    """Mean and unbiased variance of one arm's outcomes."""
    mean = arm.total / arm.samples
    return mean, max(0.0, (arm.squares - arm.samples * mean * mean) / (arm.samples - 1))
