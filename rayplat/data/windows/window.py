"""Declarations of trailing-window features and the plan of the tiles that answer them. Values only: no data.

A feature is ``function`` of ``column`` over the events in ``(T - length, T]``. A `TilePlan` says how the events of a
view are cut into tiles: for each clock (time column) and key, tile ``i`` holds the events with
``i * tile <= time < (i + 1) * tile``, counted from 1970-01-01 UTC, so tiles are the same wherever they are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import pyarrow as pa

from rayplat.errors import InvalidInput, SchemaMismatch

FUNCTIONS = (
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "stddev",
    "last",
    "distinct_count",
    "approx_distinct_count",
)
"""What a window can compute. An empty window has count, sum and distinct counts 0 and all others null."""

COUNTS = ("count", "distinct_count", "approx_distinct_count")
ORDERED = ("min", "max", "last")
VALUE_DTYPES = ("double", "int64", "bool", "string", "timestamp[us, tz=UTC]")

CLOCK, TILE_START, TIMES = "clock", "tile_start", "event_times"
"""Columns of every tile table: which time column, where the tile begins, when its events happened."""

MOMENT = pa.timestamp("us", tz="UTC")
MICROSECOND = timedelta(microseconds=1)
LONGEST = timedelta(days=36_525)
MOST_TILES = 256

LADDER = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(hours=1),
    timedelta(hours=3),
    timedelta(hours=6),
    timedelta(hours=12),
    timedelta(days=1),
    timedelta(days=7),
)
"""Tile lengths: the shortest of which the longest window spans at most `MOST_TILES` is taken."""

_NEEDS = {
    "count": (),
    "sum": ("sum",),
    "mean": ("sum",),
    "min": ("min",),
    "max": ("max",),
    "stddev": ("sum", "squares", "min", "max"),
    "last": ("last",),
    "distinct_count": ("distinct",),
    "approx_distinct_count": ("sketch",),
}


@dataclass(frozen=True)
class Window:
    """One feature: ``function`` of ``column`` over the trailing ``length``, from 1 microsecond to 100 years.

    ``event_time`` is the clock: the column that says when the value became known; None takes the view's own. Null
    and NaN values are no events: ``count`` counts the others. ``stddev`` is that of a sample (n - 1), null for fewer
    than two. Of events of one moment, ``last`` takes the largest value, whatever the order of arrival. ``dtype``
    names the column's type for ``min``, ``max`` and ``last`` of anything but numbers (which give doubles).
    """

    name: str
    column: str
    function: str
    length: timedelta
    event_time: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        what = f"window {self.name}"
        if not self.name or not self.column:
            raise InvalidInput(what, "a name and a column are needed")
        if self.function not in FUNCTIONS:
            raise InvalidInput(what, f"function {self.function!r} is none of {', '.join(FUNCTIONS)}")
        if not timedelta(0) < self.length <= LONGEST:
            raise InvalidInput(what, f"length must be positive (1 microsecond to 100 years), got {self.length}")
        if self.dtype is not None and (self.function not in ORDERED or self.dtype not in VALUE_DTYPES):
            raise InvalidInput(what, f"dtype goes with min, max and last and is one of {', '.join(VALUE_DTYPES)}")
        if self.function in ("min", "max") and self.dtype in ("string", "bool"):
            raise InvalidInput(what, f"{self.function} is for numbers and timestamps, not {self.dtype}")

    @property
    def result_dtype(self) -> str:
        """The feature's type, one of `VALUE_DTYPES`: counts are int64, all else double unless ``dtype`` says more."""
        if self.function in COUNTS:
            return "int64"
        return self.dtype or "double"

    @property
    def length_us(self) -> int:
        return self.length // MICROSECOND

    @property
    def needs(self) -> tuple[str, ...]:
        """The parts of a tile's state that this function is computed from, besides the count."""
        return _NEEDS[self.function]


@dataclass(frozen=True)
class Clock:
    """One time column with the value columns that follow it and, for each, the parts of state that are kept."""

    name: str
    columns: tuple[str, ...]
    states: tuple[tuple[str, ...], ...]
    windows: tuple[Window, ...]

    def having(self, state: str) -> tuple[int, ...]:
        """The positions in ``columns`` of those that keep ``state``."""
        return tuple(i for i, kept in enumerate(self.states) if state in kept)

    @cached_property
    def lengths_us(self) -> tuple[int, ...]:
        """The distinct window lengths, ascending."""
        return tuple(sorted({w.length_us for w in self.windows}))


