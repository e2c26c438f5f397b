"""The A/B test under continuous peeking: how often it errs, how often it finds, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from rayplat.errors import InvalidInput
from rayplat.registry import sequential
from rayplat.registry.sequential import check_design, design_digest, look, power
from rayplat.types import ArmOutcomes, ExperimentDesign, ExperimentEvidence

NOW = datetime(2013, 11, 1, tzinfo=UTC)
RATE = ExperimentDesign("accepted", "proportion", 0.05, 0.03, 0.09, 10_000, min_samples=100)
MEAN = ExperimentDesign("minutes", "mean", 0.05, 0.15, 4.7, 10_000, min_samples=300)


def ever_won(design: ExperimentDesign, candidate: Any, baseline: Any) -> float:
    """The share of paths [paths, n per arm] that win at some look, looking after every pair of outcomes."""
    n = np.arange(1, candidate.shape[1] + 1)
    means, variances = [], []
    for arm in (candidate, baseline):
        mean = np.cumsum(arm, axis=1) / n
        means.append(mean)
        variances.append((np.cumsum(arm**2, axis=1) / n - mean**2) / np.maximum(n - 1, 1))
    gain = means[0] - means[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sequential._log_ratio(design, gain + design.margin, variances[0] + variances[1])
    counts = (n >= design.min_samples) & (variances[0] + variances[1] > 0)
    won = (ratio >= -math.log(design.alpha)) & (gain > -design.margin) & counts
    return float(won.any(axis=1).mean())


@pytest.mark.parametrize("sides", ["greater", "two-sided"])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_looking_after_every_outcome_wins_at_most_alpha_of_equal_rates(sides: str, rate: float) -> None:
    random = np.random.default_rng(1)
    arms = [(random.random((600, 5000), np.float32) < rate).astype(np.float64) for _ in range(2)]
    assert ever_won(replace(RATE, sides=sides), *arms) <= RATE.alpha


def test_looking_after_every_outcome_wins_at_most_alpha_of_equal_skewed_means() -> None:
    random = np.random.default_rng(2)
    arms = [random.lognormal(0.0, 1.0, (600, 5000)) for _ in range(2)]
    assert ever_won(MEAN, *arms) <= MEAN.alpha


def test_a_margin_is_part_of_what_is_tested() -> None:
    random = np.random.default_rng(3)
    worse = [(random.random((400, 5000)) < rate).astype(np.float64) for rate in (0.48, 0.5)]
    at_margin = replace(RATE, margin=0.02, variance=0.25)
    assert ever_won(at_margin, *worse) <= RATE.alpha
    assert ever_won(replace(at_margin, margin=0.06), *worse) > 0.5


def test_a_real_gain_is_found_and_power_says_how_often() -> None:
    random = np.random.default_rng(4)
    arms = [(random.random((400, 5000), np.float32) < rate).astype(np.float64) for rate in (0.13, 0.10)]
    said = power(replace(RATE, variance=0.1))
    assert said > 0.8
    assert ever_won(RATE, *arms) == pytest.approx(said, abs=0.06)
    assert power(RATE, gain=0.0) <= RATE.alpha
    assert power(RATE, gain=0.01) < power(RATE, gain=0.02) < power(RATE, gain=0.04)


def test_a_plain_test_that_is_looked_at_often_errs_far_more() -> None:
    """What the mixture is for: a 1.645 threshold under the same looks."""
    random = np.random.default_rng(5)
    a, b = ((random.random((400, 5000)) < 0.5).astype(np.float64) for _ in range(2))
    n = np.arange(1, 5001)
    z = (np.cumsum(a, axis=1) - np.cumsum(b, axis=1)) / np.sqrt(n * 0.5)
    assert (z[:, 100:] > 1.645).any(axis=1).mean() > 3 * RATE.alpha


def seen(candidate: ArmOutcomes, baseline: ArmOutcomes, **design: Any) -> ExperimentEvidence:
    return ExperimentEvidence(replace(RATE, **design), candidate, baseline, NOW)


def test_a_look_orients_the_gain_and_needs_variance() -> None:
    better, worse = ArmOutcomes(5000, 700, 700), ArmOutcomes(5000, 500, 500)
    assert look(seen(better, worse)).won
    assert not look(seen(worse, better)).won
    assert look(seen(worse, better, higher_is_better=False)).won
    assert not look(seen(worse, better, sides="two-sided")).won
    assert look(seen(better, worse)).gain == pytest.approx(0.04)
    nothing = look(seen(ArmOutcomes(5000, 0, 0), ArmOutcomes(5000, 0, 0)))
    assert not nothing.won
    assert math.isnan(nothing.ratio)


def test_the_ratio_is_the_mixture_integrated() -> None:
    from scipy import integrate, stats

    evidence = seen(ArmOutcomes(2000, 240, 240), ArmOutcomes(2000, 200, 200))
    found = look(evidence)
    tau, error = RATE.min_effect, found.standard_error
    mixed, _ = integrate.quad(
        lambda t: stats.norm.pdf(found.gain, t, error) * stats.halfnorm.pdf(t, scale=tau), 0, 10 * tau
    )
    assert found.ratio == pytest.approx(mixed / stats.norm.pdf(found.gain, 0, error), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "median"}, "kind"),
        ({"sides": "less"}, "sides"),
        ({"metric": ""}, "metric"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"min_effect": 0}, "min_effect"),
        ({"variance": math.inf}, "variance"),
        ({"min_samples": 5}, "min_samples"),
        ({"max_samples": 150}, "max_samples"),
        ({"margin": -0.1}, "margin"),
        ({"mixing_variance": -1}, "mixing_variance"),
        ({"share": 1.0}, "share"),
        ({"max_samples": True}, "max_samples"),
    ],
)
def test_a_bad_design_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as e:
        check_design(replace(RATE, **change))
    assert e.value.field == f"design.{field}"


def test_a_digest_names_the_design() -> None:
    assert check_design(RATE) is RATE
    assert design_digest(RATE) == design_digest(replace(RATE))
    assert design_digest(RATE) != design_digest(replace(RATE, max_samples=10_001))
