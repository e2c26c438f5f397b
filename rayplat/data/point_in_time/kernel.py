"""The point-in-time join: for each spine row, each feature as it was known at the row's own moment T.

Contract. One output row per spine row, in order, duplicates and null keys included. A feature row is a candidate
where its key equals the spine's and ``T - ttl <= event_time <= T`` (both ends inclusive; no lower end without a
ttl), and, where ``known_by`` asks for it, ``created <= T``. The newest candidate wins; ties go to the newest
``created`` (null is the oldest, and always known), then to the later row. No candidate, a null key or a null T: null
features. Moments are compared exactly, times without a zone are UTC, NaN stays NaN. A feature named like a spine
column is left out: the spine wins. Views join in order, so a key may come from a view before.

A `Kernel` says which feature rows matter and answers moments from them; `AsOf` is the one above, windows bring
another. Nothing here knows tables or Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.point_in_time.keys import KeyCodes, Mask, encode
from rayplat.data.point_in_time.sorting import LastAtMost, last_at_most, last_between, search, sort
from rayplat.data.point_in_time.times import OLDEST, Ints, instants, newest, oldest
from rayplat.errors import InvalidInput, SchemaMismatch


class Prepared(Protocol):
    """Feature rows made ready, to be asked many times."""

    def features(self, keys: pa.Table, moments: pa.ChunkedArray) -> pa.Table:
        """One row of features per row of ``keys`` (columns named as the kernel's keys) and moment (a timestamp)."""
        ...


class Kernel(Protocol):
    """How one side of a join answers."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that must equal the spine's."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the feature side that are read."""
        ...

    @property
    def reach(self) -> timedelta | None:
        """How far before a moment rows matter to it; None: without limit."""
        ...

    def wanted(self, first: datetime, last: datetime) -> pc.Expression:
        """True for feature rows that can matter for a moment in [first, last]."""
        ...

    def prepare(self, rows: pa.Table) -> Prepared:
        """All feature rows of some keys, ready to answer for these keys."""
        ...


@dataclass(frozen=True)
class AsOf:
    """The kernel of the contract above. ``keys`` are column names of both sides, ``features`` what to bring over."""

    keys: tuple[str, ...]
    features: tuple[str, ...]
    event_time: str = "event_time"
    ttl: timedelta | None = None
    created: str | None = None
    known_by: bool = False

    def __post_init__(self) -> None:
        if not self.keys:
            raise InvalidInput("key", "a join needs at least one key column")
        for what, names in (("key", self.keys), ("features", self.features)):
            if len(set(names)) < len(names):
                raise InvalidInput(what, f"a column is named twice in {', '.join(names)}")
        if self.ttl is not None and self.ttl < timedelta(0):
            raise InvalidInput("ttl", f"{self.ttl} is negative; None means without limit")
        if self.known_by and self.created is None:
            raise InvalidInput("known_by", "needs the column that says when a row was created")

    @property
    def columns(self) -> tuple[str, ...]:
        created = () if self.created is None else (self.created,)
        return tuple(dict.fromkeys((*self.keys, self.event_time, *created, *self.features)))

    @property
    def reach(self) -> timedelta | None:
        return self.ttl

    def wanted(self, first: datetime, last: datetime) -> pc.Expression:
        time = pc.field(self.event_time)
        if self.ttl is None or first - first.min.replace(tzinfo=first.tzinfo) < self.ttl:
            return time <= last
        return (time <= last) & (time >= first - self.ttl)

    def prepare(self, rows: pa.Table) -> Index:
        """Sort the rows. Those without a key or an event time can never match. Raises `SchemaMismatch` naming a
        column that is missing or of the wrong type."""
        for name in self.columns:
            if name not in rows.column_names:
                raise SchemaMismatch(name, f"the feature rows have no such column; they have {_names(rows)}")
        rows = _without_nulls(rows, (*self.keys, self.event_time))
        times, unit = instants(rows[self.event_time], self.event_time)
        codes, own = encode(rows.select(list(self.keys)))
        axis = _axis(times, codes.size)
        placed = own * axis.width
        placed += axis.own(times)
        created, created_unit = instants(rows[self.created], self.created) if self.created else (None, "us")
        ties = [times] if axis.cut else []
        order, placed = sort(placed, [*ties, created] if created is not None else ties)
        known = last_at_most(created[order]) if created is not None and self.known_by else None
        values = rows.select(list(self.features)).combine_chunks()
        exact = times[order] if axis.cut else None
        return Index(self, codes, axis, unit, placed, exact, order, values, known, created_unit)

    def carry(self, rows: pa.Table, before: int) -> pa.Table:
        """Those of ``rows``, all older than microsecond ``before``, that can still win at a moment from then on: the
        newest row of each key, and with ``known_by`` those that became known before all that are newer."""
        rows = _without_nulls(rows, (*self.keys, self.event_time))
        if rows.num_rows == 0:
            return rows
        index = self.prepare(rows)
        code = index.placed // index.axis.width
        if not self.known_by or self.created is None:
            kept = np.append(code[1:] != code[:-1], True)
        else:
            known, unit = instants(rows[self.created], self.created)
            since = np.maximum(known[index.order], newest(np.array([before]), "us", unit))
            rank = np.unique(since, return_inverse=True)[1] + code * len(since)
            kept = np.append(rank[:-1] < np.minimum.accumulate(rank[::-1])[::-1][1:], True)
        return rows.take(pa.array(np.sort(index.order[kept])))


@dataclass(frozen=True)
class FeatureRows:
    """One view's rows in memory and how they join; see `AsOf`."""

    rows: pa.Table
    key: str | tuple[str, ...]
    features: tuple[str, ...]
    event_time: str = "event_time"
    ttl: timedelta | None = None
    created: str | None = None
    known_by: bool = False

    def kernel(self) -> AsOf:
        keys = (self.key,) if isinstance(self.key, str) else tuple(self.key)
        return AsOf(keys, self.features, self.event_time, self.ttl, self.created, self.known_by)


@dataclass(frozen=True)
class _Axis:
    """Times as places 1 to ``width`` - 1 within a key: their distance from ``low`` without its lowest ``cut`` bits, so
    that key and time fit into 63 bits together. 0 is before all."""

    low: int
    high: int
    cut: int
    width: int

    def own(self, times: Ints) -> Ints:
        """Places of times between the ends."""
        distance = times.view(np.uint64) - np.uint64(self.low % 2**64)
        if self.cut:
            distance >>= np.uint64(self.cut)
        place: Ints = distance.view(np.int64)
        place += 1
        return place

    def place(self, times: Ints) -> Ints:
        """Places of any times; after all: as the last."""
        place = self.own(np.clip(times, self.low, self.high))
        place[times < self.low] = 0
        return place


def _axis(times: Ints, keys: int) -> _Axis:
    low, high = (int(times.min()), int(times.max())) if len(times) else (0, 0)
    cut = 0
    while ((high - low >> cut) + 2) * keys >= 2**62:
        cut += 1
    return _Axis(low, high, cut, (high - low >> cut) + 2)


@dataclass(frozen=True)
class Index:
    """`AsOf` rows ready to be searched: ``placed`` are (key code, time) as one sorted integer each, ``exact`` their
    times where that integer is cut, ``order`` their numbers in ``values``. Plain arrays, so that processes can share
    one."""

    kernel: AsOf
    codes: KeyCodes
    axis: _Axis
    unit: str
    placed: Ints
    exact: Ints | None
    order: Ints
    values: pa.Table
    known: LastAtMost | None
    created_unit: str

    def features(self, keys: pa.Table, moments: pa.ChunkedArray) -> pa.Table:
        """The features of each key at each moment. Raises `SchemaMismatch` for keys of another kind."""
        return self.values.take(self.find(keys, moments))

    def find(self, keys: pa.Table, moments: pa.ChunkedArray) -> pa.Array:
        """Row numbers in ``values`` (int64; null: nothing known), one per key and moment."""
        at, unit = instants(moments, "event time of the spine")
        codes = self.codes.find(keys)
        if len(self.placed) == 0 or len(at) == 0:
            return pa.nulls(len(at), pa.int64())
        valid = (codes >= 0) & (at != OLDEST)
        base = np.maximum(codes, 0) * self.axis.width
        found = self._newest(base, newest(at, unit, self.unit))
        if self.known is not None:
            first = search(self.placed, base) + 1
            found = self.known.find(first, np.where(valid, found + 1, 0), newest(at, unit, self.created_unit))
        place = self.placed[found] - base
        valid &= (found >= 0) & (place > 0)
        if self.kernel.ttl is not None:
            times = place + (self.axis.low - 1) if self.exact is None else self.exact[found]
            valid &= times >= oldest(at, unit, self.unit, self.kernel.ttl)
        return pa.array(self.order[found], pa.int64(), mask=~valid)

    def _newest(self, base: Ints, at: Ints) -> Ints:
        """The last row that is not after each moment, of its key or of one before; -1 where there is none."""
        places = base + self.axis.place(at)
        found = search(self.placed, places)
        if self.exact is not None:
            late = np.flatnonzero((found >= 0) & (self.placed[found] == places) & (self.exact[found] > at))
            if len(late):  # rows of one place: as far as the cut can tell them apart
                first = search(self.placed, places[late] - 1) + 1
                found[late] = last_between(self.exact, first, found[late], at[late])
        return found


def index(side: FeatureRows) -> Index:
    """Sort a feature side once, to join it to many spines."""
    return side.kernel().prepare(side.rows)


def join(spine: pa.Table, sides: Sequence[FeatureRows | Index], *, event_time: str = "event_time") -> pa.Table:
    """``spine`` with the features of every side appended; see the contract above.

    Raises `SchemaMismatch` where ``event_time`` or a side's key is no column by the time it is needed.
    """
    check_moments(spine.schema, event_time)
    for side in sides:
        known = side if isinstance(side, Index) else index(side)
        for key in known.kernel.keys:
            if key not in spine.column_names:
                raise missing_key(key, spine.column_names)
        own = set(spine.column_names)
        found = known.features(spine.select(list(known.kernel.keys)), spine[event_time])
        for field in found.schema:
            if field.name not in own:
                spine = spine.append_column(field, found[field.name])
    return spine


def check_moments(spine: pa.Schema, event_time: str) -> None:
    """Raises `SchemaMismatch` where the spine has no timestamps of this name."""
    if event_time not in spine.names:
        raise SchemaMismatch(event_time, f"the spine has no such column; it has {', '.join(spine.names)}")
    twice = next((name for name in spine.names if spine.names.count(name) > 1), None)
    if twice is not None:
        raise SchemaMismatch(twice, "the spine has two columns of this name; rename one")
    dtype = spine.field(event_time).type
    if not pa.types.is_timestamp(dtype) and not pa.types.is_null(dtype):
        raise SchemaMismatch(event_time, f"the spine's moments must be timestamps, got {dtype}; cast them")


def missing_key(key: str, columns: Sequence[str]) -> SchemaMismatch:
    known = ", ".join(columns)
    return SchemaMismatch(key, f"join key found neither in the spine nor in a view joined before; there are {known}")


def _without_nulls(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    kept: Mask | None = None
    for name in names:
        column = rows[name]
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        if pa.types.is_dictionary(column.type):  # whose values may be null, too
            column = column.cast(column.type.value_type)
        if column.null_count:
            valid = column.is_valid().to_numpy()
            kept = valid if kept is None else kept & valid
    return rows if kept is None or kept.all() else rows.filter(pa.array(kept))


def _names(rows: pa.Table) -> str:
    return ", ".join(rows.column_names)
