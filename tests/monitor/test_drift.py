"""Drift: no alarm on unchanged data of many shapes, and an alarm for each kind of change that matters."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rayplat.monitor import drift, profiles
from rayplat.monitor.drift import Comparison, DriftRules
from rayplat.types import ColumnDrift

RULES = DriftRules()


def table(rng: np.random.Generator, n: int, repeat: int = 1, **changed: object) -> pa.Table:
    """Columns of the shapes that real features have."""
    columns: dict[str, object] = {}
    for i in range(repeat):
        columns |= {
            f"normal{i}": rng.normal(size=n),
            f"skewed{i}": rng.exponential(size=n),
            f"hour{i}": rng.integers(0, 24, n),
            f"mostly_zero{i}": np.where(rng.random(n) < 0.6, 0, rng.lognormal(0, 2, n)),
            f"sparse{i}": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.1),
            f"few{i}": rng.choice(["a", "b", "c", "d"], n),
            f"zipf{i}": [str(k) for k in np.minimum(rng.zipf(1.5, n), 300)],
            f"many{i}": [str(k) for k in rng.integers(0, 4000, n)],
        }
    return pa.table(columns | changed)


def compare(before: pa.Table, now: pa.Table, rules: DriftRules = RULES) -> Comparison:
    sides = [profiles.read(profiles.profile(side)) for side in (before, now)]
    return drift.compare(*sides, rules)


def found(compared: Comparison, column: str, statistic: str) -> ColumnDrift:
    return next(s for s in compared.statistics if (s.column, s.statistic) == (column, statistic))


@pytest.mark.parametrize(("n", "m"), [(500, 500), (20_000, 500), (5000, 5000)])
def test_unchanged_data_raises_no_alarm(n: int, m: int) -> None:
    rng = np.random.default_rng(n + m)
    reports = [compare(table(rng, n, repeat=2), table(rng, m, repeat=2)) for _ in range(3)]
    assert [r.verdict for r in reports] == [drift.STABLE] * 3
    assert not [s for r in reports for s in r.statistics if s.drifted]


def test_chance_alone_stays_below_the_threshold_without_floors() -> None:
    """The part of the threshold that knows the sample sizes holds by itself: 700 statistics, 1 % of reports."""
    rng = np.random.default_rng(3)
    bare = DriftRules(psi=0, wasserstein=0, js2=0, unseen=0, null_rate=0)
    reports = [compare(table(rng, 800, repeat=6), table(rng, 500, repeat=6), bare) for _ in range(5)]
    alarms = [s for r in reports for s in r.statistics if s.drifted and s.value > 0]
    assert sum(len(r.statistics) for r in reports) > 650
    assert len(alarms) <= 2


def test_a_shift_of_a_third_of_a_deviation_is_seen() -> None:
    rng = np.random.default_rng(4)
    for _ in range(5):
        now = table(rng, 1000)
        now = now.set_column(0, "normal0", pa.array(rng.normal(0.3, 1, 1000)))
        compared = compare(table(rng, 20_000), now)
        assert compared.verdict == drift.DRIFT
        assert [c.column for c in compared.columns if c.drifted] == ["normal0"]
        assert compared.columns[0].statistic == "wasserstein_sd"
        assert compared.columns[0].value == pytest.approx(0.3, abs=0.12)


def test_a_wider_distribution_with_the_same_mean_is_seen() -> None:
    rng = np.random.default_rng(5)
    now = table(rng, 1000).set_column(0, "normal0", pa.array(rng.normal(0, 2, 1000)))
    assert found(compare(table(rng, 5000), now), "normal0", "psi").drifted


def test_a_constant_that_moves_either_way_is_seen() -> None:
    before = pa.table({"x": np.full(1000, 7.0)})
    assert compare(before, pa.table({"x": np.full(1000, 7.0)})).verdict == drift.STABLE
    for moved in (6.0, 8.0):
        assert compare(before, pa.table({"x": np.full(1000, moved)})).verdict == drift.DRIFT


def test_float32_on_the_way_is_no_drift() -> None:
    rng = np.random.default_rng(14)
    values = rng.choice([0.1, 0.3, 0.7], 2000)
    before, now = pa.table({"x": values, "c": np.full(2000, 0.1)}), {"x": values[:1000], "c": np.full(1000, 0.1)}
    compared = compare(before, pa.table({k: v.astype(np.float32).astype(np.float64) for k, v in now.items()}))
    assert compared.verdict == drift.STABLE
    assert found(compared, "c", "psi").value < 0.01


def test_a_new_category_is_named() -> None:
    rng = np.random.default_rng(6)
    now = table(rng, 1000)
    few = np.where(rng.random(1000) < 0.06, "ZZ", now["few0"].to_numpy())
    compared = compare(table(rng, 5000), now.set_column(now.column_names.index("few0"), "few0", pa.array(few)))
    assert [c.column for c in compared.columns if c.drifted] == ["few0"]
    assert compared.columns[0].statistic == "unseen_share"
    assert "ZZ" in compared.columns[0].note


def test_other_shares_of_the_same_categories_are_seen() -> None:
    rng = np.random.default_rng(7)
    before = pa.table({"x": rng.choice(["a", "b"], 5000)})
    now = pa.table({"x": rng.choice(["a", "b"], 800, p=[0.85, 0.15])})
    compared = compare(before, now)
    assert compared.columns[0].statistic == "js2"
    assert compared.verdict == drift.DRIFT


def test_a_burst_of_nulls_is_seen_and_an_absent_column_is_one() -> None:
    rng = np.random.default_rng(8)
    before = table(rng, 5000)
    now = table(rng, 1000)
    burst = pa.array(rng.normal(size=1000), mask=rng.random(1000) < 0.25)
    now = now.set_column(now.column_names.index("sparse0"), "sparse0", burst).drop_columns(["hour0"])
    compared = compare(before, now)
    assert {c.column: c.statistic for c in compared.columns if c.drifted} == {
        "sparse0": "null_rate",
        "hour0": "null_rate",
    }
    assert "→ 100.0%" in found(compared, "hour0", "null_rate").note


def test_the_prediction_is_judged_apart() -> None:
    rng = np.random.default_rng(9)
    before, now = table(rng, 5000, prediction=rng.beta(2, 6, 5000)), table(rng, 1000, prediction=rng.beta(4, 6, 1000))
    compared = compare(before, now)
    assert compared.prediction is not None
    assert compared.prediction.drifted
    assert not [c for c in compared.columns if c.drifted or c.column == "prediction"]
    assert compared.verdict == drift.DRIFT


def test_few_rows_get_no_verdict() -> None:
    rng = np.random.default_rng(10)
    before = pa.table({"x": rng.normal(size=5000)})
    compared = compare(before, pa.table({"x": rng.normal(5, 1, 499)}))
    assert compared.verdict == drift.NOT_ENOUGH_ROWS
    assert not any(s.drifted for s in compared.statistics)
    assert compared.columns[0].note.startswith("not enough rows")
    assert compare(before, pa.table({"x": pa.array([], pa.float64())})).verdict == drift.NOT_ENOUGH_ROWS


def test_a_column_with_few_values_is_judged_by_its_nulls_only() -> None:
    rng = np.random.default_rng(11)
    before = pa.table({"x": pa.array(rng.normal(size=5000), mask=rng.random(5000) < 0.9)})
    now = pa.table({"x": pa.array(rng.normal(9, 1, 1000), mask=rng.random(1000) < 0.9)})
    compared = compare(before, now)
    assert not found(compared, "x", "psi").drifted
    assert compared.verdict == drift.STABLE


def test_the_strongest_column_comes_first() -> None:
    rng = np.random.default_rng(12)
    before = pa.table({"a": rng.normal(size=2000), "b": rng.normal(size=2000), "c": rng.normal(size=2000)})
    now = pa.table({"a": rng.normal(size=2000), "b": rng.normal(3, 1, 2000), "c": rng.normal(0.5, 1, 2000)})
    assert [c.column for c in compare(before, now).columns] == ["b", "c", "a"]


def test_psi_and_js_match_their_definitions() -> None:
    rng = np.random.default_rng(13)
    before, now = rng.normal(size=100_000), rng.normal(0.5, 1.2, 100_000)
    cuts = np.quantile(before, np.arange(1, 10) / 10)
    p, q = (np.bincount(np.searchsorted(cuts, side), minlength=10) / 1e5 for side in (before, now))
    psi = found(compare(pa.table({"x": before}), pa.table({"x": now})), "x", "psi")
    assert psi.value == pytest.approx(float(np.sum((q - p) * np.log(q / p))), rel=0.05)
    both = compare(pa.table({"s": ["a"] * 1000}), pa.table({"s": ["b"] * 1000}))
    assert found(both, "s", "js2").value == pytest.approx(1.0)
