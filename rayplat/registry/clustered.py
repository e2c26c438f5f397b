"""Figures of rows that come in clusters (the rows of one request), which are not independent of each other. Pure.

A share or a mean of rows is a ratio of two sums over clusters, sum of y_i over sum of n_i; its variance is that of the
linearised totals y_i - ratio * n_i (Cochran, Sampling Techniques, 1977, section 6.3; Wolter, Introduction to Variance
Estimation, 2007, chapter 6). Quantiles are Student's with clusters - 1 degrees of freedom. Levels are of one-sided
bounds, as in `rayplat.registry.statistics`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.registry.statistics import wilson

Array = npt.NDArray[Any]


def quantile(level: float, clusters: int) -> float:
    """Student's quantile with ``clusters`` - 1 degrees of freedom; infinite for fewer than two."""
    if clusters < 2:
        return math.inf
    from scipy.special import stdtrit

    return float(stdtrit(clusters - 1, level))


def mean(totals: Array, sizes: Array) -> tuple[float, float | None]:
    """The mean of all rows and its standard error, from the sum over each cluster's rows and their number [clusters];
    the error is None for fewer than two clusters, which tell nothing of it."""
    clusters, rows = len(sizes), float(sizes.sum())
    ratio = float(totals.sum()) / rows
    if clusters < 2:
        return ratio, None
    residuals = totals - ratio * sizes
    return ratio, math.sqrt(float(residuals @ residuals) * clusters / (clusters - 1)) / rows


def design_effect(successes: Array, sizes: Array) -> float:
    """How many times the variance of a share is that of as many independent rows, at least 1; from the successes
    among each cluster's rows and their number [clusters].

    One cluster is counted in that has not been seen: of the size that a row finds itself in on average, and all of it
    on the rarer side. Without it the estimate has nothing to go by where all rows were successes (or none), and
    a single failed row would seem to prove rows independent. With it, unanimous clusters count about once each, and
    the effect falls to what was observed as failures are observed. Clusters of one row have the effect 1.
    """
    rows, found = float(sizes.sum()), float(successes.sum())
    unseen = float(sizes @ sizes) / rows
    rare = 0.0 if 2 * found >= rows else unseen
    y, n = np.append(successes, rare), np.append(sizes, unseen)
    rows, clusters = rows + unseen, len(n)
    share = (found + rare) / rows
    residuals = y - share * n
    variance = float(residuals @ residuals) * clusters / (clusters - 1) / rows**2
    return max(1.0, variance / (share * (1 - share) / (rows - 1)))


def proportion(successes: int, rows: int, clusters: int, effect: float, level: float) -> tuple[float, float]:
    """Lower and upper bound of a share, each one-sided at ``level``: Wilson's with the effective number of rows,
    rows / ``effect``, times the squared ratio of the t quantiles of rows - 1 and clusters - 1 degrees of freedom (Korn
    and Graubard 1998, Survey Methodology 24, for the effective number; Dean and Pagano 2015, Journal of Survey
    Statistics and Methodology 3, for Wilson's with it, which keeps its coverage near 0 and 1). Clusters of one row
    give Wilson's interval itself, fewer than two clusters of more give (0, 1)."""
    if clusters == rows:
        return wilson(successes, rows, level)
    if clusters < 2:
        return 0.0, 1.0
    effective = rows / max(1.0, effect) * (quantile(level, rows) / quantile(level, clusters)) ** 2
    return wilson(successes / rows * effective, effective, level)
