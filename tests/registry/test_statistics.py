from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rayplat.registry import statistics
from rayplat.registry.statistics import paired_auc, paired_mean, proportion_difference, proportion_ratio, wilson
from rayplat.scoring import auc


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (10, 10), (81, 263), (4900, 5000)])
def test_wilson_agrees_with_scipy(successes: int, n: int) -> None:
    reference = stats.binomtest(successes, n).proportion_ci(0.90, "wilson")
    assert wilson(successes, n, 0.95) == pytest.approx((reference.low, reference.high))


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0, 0, 0.95) == (0.0, 1.0)


def test_newcombes_own_example() -> None:
    """56/70 and 48/80: 0.0524 to 0.3339 at 95 % both-sided (Newcombe 1998, table II, method 10)."""
    assert proportion_difference((56, 70), (48, 80), 0.975) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert proportion_difference((9, 10), (3, 10), 0.975) == pytest.approx((0.1705, 0.8090), abs=5e-5)


@pytest.mark.parametrize(("p", "q", "n"), [(0.2, 0.25, 400), (0.5, 0.5, 250), (0.05, 0.06, 1000)])
def test_lower_bounds_of_ratio_and_difference_keep_their_level(p: float, q: float, n: int) -> None:
    random = np.random.default_rng(0)
    counts = zip(random.binomial(n, p, 2000), random.binomial(n, q, 2000), strict=True)
    misses = np.zeros(2)
    for k, m in counts:
        one, other = (int(k), n), (int(m), n)
        misses += [proportion_ratio(one, other, 0.95)[0] > p / q, proportion_difference(one, other, 0.95)[0] > p - q]
    assert (misses / 2000 < 0.065).all()


def test_ratios_at_the_edge_are_finite() -> None:
    for one, other in (((0, 50), (10, 50)), ((50, 50), (50, 50)), ((10, 50), (0, 50))):
        low, high = proportion_ratio(one, other, 0.95)
        assert 0 < low < high < math.inf


def scores(seed: int, n: int = 400, ties: bool = False) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.3).astype(float)
    shared = labels + random.normal(size=n)
    first, second = shared + random.normal(size=n) * 0.5, shared + random.normal(size=n)
    return (labels, np.round(first), np.round(second)) if ties else (labels, first, second)


@pytest.mark.parametrize("ties", [False, True])
def test_delong_has_the_areas_and_its_error_agrees_with_a_bootstrap(ties: bool) -> None:
    labels, first, second = scores(0, ties=ties)
    found = paired_auc(labels, first, second)
    assert found.first == pytest.approx(auc(labels, first))
    assert found.second == pytest.approx(auc(labels, second))
    assert found.difference == pytest.approx(found.first - found.second)
    random, n = np.random.default_rng(1), len(labels)
    drawn = [random.integers(0, n, n) for _ in range(800)]
    gaps = [auc(labels[i], first[i]) - auc(labels[i], second[i]) for i in drawn]
    assert found.standard_error == pytest.approx(np.std(gaps), rel=0.12)


def test_delong_against_the_quadratic_definition() -> None:
    labels, first, second = scores(3, n=60, ties=True)
    positive = labels > 0.5

    def kernel(s: Any) -> Any:
        gap = s[positive][:, None] - s[~positive][None, :]
        return (gap > 0) + 0.5 * (gap == 0)

    gap = kernel(first) - kernel(second)
    m, n = gap.shape
    variance = gap.mean(axis=1).var(ddof=1) / m + gap.mean(axis=0).var(ddof=1) / n
    assert paired_auc(labels, first, second).standard_error == pytest.approx(math.sqrt(variance))


def test_delong_says_nothing_without_two_of_each_class_or_with_nan() -> None:
    labels, first, second = np.array([1.0, 0, 0, 0]), np.arange(4.0), np.arange(4.0)
    assert math.isnan(paired_auc(labels, first, second).difference)
    assert math.isnan(paired_auc(np.array([1, 1, 0, 0]), np.array([1, math.nan, 0, 0]), second).standard_error)
    same = paired_auc(*scores(0)[:2], scores(0)[1])
    assert (same.difference, same.standard_error) == (0.0, 0.0)


def test_paired_means_agree_with_scipys_paired_t() -> None:
    _, first, second = scores(5)
    found, reference = paired_mean(first, second), stats.ttest_rel(first, second)
    assert found.difference / found.standard_error == pytest.approx(reference.statistic)
    assert math.isnan(paired_mean(np.ones(1), np.zeros(1)).standard_error)


def test_quantiles() -> None:
    assert statistics.quantile(0.95) == pytest.approx(1.6448536)
