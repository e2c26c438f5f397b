"""From rows of a source to rows of a feature view, and features computed on request: the one transformation.

A backfill calls it for each block, an incremental refresh for the changed rows, a push for fresh events, an online
read for the request's columns; so they cannot differ. Pure Arrow: knows no table, store or Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.features.declarations import CREATED, EVENT_TIME, Derived, FeatureView
from rayplat.data.features.operations import TIME, arrow_type
from rayplat.data.features.seen import Leak, Seen, Span
from rayplat.data.features.services import OnRequestView
from rayplat.errors import InvalidInput, SchemaMismatch

SAMPLES = 3


def check_source(view: FeatureView, source: pa.Schema) -> None:
    """Raises `SchemaMismatch` naming the view and the first column that ``source`` lacks or that has a wrong type."""
    what = f"feature view {view.name}"
    for name in view.source_columns:
        if name not in source.names:
            raise SchemaMismatch(
                what, f"there is no column {name!r} in {view.source!r}; it has {', '.join(source.names)}"
            )
    derived = {d.name for d in view.derived}
    clocks = [*view.clocks, *filter(None, [view.created]), *dict(view.known_at).values()]
    for name in (n for n in clocks if n in source.names and n not in derived):
        if not pa.types.is_timestamp(source.field(name).type):
            found = source.field(name).type
            raise SchemaMismatch(what, f"{name!r} says when something was known, so a timestamp is needed, not {found}")
    for name, dtype in zip(view.keys, view.entity.dtypes, strict=True):
        found = source.field(name).type
        found = found.value_type if pa.types.is_dictionary(found) else found
        if not (pa.types.is_integer(found) if dtype == "int64" else _is_text(found)):
            raise SchemaMismatch(what, f"join key {name!r} is declared as {dtype}, {view.source!r} has {found}")


def prepare(view: FeatureView, rows: pa.Table) -> tuple[pa.Table, Seen]:
    """What ``rows`` of the source contribute to ``view``, and what was seen on the way.

    For a view of fields its rows, sorted by time: join keys, ``event_time``, ``created`` if declared, features. For a
    view of windows its events: join keys, clocks, value columns (`TilePlan.source_columns`). Rows without a key, and
    of fields without a moment, are left out. Raises `SchemaMismatch` naming view and column.
    """
    check_source(view, rows.schema)
    for derived in view.needed:
        rows = _set(rows, derived.name, compute(f"feature view {view.name}", derived, rows))
    for clock in view.clocks:
        rows = _set(rows, clock, rows[clock].cast(TIME, safe=False))
    leaks: list[Leak] = []
    if view.where is not None:
        leaks += [leak for clock in view.clocks for leak in _leaks(view, rows, view.where.columns, clock)]
        rows = rows.filter(view.where.evaluate(rows))
    filtered = {(leak.column, leak.clock) for leak in leaks}  # what decides which rows count is looked at in all rows
    for clock, columns in _by_clock(view).items():
        found = _leaks(view, rows, columns, clock)
        leaks += [leak for leak in found if (leak.column, leak.clock) not in filtered]
    for key, dtype in zip(view.keys, view.entity.dtypes, strict=True):
        rows = _set(rows, key, rows[key].cast(arrow_type(dtype)))
        rows = rows.filter(rows[key].is_valid()) if rows[key].null_count else rows
    spans = {clock: Span.of(rows[clock]) for clock in view.clocks}
    return (_events(view, rows) if view.windows else _fields(view, rows)), Seen(rows.num_rows, spans, tuple(leaks))


def on_request(view: OnRequestView, columns: Mapping[str, Any], rows: int) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The features of ``view`` for ``rows`` rows. ``columns`` holds its inputs and what it `OnRequestView.needs`, each
    an Arrow array. Raises `SchemaMismatch` for one that is not there, or an input of another type."""
    what, known = f"on-request view {view.name}", dict(columns)
    for field in view.inputs:
        if field.name not in known:
            raise SchemaMismatch(what, f"there is no column {field.name!r}, which the request must carry")
        column = _fitted(what, field.name, known[field.name], field.dtype)
        known[field.name] = column if field.default is None else column.fill_null(field.default)
    made = {}
    for feature in view.features:
        known[feature.name] = made[feature.name] = compute(what, feature, known, rows)
    return made


