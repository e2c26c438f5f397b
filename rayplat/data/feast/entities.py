"""Entity rows: what a retrieval is asked for. A pandas frame, an Arrow table, a Ray Dataset, a query over tables, or
a range of time, as one value that knows its columns, its moments and how to show them to the join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types
from feast.errors import EntityTimestampInferenceException, FeastEntityDFMissingColumnsError
from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as EVENT_TIMESTAMP
from feast.repo_config import RepoConfig

from rayplat.data.feast import rows
from rayplat.data.feast.limits import Limits, size_of
from rayplat.data.feast.views import ViewRead, as_time, between, micros_utc
from rayplat.errors import InvalidInput, SchemaMismatch

if TYPE_CHECKING:
    from ray import ObjectRef

_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Entities:
    """``rows`` in this process or as blocks on the cluster; ``span`` are the first and last of their moments
    (column ``event_time``), None where there is none."""

    rows: pa.Table | Sequence[ObjectRef[pa.Table]]
    names: tuple[str, ...]
    event_time: str
    span: tuple[datetime | None, datetime | None]

    def in_order(self, views: Sequence[ViewRead]) -> tuple[ViewRead, ...]:
        """``views`` so that each join key is a column of the entity rows or a feature of a view before. Raises Feast's
        `FeastEntityDFMissingColumnsError` where there is no such order."""
        known, found, waiting = set(self.names), [], list(views)
        while waiting:
            ready = [view for view in waiting if known.issuperset(view.keys)]
            if not ready:
                expected = {key for view in views for key in view.keys}
                raise FeastEntityDFMissingColumnsError(expected, expected - known)  # type: ignore[no-untyped-call]
            found += ready
            known |= {name for view in ready for name in view.features}
            waiting = [view for view in waiting if view not in ready]
        return tuple(found)


def given(config: RepoConfig, entities: Any, ray_address: str | None) -> Entities:
    """Entity rows of any accepted kind. Raises Feast's `EntityTimestampInferenceException` where no column is the
    event time, `InvalidInput` for another kind and `SchemaMismatch` for an event time of another type."""
    import pandas as pd

    if isinstance(entities, str):
        entities = _query(config, entities)
    if isinstance(entities, pd.DataFrame):
        entities = _from_pandas(entities)
    if isinstance(entities, pa.Table):
        return in_process(_with_times(entities, event_time_of(entities.schema)))
    if hasattr(entities, "to_arrow_refs"):
        from rayplat.data.feast import cluster

        return cluster.entities(entities, ray_address)
    kind = type(entities).__name__
    raise InvalidInput("entity_df", f"a pandas frame, Arrow table, Ray Dataset or query is needed, not {kind}")


def in_process(table: pa.Table) -> Entities:
    """A table whose event time is a timestamp."""
    event_time = event_time_of(table.schema)
    return Entities(table, tuple(table.column_names), event_time, span_of(table, event_time))


def span_of(table: pa.Table, event_time: str) -> tuple[datetime | None, datetime | None]:
    """The first and the last moment, UTC."""
    ends = pc.min_max(micros_utc(as_time(table[event_time], event_time))).as_py()
    return ends["min"], ends["max"]


def event_time_of(schema: pa.Schema) -> str:
    """The column of the moments: ``event_timestamp``, or else the only timestamp there is."""
    if EVENT_TIMESTAMP in schema.names:
        return str(EVENT_TIMESTAMP)
    times = [column.name for column in schema if types.is_timestamp(column.type)]
    if len(times) != 1:
        raise EntityTimestampInferenceException(EVENT_TIMESTAMP)
    return str(times[0])


def of_range(views: Sequence[ViewRead], first: datetime, last: datetime, limits: Limits) -> Entities:
    """Entity rows for a retrieval that gives none; see `moments`."""
    for view in views:
        if view.windowed:
            raise InvalidInput("entity_df", f"feature view {view.name!r} has windows, which need entity rows")
    if sum(size_of(view.scan) for view in views) <= limits.in_process_bytes:
        return in_process(moments(views, first, last))
    from rayplat.data.feast import cluster

    return cluster.moments(views, first, last, limits.ray_address)


def moments(views: Sequence[ViewRead], first: datetime, last: datetime) -> pa.Table:
    """Each distinct key and event time that a view has in the range, ends included, sorted by time. Views without
    entities give rows only where no view has any. Views of windows have values at any moment, so they give none."""
    keys = list(dict.fromkeys(key for view in views for key in view.keys))
    parts = [moments_of(view, view.scan, first, last) for view in [view for view in views if view.keys] or views]
    every = [EVENT_TIMESTAMP, *keys]
    together = pa.concat_tables(parts, promote_options="permissive").select(every)
    distinct = together.group_by(every).aggregate([])
    return distinct.sort_by([(name, "ascending") for name in every]).select([*keys, EVENT_TIMESTAMP])


def moments_of(view: ViewRead, part: Any, first: datetime, last: datetime) -> pa.Table:
    """The keys and event times of the rows of ``part`` (of the view's files) in the range."""
    where = between(view.scan.schema.field(view.event_time), first, last)
    read = part.table(list(dict.fromkeys([*view.keys.values(), view.event_time])), where)
    named = {key: read[column] for key, column in view.keys.items()}
    named[EVENT_TIMESTAMP] = micros_utc(as_time(read[view.event_time], view.event_time))
    return pa.table(named).drop_null()


def _query(config: RepoConfig, sql: str) -> pa.Table:
    from rayplat.data.tables import Tables
    from rayplat.data.tables.sql import query

    folder = getattr(config.offline_store, "tables_uri", None)
    if not folder:
        raise InvalidInput("entity_df", "a query needs offline_store.tables_uri; or give a frame, table or Dataset")
    return query(Tables(rows.absolute(config, folder), dict(config.offline_store.storage_options)), sql)


def _from_pandas(frame: Any) -> pa.Table:
    """Moments as Python objects or text, with and without zones, become UTC timestamps."""
    import pandas as pd

    if EVENT_TIMESTAMP in frame.columns and frame[EVENT_TIMESTAMP].dtype == object:
        frame = frame.assign(**{EVENT_TIMESTAMP: pd.to_datetime(frame[EVENT_TIMESTAMP], utc=True)})
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def _with_times(table: pa.Table, name: str) -> pa.Table:
    column = table[name]
    if types.is_string(column.type) or types.is_large_string(column.type):
        column = pc.cast(column, _TIME)
    elif types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    elif types.is_null(column.type):
        column = column.cast(_TIME)
    if not types.is_timestamp(column.type):
        raise SchemaMismatch(name, f"the event time of entity rows must be a timestamp, not {column.type}")
    if column.type.tz != "UTC":
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    return table.set_column(table.column_names.index(name), name, column)
