"""Tiles: from events to the tile table, and from late and deleted events to its changed rows.

A tile row holds the events themselves (``event_times``, ``<column>__raw``: lists in one order) and, for each value
column, its state: the count ``n`` and what its windows need of sum, squares, min, max, last, distinct values and
sketch. The row depends on nothing but the events in it, whatever their order and whatever else was folded with them,
so a patched table equals one that was folded anew, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.windows.columns import Floats, Ints, KeyIndex, Texts, arrow, doubles, micros, stored
from rayplat.data.windows.distinct import sketches, unique_in_runs, value_hashes
from rayplat.data.windows.exact import as_ieee
from rayplat.data.windows.moments import extremes, last_values, latest_in_runs, sums
from rayplat.data.windows.plan import CLOCK, TILE_START, TIMES, Clock, TilePlan, part, plain, raw
from rayplat.data.windows.window import MOMENT
from rayplat.errors import Conflict, SchemaMismatch


@dataclass(frozen=True)
class Patch:
    """What to write to a tile table: ``changed`` rows replace those of their identity, ``emptied`` (the identity
    columns alone) names rows whose last event is gone."""

    changed: pa.Table
    emptied: pa.Table


def fold(plan: TilePlan, events: pa.Table) -> pa.Table:
    """The tile table of ``events``, in order of clock, keys and tile: see `TilePlan.schema`.

    An event of a clock is a row with a key, a time of that clock and at least one value. Raises `SchemaMismatch` for
    columns that are missing or of a wrong type, `InvalidInput` for integers beyond 2**53.
    """
    schema = plan.schema(events.schema)
    folded = [_fold(plan, clock, _events(plan, clock, events, schema), schema) for clock in plan.clocks]
    return pa.concat_tables(folded) if folded else schema.empty_table()


def touched(plan: TilePlan, events: pa.Table) -> pa.Table:
    """The identities (keys, clock, tile start) of the tiles that ``events`` fall into, each once."""
    schema = plan.schema(events.schema)
    return pa.concat_tables(
        _touched(plan, clock, [_events(plan, clock, events, schema)], schema) for clock in plan.clocks
    )


def patch(plan: TilePlan, tiles: pa.Table, inserted: pa.Table | None, deleted: pa.Table | None) -> Patch:
    """The tiles of ``tiles`` that ``inserted`` and ``deleted`` source rows touch, recomputed from their events.

    ``tiles`` must hold every existing tile that they touch (see `touched`); others in it are left alone. Raises
    `Conflict` where a deleted event is not there: the tiles are of another table, or have it taken out already.
    """
    names, tiles = list(plan.identity), plain(tiles)
    changed, emptied = [tiles.schema.empty_table()], [tiles.schema.empty_table().select(names)]
    for clock in plan.clocks:
        news = [
            (_events(plan, clock, r, tiles.schema), sign) for r, sign in ((inserted, 1), (deleted, -1)) if r is not None
        ]
        hit = _touched(plan, clock, [rows for rows, _ in news], tiles.schema)
        if hit.num_rows == 0:
            continue
        old = tiles.filter(pa.array(_member(tiles.select(names), hit)))
        rest = _net(clock, [(_exploded(plan, clock, old), 1), *news])
        folded = _fold(plan, clock, rest, tiles.schema)
        gone = ~_member(old.select(names), folded.select(names))
        changed.append(folded)
        emptied.append(old.select(names).filter(pa.array(gone)))
    return Patch(pa.concat_tables(changed), pa.concat_tables(emptied))


def _events(plan: TilePlan, clock: Clock, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The events of ``clock`` in ``rows``: keys ``k0…``, ``t`` in microseconds, values ``v0…`` as they are stored in a
    tile table of ``schema``."""
    own = plan.schema(rows.schema)
    for key in plan.keys:
        if own.field(key).type != schema.field(key).type and not pa.types.is_null(rows.schema.field(key).type):
            raise SchemaMismatch(
                key, f"the tiles have keys of {schema.field(key).type}, these events {own.field(key).type}"
            )
    columns = {f"k{i}": rows[key].cast(schema.field(key).type) for i, key in enumerate(plan.keys)}
    columns["t"] = micros(rows[clock.name])
    for j, column in enumerate(clock.columns):
        columns[f"v{j}"] = stored(column, rows[column], schema.field(raw(column)).type.value_type)
    events = pa.table(columns)
    known = events["v0"].is_valid()
    for j in range(1, len(clock.columns)):
        known = pc.or_(known, events[f"v{j}"].is_valid())
    for name in ("t", *(f"k{i}" for i in range(len(plan.keys)))):
        known = pc.and_(known, events[name].is_valid())
    return events if pc.all(known).as_py() else events.filter(known)


