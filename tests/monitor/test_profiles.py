"""Profiles: what Arrow data becomes, that merging equals profiling the whole, and that whylogs reads the bytes."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from rayplat.errors import InvalidInput
from rayplat.monitor import profiles
from rayplat.monitor.summary import ColumnSummary


def summary(values: object, dtype: pa.DataType | None = None) -> ColumnSummary:
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, dtype)
    return profiles.read(profiles.profile(pa.table({"x": column})))["x"]


def test_numbers_have_moments_and_quantiles() -> None:
    values = np.random.default_rng(0).normal(10, 3, 50_000)
    found = summary(values)
    assert (found.n, found.nulls, found.kind) == (50_000, 0, "numeric")
    assert found.mean == pytest.approx(values.mean())
    assert found.stddev == pytest.approx(values.std(ddof=1))
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.cardinality == pytest.approx(50_000, rel=0.05)
    points = np.array([1.0, 7.0, 10.0, 13.0, 25.0])
    exact = np.searchsorted(np.sort(values), points) / len(values)
    assert np.abs(found.cdf(points) - exact).max() < 0.006


def test_nan_and_infinity_spoil_nothing() -> None:
    found = summary([1.0, 2.0, 3.0, float("nan"), None, float("inf"), float("-inf")])
    assert (found.n, found.nulls, found.infinite, found.present) == (7, 2, 2, 3)
    assert (found.mean, found.minimum, found.maximum) == (2.0, 1.0, 3.0)
    assert found.stddev == pytest.approx(1.0)
    assert found.null_rate == pytest.approx(4 / 7)


def test_large_unsigned_integers_stay_positive() -> None:
    assert summary([2**63 + 2048, 2**64 - 1], pa.uint64()).minimum == pytest.approx(2**63 + 2048)


def test_booleans_times_and_decimals_are_numbers() -> None:
    moment = datetime(2013, 11, 1, tzinfo=UTC)
    assert summary([True, False, True, None]).mean == pytest.approx(2 / 3)
    assert summary([moment, None], pa.timestamp("us", "UTC")).mean == moment.timestamp()
    assert summary([moment.date()]).mean == moment.timestamp()
    assert summary([90_000], pa.duration("ms")).mean == 90.0
    assert summary(pa.array(["1.25", "1.75"]).cast(pa.decimal128(5, 2))).mean == 1.5


@pytest.mark.parametrize("dtype", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_strings_are_counted(dtype: pa.DataType) -> None:
    found = summary(pa.chunked_array([["b", "a", None], ["a", ""]]).cast(dtype))
    assert (found.kind, found.n, found.nulls) == ("categorical", 5, 1)
    assert found.top == (("a", 2), ("", 1), ("b", 1))
    assert found.top_is_complete
    assert found.cardinality == 3


def test_the_largest_of_many_categories_are_counted_exactly() -> None:
    values = [f"N{i}" for i in range(4000)] + ["N7"] * 50 + ["N8"] * 40
    found = summary(values)
    assert found.top[:2] == (("N7", 51), ("N8", 41))
    assert not found.top_is_complete
    assert found.cardinality == pytest.approx(4000, rel=0.05)


def test_other_types_and_empty_columns_are_counted_only() -> None:
    assert summary([[1], [2], None]).kind == "other"
    assert summary([[1], [2], None]).nulls == 1
    nothing = summary([None, None], pa.float64())
    assert (nothing.n, nothing.nulls, nothing.kind) == (2, 2, "empty")
    assert summary([], pa.string()) == ColumnSummary(0, 0, "empty")


def test_merged_parts_equal_the_whole() -> None:
    rng = np.random.default_rng(1)
    table = pa.table(
        {"x": rng.gamma(2, 3, 9000), "i": rng.integers(0, 24, 9000), "s": rng.choice(["a", "b", "c"], 9000)}
    )
    parts = [table.slice(0, 4000), table.slice(4000, 0), table.slice(4000, 1), table.slice(4001)]
    whole = profiles.read(profiles.profile(table))
    merged = profiles.read(profiles.merge([profiles.profile(part) for part in parts]))
    for name in table.column_names:
        assert merged[name].n == whole[name].n
        assert merged[name].top == whole[name].top
        assert merged[name].mean == pytest.approx(whole[name].mean)
        assert merged[name].stddev == pytest.approx(whole[name].stddev)
        assert merged[name].cardinality == pytest.approx(whole[name].cardinality, rel=0.01)
    cuts = np.quantile(table["x"], [0.1, 0.5, 0.9])
    assert np.abs(merged["x"].cdf(cuts) - [0.1, 0.5, 0.9]).max() < 0.006


def test_whylogs_reads_the_bytes() -> None:
    from whylogs.core.view.dataset_profile_view import DatasetProfileView

    table = pa.table({"x": [1.0, 2.0, 4.0], "s": ["a", "a", None]})
    frame = DatasetProfileView.deserialize(profiles.profile(table)).to_pandas()
    assert frame.loc["x", "distribution/mean"] == pytest.approx(7 / 3)
    assert frame.loc["x", "types/fractional"] == 3
    assert frame.loc["s", "counts/null"] == 1
    assert frame.loc["s", "frequent_items/frequent_strings"][0].value == "a"


def test_a_baseline_holds_features_and_predictions() -> None:
    table = pa.table({"temp": [1.0, 2.0], "carrier": ["UA", "DL"], "ignored": [0, 0]})
    found = profiles.read(profiles.baseline_profile(table, ["temp", "carrier"], np.array([0.25, 0.75], np.float32)))
    assert set(found) == {"temp", "carrier", "prediction"}
    assert found["prediction"].mean == 0.5


def test_bad_input_is_named() -> None:
    table = pa.table({"x": [1.0]})
    with pytest.raises(InvalidInput, match="no whylogs profile"):
        profiles.read(b"something else")
    with pytest.raises(InvalidInput, match="nothing to merge"):
        profiles.merge([])
    with pytest.raises(InvalidInput, match="only some of them: y"):
        profiles.merge([profiles.profile(table), profiles.profile(table.append_column("y", [[1]]))])
    with pytest.raises(InvalidInput, match="at least one column"):
        profiles.profile(pa.table({}))
    with pytest.raises(InvalidInput, match="no name twice"):
        profiles.profile(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]))
    with pytest.raises(InvalidInput, match="not in the table: y"):
        profiles.baseline_profile(table, ["y"], [0.5])
    with pytest.raises(InvalidInput, match="2 scores for 1 rows"):
        profiles.baseline_profile(table, ["x"], [0.5, 0.5])
