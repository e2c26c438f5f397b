"""From rows of a view's feature table to rows of the online store: the newest of each key, encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features import CREATED, EVENT_TIME, FeatureView
from rayplat.data.online.on_request import plain_values
from rayplat.data.online.store import NO_CREATED, Row
from rayplat.data.online.values import encode, key_bytes

HELD_KEYS = 500_000
"""So many keys are held in memory at a time."""


def table_columns(view: FeatureView) -> list[str]:
    """What is read of a feature table."""
    created = [CREATED] if view.created else []
    return [*view.keys, EVENT_TIME, *created, *view.feature_names]


def newest_parts(view: FeatureView, parts: Iterable[pa.Table], held_keys: int = HELD_KEYS) -> Iterator[pa.Table]:
    """``parts`` reduced to the newest row of each key, as few tables of at most about ``held_keys`` rows; a key may
    come again in a later one."""
    held: pa.Table | None = None
    for part in parts:
        held = newest(view, part if held is None else pa.concat_tables([held, part]))
        if held.num_rows >= held_keys:
            yield held
            held = None
    if held is not None and held.num_rows:
        yield held


def newest(view: FeatureView, rows: pa.Table) -> pa.Table:
    """The last row of each key by event time, then created time, then place. Rows without a key or an event time are
    nobody's. In order of keys, in which SQLite takes them four times faster."""
    known = rows[EVENT_TIME].is_valid()
    for key in view.keys:
        known = pc.and_(known, rows[key].is_valid())
    rows = rows.filter(known)
    if not rows.num_rows:
        return rows
    codes = _codes(rows, view.keys)
    by = [_micros(rows[EVENT_TIME]), codes]
    if view.created:
        by.insert(0, _created(rows))
    order = np.lexsort(by)
    last = np.flatnonzero(np.diff(codes[order], append=-1))
    return rows.take(pa.array(order[last])).sort_by([(key, "ascending") for key in view.keys])


def encoded(view: FeatureView, rows: pa.Table) -> Iterator[Row]:
    """Rows as the store takes them."""
    keys = encoded_keys(view, rows)
    events = _micros(rows[EVENT_TIME]).tolist()
    created = _created(rows).tolist() if view.created else [NO_CREATED] * len(events)
    columns = [plain_values(rows[name]) for name in view.feature_names]
    for key, event_us, created_us, *values in zip(keys, events, created, *columns, strict=True):
        yield key, event_us, created_us, encode(values)


def encoded_keys(view: FeatureView, rows: pa.Table) -> list[bytes]:
    """The keys of ``rows``, which have all their parts."""
    parts: list[list[Any]] = [rows[key].to_pylist() for key in view.keys]
    if len(parts) == 1 and view.entity.dtypes[0] == "string":
        return [part.encode() for part in parts[0]]
    return [key_bytes(key) for key in zip(*parts, strict=True)]


def event_micros(rows: pa.Table) -> list[int]:
    found: list[int] = _micros(rows[EVENT_TIME]).tolist()
    return found


def _created(rows: pa.Table) -> npt.NDArray[np.int64]:
    return _micros(rows[CREATED].fill_null(pa.scalar(NO_CREATED, pa.int64()).cast(pa.timestamp("us", tz="UTC"))))


def _micros(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return found


def _codes(rows: pa.Table, keys: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """A number per distinct key."""
    codes = np.zeros(rows.num_rows, np.int64)
    for key in keys:
        found = pc.dictionary_encode(rows[key].combine_chunks())
        if isinstance(found, pa.ChunkedArray):
            found = found.chunk(0)
        codes = codes * len(found.dictionary) + found.indices.to_numpy(zero_copy_only=False)
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64) if len(keys) > 1 else codes
    return codes