def compute(
    what: str, derived: Derived, columns: pa.Table | Mapping[str, Any], rows: int | None = None
) -> pa.Array | pa.ChunkedArray:
    """The column ``derived``, as its declared type."""
    try:
        found = derived.expression.evaluate(columns, rows)
    except InvalidInput as e:
        raise type(e)(f"{what}, {derived.name}", str(e)) from e
    return _fitted(what, derived.name, found, derived.dtype)


def with_defaults(view: FeatureView, rows: pa.Table) -> pa.Table:
    """``rows`` of looked-up features, in which declared defaults stand for what is missing."""
    for name, default in view.defaults.items():
        if name in rows.column_names:
            rows = _set(rows, name, rows[name].fill_null(default))
    return rows


# --- inside ---------------------------------------------------------------------------------------


def _fields(view: FeatureView, rows: pa.Table) -> pa.Table:
    named = {key: rows[key] for key in view.keys} | {EVENT_TIME: rows[view.event_time]}
    if view.created is not None:
        named[CREATED] = rows[view.created].cast(TIME, safe=False)
    for field in view.fields:
        named[field.name] = _fitted(f"feature view {view.name}", field.name, rows[field.name], field.dtype)
    table = pa.table(named)
    known = table.filter(table[EVENT_TIME].is_valid()) if table[EVENT_TIME].null_count else table
    return known.take(pa.array(np.argsort(known[EVENT_TIME].cast(pa.int64()).to_numpy(), kind="stable")))


def _events(view: FeatureView, rows: pa.Table) -> pa.Table:
    return rows.select(list(view.plan.source_columns))


def _by_clock(view: FeatureView) -> dict[str, list[str]]:
    """Which columns are used as of which clock."""
    found: dict[str, list[str]] = {clock: [] for clock in view.clocks}
    for field in view.fields:
        found[view.event_time].append(field.name)
    for window in view.windows:
        found[window.event_time or view.event_time].append(window.column)
    return found


def _leaks(view: FeatureView, rows: pa.Table, columns: tuple[str, ...] | list[str], clock: str) -> list[Leak]:
    """Values that are used as of ``clock`` but were known only later, or never."""
    known_at, found = dict(view.known_at), []
    own = dict.fromkeys(name for column in columns for name in view.origins(column) if name in known_at)
    for column in own:
        known = rows[known_at[column]].cast(TIME, safe=False)
        late = pc.fill_null(pc.greater(known, rows[clock]), True)
        early = pc.and_(pc.and_(rows[column].is_valid(), rows[clock].is_valid()), late)
        count = pc.sum(early).as_py() or 0
        if count:
            shown = pa.table({**{key: rows[key] for key in view.keys}, clock: rows[clock], known_at[column]: known})
            sample = shown.filter(early).slice(0, SAMPLES).to_pylist()
            found.append(Leak(column, known_at[column], clock, count, tuple(str(_plain(row)) for row in sample)))
    return found


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}


def _fitted(what: str, name: str, column: Any, dtype: str) -> Any:
    try:
        return column.cast(arrow_type(dtype))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise SchemaMismatch(what, f"{name!r} does not fit {dtype}: {e}") from e


def _set(rows: pa.Table, name: str, column: Any) -> pa.Table:
    if name in rows.column_names:
        return rows.set_column(rows.column_names.index(name), name, column)
    return rows.append_column(name, column)


def _is_text(dtype: pa.DataType) -> bool:
    return any(is_one(dtype) for is_one in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
