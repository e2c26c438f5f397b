"""Column statistics of data files: what is written into the log for a new file, and what a file's statistics
guarantee to a reader. Sound rather than tight: a file is never left out for a row that it holds.

The format is that of the Delta protocol, "Per-file Statistics": times to the millisecond, long strings cut.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_MILLISECOND = timedelta(milliseconds=1)
_LONGEST = 32  # characters of a string that are kept
_EXACT_DIGITS = 15  # decimals with more may have been rounded through a double by their writer
_LAST_CHARACTER = chr(0x10FFFF)


def write(data: pa.Table) -> str:
    """The statistics of a file with the rows ``data``: rows, nulls, and the ends of every column that has an order.

    Floats with a NaN among them have no ends (other readers order NaN differently).
    """
    lowest: dict[str, Any] = {}
    highest: dict[str, Any] = {}
    nulls: dict[str, Any] = {}
    for name in data.column_names:
        column = data[name]
        low, high, missing = _of(column)
        nulls[name] = missing
        if low is not None:
            lowest[name] = low
        if high is not None:
            highest[name] = high
    tree = {"numRecords": data.num_rows, "minValues": lowest, "maxValues": highest, "nullCount": nulls}
    return _json(tree)


def guarantee(
    schema: pa.Schema, partition: Mapping[str, Any], ends: Mapping[str, tuple[Any, Any, bool]]
) -> pc.Expression:
    """What holds for all rows of a file with these ``partition`` values and ``ends`` (lowest, highest, whether there
    are no nulls) by column."""
    holds = pc.scalar(True)
    for name, value in partition.items():
        known = pa.scalar(value, schema.field(name).type)
        holds = holds & (pc.field(name).is_null() if value is None else pc.field(name) == known)
    for name, (low, high, full) in ends.items():
        dtype = schema.field(name).type
        for end in _bounds(pc.field(name), low, high, dtype):
            holds = holds & (end if full else end | pc.field(name).is_null())
    return holds


def usable(dtype: pa.DataType) -> bool:
    """Whether the ends of such a column can rule files out."""
    if pa.types.is_decimal(dtype):
        return bool(dtype.precision <= _EXACT_DIGITS)
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_date, pa.types.is_timestamp, pa.types.is_string)
    return any(is_one(dtype) for is_one in kinds)


def _bounds(column: pc.Expression, low: Any, high: Any, dtype: pa.DataType) -> Iterable[pc.Expression]:
    if (isinstance(low, float) and math.isnan(low)) or (isinstance(high, float) and math.isnan(high)):
        return
    if low is not None:
        yield column >= pa.scalar(low, dtype)
    if high is None or (isinstance(high, str) and len(high) >= _LONGEST):  # cut, by some writers without rounding up
        return
    if isinstance(high, datetime):
        if high > datetime.max.replace(tzinfo=high.tzinfo) - _MILLISECOND:
            return
        high = high + _MILLISECOND
    yield column <= pa.scalar(high, dtype)


def _of(column: pa.ChunkedArray) -> tuple[Any, Any, Any]:
    """Lowest, highest and nulls of a column; trees for a struct."""
    dtype = column.type
    if pa.types.is_struct(dtype):
        return _of_struct(column)
    if not (usable(dtype) or pa.types.is_decimal(dtype)) or column.null_count == len(column):
        return None, None, column.null_count
    if pa.types.is_floating(dtype) and pc.any(pc.is_nan(column)).as_py():
        return None, None, column.null_count
    ends = pc.min_max(column).as_py()
    return _low(ends["min"]), _high(ends["max"]), column.null_count


def _of_struct(column: pa.ChunkedArray) -> tuple[Any, Any, Any]:
    lowest, highest, nulls = {}, {}, {}
    for field in column.type:
        low, high, missing = _of(pc.struct_field(column, field.name))
        nulls[field.name] = missing
        if low is not None:
            lowest[field.name] = low
        if high is not None:
            highest[field.name] = high
    return lowest or None, highest or None, nulls


def _low(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_LONGEST]
    return _plain(value, math.floor)


def _high(value: Any) -> Any:
    if not isinstance(value, str) or len(value) <= _LONGEST:
        return _plain(value, math.ceil)
    return value[:_LONGEST] + _LAST_CHARACTER


def _plain(value: Any, whole: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime):
        at = value.replace(microsecond=0, tzinfo=None)
        up = timedelta(milliseconds=whole(value.microsecond / 1000))
        if at > datetime.max - up:
            return None
        return (at + up).isoformat(timespec="milliseconds") + ("Z" if value.tzinfo else "")
    return value.isoformat() if isinstance(value, date) else value


def _json(value: Any) -> str:
    """JSON in which a decimal keeps all its digits."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_json(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, allow_nan=False)