@dataclass(frozen=True)
class TilePlan:
    """How the events of ``keys`` are cut into tiles for ``windows``; ``event_time`` is the clock of windows that name
    none. ``tile`` overrides the length from `LADDER`. Raises `InvalidInput` for what cannot be computed."""

    keys: tuple[str, ...]
    event_time: str
    windows: tuple[Window, ...]
    tile: timedelta | None = None

    def __post_init__(self) -> None:
        if not self.keys or not self.windows:
            raise InvalidInput("windows", "at least one key column and one window are needed")
        if len(set(self.keys)) < len(self.keys):
            raise InvalidInput("keys", f"a key column is named twice in {', '.join(self.keys)}")
        names = [w.name for w in self.windows]
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput(f"window {name}", "there are two of this name")
        if self.tile is not None and not timedelta(0) < self.tile <= LONGEST:
            raise InvalidInput("tile", f"its length must be positive (1 microsecond to 100 years), got {self.tile}")
        own = {CLOCK, TILE_START, TIMES, *(n for c in self.clocks for column in c.columns for n in _stored(column))}
        for key in self.keys:
            if key in own:
                raise InvalidInput(f"key {key}", "this name is taken by a column of the tile table; rename the key")

    @property
    def tile_length(self) -> timedelta:
        if self.tile is not None:
            return self.tile
        for length in LADDER:
            if self.longest <= length * MOST_TILES:
                return length
        return LADDER[-1] * -(-self.longest // (LADDER[-1] * MOST_TILES))

    @cached_property
    def tile_us(self) -> int:
        return self.tile_length // MICROSECOND

    @cached_property
    def longest(self) -> timedelta:
        return max(w.length for w in self.windows)

    @cached_property
    def clocks(self) -> tuple[Clock, ...]:
        """One per distinct time column, in the order of the windows; columns in that order too."""
        found: dict[str, dict[str, list[str]]] = {}
        for w in self.windows:
            states = found.setdefault(self.clock_of(w), {}).setdefault(w.column, [])
            states += [s for s in w.needs if s not in states]
        return tuple(
            Clock(
                name,
                tuple(columns),
                tuple(tuple(s for s in STATES if s in kept) for kept in columns.values()),
                tuple(w for w in self.windows if self.clock_of(w) == name),
            )
            for name, columns in found.items()
        )

    def clock_of(self, window: Window) -> str:
        return window.event_time or self.event_time

    @property
    def source_columns(self) -> tuple[str, ...]:
        """What has to be read from the source: keys, clocks, value columns."""
        values = [column for clock in self.clocks for column in clock.columns]
        return tuple(dict.fromkeys([*self.keys, *(c.name for c in self.clocks), *values]))

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that identify a row of the tile table."""
        return (*self.keys, CLOCK, TILE_START)

    def schema(self, source: pa.Schema) -> pa.Schema:
        """The tile table made from events of schema ``source``; raises `SchemaMismatch` for what does not fit."""
        fields = [pa.field(key, _key_type(source, key)) for key in self.keys]
        fields += [pa.field(CLOCK, pa.string()), pa.field(TILE_START, MOMENT), pa.field(TIMES, pa.list_(MOMENT))]
        kept: dict[str, list[str]] = {}
        for clock in self.clocks:
            if not pa.types.is_timestamp(_type(source, clock.name)):
                raise SchemaMismatch(clock.name, f"a clock is a timestamp column, got {_type(source, clock.name)}")
            for column, states in zip(clock.columns, clock.states, strict=True):
                kept.setdefault(column, []).extend(states)
        for column, needed in kept.items():
            stored = self._stored_type(source, column)
            fields += [pa.field(raw(column), pa.list_(stored)), pa.field(part(column, "n"), pa.int64())]
            for state in (s for s in STATES if s in needed):
                fields += [pa.field(part(column, p), _part_type(p, stored)) for p in PARTS[state]]
        return pa.schema(fields)

    def _stored_type(self, source: pa.Schema, column: str) -> pa.DataType:
        stored = stored_type(column, _type(source, column))
        for w in (w for w in self.windows if w.column == column):
            if stored != pa.float64() and w.function in ("sum", "mean", "stddev"):
                raise SchemaMismatch(column, f"{w.function} ({w.name}) needs numbers, got {_type(source, column)}")
            if w.function not in ORDERED:
                continue
            if pa.types.is_string(stored) and w.function != "last":
                raise SchemaMismatch(column, f"{w.function} ({w.name}) is for numbers and timestamps, not for text")
            given = w.dtype or "double"
            if stored != _STORED[given]:
                raise SchemaMismatch(column, f"window {w.name} declares {given}, the column is {_type(source, column)}")
        return stored


STATES = ("sum", "squares", "min", "max", "last", "distinct", "sketch")
"""The parts of a tile's state, beside the count of events ``n``."""

PARTS = {
    "sum": ("sum", "sum_lo"),
    "squares": ("squares", "squares_lo"),
    "min": ("min",),
    "max": ("max",),
    "last": ("last",),
    "distinct": ("distinct",),
    "sketch": ("sketch", "sketch_level"),
}
"""The tile table's columns of each: sums are unevaluated pairs of doubles."""

_STORED = {
    "double": pa.float64(),
    "int64": pa.float64(),
    "bool": pa.float64(),
    "string": pa.string(),
    "timestamp[us, tz=UTC]": MOMENT,
}


def raw(column: str) -> str:
    """The tile table's column with the values of the events, in the order of ``event_times``."""
    return f"{column}__raw"


def part(column: str, name: str) -> str:
    """The tile table's column with part ``name`` of the state of ``column``."""
    return f"{column}__{name}"


def stored_type(column: str, dtype: pa.DataType) -> pa.DataType:
    """How values are kept: numbers and truth values as doubles, times in microseconds, text as strings."""
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_timestamp(dtype):
        return MOMENT
    number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)
    if number or pa.types.is_boolean(dtype) or pa.types.is_null(dtype):
        return pa.float64()
    raise SchemaMismatch(column, f"windows are over numbers, truth values, timestamps and text, not {dtype}")


def _key_type(source: pa.Schema, key: str) -> pa.DataType:
    dtype = _type(source, key)
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_integer(dtype) and not pa.types.is_uint64(dtype):
        return pa.int64()
    raise SchemaMismatch(key, f"keys are strings or integers, not {dtype}")


def _part_type(name: str, stored: pa.DataType) -> pa.DataType:
    if name in ("min", "max", "last"):
        return stored
    if name == "distinct":
        return pa.list_(stored)
    return {"sketch": pa.list_(pa.int64()), "sketch_level": pa.int64()}.get(name, pa.float64())


def _type(source: pa.Schema, column: str) -> pa.DataType:
    if column not in source.names:
        raise SchemaMismatch(column, f"the events have no such column; they have {', '.join(source.names)}")
    return source.field(column).type


def _stored(column: str) -> Iterable[str]:
    return (raw(column), part(column, "n"), *(part(column, p) for state in STATES for p in PARTS[state]))
