"""Profiles of Arrow data in whylogs' file format: mergeable sketches, one per column.

The only module that knows whylogs, and it uses whylogs as a container only: the sketches are filled here,
column by column from Arrow, because ``why.log`` goes through pandas, breaks on numpy 2 for strings and dates,
and lets one NaN or infinity spoil the moments. Any whylogs reads the bytes (``DatasetProfileView.deserialize``).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import InvalidInput
from rayplat.monitor.summary import CATEGORICAL, EMPTY, LEVELS, NUMERIC, OTHER, ColumnSummary

PREDICTION = "prediction"
"""The column of a profile that holds the model's scores."""

_KLL_K = 1024  # rank error 0.27 %
_HLL_LG_K = 12  # cardinality error 1.6 %
_ITEMS_LG_K = 10  # the sketch holds 768 items before it starts to estimate
_ITEMS_KEPT = 700
_ITEM_LENGTH = 128


def profile(table: pa.Table) -> bytes:
    """The profile of ``table``: one column of sketches for each of its columns.

    Numbers, booleans and times (as seconds since 1970) get quantiles and moments, strings get counted
    categories, other types are counted only. NaN counts as null; infinities are counted apart. Values of
    numeric columns are not kept one by one. Raises `InvalidInput` for no columns or a repeated name.
    """
    names = table.column_names
    if not names or len(set(names)) != len(names):
        raise InvalidInput("table", "a profile needs at least one column, and no name twice")
    why = _whylogs()
    now = datetime.now(UTC)
    columns = {name: _column_view(why, table.column(name)) for name in names}
    view = why.DatasetProfileView(columns=columns, dataset_timestamp=now, creation_timestamp=now)
    return bytes(view.serialize())


def baseline_profile(table: pa.Table, features: Sequence[str], predictions: npt.ArrayLike) -> bytes:
    """The profile that later windows are compared with: the feature columns of ``table`` and, as the column
    ``prediction``, the model's scores [n] for the same rows."""
    missing = [name for name in features if name not in table.column_names]
    if missing:
        raise InvalidInput("features", f"not in the table: {', '.join(missing)}")
    scores = pa.array(np.asarray(predictions, dtype=np.float64))
    if len(scores) != table.num_rows:
        raise InvalidInput("predictions", f"{len(scores)} scores for {table.num_rows} rows")
    return profile(table.select(list(features)).append_column(PREDICTION, scores))


def merge(profiles: Sequence[bytes]) -> bytes:
    """One profile over the rows of all. Raises `InvalidInput` when empty or the columns differ."""
    views = [_view(data) for data in profiles]
    if not views:
        raise InvalidInput("profiles", "nothing to merge")
    columns = set(views[0].get_columns())
    merged = views[0]
    for view in views[1:]:
        differing = columns ^ set(view.get_columns())
        if differing:
            raise InvalidInput("profiles", f"columns in only some of them: {', '.join(sorted(differing))}")
        merged = merged.merge(view)
    return bytes(merged.serialize())


def read(data: bytes) -> dict[str, ColumnSummary]:
    """Column name to summary. Raises `InvalidInput` when the bytes are no whylogs profile."""
    return {name: _summary(view) for name, view in sorted(_view(data).get_columns().items())}


# --- from Arrow to sketches -----------------------------------------------------------------------


@dataclass
class _Filled:
    """The sketches of one column and its counts, by whylogs' names."""

    kll: Any
    hll: Any
    items: Any
    mean: float = 0.0
    m2: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)


def _column_view(why: Any, column: pa.ChunkedArray) -> Any:
    filled = _Filled(
        why.sketching.kll_doubles_sketch(k=_KLL_K),
        why.sketching.hll_sketch(_HLL_LG_K),
        why.sketching.frequent_strings_sketch(lg_max_k=_ITEMS_LG_K),
    )
    filled.counts = {"n": len(column), "null": column.null_count, "nan": 0, "inf": 0, "true": 0}
    dtype = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if _is_numeric(dtype):
        _fill_numbers(filled, column.cast(dtype), dtype)
    elif pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        _fill_strings(filled, column.cast(dtype))
    else:
        filled.types["object"] = len(column) - column.null_count
    return _assemble(why, filled)


def _is_numeric(dtype: pa.DataType) -> bool:
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_temporal)
    return any(check(dtype) for check in checks) and not pa.types.is_interval(dtype)


def _fill_numbers(filled: _Filled, column: pa.ChunkedArray, dtype: pa.DataType) -> None:
    values = _float64(column.drop_null(), dtype)
    finite = np.isfinite(values)
    if not finite.all():  # one of them would make mean and deviation useless
        nan = int(np.isnan(values).sum())
        filled.counts["nan"], filled.counts["inf"] = nan, int(len(values) - finite.sum()) - nan
        filled.counts["null"] += nan
        values = values[finite]
    kind = "integral" if pa.types.is_integer(dtype) else "boolean" if pa.types.is_boolean(dtype) else "fractional"
    filled.types[kind] = len(values)
    if kind == "boolean":
        filled.counts["true"] = int(values.sum())
    if len(values):
        filled.kll.update(array=values)
        # whylogs hashes integers as integers: the same number must count once when profiles are merged
        filled.hll.update_np(values if kind == "fractional" else _hashable(values))
        filled.mean = float(values.mean())
        filled.m2 = float(values.var() * len(values))


