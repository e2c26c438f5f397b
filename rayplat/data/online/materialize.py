"""Advancing the online store: what became known of a view up to a moment, from its feature table.

The cursor says which version of the table was read up to which event time. The next advance reads the events after
it and, where the table has a new version, what its change feed tells: late rows are added, rows that went are taken
back. Where the feed cannot tell, the view is rebuilt. Rows pass through this process in parts of bounded size.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features import EVENT_TIME, FeatureView
from rayplat.data.online import catalog
from rayplat.data.online.field_rows import encoded, encoded_keys, event_micros, newest_parts, table_columns
from rayplat.data.online.store import Batch, OnlineStore
from rayplat.errors import Conflict
from rayplat.types import TableVersion

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

log = logging.getLogger(__name__)

TIME = pa.timestamp("us", tz="UTC")
_ROWS_PER_WRITE = 100_000
_MOST_DELETED = 50_000


@dataclass(frozen=True)
class Step:
    """What one advance has to do: take the events of ``source`` in (``after``, ``until``], those of ``late`` up to
    ``after``, and take ``gone`` back. ``after`` None: from the beginning."""

    source: TableVersion
    after: datetime | None
    until: datetime
    fresh: bool = False
    keep_pushed: bool = False
    late: pa.Table | None = None
    gone: pa.Table | None = None

    @property
    def cursor(self) -> dict[str, Any]:
        upto = self.until.isoformat()
        return {"table_id": self.source.table_id, "version": self.source.version, "upto": upto}


def advance(store: OnlineStore, tables: Tables, view: FeatureView, upto: datetime, *, fresh: bool = False) -> int:
    """Write what became known of ``view`` up to and including ``upto``; how many rows were written.

    ``fresh`` begins anew and forgets what was pushed; without it time does not run backwards. A large advance is
    written in parts, the cursor with the last: one that is cut off and run again ends in the same state.
    Raises `Conflict` where only other definitions of the view are applied, `NotFound` where it is not applied or
    not built.
    """
    catalog.get(store, view.name, view.digest())
    source = tables.version(view.table)
    until = upto if upto.tzinfo else upto.replace(tzinfo=UTC)
    step = _step(store.cursor(view.id), tables, view, source, until, fresh)
    if step is None:
        return 0
    count = _Fields(store, tables, view).run(step)
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
        from rayplat.data.tables import changes
    except ImportError:
        return rebuilt
    try:
        found = changes.read(tables, view.table, cursor["version"], source.version)
    except Conflict as e:
        log.info("rebuilding the online view", extra={"view": view.id, "reason": str(e)})
        return rebuilt
    if found.deleted.num_rows > _MOST_DELETED:
        return rebuilt
    return Step(source, reached, until, late=found.inserted, gone=found.deleted)


class _Fields:
    """Advances a view of plain fields."""

    def __init__(self, store: OnlineStore, tables: Tables, view: FeatureView) -> None:
        self._store, self._tables, self._view = store, tables, view
        self._columns = table_columns(view)

    def run(self, step: Step) -> int:
        parts = newest_parts(self._view, self._parts(step))
        if step.fresh:
            count = itertools.count()
            rows = (row for part in parts for row in encoded(self._view, part) if next(count) >= 0)
            self._store.write(self._view.id, Batch(rows, cursor=step.cursor, fresh=True, keep_pushed=step.keep_pushed))
            return next(count)
        return self._write(step, parts)

    def _write(self, step: Step, parts: Iterator[pa.Table]) -> int:
        """The cursor goes with the last rows, what went with the first."""
        written, removed = 0, self._removed(step)
        slices = (part.slice(at, _ROWS_PER_WRITE) for part in parts for at in range(0, part.num_rows, _ROWS_PER_WRITE))
        waiting = next(slices, None)
        while waiting is not None:
            following = next(slices, None)
            cursor = step.cursor if following is None else None
            self._store.write(self._view.id, Batch(encoded(self._view, waiting), removed=removed, cursor=cursor))
            written, waiting, removed = written + waiting.num_rows, following, []
        if not written:
            self._store.write(self._view.id, Batch(removed=removed, cursor=step.cursor))
        return written

    def _parts(self, step: Step) -> Iterator[pa.Table]:
        if step.gone is not None and step.gone.num_rows:
            yield from self._remaining(step)
        if step.late is not None and step.after is not None:
            late = step.late.select(self._columns)
            yield late.filter(pc.field(EVENT_TIME) <= pa.scalar(step.after, TIME))
        known = pc.field(EVENT_TIME) <= pa.scalar(step.until, TIME)
        if step.after is not None:
            known = known & (pc.field(EVENT_TIME) > pa.scalar(step.after, TIME))
        yield from self._tables.scan(step.source).prune(known).batches(self._columns, known)

    def _remaining(self, step: Step) -> Iterator[pa.Table]:
        """All rows of the keys of which a row went: the newest of them takes its place."""
        assert step.gone is not None
        known = pc.field(EVENT_TIME) <= pa.scalar(step.until, TIME)
        for key in self._view.keys:
            known = known & pc.field(key).isin(pc.unique(step.gone[key]))
        yield from self._tables.scan(step.source).prune(known).batches(self._columns, known)

    def _removed(self, step: Step) -> list[tuple[bytes, int]]:
        if step.gone is None or not step.gone.num_rows:
            return []
        gone = step.gone.filter(pc.and_(step.gone[EVENT_TIME].is_valid(), _whole(step.gone, self._view)))
        return list(zip(encoded_keys(self._view, gone), event_micros(gone), strict=True))


def _whole(rows: pa.Table, view: FeatureView) -> pa.ChunkedArray:
    """Which rows have a key."""
    found = rows[view.keys[0]].is_valid()
    for key in view.keys[1:]:
        found = pc.and_(found, rows[key].is_valid())
    return found
