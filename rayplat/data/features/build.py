"""Building a feature view: from its source at a pinned version to its feature table, in plain Ray tasks.

A view of fields becomes rows: join keys, ``event_time``, ``created`` if declared, features, sorted by time within
each file. A view of windows becomes tiles (`rayplat.data.windows`): tasks read parts of the source and cut them by
key, others fold all events of their keys. No row passes through this process. One commit notes the source's version.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rayplat.actors import give_way
from rayplat.data.features.declarations import FeatureView
from rayplat.data.features.notes import held, note
from rayplat.data.features.seen import Seen
from rayplat.data.features.transforms import check_source, prepare
from rayplat.data.point_in_time.keys import hashed
from rayplat.data.tables.scan import Scan
from rayplat.data.windows import fold
from rayplat.data.windows.plan import TILE_START
from rayplat.errors import Conflict
from rayplat.resources import require_resources
from rayplat.types import TableVersion

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

log = logging.getLogger(__name__)

PART_BYTES = 32 * 2**20
MOST_PARTITIONS = 256


def build(
    tables: Tables,
    view: FeatureView,
    source: int | datetime | None = None,
    *,
    run_id: str | None = None,
    allow_short_history: bool = False,
) -> TableVersion:
    """Compute all rows of ``view`` and commit them as a new version of its table; nothing is written where the table
    holds that already.

    ``source`` is the version of the source table (None: the latest). Raises `NotFound` for the source,
    `SchemaMismatch` naming view and column for one that it lacks or of a wrong type, `InvalidInput` for values used
    before they were known and for a window longer than the source's history (unless ``allow_short_history``),
    `Unschedulable` within 10 s where not even one task of a CPU fits.
    """
    pinned = tables.version(view.source, source)
    scan = tables.scan(pinned)
    check_source(view, scan.schema)
    before = held(tables, view)
    if before.holds(pinned):
        return tables.version(view.table)
    require_resources(f"building the feature view {view.name!r}", [{"CPU": 1}])
    blocks, seen = _computed(view, scan)
    seen.refuse_future(view)
    if not allow_short_history:
        seen.refuse_short_history(view)
    data = _dataset(blocks) if seen.rows else rows_of(view, scan.schema.empty_table())
    made = tables.overwrite(
        view.table,
        data,
        run_id=run_id,
        transaction=before.transaction,
        metadata=note(view, pinned, "build"),
        replace_schema=True,
    )
    if not held(tables, view).holds(pinned):
        raise Conflict(f"feature view {view.name!r} was built or refreshed by another writer meanwhile; build it again")
    log.debug("built", extra={"view": view.id, "rows": made.row_count, "source": f"{pinned.table}@{pinned.version}"})
    return made


def rows_of(view: FeatureView, source: pa.Table) -> pa.Table:
    """All rows of the view's table from all rows of its source, in this process; refuses what `build` does but for a
    short history."""
    rows, seen = prepare(view, source)
    seen.refuse_future(view)
    return _folded(view, rows) if view.windows else rows


# --- inside ---------------------------------------------------------------------------------------


def _computed(view: FeatureView, scan: Scan) -> tuple[list[Any], Seen]:
    """References to the blocks of the feature table, and what was seen in all of them."""
    import ray

    columns = list(view.source_columns)
    size = sum(file.size_bytes for file in scan.files) * len(columns) // max(len(scan.schema), 1)
    parts = scan.split(max(1, min(MOST_PARTITIONS, -(-size // PART_BYTES)))) if len(scan.files) > 1 else [scan]
    if not view.windows:
        read: Any = ray.remote(num_cpus=1, num_returns=2)(_rows)
        found = [read.remote(view, part, columns) for part in parts]
        return [rows for rows, _ in found], Seen.merged(ray.get([seen for _, seen in found]))
    count = 1 if size < PART_BYTES // 16 else min(MOST_PARTITIONS, max(4, -(-size // PART_BYTES)))
    cut: Any = ray.remote(num_cpus=1, num_returns=count + 1)(_cut)
    join: Any = ray.remote(num_cpus=1)(_together)
    found = [cut.remote(view, part, columns, count) for part in parts]
    seen = Seen.merged(ray.get([one[0] for one in found]))
    return [join.remote(view, *(one[1 + i] for one in found)) for i in range(count)], seen


def _dataset(blocks: list[Any]) -> Any:
    import ray.data

    return ray.data.from_arrow_refs(blocks)


def _rows(view: FeatureView, part: Scan, columns: list[str]) -> tuple[pa.Table, Seen]:
    give_way()
    return prepare(view, part.table(columns))


def _cut(view: FeatureView, part: Scan, columns: list[str], count: int) -> tuple[Any, ...]:
    """What was seen, then the events of each of ``count`` groups of keys."""
    give_way()
    events, seen = prepare(view, part.table(columns))
    hashes, _ = hashed(events.select(list(view.keys)))
    group = (hashes % np.uint64(count)).astype(np.int64)
    ends = np.searchsorted(np.sort(group), np.arange(1, count + 1))
    ordered = events.take(pa.array(np.argsort(group, kind="stable")))
    starts = np.append(0, ends[:-1])
    return (
        seen,
        *(ordered.slice(start, end - start).combine_chunks() for start, end in zip(starts, ends, strict=True)),
    )


def _together(view: FeatureView, *events: pa.Table) -> pa.Table:
    give_way()
    return _folded(view, pa.concat_tables(events))


def _folded(view: FeatureView, events: pa.Table) -> pa.Table:
    """Tiles in order of time, so that a reader of a span opens few row groups."""
    tiles = fold(view.plan, events)
    return tiles.take(pa.array(np.argsort(tiles[TILE_START].cast(pa.int64()).to_numpy(), kind="stable")))
