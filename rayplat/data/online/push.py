"""Fresh events of a source, readable at once: into the online store, the source's table, or both.

The same transformation as in a backfill makes rows of them (`rayplat.data.features.transforms`). Rows of field views
compete by time like any other. Events of windowed views wait beside their tiles until a materialization brings
tiles that hold them: counted once, whichever comes first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rayplat.data.features import FeatureView
from rayplat.data.features.transforms import prepare
from rayplat.data.online import catalog
from rayplat.data.online.field_rows import encoded, newest
from rayplat.data.online.store import Batch, OnlineStore
from rayplat.data.online.tile_rows import encoded_tiles
from rayplat.data.windows import fold
from rayplat.data.windows.pending import push as add_pending
from rayplat.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

log = logging.getLogger(__name__)

TARGETS = ("online", "offline", "both")


@dataclass(frozen=True)
class Push:
    """What a push did: ``rows`` written online by view id, ``version`` of the source table (None: not appended)."""

    rows: dict[str, int]
    version: int | None


def push(
    store: OnlineStore, tables: Tables | None, source: str | FeatureView, events: pa.Table, to: str = "online"
) -> Push:
    """Push ``events``, rows of a source table, to all applied versions of the views over it, or of one view's name.

    ``to`` is ``online``, ``offline`` (append to the source table) or ``both``: then offline first, so that what is
    online is in the table too. Nothing is written where a view cannot use the events: `SchemaMismatch` names the
    column, `InvalidInput` a value from the future of its clock, `NotFound` a source without views.
    """
    if to not in TARGETS:
        raise InvalidInput("to", f"{to!r} is none of {', '.join(TARGETS)}")
    name = source if isinstance(source, str) else source.source
    if to == "offline":
        return Push({}, _append(tables, name, events))
    made = [(view, _prepared(view, events)) for view in _views(store, source)]
    if not made:
        raise NotFound("source", name, "no applied feature view reads it")
    version = _append(tables, name, events) if to == "both" else None
    for view, prepared in made:
        if view.windows:
            _add(store, view, prepared)
        else:
            store.write(view.id, Batch(encoded(view, newest(view, prepared))))
    log.debug("pushed", extra={"source": name, "rows": events.num_rows, "to": to})
    return Push({view.id: prepared.num_rows for view, prepared in made}, version)


def from_columns(events: Mapping[str, Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Events as JSON carries them, by column, with the types of the table's ``schema``; times as ISO 8601 text, UTC
    where they name no zone. Raises `InvalidInput` naming the column."""
    sizes = {name: len(values) for name, values in events.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise InvalidInput("events", f"give columns of one length and at least one row, got {sizes}")
    made = {}
    for name, values in events.items():
        if name not in schema.names:
            raise InvalidInput(f"events.{name}", f"there is no such column; there are {', '.join(schema.names)}")
        kind = schema.field(name).type
        try:
            plain = [_moment(value) for value in values] if pa.types.is_timestamp(kind) else values
            made[name] = pa.array(plain, kind)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as e:
            raise InvalidInput(f"events.{name}", f"no {kind}: {e}") from e
    return pa.table(made)


def _moment(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _add(store: OnlineStore, view: FeatureView, events: pa.Table) -> None:
    """Events beside their tiles."""
    packed = {(key, clock, tile): data for key, clock, tile, _, data in encoded_tiles(view, fold(view.plan, events))}
    store.amend(view.id, list(packed), lambda tile, base, pending: add_pending(base, pending, packed[tile]))


def _views(store: OnlineStore, source: str | FeatureView) -> Sequence[FeatureView]:
    declared = (d.view() for d in catalog.definitions(store).values() if d.declaration is not None)
    views = [view for view in declared if isinstance(view, FeatureView)]
    if isinstance(source, FeatureView):
        return [view for view in views if view.name == source.name and view.source == source.source]
    return [view for view in views if view.source == source]


def _prepared(view: FeatureView, events: pa.Table) -> pa.Table:
    rows, seen = prepare(view, events)
    seen.refuse_future(view)
    return rows


def _append(tables: Tables | None, name: str, events: pa.Table) -> int:
    if tables is None:
        raise InvalidInput("to", "without tables there is only 'online'")
    return tables.append(name, events).version
