"""From a view's tile table to tiles of the online store, and how far back those are kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features import FeatureView
from rayplat.data.online.store import FoundTiles, Tile, TileId
from rayplat.data.online.values import key_bytes
from rayplat.data.windows import TilePlan, fold, pack
from rayplat.data.windows.plan import CLOCK, TILE_START, TIMES, raw
from rayplat.data.windows.window import MOMENT

HORIZON: TileId = (b"", -1, 2**52)
"""A tile of no key and clock: it says from which microsecond on events are kept."""

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_MICROSECOND = timedelta(microseconds=1)


def encoded_tiles(view: FeatureView, tiles: pa.Table) -> Iterator[Tile]:
    """Rows of the tile table as the store takes them."""
    clocks, tile_us = _numbers(view.plan), view.plan.tile_us
    for key, clock, start_us, moments, events in pack(view.plan, tiles):
        yield key_bytes(key), clocks[clock], start_us // tile_us, moments, events


def tile_ids(view: FeatureView, tiles: pa.Table) -> set[TileId]:
    """Key, clock and number of every row."""
    clocks, tile_us = _numbers(view.plan), view.plan.tile_us
    keys = zip(*(tiles[key].to_pylist() for key in view.keys), strict=True)
    starts = tiles[TILE_START].cast(MOMENT).cast(pa.int64()).to_pylist()
    found = zip(keys, tiles[CLOCK].to_pylist(), starts, strict=True)
    return {(key_bytes(key), clocks[clock], start // tile_us) for key, clock, start in found}


def up_to(plan: TilePlan, tiles: pa.Table, until: datetime) -> pa.Table:
    """``tiles`` with the events up to ``until`` alone."""
    start = pa.scalar(until, MOMENT)
    open_from = pa.scalar(until - plan.tile_length, MOMENT)
    cut = pc.and_(pc.greater(tiles[TILE_START], open_from), pc.less_equal(tiles[TILE_START], start))
    held = pc.less_equal(tiles[TILE_START], open_from)
    if not pc.any(cut).as_py():
        return tiles.filter(held)
    parts = [_events(plan, clock.name, tiles.filter(cut), start) for clock in plan.clocks]
    folded = fold(plan, pa.concat_tables(parts, promote_options="permissive"))
    return pa.concat_tables([tiles.filter(held), folded.select(tiles.column_names).cast(tiles.schema)])


def _events(plan: TilePlan, name: str, tiles: pa.Table, until: pa.Scalar) -> pa.Table:
    """The events of one clock up to ``until``, as rows of a source."""
    tiles = tiles.filter(pc.equal(tiles[CLOCK], name)).combine_chunks()
    owner = pc.list_parent_indices(tiles[TIMES])
    columns = {key: tiles[key].take(owner) for key in plan.keys}
    for clock in plan.clocks:
        own = clock.name == name
        columns[clock.name] = pc.list_flatten(tiles[TIMES]) if own else pa.nulls(len(owner), MOMENT)
        for column in clock.columns:
            kind = tiles.schema.field(raw(column)).type.value_type
            if own:
                columns[column] = pc.list_flatten(tiles[raw(column)])
            else:
                columns.setdefault(column, pa.nulls(len(owner), kind))
    return pa.table(columns).filter(pc.field(name) <= until)


def horizon_us(plan: TilePlan, until: datetime, keep: timedelta) -> int:
    """From when on tiles are kept: a tile's beginning, the longest window and ``keep`` before ``until``."""
    earliest = (until - plan.longest - keep - _EPOCH) // _MICROSECOND
    return earliest // plan.tile_us * plan.tile_us


def horizon_tile(horizon: int) -> Tile:
    return (*HORIZON, horizon.to_bytes(8, "big", signed=True), b"")


def read_horizon(found: FoundTiles) -> int | None:
    """What the store says of `HORIZON`; None where nothing was ever left out."""
    data = found.moments.get(HORIZON[2])
    return None if data is None else int.from_bytes(data, "big", signed=True)


def _numbers(plan: TilePlan) -> dict[str, int]:
    return {clock.name: number for number, clock in enumerate(plan.clocks)}
