"""Advancing a view of windows: tiles of the online store from the view's tile table.

The tile in which the advance ends holds its events up to there alone and is written again by the next one. Tiles
that no window can reach any more are dropped now and then; the horizon is moved before that, so that a read of a
window that begins earlier knows it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features import FeatureView
from rayplat.data.online.step import Step
from rayplat.data.online.store import Batch, OnlineStore, Tile, TileId, TilesOf
from rayplat.data.online.tile_rows import (
    HORIZON,
    encoded_tiles,
    horizon_tile,
    horizon_us,
    read_horizon,
    tile_ids,
    up_to,
)
from rayplat.data.windows import TileKernel
from rayplat.data.windows.plan import TILE_START
from rayplat.data.windows.window import MOMENT

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

_TILES_PER_WRITE = 20_000
_DROP_EVERY = 0.1  # of what is kept: a drop looks at every tile


class TileSteps:
    """Writes the tiles of one view."""

    def __init__(self, store: OnlineStore, tables: Tables, view: FeatureView) -> None:
        self._store, self._tables, self._view, self._plan = store, tables, view, view.plan

    def run(self, step: Step) -> int:
        wanted = horizon_us(self._plan, step.until, step.keep)
        kept = self._horizon()
        if step.fresh or kept is None:
            kept = wanted
        count = itertools.count()
        tiles = (tile for tile in self._encoded(step, kept) if next(count) >= 0)
        if step.fresh:
            everything = itertools.chain([horizon_tile(kept)], tiles)
            batch = Batch(tiles=everything, cursor=step.cursor, fresh=True, keep_pushed=step.keep_pushed)
            self._store.write(self._view.id, batch)
        else:
            self._write(step, itertools.chain([horizon_tile(kept)], tiles), self._emptied(step))
        self._drop(kept, wanted, step)
        return next(count)

    def _write(self, step: Step, tiles: Iterator[Tile], emptied: Iterable[TileId]) -> None:
        """The cursor goes with the last tiles, what went with the first."""
        waiting = list(itertools.islice(tiles, _TILES_PER_WRITE))
        while waiting:
            following = list(itertools.islice(tiles, _TILES_PER_WRITE))
            cursor = None if following else step.cursor
            if cursor is not None:
                step.require_alone(self._store, self._view.id)
            self._store.write(self._view.id, Batch(tiles=waiting, removed_tiles=emptied, cursor=cursor))
            waiting, emptied = following, ()

    def _encoded(self, step: Step, horizon: int) -> Iterator[Tile]:
        columns = list(TileKernel(self._plan).columns)
        oldest = pc.field(TILE_START) >= pa.scalar(horizon, pa.int64()).cast(MOMENT)
        known = oldest & (pc.field(TILE_START) <= pa.scalar(step.until, MOMENT))
        for part in itertools.chain(step.late_parts(columns, known), self._new(step, columns, known)):
            for at in range(0, part.num_rows, _TILES_PER_WRITE):
                yield from encoded_tiles(self._view, up_to(self._plan, part.slice(at, _TILES_PER_WRITE), step.until))

    def _new(self, step: Step, columns: list[str], known: pc.Expression) -> Iterator[pa.Table]:
        """The tiles that can hold events after the last advance."""
        if step.until == step.after:
            return
        if step.after is not None:
            known = known & (pc.field(TILE_START) > pa.scalar(step.after - self._plan.tile_length, MOMENT))
        yield from self._tables.scan(step.source).prune(known).batches(columns, known)

    def _emptied(self, step: Step) -> set[TileId]:
        """Tiles that are gone and did not come again."""
        if step.gone is None or not step.gone.num_rows:
            return set()
        again = tile_ids(self._view, step.late) if isinstance(step.late, pa.Table) else set()
        return tile_ids(self._view, step.gone) - again

    def _drop(self, kept: int, wanted: int, step: Step) -> None:
        reach = self._plan.longest + step.keep
        if wanted - kept >= max(self._plan.tile_us, int(reach.total_seconds() * 1e6 * _DROP_EVERY)):
            self._store.write(self._view.id, Batch(tiles=[horizon_tile(wanted)]))
            self._store.drop(self._view.id, before=wanted // self._plan.tile_us)

    def _horizon(self) -> int | None:
        found = self._store.read([], [TilesOf(self._view.id, *HORIZON[:2], HORIZON[2], HORIZON[2], ())])
        return read_horizon(found[1][0])
