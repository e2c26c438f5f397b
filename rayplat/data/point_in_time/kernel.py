"""The point-in-time join: for each spine row, each feature as it was known at the row's own moment.

Contract. One output row per spine row, in order, duplicates and null keys included. A feature row is a candidate
where its key equals the spine's and ``T - ttl <= event_time <= T`` (both ends inclusive; no lower end without a
ttl). The newest candidate wins; ties go to the newest ``created``, then to the later row. No candidate, a null
key or a null ``T``: null features. Microseconds are kept, times without a zone are UTC, NaN stays NaN. A feature
named like a spine column is left out: the spine wins. Views join in order, so a key may come from a view before.

`Index` is the sorted feature side, made once and searched by many; it knows neither tables nor Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import SchemaMismatch

Ints = npt.NDArray[np.int64]

_OLDEST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class FeatureRows:
    """One view's rows: ``key`` names the join key in ``rows`` and in the spine, ``features`` what to bring over."""

    rows: pa.Table
    key: str
    features: tuple[str, ...]
    event_time: str = "event_time"
    ttl: timedelta | None = None
    created: str | None = None


@dataclass(frozen=True)
class Index:
    """`FeatureRows` ready to be searched. ``placed`` are the rows' (key code, time) pairs as one sorted integer each
    (times by rank among ``moments``, so any number of keys and any span fit in 64 bits), ``rows`` their numbers."""

    key: str
    ttl_us: int | None
    keys: pa.Array
    moments: Ints
    placed: Ints
    rows: Ints
    features: pa.Table

    def find(self, keys: pa.ChunkedArray, moments: pa.ChunkedArray) -> pa.Array:
        """Row numbers in ``features`` (null: nothing known), one per key and moment."""
        if len(self.placed) == 0 or len(keys) == 0:
            return pa.nulls(len(keys), pa.int64())
        code = pc.index_in(_comparable(keys, self.keys.type), value_set=self.keys, skip_nulls=True)
        codes, width = code.fill_null(-1).to_numpy().astype(np.int64), len(self.moments) + 1
        at = micros(moments)
        rank = np.searchsorted(self.moments, at, side="right")
        found = np.searchsorted(self.placed, codes * width + rank, side="right") - 1
        placed = self.placed[np.maximum(found, 0)]
        valid = (codes >= 0) & moments.is_valid().to_numpy() & (found >= 0) & (placed // width == codes)
        if self.ttl_us is not None:
            valid &= at - self.moments[placed % width - 1] <= self.ttl_us
        return pa.array(self.rows[np.maximum(found, 0)], pa.int64(), mask=~valid)


def index(side: FeatureRows) -> Index:
    """Sort a feature side. Rows without a key or an event time can never match and are left out."""
    rows = side.rows
    valid = pc.and_(rows[side.key].is_valid(), rows[side.event_time].is_valid())
    if not pc.all(valid).as_py():
        rows = rows.filter(valid)
    encoded = pc.dictionary_encode(rows[side.key].combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):  # an empty column stays chunked
        encoded = pa.array([], rows.schema.field(side.key).type).dictionary_encode()
    times = micros(rows[side.event_time])
    moments = np.unique(times)
    placed = encoded.indices.to_numpy().astype(np.int64) * (len(moments) + 1)
    placed += np.searchsorted(moments, times, side="right")
    order = _stable_order(placed, micros(rows[side.created]) if side.created else None)
    ttl_us = None if side.ttl is None else side.ttl // timedelta(microseconds=1)
    features = rows.select(list(side.features)).combine_chunks()
    return Index(side.key, ttl_us, encoded.dictionary, moments, placed[order], order, features)


def join(spine: pa.Table, sides: Sequence[FeatureRows | Index], *, event_time: str = "event_time") -> pa.Table:
    """``spine`` with the features of every side appended; see the contract above.

    Raises `SchemaMismatch` where ``event_time`` or a side's key is no column by the time it is needed.
    """
    if event_time not in spine.column_names:
        raise SchemaMismatch(event_time, f"the spine has no such column; it has {', '.join(spine.column_names)}")
    own = set(spine.column_names)
    for side in sides:
        known = side if isinstance(side, Index) else index(side)
        if known.key not in spine.column_names:
            raise SchemaMismatch(known.key, "join key found neither in the spine nor in a view joined before")
        rows = known.find(spine[known.key], spine[event_time])
        for name in known.features.column_names:
            if name not in own:
                spine = spine.append_column(known.features.schema.field(name), known.features[name].take(rows))
    return spine


def micros(times: pa.ChunkedArray) -> Ints:
    """Microseconds since the epoch in UTC; nulls are the oldest moment there is."""
    if not pa.types.is_timestamp(times.type):
        raise SchemaMismatch("event time", f"a timestamp is needed, got {times.type}")
    whole = times.cast(pa.timestamp("us", times.type.tz), safe=False).cast(pa.int64())
    found: Ints = whole.fill_null(_OLDEST).to_numpy()
    return found


def _stable_order(placed: Ints, created: Ints | None) -> Ints:
    """Rows by place, then creation, then row number."""
    rows = len(placed)
    if created is not None:
        return np.lexsort((created, placed))
    if rows and int(placed.max()) < 2**62 // rows:  # one plain sort is several times faster than a stable argsort
        return np.sort(placed * rows + np.arange(rows)) % rows
    return np.argsort(placed, kind="stable")


def _comparable(keys: pa.ChunkedArray, dtype: pa.DataType) -> pa.ChunkedArray:
    if keys.type.equals(dtype):
        return keys
    if pa.types.is_dictionary(keys.type):
        keys = keys.cast(keys.type.value_type)
    try:
        return keys.cast(dtype)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise SchemaMismatch("join key", f"the spine has {keys.type}, the feature rows have {dtype}") from e
