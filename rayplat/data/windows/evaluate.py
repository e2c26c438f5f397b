"""Windows over a tile table at given moments, and the same as a side of the point-in-time join."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.windows.columns import Floats, Ints, KeyIndex, Texts, arrow, doubles, micros, whole_keys
from rayplat.data.windows.elements import Elements, Line, RawPart, StatePart, assemble
from rayplat.data.windows.exact import as_ieee
from rayplat.data.windows.plan import CLOCK, PARTS, TILE_START, TIMES, Clock, TilePlan, part, plain, raw
from rayplat.data.windows.tiles import by_key_and_time
from rayplat.data.windows.values import ClockValues
from rayplat.data.windows.window import MICROSECOND, MOMENT, VALUE_DTYPES
from rayplat.errors import InvalidInput, SchemaMismatch

Flags = npt.NDArray[np.bool_]

_MANY = 1 << 15  # questions, from which on asking in order pays

ARROW = {name: MOMENT if name.startswith("timestamp") else pa.type_for_alias(name) for name in VALUE_DTYPES}
"""The Arrow type of each `Window.result_dtype`."""


def evaluate(plan: TilePlan, tiles: pa.Table, keys: pa.Table, moments: pa.ChunkedArray | pa.Array) -> pa.Table:
    """One column for each window of ``plan``, one row for each row of ``keys`` (the plan's key columns) and moment.

    ``tiles`` holds the tiles of all keys asked for from `TilePlan.longest` before the first moment on, in any order;
    later ones do no harm. A null key or moment gives nulls; a key without events what an empty window gives.
    """
    return PreparedTiles(plan, tiles).features(keys, moments)


class TileKernel:
    """Windows as a side of the point-in-time join: see `rayplat.data.point_in_time.kernel.Kernel`."""

    def __init__(self, plan: TilePlan) -> None:
        self.plan = plan
        self.keys = plan.keys
        self.reach = plan.longest + plan.tile_length
        self.columns = tuple(dict.fromkeys(name for clock in plan.clocks for name in _columns(plan, clock)))

    def wanted(self, first: datetime, last: datetime) -> pc.Expression:
        """The tiles that can matter for moments from ``first`` to ``last``."""
        bounds = pa.array([first, last], MOMENT).cast(pa.int64()).to_numpy()
        early = (int(bounds[0]) - self.plan.longest // MICROSECOND) // self.plan.tile_us * self.plan.tile_us
        start = pc.field(TILE_START)
        return (start >= pa.scalar(early, pa.int64()).cast(MOMENT)) & (start <= pa.scalar(int(bounds[1])).cast(MOMENT))

    def prepare(self, rows: pa.Table) -> PreparedTiles:
        return PreparedTiles(self.plan, rows)


class PreparedTiles:
    """A tile table ready to be asked, any number of times."""

    def __init__(self, plan: TilePlan, tiles: pa.Table) -> None:
        lacking = [name for name in TileKernel(plan).columns if name not in tiles.column_names]
        if lacking:
            raise SchemaMismatch(lacking[0], "the tile table has no such column: it was made for other windows")
        self._plan, tiles = plan, plain(tiles)
        self._clocks = [_ClockTiles(plan, clock, tiles) for clock in plan.clocks]

    def features(self, keys: pa.Table, moments: pa.ChunkedArray | pa.Array) -> pa.Table:
        """The plan's windows, one row for each key and moment. What is not a number (inf - inf) is null. Integer keys
        may come as floats (see `whole_keys`)."""
        asked = whole_keys(keys.select(list(self._plan.keys)))
        at = micros(moments if isinstance(moments, pa.ChunkedArray) else pa.chunked_array([moments]))
        if len(at) != keys.num_rows:
            raise InvalidInput("moments", f"{len(at)} moments for {keys.num_rows} keys")
        known = at.is_valid().to_numpy()
        for column in asked.columns:
            known = known & column.is_valid().to_numpy()
        rows = np.flatnonzero(known)
        when = at.fill_null(0).to_numpy()[rows]
        found: dict[str, pa.Array] = {}
        for clock, tiles in zip(self._plan.clocks, self._clocks, strict=True):
            values, texts = tiles.at(tiles.index.codes(asked)[rows], when)
            for w in clock.windows:
                every = np.full(keys.num_rows, np.nan)
                every[rows] = values[w.name]
                text = texts[clock.columns.index(w.column)] if w.result_dtype == "string" else None
                found[w.name] = arrow(every, ARROW[w.result_dtype], text)
        return pa.table({w.name: found[w.name] for w in self._plan.windows})


class _ClockTiles:
    """The tiles of one clock in order of key and start."""

    def __init__(self, plan: TilePlan, clock: Clock, tiles: pa.Table) -> None:
        self._plan, self._clock = plan, clock
        rows = tiles.filter(pc.equal(tiles[CLOCK], clock.name)).select(_columns(plan, clock))
        self.index, codes = KeyIndex.of(rows.select(list(plan.keys)))
        starts = rows[TILE_START].cast(MOMENT).cast(pa.int64()).to_numpy()
        order = by_key_and_time(codes, starts)
        if (order[1:] < order[:-1]).any():
            rows = rows.take(pa.array(order))
        self._rows, self._codes, self._starts = rows, codes[order], starts[order]
        self._apart: tuple[ClockValues, tuple[Texts | None, ...]] | None = None

    def at(self, codes: Ints, moments: Ints) -> tuple[dict[str, Floats], tuple[Texts | None, ...]]:
        """The values of the clock's windows, and the texts that stand behind ranks, by column."""
        order = None
        if len(codes) > _MANY:
            order = by_key_and_time(codes - min(int(codes.min()), 0), moments)
            codes, moments = codes[order], moments[order]
        with as_ieee():
            windows, texts = self._windows(codes, moments)
            values = windows.at(codes, moments)
        if order is not None:
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            values = {name: value[back] for name, value in values.items()}
        return values, texts

    def _windows(self, codes: Ints, moments: Ints) -> tuple[ClockValues, tuple[Texts | None, ...]]:
        """Tiles with an end of a window are taken apart; where about every tile has one, all are, and that is kept."""
        if len(codes) * (len(self._clock.lengths_us) + 1) >= len(self._codes):
            if self._apart is None:
                self._apart = self._values(np.ones(len(self._codes), np.bool_))
            return self._apart
        line = Line.of(self._codes, self._starts)
        apart = np.zeros(len(self._codes) + 1, np.bool_)
        for back in (0, *self._clock.lengths_us):
            apart[line.before(codes, moments - back) - 1] = True
        return self._values(apart[:-1])

    def _values(self, apart: Flags) -> tuple[ClockValues, tuple[Texts | None, ...]]:
        elements = _elements(self._clock, self._rows, (self._codes, self._starts, apart))
        return ClockValues(self._clock, elements, self._plan.tile_us), elements.texts


def _elements(clock: Clock, rows: pa.Table, tiles: tuple[Ints, Ints, Flags]) -> Elements:
    apart = tiles[2]
    events = rows if apart.all() else rows.filter(pa.array(apart))
    states = None if apart.all() else rows.filter(pa.array(~apart))
    texts = tuple(_texts(clock, j, events, states) for j in range(len(clock.columns)))
    values = [doubles(pc.list_flatten(events[raw(c)]), texts[j]) for j, c in enumerate(clock.columns)]
    times = pc.list_flatten(events[TIMES]).cast(MOMENT).cast(pa.int64()).to_numpy()
    counts = pc.list_value_length(events[TIMES]).to_numpy().astype(np.int64)
    of_raw = RawPart(counts, times, np.array(values).reshape(len(values), -1))
    return assemble(clock, tiles, of_raw, None if states is None else state_part(clock, states, texts), texts)


def state_part(clock: Clock, rows: pa.Table, texts: tuple[Texts | None, ...]) -> StatePart:
    """The states in ``rows`` of a tile table, all of ``clock``."""
    words = np.empty((clock.width, rows.num_rows))
    for row, column in enumerate(clock.columns):
        words[row] = rows[part(column, "n")].to_numpy()
    for state in ("sum", "squares", "min", "max", "last"):
        for name in PARTS[state] if clock.having(state) else ():
            for row, j in enumerate(clock.having(state), clock.rows[name].start):
                words[row] = doubles(rows[part(clock.columns[j], name)], texts[j])
    for name, nothing in (("min", np.inf), ("max", -np.inf)):
        if name in clock.rows:
            own = words[clock.rows[name]]
            own[np.isnan(own)] = nothing
    distinct, sketch = {}, {}
    for j in clock.having("distinct"):
        lists = rows[part(clock.columns[j], "distinct")]
        distinct[j] = _offsets(lists), doubles(pc.list_flatten(lists), texts[j])
    for j in clock.having("sketch"):
        lists = rows[part(clock.columns[j], "sketch")]
        hashes = pc.list_flatten(lists).to_numpy().view(np.uint64)
        sketch[j] = _offsets(lists), hashes, rows[part(clock.columns[j], "sketch_level")].to_numpy()
    return StatePart(words, distinct, sketch)


def _texts(clock: Clock, j: int, events: pa.Table, states: pa.Table | None) -> Texts | None:
    column = clock.columns[j]
    if not pa.types.is_string(events.schema.field(raw(column)).type.value_type):
        return None
    at_hand = [pc.list_flatten(events[raw(column)])]
    if states is not None and "last" in clock.states[j]:
        at_hand.append(states[part(column, "last")])
    if states is not None and "distinct" in clock.states[j]:
        at_hand.append(pc.list_flatten(states[part(column, "distinct")]))
    return Texts.of(at_hand)


def _offsets(lists: pa.ChunkedArray) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(pc.list_value_length(lists).to_numpy())])


def _columns(plan: TilePlan, clock: Clock) -> list[str]:
    """The columns of the tile table that ``clock`` is read from."""
    found = [*plan.identity, TIMES]
    for column, states in zip(clock.columns, clock.states, strict=True):
        found += [raw(column), part(column, "n"), *(part(column, p) for s in states for p in PARTS[s])]
    return found