def _touched(plan: TilePlan, clock: Clock, events: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    identity = pa.schema([schema.field(name) for name in plan.identity])
    found = [identity.empty_table()]
    for rows in events:
        keys = [rows[f"k{i}"].cast(schema.field(key).type) for i, key in enumerate(plan.keys)]
        starts = rows["t"].to_numpy() // plan.tile_us * plan.tile_us
        names = pa.repeat(pa.scalar(clock.name, pa.string()), rows.num_rows)
        found.append(pa.table([*keys, names, pa.array(starts).cast(MOMENT)], schema=identity))
    return pa.concat_tables(found).group_by(list(plan.identity)).aggregate([])


def _member(rows: pa.Table, among: pa.Table) -> npt.NDArray[np.bool_]:
    """Which of ``rows`` are in ``among``."""
    index, _ = KeyIndex.of(among)
    return index.codes(rows) >= 0


def _exploded(plan: TilePlan, clock: Clock, tiles: pa.Table) -> pa.Table:
    """The events held by the rows of ``tiles`` of this clock, as `_events` gives them."""
    tiles = tiles.filter(pc.equal(tiles[CLOCK], clock.name)).combine_chunks()
    owner = pc.list_parent_indices(tiles[TIMES])
    columns = {f"k{i}": tiles[key].take(owner) for i, key in enumerate(plan.keys)}
    columns["t"] = pc.list_flatten(tiles[TIMES]).cast(pa.int64())
    columns |= {f"v{j}": pc.list_flatten(tiles[raw(column)]) for j, column in enumerate(clock.columns)}
    return pa.table(columns)


def _net(clock: Clock, signed: Sequence[tuple[pa.Table, int]]) -> pa.Table:
    """Equal events counted with their signs: as many of each as are left over."""
    rows = pa.concat_tables((rows for rows, _ in signed), promote_options="permissive")
    signs = np.concatenate([np.full(part.num_rows, sign) for part, sign in signed])
    order, same = _Sorted.of(clock, rows).canonical()
    if len(order) == 0:
        return rows
    groups = np.flatnonzero(~same)
    left = np.add.reduceat(signs[order], groups)
    if (left < 0).any():
        lost = rows.slice(int(order[groups[np.argmax(left < 0)]]), 1).to_pylist()[0]
        values = dict(zip(clock.columns, [lost[f"v{j}"] for j in range(len(clock.columns))], strict=True))
        raise Conflict(
            f"a deleted event is not in the tiles: key {[v for k, v in lost.items() if k[0] == 'k']}, "
            f"{clock.name} {lost['t']} microseconds, {values}; build the table anew"
        )
    return rows.take(pa.array(np.repeat(order[groups], left)))


@dataclass(frozen=True)
class _Sorted:
    """Events in order of key and time: row numbers, and each row's key code, time and values in that order."""

    order: Ints
    codes: Ints
    times: Ints
    values: Floats
    texts: tuple[Texts | None, ...]

    @staticmethod
    def of(clock: Clock, events: pa.Table) -> _Sorted:
        _, codes = KeyIndex.of(events.select([n for n in events.column_names if n[0] == "k"]))
        times = events["t"].to_numpy()
        columns = [events[f"v{j}"] for j in range(len(clock.columns))]
        texts = tuple(Texts.of([c]) if pa.types.is_string(c.type) else None for c in columns)
        values = np.array([doubles(c, t) for c, t in zip(columns, texts, strict=True)]).reshape(len(columns), -1)
        order = by_key_and_time(codes, times)
        return _Sorted(order, codes[order], times[order], values[:, order], texts)._ties_by_value()

    def _ties_by_value(self) -> _Sorted:
        """Events of one key and moment in order of their values, column by column, so that order never matters."""
        equal = (self.codes[1:] == self.codes[:-1]) & (self.times[1:] == self.times[:-1])
        if not equal.any():
            return self
        tied = np.flatnonzero(np.append(equal, False) | np.insert(equal, 0, False))
        keys = (*self.values[::-1, tied], self.times[tied], self.codes[tied])
        order = np.arange(len(self.order))
        order[tied] = tied[np.lexsort(keys)]
        return _Sorted(self.order[order], self.codes, self.times, self.values[:, order], self.texts)

    def canonical(self) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Row numbers in order, and which rows equal the one before in everything."""
        same = np.zeros(len(self.order), np.bool_)
        if len(same):
            a, b = self.values[:, 1:], self.values[:, :-1]
            alike = ((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=0)
            same[1:] = alike & (self.codes[1:] == self.codes[:-1]) & (self.times[1:] == self.times[:-1])
        return self.order, same


def by_key_and_time(codes: Ints, times: Ints) -> Ints:
    """Row numbers in order of key code, then time."""
    if len(codes) == 0:
        return np.empty(0, np.int64)
    first, last = int(times.min()), int(times.max())
    if (int(codes.max()) + 1) * (last - first + 1) < 2**62:
        return np.argsort(codes * (last - first + 1) + (times - first), kind="stable")
    return np.lexsort((times, codes))


def _fold(plan: TilePlan, clock: Clock, events: pa.Table, schema: pa.Schema) -> pa.Table:
    found = _Sorted.of(clock, events)
    tile = found.times // plan.tile_us
    if len(tile) == 0:
        return schema.empty_table()
    new = np.append(True, (found.codes[1:] != found.codes[:-1]) | (tile[1:] != tile[:-1]))
    starts = np.flatnonzero(new)
    lists = pa.array(np.append(starts, len(tile)), pa.int32())
    firsts = pa.array(found.order[starts])
    columns: dict[str, pa.Array] = {
        key: events[f"k{i}"].cast(schema.field(key).type).take(firsts) for i, key in enumerate(plan.keys)
    }
    columns[CLOCK] = pa.repeat(pa.scalar(clock.name, pa.string()), len(starts))
    columns[TILE_START] = pa.array(tile[starts] * plan.tile_us).cast(MOMENT)
    columns[TIMES] = pa.ListArray.from_arrays(lists, pa.array(found.times).cast(MOMENT))
    with as_ieee():
        columns |= _states(clock, found, starts, schema)
    for j, column in enumerate(clock.columns):
        dtype = schema.field(raw(column)).type.value_type
        columns[raw(column)] = pa.ListArray.from_arrays(lists, arrow(found.values[j], dtype, found.texts[j]))
    for field in schema:
        if field.name not in columns:
            columns[field.name] = pa.nulls(len(starts), field.type)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _states(clock: Clock, found: _Sorted, starts: Ints, schema: pa.Schema) -> dict[str, pa.Array]:
    counts = np.diff(starts, append=len(found.times))
    valid = ~np.isnan(found.values)
    n = np.add.reduceat(valid, starts, axis=1, dtype=np.int64)
    columns: dict[str, pa.Array] = {part(c, "n"): pa.array(n[j]) for j, c in enumerate(clock.columns)}
    states = sums(clock, found.values, valid, counts)
    states |= extremes(clock, found.values, valid, starts)
    having = clock.having("last")
    if having:
        same = np.append(False, (found.codes[1:] == found.codes[:-1]) & (found.times[1:] == found.times[:-1]))
        latest, place = last_values(found.values[list(having)], same)
        states["last"] = latest_in_runs(latest, place, starts)
    for name, matrix in states.items():
        for row, j in enumerate(clock.having(name.removesuffix("_lo"))):
            field = schema.field(part(clock.columns[j], name))
            empty = n[j] == 0
            if name in ("min", "max", "last"):
                columns[field.name] = arrow(np.where(empty, np.nan, matrix[row]), field.type, found.texts[j])
            else:
                columns[field.name] = pa.array(matrix[row])
    owner = np.repeat(np.arange(len(starts)), counts)
    for j, column in enumerate(clock.columns):
        kept = clock.states[j]
        if "distinct" not in kept and "sketch" not in kept:
            continue
        offsets, values = unique_in_runs(owner[valid[j]], found.values[j][valid[j]], len(starts))
        dtype = schema.field(raw(column)).type.value_type
        if "distinct" in kept:
            distinct = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), arrow(values, dtype, found.texts[j]))
            columns[part(column, "distinct")] = distinct
        if "sketch" in kept:
            of_tile, hashes, level = sketches(offsets, value_hashes(values, found.texts[j]))
            columns[part(column, "sketch")] = pa.ListArray.from_arrays(pa.array(of_tile, pa.int32()), pa.array(hashes))
            columns[part(column, "sketch_level")] = pa.array(level)
    return columns
