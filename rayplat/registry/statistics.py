"""The statistics that gates rest on: intervals of proportions, paired comparisons of models, one sequential test. Pure.

Levels are confidences of one-sided bounds (0.95: the truth is below a lower bound in 5 % of samples), unless said
otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_NORMAL = NormalDist()


@dataclass(frozen=True)
class PairedDifference:
    """Two models on the same rows: a figure of each, their difference (first - second) and its standard error."""

    first: float
    second: float
    difference: float
    standard_error: float


def quantile(level: float) -> float:
    """The standard normal's quantile."""
    return _NORMAL.inv_cdf(level)


def wilson(successes: float, n: float, level: float) -> tuple[float, float]:
    """Lower and upper bound of a proportion, each one-sided at ``level`` (Wilson 1927); (0, 1) for no observation.
    Numbers that are not whole are effective ones (`rayplat.registry.clustered`)."""
    if n == 0:
        return 0.0, 1.0
    z, p = quantile(level), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion_difference(one: tuple[int, int], other: tuple[int, int], level: float) -> tuple[float, float]:
    """Bounds of p1 - p2 for (successes, n) each, one-sided at ``level``: Newcombe's hybrid of two Wilson intervals
    (1998, method 10), which keeps its coverage for small groups and proportions near 0 or 1."""
    p1, p2 = one[0] / one[1], other[0] / other[1]
    (low1, high1), (low2, high2) = wilson(*one, level), wilson(*other, level)
    below = math.sqrt((p1 - low1) ** 2 + (high2 - p2) ** 2)
    above = math.sqrt((high1 - p1) ** 2 + (p2 - low2) ** 2)
    return p1 - p2 - below, p1 - p2 + above


def proportion_ratio(one: tuple[int, int], other: tuple[int, int], level: float) -> tuple[float, float]:
    """Bounds of p1 / p2 for (successes, n) each, one-sided at ``level``: normal on the log scale (Katz et al. 1978),
    with half a success added where a count is 0 or n."""
    edge = any(k in (0, n) for k, n in (one, other))
    (k1, n1), (k2, n2) = ((k + 0.5, n + 1.0) if edge else (k, n) for k, n in (one, other))
    log_ratio = math.log(k1 / n1) - math.log(k2 / n2)
    half = quantile(level) * math.sqrt(max(0.0, 1 / k1 - 1 / n1 + 1 / k2 - 1 / n2))
    return math.exp(log_ratio - half), math.exp(log_ratio + half)


def paired_mean(first: Array, second: Array) -> PairedDifference:
    """Means of one figure per row [n] (loss, hit) under two models, on the same rows."""
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    gap = one - two
    error = float(gap.std(ddof=1) / math.sqrt(len(gap))) if len(gap) > 1 else math.nan
    return PairedDifference(float(one.mean()), float(two.mean()), float(gap.mean()), error)


def paired_auc(labels: Array, first: Array, second: Array) -> PairedDifference:
    """Areas under two ROC curves on the same rows, labels [n] 0 or 1: DeLong, DeLong, Clarke-Pearson (1988), in the
    O(n log n) form of Sun and Xu (2014). NaN where a class has fewer than two rows or a score is NaN."""
    positive = np.asarray(labels) > 0.5
    m, n = int(positive.sum()), int((~positive).sum())
    scores = [np.asarray(s, np.float64) for s in (first, second)]
    if m < 2 or n < 2 or any(np.isnan(s).any() for s in scores):
        return PairedDifference(math.nan, math.nan, math.nan, math.nan)
    above = np.empty((2, m))  # for each positive: the share of negatives it outranks
    below = np.empty((2, n))  # for each negative: the share of positives that outrank it
    for i, s in enumerate(scores):
        ranks = _midranks(s)
        above[i] = (ranks[positive] - _midranks(s[positive])) / n
        below[i] = 1.0 - (ranks[~positive] - _midranks(s[~positive])) / m
    areas = above.mean(axis=1)
    covariance = np.cov(above) / m + np.cov(below) / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    gap = float(areas[0] - areas[1])
    return PairedDifference(float(areas[0]), float(areas[1]), gap, math.sqrt(max(0.0, float(variance))))


def _midranks(values: Array) -> Array:
    """Ranks from 1, ties sharing their mean."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[group])
