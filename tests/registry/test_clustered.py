"""Shares and means of rows that come in requests: right where rows are independent, and honest where they are not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rayplat.registry import clustered
from rayplat.registry.statistics import wilson


def bounds(successes: Any, sizes: Any, level: float = 0.975) -> tuple[float, float]:
    y, n = np.asarray(successes), np.asarray(sizes)
    return clustered.proportion(int(y.sum()), int(n.sum()), len(n), clustered.design_effect(y, n), level)


@pytest.mark.parametrize(("successes", "rows"), [(0, 2), (1, 7), (40, 40), (97, 100), (0, 500), (180, 400)])
def test_one_row_per_request_is_wilsons_interval(successes: int, rows: int) -> None:
    y = (np.arange(rows) < successes).astype(int)
    assert clustered.design_effect(y, np.ones(rows, int)) == pytest.approx(1.0)
    assert bounds(y, np.ones(rows, int)) == wilson(successes, rows, 0.975)


def test_rows_that_repeat_their_request_count_once() -> None:
    whole = np.arange(200) < 150
    once, often = bounds(whole, np.ones(200, int)), bounds(whole * 50, np.full(200, 50))
    assert often == pytest.approx(once, abs=0.003)
    assert often[1] - often[0] >= once[1] - once[0]


def test_requests_that_agree_as_a_whole_are_no_proof_by_rows() -> None:
    assert bounds([10_000], [10_000]) == (0.0, 1.0)
    all_agree = bounds(np.full(100, 100), np.full(100, 100))
    assert all_agree[0] == pytest.approx(wilson(100, 100, 0.975)[0], abs=0.002)
    one_row_less = np.full(100, 100)
    one_row_less[0] = 99
    assert bounds(one_row_less, np.full(100, 100)) == pytest.approx(all_agree, abs=0.001)  # by rows it is 0.9994
    nothing = bounds(np.zeros(100, int), np.full(100, 100))
    assert (1 - nothing[1], 1 - nothing[0]) == pytest.approx(all_agree)


def test_one_large_request_among_small_ones_is_not_outvoted_by_its_own_rows() -> None:
    low, high = bounds([1] * 99 + [0], [1] * 99 + [10_000])
    assert low < 0.05
    assert high > 0.5


def test_a_means_error_is_that_of_the_ratio_of_totals() -> None:
    random = np.random.default_rng(4)
    values = random.normal(3, 1, 50)
    mean, error = clustered.mean(values, np.ones(50))
    assert (mean, error) == pytest.approx((values.mean(), stats.sem(values)))
    sizes = random.integers(1, 9, 50)
    ratio, error = clustered.mean(values * sizes, sizes)
    residuals = (values - ratio) * sizes
    assert error == pytest.approx(math.sqrt(50 / 49 * (residuals**2).sum()) / sizes.sum())
    assert clustered.mean(np.array([8.0]), np.array([4])) == (2.0, None)


def test_quantiles_are_students() -> None:
    assert clustered.quantile(0.975, 11) == pytest.approx(stats.t.ppf(0.975, 10))
    assert clustered.quantile(0.975, 1) == math.inf


@pytest.mark.parametrize(("share", "alike", "requests"), [(0.97, 0.3, 60), (0.9, 0.05, 200), (0.995, 0.3, 200)])
def test_the_interval_holds_the_truth_where_that_of_rows_does_not(share: float, alike: float, requests: int) -> None:
    """400 logs of requests of 1 to 200 rows; ``alike`` is the correlation of two rows of one request."""
    random, rounds, prior = np.random.default_rng(7), 400, (1 - alike) / alike
    by_request = by_row = 0
    for _ in range(rounds):
        sizes = random.integers(1, 201, requests)
        agreed = random.binomial(sizes, random.beta(share * prior, (1 - share) * prior, requests))
        low, high = bounds(agreed, sizes)
        by_request += low <= share <= high
        low, high = wilson(int(agreed.sum()), int(sizes.sum()), 0.975)
        by_row += low <= share <= high
    assert by_request / rounds >= 0.92
    assert by_row / rounds <= 0.65
