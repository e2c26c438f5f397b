"""Figures of pairs: rows that a shadow and the primary both answered, in requests whose rows are not independent.

Requests are given as a number for each row [n], the same for the rows of one request; what they mean, where pairs come
from and what makes two answers the same is not known here. Everything is pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rayplat.registry import clustered
from rayplat.registry.statistics import wilson
from rayplat.types import Estimate, SegmentAgreement

if TYPE_CHECKING:
    import pandas as pd

Codes = npt.NDArray[np.intp]


def agreement(segment: str, request: Codes, agreed: npt.NDArray[np.bool_]) -> SegmentAgreement:
    """The pairs [n] of a segment, counted by request."""
    _, codes = np.unique(request, return_inverse=True)
    return _counted(segment, np.bincount(codes), np.bincount(codes, weights=agreed))


def by_value(
    name: str, values: pd.Series[Any], request: Codes, agreed: npt.NDArray[np.bool_], most: int
) -> tuple[list[SegmentAgreement], int]:
    """Agreement by the values [n] of the input ``name``, rows without one left out: of the ``most`` frequent values,
    the most frequent first; and how many values there are."""
    import pandas as pd

    value, named = pd.factorize(values)
    known = value >= 0
    value, request, agreed = value[known], request[known], agreed[known]
    width = int(request.max()) + 1 if len(request) else 1
    both, codes = np.unique(value * width + request, return_inverse=True)
    sizes, successes = np.bincount(codes), np.bincount(codes, weights=agreed)
    starts = np.searchsorted(both // width, np.arange(len(named) + 1))
    rows = np.bincount(value, minlength=len(named))
    order = sorted(range(len(named)), key=lambda at: (-int(rows[at]), str(named[at])))
    return [
        _counted(f"{name}={named[at]}", sizes[starts[at] : starts[at + 1]], successes[starts[at] : starts[at + 1]])
        for at in order[:most]
    ], len(named)


def shift(request: Codes, gaps: npt.NDArray[np.float64]) -> tuple[float, float | None]:
    """The mean of candidate - primary over the rows [n] that have both numbers (else NaN) and its standard error: 0
    and 0 where no row has them, no error where fewer than two requests do."""
    known = ~np.isnan(gaps)
    if not known.any():
        return 0.0, 0.0
    _, codes = np.unique(request[known], return_inverse=True)
    return clustered.mean(np.bincount(codes, weights=gaps[known]), np.bincount(codes))


def share(found: SegmentAgreement, level: float) -> Estimate:
    """Agreement with its two-sided interval."""
    low, high = clustered.proportion(
        found.agreed, found.pairs, found.requests, found.design_effect or math.inf, _one_sided(level)
    )
    return Estimate(found.agreed / found.pairs, low, high)


def rate(failed: int, requests: int, level: float) -> Estimate:
    """The share of requests that failed, with its two-sided interval: requests are independent."""
    low, high = wilson(failed, requests, _one_sided(level))
    return Estimate(failed / requests if requests else 0.0, low, high)


def mean(value: float, error: float | None, requests: int, level: float) -> Estimate | None:
    """A mean of rows of ``requests`` with its two-sided interval; None where its error is not known."""
    if error is None:
        return None
    half = clustered.quantile(_one_sided(level), requests) * error if error else 0.0
    return Estimate(value, value - half, value + half)


def _counted(segment: str, sizes: npt.NDArray[Any], successes: npt.NDArray[Any]) -> SegmentAgreement:
    effect = clustered.design_effect(successes, sizes)
    return SegmentAgreement(segment, int(sizes.sum()), int(successes.sum()), len(sizes), effect)


def _one_sided(level: float) -> float:
    return 1 - (1 - level) / 2
