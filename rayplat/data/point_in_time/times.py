"""Moments as integers, exactly: microseconds, or nanoseconds where a column has them.

A moment is never rounded up: what happened a nanosecond after it stays unknown at it. Ends beyond what 64 bits hold
stop at the last value there is. Times without a zone are UTC.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayplat.errors import SchemaMismatch

Ints = npt.NDArray[np.int64]

OLDEST = np.iinfo(np.int64).min
NEWEST = np.iinfo(np.int64).max
_TO_MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def instants(times: pa.ChunkedArray, name: str = "event time") -> tuple[Ints, str]:
    """(int64 since the epoch, their unit ``us`` or ``ns``); nulls are `OLDEST`. Raises `SchemaMismatch` naming the
    column where it holds no timestamps."""
    if pa.types.is_null(times.type):
        return np.full(len(times), OLDEST, np.int64), "us"
    if not pa.types.is_timestamp(times.type):
        raise SchemaMismatch(name, f"a timestamp is needed, got {times.type}; cast it")
    unit = times.type.unit
    whole = times.cast(pa.int64())
    found: Ints = (whole.fill_null(OLDEST) if whole.null_count else whole).to_numpy()
    return (found, "ns") if unit == "ns" else (_times(found, _TO_MICROS[unit]), "us")


def micros(times: pa.ChunkedArray, name: str = "event time") -> Ints:
    """Microseconds since the epoch in UTC, rounded down; nulls are the oldest moment there is."""
    found, unit = instants(times, name)
    return newest(found, unit, "us")


def newest(moments: Ints, unit: str, wanted: str) -> Ints:
    """The newest instant of unit ``wanted`` that is not after each moment."""
    if unit == wanted:
        return moments
    if wanted == "ns":
        return _times(moments, 1_000)
    return np.where(moments == OLDEST, OLDEST, moments // 1_000)


def oldest(moments: Ints, unit: str, wanted: str, ttl: timedelta) -> Ints:
    """The oldest instant of unit ``wanted`` that is not before moment - ttl."""
    reach = min(ttl // timedelta(microseconds=1) * (1_000 if unit == "ns" else 1), NEWEST)
    low = np.where(moments < OLDEST + reach, OLDEST, moments - reach)
    if unit == wanted:
        return low
    if wanted == "ns":
        return _times(low, 1_000)
    return np.where(low == OLDEST, OLDEST, -(-np.maximum(low, -NEWEST) // 1_000))


def ends(times: pa.ChunkedArray, name: str = "event time") -> tuple[int, int] | None:
    """The first and the last moment in whole microseconds; None where there is none."""
    if times.null_count == len(times):
        return None
    found = micros(times.drop_null(), name)
    return int(found.min()), int(found.max())


def _times(values: Ints, factor: int) -> Ints:
    """Multiplied; what would not fit stops at the end of the range, and the oldest stays the oldest."""
    if factor == 1:
        return values
    return np.where(
        values > NEWEST // factor, NEWEST, np.where(values < -(NEWEST // factor), OLDEST, np.multiply(values, factor))
    )
