"""Bringing a feature table up to its source by what changed: late rows and deleted ones included, each exactly once.

The commit of a feature table notes the version of the source it holds; the changes since then are read from the
source's change feed, transformed like every row, and written in one commit. Few rows change as a rule, so they pass
through this process; where many did, or where the feed cannot tell, the view is built anew on the cluster. A table
that was refreshed holds the same rows as one that was built.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features.build import build
from rayplat.data.features.declarations import EVENT_TIME, FeatureView
from rayplat.data.features.notes import Held, held, note
from rayplat.data.features.transforms import check_source, prepare
from rayplat.data.tables import changes
from rayplat.data.windows import patch, touched
from rayplat.data.windows.plan import TILE_START
from rayplat.errors import Conflict
from rayplat.types import TableVersion

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

log = logging.getLogger(__name__)

MOST_ROWS = 1_000_000
_MOST_KEYS = 10_000
_ATTEMPTS = 5
_SIGN = "__sign"


@dataclass(frozen=True)
class Difference:
    """What to write to a feature table: ``rows`` replace those with equal ``keys``, those of ``gone`` are removed;
    without ``keys`` the rows are added."""

    rows: pa.Table
    keys: tuple[str, ...] = ()
    gone: pa.Table | None = None


def refresh(
    tables: Tables, view: FeatureView, *, upto: int | datetime | None = None, run_id: str | None = None
) -> TableVersion:
    """Bring the view's table to version ``upto`` of its source (None: the latest); its version is returned.

    A table that holds that version or a later one is left alone, one that was never built is built. Two refreshes at
    a time end as one. Raises as `build`, and `Conflict` where other writers keep coming first.
    """
    pinned = tables.version(view.source, upto)
    for _ in range(_ATTEMPTS):
        before = held(tables, view)
        if before.source_id != pinned.table_id:
            return build(tables, view, pinned.version, run_id=run_id)
        if before.source_version >= pinned.version:
            return tables.version(view.table)
        try:
            found = _difference(tables, view, before, pinned)
        except Conflict as e:
            log.info("building the feature view anew", extra={"view": view.id, "reason": str(e)})
            return build(tables, view, pinned.version, run_id=run_id, allow_short_history=True)
        _write(tables, view, found, before, pinned, run_id)
    raise Conflict(f"feature view {view.name!r} kept being written by others while it was refreshed; try again")


def _difference(tables: Tables, view: FeatureView, before: Held, pinned: TableVersion) -> Difference:
    """Raises `Conflict` where the view has to be built anew."""
    check_source(view, tables.scan(pinned).schema)
    found = changes.read(tables, view.source, before.source_version, pinned.version)
    count = sum(found.count())
    if count > MOST_ROWS:
        raise Conflict(f"{count} rows changed, more than the {MOST_ROWS} that are taken over one by one")
    columns = list(view.source_columns)
    news = found.appended.table(columns) if found.appended is not None else found.inserted.select(columns)
    added, seen = prepare(view, news)
    seen.refuse_future(view)
    removed, _ = prepare(view, found.deleted.select(columns))
    if view.windows:
        return _tiles(tables, view, before, added, removed)
    if removed.num_rows == 0:
        return Difference(added)
    return _fields(tables, view, before, added, removed)


def _tiles(tables: Tables, view: FeatureView, before: Held, added: pa.Table, removed: pa.Table) -> Difference:
    hit = touched(view.plan, pa.concat_tables([added, removed]))
    present = tables.read(view.table, before.version, where=_near(hit, view.keys, TILE_START))
    made = patch(view.plan, present, added, removed)
    return Difference(made.changed, view.plan.identity, made.emptied)


def _fields(tables: Tables, view: FeatureView, before: Held, added: pa.Table, removed: pa.Table) -> Difference:
    """The rows of every key and moment that changed, as they are now. Those of one key and moment have an order that
    only a build can keep."""
    identity = (*view.keys, EVENT_TIME)
    hit = pa.concat_tables([added, removed]).select(list(identity)).group_by(list(identity)).aggregate([])
    present = tables.read(view.table, before.version, where=_near(hit, view.keys, EVENT_TIME))
    present = present.join(hit, list(identity), join_type="left semi").select(added.column_names)
    left = _net(present, added, removed)
    counted = left.group_by(list(identity)).aggregate([([], "count_all")])
    if pc.any(pc.greater(counted["count_all"], 1)).as_py():
        raise Conflict("rows of one key and moment changed, whose order only a build can tell")
    gone = hit.join(counted.drop_columns("count_all"), list(identity), join_type="left anti").select(list(identity))
    return Difference(left, identity, gone)


def _near(hit: pa.Table, keys: tuple[str, ...], time: str) -> pc.Expression:
    """True for the rows of ``hit`` and few others."""
    ends = pc.min_max(hit[time])
    wanted = (pc.field(time) >= ends["min"]) & (pc.field(time) <= ends["max"])
    for key in keys:
        values = pc.unique(hit[key])
        if len(values) <= _MOST_KEYS:
            wanted = wanted & pc.field(key).isin(values)
    return wanted


def _net(present: pa.Table, added: pa.Table, removed: pa.Table) -> pa.Table:
    """``present`` and ``added`` without ``removed``, counting equal rows."""
    parts = [
        rows.append_column(_SIGN, pa.array(np.full(rows.num_rows, sign)))
        for rows, sign in ((present.cast(added.schema), 1), (added, 1), (removed, -1))
    ]
    counted = pa.concat_tables(parts).group_by(added.column_names).aggregate([(_SIGN, "sum")])
    left = counted[f"{_SIGN}_sum"].to_numpy()
    if (left < 0).any():
        raise Conflict("a deleted row is not in the feature table")
    return counted.select(added.column_names).take(pa.array(np.repeat(np.arange(len(left)), left)))


def _write(
    tables: Tables, view: FeatureView, found: Difference, before: Held, pinned: TableVersion, run_id: str | None
) -> None:
    """One commit, or none where another writer was faster: the next look at the table tells."""
    once, noted = before.transaction, note(view, pinned, "refresh")
    if found.keys:
        tables.upsert(
            view.table, found.rows, found.keys, deletes=found.gone, run_id=run_id, transaction=once, metadata=noted
        )
    else:
        tables.append(view.table, found.rows, run_id=run_id, transaction=once, metadata=noted)
    log.debug("refreshed", extra={"view": view.id, "rows": found.rows.num_rows, "source_version": pinned.version})
