"""The plan of the tiles that answer a set of windows. Values only: no data.

For each clock (time column) and key, tile ``i`` holds the events with ``i * tile <= time < (i + 1) * tile``, counted
from 1970-01-01 UTC, so tiles are the same wherever they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayplat.data.windows.window import LONGEST, MICROSECOND, MOMENT, ORDERED, Window
from rayplat.errors import InvalidInput, SchemaMismatch

CLOCK, TILE_START, TIMES = "clock", "tile_start", "event_times"
"""Columns of every tile table: which time column, where the tile begins, when its events happened."""

Ints = npt.NDArray[np.int64]

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


@dataclass(frozen=True)
class Group:
    """Windows of one clock that are computed together: for all of ``lengths_us``, the columns (by position) that each
    function and each part of state is needed for."""

    windows: tuple[Window, ...]
    lengths_us: tuple[int, ...]
    of_function: Mapping[str, tuple[int, ...]]
    of_state: Mapping[str, tuple[int, ...]]

    @staticmethod
    def of(clock: Clock, windows: Iterable[Window]) -> Group:
        of_function: dict[str, set[int]] = {}
        of_state: dict[str, set[int]] = {}
        windows = tuple(windows)
        for w in windows:
            j = clock.columns.index(w.column)
            of_function.setdefault(w.function, set()).add(j)
            for state in w.needs:
                of_state.setdefault(state, set()).add(j)
        return Group(
            windows,
            tuple(sorted({w.length_us for w in windows})),
            {name: tuple(sorted(found)) for name, found in of_function.items()},
            {name: tuple(sorted(found)) for name, found in of_state.items()},
        )

    @cached_property
    def places(self) -> tuple[tuple[str, tuple[str, str], int], ...]:
        """Each window's name, its function and column, and the position of its length."""
        return tuple((w.name, (w.function, w.column), self.lengths_us.index(w.length_us)) for w in self.windows)

    @cached_property
    def backs_us(self) -> Ints:
        """0 and the lengths, as a column: how far before the moment the ends of the windows lie."""
        return np.array([0, *self.lengths_us], np.int64)[:, None]


@dataclass(frozen=True)
class Clock:
    """One time column with the value columns that follow it and, for each, the parts of state that are kept."""

    name: str
    columns: tuple[str, ...]
    states: tuple[tuple[str, ...], ...]
    windows: tuple[Window, ...]

    def having(self, state: str) -> tuple[int, ...]:
        """The positions in ``columns`` of those that keep ``state``."""
        return self._having[state]

    @cached_property
    def _having(self) -> dict[str, tuple[int, ...]]:
        return {s: tuple(i for i, kept in enumerate(self.states) if s in kept) for s in STATES}

    @cached_property
    def rows(self) -> dict[str, slice]:
        """Where the parts of a tile's state lie in a column of words: the events of each column (``n``), then those of
        `PARTS` that have a fixed size. Parts that no column keeps are left out."""
        found, at = {"n": slice(0, len(self.columns))}, len(self.columns)
        for state in ("sum", "squares", "min", "max", "last"):
            for name in PARTS[state] if self.having(state) else ():
                found[name] = slice(at, at + len(self.having(state)))
                at = found[name].stop
        return found

    @cached_property
    def of_sums(self) -> tuple[slice, Ints, Ints] | None:
        """Which rows hold sums and sums of squares; among them those of first and of second parts. None: no row."""
        if "sum" not in self.rows and "squares" not in self.rows:
            return None
        parts = [self.rows[name] for state in ("sum", "squares") if state in self.rows for name in PARTS[state]]
        at = [np.arange(rows.start, rows.stop) - parts[0].start for rows in parts]
        return slice(parts[0].start, parts[-1].stop), np.concatenate(at[::2]), np.concatenate(at[1::2])

    @cached_property
    def width(self) -> int:
        """The number of words that `rows` tells apart."""
        return max(int(rows.stop) for rows in self.rows.values())

    @property
    def lengths_us(self) -> tuple[int, ...]:
        """The distinct window lengths, ascending."""
        return self.together.lengths_us

    @cached_property
    def windows_of_text(self) -> tuple[Window, ...]:
        return tuple(w for w in self.windows if w.result_dtype == "string")

    @cached_property
    def together(self) -> Group:
        """All windows as one group: the cheapest way for few moments."""
        return Group.of(self, self.windows)

    @cached_property
    def alike(self) -> tuple[Group, ...]:
        """Groups in which every length is asked for the same functions of the same columns: nothing is in vain."""
        of_length: dict[int, list[Window]] = {}
        for w in self.windows:
            of_length.setdefault(w.length_us, []).append(w)
        groups: dict[frozenset[tuple[str, str]], list[Window]] = {}
        for same in of_length.values():
            groups.setdefault(frozenset((w.function, w.column) for w in same), []).extend(same)
        return tuple(Group.of(self, found) for found in groups.values())


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
        windows = [w for w in self.windows if w.column == column]
        stored = stored_type(column, _type(source, column))
        if pa.types.is_null(_type(source, column)):  # nothing but nulls: of the type that is declared
            stored = next((_STORED[w.dtype] for w in windows if w.dtype), stored)
        for w in windows:
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


def is_text(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype))


def plain(tiles: pa.Table) -> pa.Table:
    """``tiles`` with the types that `TilePlan.schema` gives, where a reader has made them large or views."""
    fields = [field.with_type(_plain(field.type)) for field in tiles.schema]
    schema = pa.schema(fields)
    return tiles if schema.equals(tiles.schema) else tiles.cast(schema)


def _plain(dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return pa.list_(_plain(dtype.value_type))
    if is_text(dtype):
        return pa.string()
    return MOMENT if pa.types.is_timestamp(dtype) else dtype


def stored_type(column: str, dtype: pa.DataType) -> pa.DataType:
    """How values are kept: numbers and truth values as doubles, times in microseconds, text as strings."""
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if is_text(dtype):
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
    if is_text(dtype) or pa.types.is_null(dtype):
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
