"""Advancing a view of plain fields: the newest row of each key."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features import EVENT_TIME, FeatureView
from rayplat.data.online.field_rows import encoded, encoded_keys, event_micros, newest_parts, table_columns
from rayplat.data.online.step import Step
from rayplat.data.online.store import Batch, OnlineStore

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

TIME = pa.timestamp("us", tz="UTC")
_ROWS_PER_WRITE = 100_000


class FieldSteps:
    """Writes the rows of one view."""

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
            cursor = self._cursor(step) if following is None else None
            self._store.write(self._view.id, Batch(encoded(self._view, waiting), removed=removed, cursor=cursor))
            written, waiting, removed = written + waiting.num_rows, following, []
        if not written:
            self._store.write(self._view.id, Batch(removed=removed, cursor=self._cursor(step)))
        return written

    def _cursor(self, step: Step) -> dict[str, Any]:
        step.require_alone(self._store, self._view.id)
        return step.cursor

    def _parts(self, step: Step) -> Iterator[pa.Table]:
        if step.gone is not None and step.gone.num_rows:
            yield from self._remaining(step)
        if step.after is not None:
            yield from step.late_parts(self._columns, pc.field(EVENT_TIME) <= pa.scalar(step.after, TIME))
        if step.until == step.after:
            return
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
