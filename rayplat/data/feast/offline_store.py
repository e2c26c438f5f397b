"""Feast's offline store on Delta tables and the point-in-time join: plugged into Feast by its dotted path.

What it promises is `point_in_time`'s contract: one output row per entity row, in their order, duplicates and null
keys included; ttl with both ends included; ties to the newest created; microseconds kept. Every retrieval pins the
versions that it reads when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from feast.data_source import DataSource
from feast.errors import FeastJoinKeysDuringMaterialization
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import _get_requested_on_demand_feature_views, compute_non_entity_date_range
from pydantic import Field

from rayplat.data.feast import declare, entities, rows
from rayplat.data.feast.job import DeltaRayRetrievalJob, Shape
from rayplat.data.feast.limits import Limits
from rayplat.data.feast.retrieval import History, Pull
from rayplat.data.feast.source import DeltaSource
from rayplat.data.feast.views import declared, views_read
from rayplat.errors import InvalidInput, SchemaMismatch

_MEBIBYTE = 1 << 20


class DeltaRayOfflineStoreConfig(FeastConfigBaseModel):
    """``offline_store:`` of ``feature_store.yaml``."""

    type: Literal["rayplat.data.feast.offline_store.DeltaRayOfflineStore"] = (
        "rayplat.data.feast.offline_store.DeltaRayOfflineStore"
    )
    tables_uri: str | None = Field(None, description="Folder of the tables that sources name by `table`.")
    storage_options: dict[str, str] = Field({}, description="How storages are opened, in delta-rs's names.")
    storages: dict[str, dict[str, str]] = Field({}, description="Further sets of options, named by sources.")
    ray_address: str | None = Field(None, description="Cluster of large retrievals; None: this process's or a local.")
    in_process_bytes: int = Field(128 * _MEBIBYTE, ge=0, description="Files up to this size are joined without Ray.")
    staging_uri: str | None = Field(None, description="Folder that `to_remote_storage` writes below.")

    def limits(self) -> Limits:
        return Limits(self.in_process_bytes, self.ray_address)


class DeltaRayOfflineStore(OfflineStore):
    """Sources are `DeltaSource` and Feast's `FileSource` (Parquet, Delta)."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **options: Any,
    ) -> DeltaRayRetrievalJob:
        """``entity_df``: a pandas frame, an Arrow table, a Ray Dataset, a query (`SELECT ... FROM <table>`) over the
        tables below ``tables_uri``, or None with ``start_date`` and ``end_date``: then each distinct key and event
        time of the views in that range is a row."""
        limits = config.offline_store.limits()
        on_demand = _get_requested_on_demand_feature_views(feature_refs, project, registry)
        views = tuple(views_read(config, feature_views, feature_refs, on_demand, full_feature_names))
        if entity_df is None:
            dates = compute_non_entity_date_range(feature_views, options.get("start_date"), options.get("end_date"))
            found = entities.of_range(views, *dates, limits)
        else:
            found = entities.given(config, entity_df, limits.ray_address)
        views = found.in_order(views)
        question = History(found, views, bool(options.get("filter_by_created_timestamp")), limits)
        keys = [name for name in found.names if name != found.event_time]
        shape = Shape(
            full_feature_names,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            RetrievalMetadata(feature_refs, keys, *found.span),
        )
        return DeltaRayRetrievalJob(question, config, shape)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> DeltaRayRetrievalJob:
        """The newest row of each key whose event time lies in the range, ends included."""
        columns = (join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return _pull(config, data_source, columns, (start_date, end_date), latest=True)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> DeltaRayRetrievalJob:
        """All rows whose event time lies in the range, ends included."""
        columns = (join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return _pull(config, data_source, columns, (start_date, end_date), latest=False)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Append logs (a table, or a folder of Parquet files) to their destination in one step."""
        destination = logging_config.destination
        if isinstance(data, Path):
            import pyarrow.dataset as pads

            data = pads.dataset(data, format="parquet").to_table()
        by = getattr(destination, "partition_by", None) or ()
        wanted = source.get_schema(registry)
        at = rows.locate(config, destination.to_data_source())
        logs = data.select(wanted.names).cast(wanted)
        rows.add(at, _in_delta(logs) if at.delta else logs, by)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append to the view's source, whose columns ``table`` has in its order; of a view declared here, to the
        table that it is built from. Raises `WrongColumns`."""
        if feature_view.batch_source is None:
            raise InvalidInput(f"feature view {feature_view.name}", "has no batch source to write to")
        source, own = feature_view.batch_source, declared(feature_view)
        before = {new: old for old, new in source.field_mapping.items()}  # Feast has renamed the columns already
        given = table.replace_schema_metadata(None)
        given = given.rename_columns([before.get(name, name) for name in given.column_names])
        at = rows.locate(config, source)
        if own is not None:
            at = rows.locate(config, DeltaSource(table=own.source))
            given = declare.source_rows(own, given, rows.scan(at).schema)
        rows.append(at, given)
        if progress:
            progress(table.num_rows)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """Also of Feast's file sources: relative to the repository, with the options of this store."""
        return rows.column_types(config, data_source)


def _pull(
    config: RepoConfig,
    source: DataSource,
    columns: tuple[list[str], list[str], str, str | None],
    dates: tuple[datetime | None, datetime | None],
    latest: bool,
) -> DeltaRayRetrievalJob:
    keys, features, event_time, created = columns
    scan = rows.scan(rows.locate(config, source))
    known = scan.schema.names
    if not set(keys) <= set(known):
        raise FeastJoinKeysDuringMaterialization(source.name, set(keys), set(known))
    wanted = [*keys, *(features or known), event_time, *([created] if created else [])]
    for name in wanted:
        if name not in known:
            raise SchemaMismatch(name, f"source {source.name!r} has no such column; it has {', '.join(known)}")
    question = Pull(
        scan=scan,
        keys=tuple(keys),
        columns=tuple(dict.fromkeys(wanted)),
        event_time=event_time,
        created=created or None,
        first=dates[0],
        last=dates[1],
        latest=latest,
        limits=config.offline_store.limits(),
    )
    return DeltaRayRetrievalJob(question, config, Shape())


def _in_delta(logs: pa.Table) -> pa.Table:
    """Seconds as microseconds: the unit of a table's times."""
    types = [pa.timestamp("us", "UTC") if pa.types.is_timestamp(f.type) else f.type for f in logs.schema]
    return logs.cast(pa.schema([pa.field(f.name, t) for f, t in zip(logs.schema, types, strict=True)]))
