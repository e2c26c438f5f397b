"""Advancing the online store: what became known of a view up to a moment, from its feature table.

The cursor says which version of the table was read up to which event time. The next advance reads the events after
it and, where the table has a new version, what its change feed tells: late rows are added, rows that went are taken
back. Where the feed cannot tell, the view is rebuilt. Rows pass through this process in parts of bounded size.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rayplat.data.features import FeatureView
from rayplat.data.online import catalog
from rayplat.data.online.field_steps import FieldSteps
from rayplat.data.online.step import Overlapped, Step
from rayplat.data.online.store import OnlineStore
from rayplat.data.online.tile_steps import TileSteps
from rayplat.data.tables import changes
from rayplat.errors import Conflict
from rayplat.types import TableVersion

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

log = logging.getLogger(__name__)

KEEP = timedelta(days=7)
_MOST_CHANGED = 1_000_000


def advance(
    store: OnlineStore,
    tables: Tables,
    view: FeatureView,
    upto: datetime,
    *,
    fresh: bool = False,
    keep: timedelta = KEEP,
) -> int:
    """Write what became known of ``view`` up to and including ``upto``; how many rows or tiles were written.

    ``fresh`` begins anew and forgets what was pushed; without it time does not run backwards. A large advance is
    written in parts, the cursor with the last: one that is cut off and run again ends in the same state, and of two
    that overlap the one that ends later rebuilds the view. Tiles are kept for the longest window and ``keep`` more.
    Raises `Conflict` where only other definitions of the view are applied, `NotFound` where it is not applied or
    not built.
    """
    catalog.get(store, view.name, view.digest())
    source = tables.version(view.table)
    until = upto if upto.tzinfo else upto.replace(tzinfo=UTC)
    seen = store.cursor(view.id)
    step = _step(seen, tables, view, source, until, fresh)
    if step is None:
        return 0
    step = replace(step, keep=keep, seen=seen)
    steps = (TileSteps if view.windows else FieldSteps)(store, tables, view)
    try:
        count = steps.run(step)
    except Overlapped:
        log.info("rebuilding the online view", extra={"view": view.id, "reason": "two materializations overlapped"})
        other = store.cursor(view.id)
        until = until if other is None else max(until, datetime.fromisoformat(other["upto"]))
        source = tables.version(view.table)
        count = steps.run(Step(source, None, until, fresh=True, keep_pushed=True, keep=keep))
    log.debug("materialized", extra={"view": view.id, "rows": count, "upto": until.isoformat()})
    return count


def _step(
    cursor: dict[str, Any] | None, tables: Tables, view: FeatureView, source: TableVersion, until: datetime, fresh: bool
) -> Step | None:
    """None where there is nothing to do."""
    if fresh or cursor is None:
        return Step(source, None, until, fresh=fresh)
    reached = datetime.fromisoformat(cursor["upto"])
    until = max(until, reached)
    rebuilt = Step(source, None, until, fresh=True, keep_pushed=True)
    if cursor["table_id"] != source.table_id or cursor["version"] > source.version:
        return rebuilt
    if cursor["version"] == source.version:
        return Step(source, reached, until) if until > reached else None
    try:
        found = changes.read(tables, view.table, cursor["version"], source.version)
    except Conflict as e:
        log.info("rebuilding the online view", extra={"view": view.id, "reason": str(e)})
        return rebuilt
    if found.deleted.num_rows > _MOST_CHANGED:
        return rebuilt
    late = found.inserted if found.appended is None else found.appended
    return Step(source, reached, until, late=late, gone=found.deleted)