def _float64(column: pa.ChunkedArray, dtype: pa.DataType) -> npt.NDArray[np.float64]:
    """Non-null values as float64: exact up to 2**53; unsigned integers do not wrap, times become seconds."""
    scale = 1.0
    if pa.types.is_temporal(dtype):
        scale = 1e-6
        if pa.types.is_duration(dtype):
            column = column.cast(pa.duration("us"), safe=False)
        elif pa.types.is_time(dtype):
            column = column.cast(pa.time64("us"), safe=False)
        else:
            column = column.cast(pa.timestamp("us"), safe=False)
        column = column.cast(pa.int64())
    elif pa.types.is_boolean(dtype):
        column = column.cast(pa.uint8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64) * scale


def _hashable(values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    return values.astype(np.int64) if np.abs(values).max() < 2**62 else values


def _fill_strings(filled: _Filled, column: pa.ChunkedArray) -> None:
    counted = pc.value_counts(column.drop_null().cast(pa.large_string()))
    values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    filled.types["string"] = sum(counts)
    if values:
        filled.hll.update_str_list(values)
    # A full sketch adds the weight of what it forgot to what it keeps: of 4000 even categories each looks eight
    # times as frequent as it is. The exact counts are at hand here, so only the largest enter.
    largest = sorted(zip(values, counts, strict=True), key=lambda pair: -pair[1])[:_ITEMS_KEPT]
    for value, count in largest:
        filled.items.update(value[:_ITEM_LENGTH], count)


def _assemble(why: Any, filled: _Filled) -> Any:
    integral, fractional = why.components.IntegralComponent, why.components.FractionalComponent
    types = {name: integral(filled.types.get(name, 0)) for name in why.type_names}
    metrics = {
        "counts": why.metrics.ColumnCountsMetric(**{k: integral(v) for k, v in filled.counts.items()}),
        "types": why.metrics.TypeCountersMetric(**types),
        "cardinality": why.metrics.CardinalityMetric(hll=why.components.HllComponent(filled.hll)),
        "distribution": why.metrics.DistributionMetric(
            kll=why.components.KllComponent(filled.kll), mean=fractional(filled.mean), m2=fractional(filled.m2)
        ),
        "frequent_items": why.metrics.FrequentItemsMetric(
            frequent_strings=why.components.FrequentStringsComponent(filled.items)
        ),
    }
    return why.ColumnProfileView(metrics, success_count=filled.counts["n"])


# --- from sketches to summaries -------------------------------------------------------------------


def _view(data: bytes) -> Any:
    why = _whylogs()
    try:
        return why.DatasetProfileView.deserialize(data)
    except Exception as e:  # the reader raises whatever its parser happened to trip over
        raise InvalidInput("profile", f"these {len(data)} bytes are no whylogs profile ({type(e).__name__})") from e


def _summary(view: Any) -> ColumnSummary:
    counts, types = view.get_metric("counts"), view.get_metric("types")
    n, nulls, infinite = counts.n.value, counts.null.value, counts.inf.value
    cardinality = float(view.get_metric("cardinality").hll.value.get_estimate())
    if types.integral.value + types.fractional.value + types.boolean.value:
        distribution = view.get_metric("distribution")
        kll = distribution.kll.value
        return ColumnSummary(
            n,
            nulls,
            NUMERIC,
            infinite,
            quantiles=tuple(float(q) for q in kll.get_quantiles(LEVELS.tolist())),
            mean=float(distribution.avg),
            stddev=float(distribution.stddev),
            minimum=float(kll.get_min_value()),
            maximum=float(kll.get_max_value()),
            cardinality=cardinality,
        )
    if types.string.value:
        found = ColumnSummary(n, nulls, CATEGORICAL, infinite, top=_top(view), cardinality=cardinality)
        return replace(found, cardinality=float(len(found.top))) if found.top_is_complete else found
    return ColumnSummary(n, nulls, OTHER if types.object.value else EMPTY, infinite, cardinality=cardinality)


def _top(view: Any) -> tuple[tuple[str, int], ...]:
    """Items and the counts they have at least (the lower bound: exact unless merging overflowed the sketch)."""
    everything = _whylogs().sketching.frequent_items_error_type.NO_FALSE_NEGATIVES
    items = view.get_metric("frequent_items").frequent_strings.value.get_frequent_items(everything)
    return tuple(sorted(((str(i[0]), int(i[2])) for i in items), key=lambda pair: (-pair[1], pair[0])))


@dataclass(frozen=True)
class _Whylogs:
    metrics: Any
    components: Any
    sketching: Any
    ColumnProfileView: Any
    DatasetProfileView: Any
    type_names: tuple[str, ...] = ("integral", "fractional", "boolean", "string", "object", "tensor")


def _whylogs() -> _Whylogs:
    os.environ["WHYLOGS_NO_ANALYTICS"] = "1"  # read at import: without it whylogs calls home
    load = importlib.import_module
    return _Whylogs(
        load("whylogs.core.metrics"),
        load("whylogs.core.metrics.metric_components"),
        load("whylogs_sketching"),
        load("whylogs.core.view.column_profile_view").ColumnProfileView,
        load("whylogs.core.view.dataset_profile_view").DatasetProfileView,
    )
