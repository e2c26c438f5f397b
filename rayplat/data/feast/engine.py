"""Feast's compute engine on the same reads as the offline store: plugged into Feast by its dotted path.

Materializing writes the newest row of each key in the range, found over all of its rows, so the order in which an
online store takes them does not matter. What goes wrong is raised. Views declared here advance by the cursor of their
online store. Views that Feast transforms or aggregates are run by Feast's own local engine, on rows read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import pyarrow as pa
from feast.data_source import DataSource
from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.common.retrieval_task import HistoricalRetrievalTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.utils import _convert_arrow_to_proto, _get_column_names
from pydantic import Field

from rayplat.data.feast import rows
from rayplat.data.feast.job import DeltaRayRetrievalJob
from rayplat.data.feast.offline_store import DeltaRayOfflineStore, DeltaRayOfflineStoreConfig
from rayplat.data.feast.online_store import NewestOnlineStore
from rayplat.data.feast.views import declared
from rayplat.data.online.materialize import advance
from rayplat.errors import InvalidInput


class DeltaRayComputeEngineConfig(FeastConfigBaseModel):
    """``batch_engine:`` of ``feature_store.yaml``."""

    type: Literal["rayplat.data.feast.engine.DeltaRayComputeEngine"] = "rayplat.data.feast.engine.DeltaRayComputeEngine"
    write_batch_rows: int = Field(
        10_000, ge=1, description="Rows of one online write, where materialization.online_write_batch_size is not set."
    )


class Done(MaterializationJob):
    """A materialization that is over: one that fails raises."""

    def __init__(self, task: MaterializationTask, written: int) -> None:
        self.task, self.written = task, written

    def status(self) -> MaterializationJobStatus:
        return MaterializationJobStatus.SUCCEEDED

    def error(self) -> BaseException | None:
        return None

    def should_be_retried(self) -> bool:
        return False

    def job_id(self) -> str:
        return f"{self.task.feature_view.name}-{self.task.start_time}-{self.task.end_time}"

    def url(self) -> str | None:
        return None


class DeltaRayComputeEngine(ComputeEngine):
    """Needs `DeltaRayOfflineStore`; works with any online store of Feast."""

    def __init__(self, *, write_batch_rows: int = 10_000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(self.repo_config.offline_store, DeltaRayOfflineStoreConfig):
            kind = type(self.repo_config.offline_store).__name__
            raise InvalidInput("batch_engine", f"DeltaRayComputeEngine needs DeltaRayOfflineStore, not {kind}")
        self._batch_rows = self.repo_config.materialization_config.online_write_batch_size or write_batch_rows

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Nothing to prepare: Ray is started when a large task needs it."""

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        """Nothing to take down."""

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any) -> MaterializationJob:
        view = task.feature_view
        if not _is_plain(view):
            return self._local()._materialize_one(registry, task, **kwargs)
        own = declared(view)
        if own is not None and isinstance(self.online_store, NewestOnlineStore):
            tables, _ = rows.locate(self.repo_config, _source(view)).table
            return Done(task, advance(self.online_store.store(self.repo_config), tables, own, task.end_time))
        if own is not None and own.windows:
            kind = type(self.online_store).__name__
            raise InvalidInput(
                f"feature view {view.name}", f"has windows, which {kind} cannot hold; use rayplat's online store"
            )
        return Done(task, self._write(view, task, self._newest(registry, task)))

    def get_historical_features(self, registry: BaseRegistry, task: HistoricalRetrievalTask) -> RetrievalJob | pa.Table:
        """All features of the task's view for its entity rows, or for its range of time."""
        view = task.feature_view
        if getattr(view, "feature_transformation", None) or getattr(view, "aggregations", None):
            return self._local().get_historical_features(registry, task)
        shown = view.projection.name_to_use()  # type: ignore[no-untyped-call]
        refs = [f"{shown}:{feature.name}" for feature in view.features]
        dates = {} if task.entity_df is not None else {"start_date": task.start_time, "end_date": task.end_time}
        return DeltaRayOfflineStore.get_historical_features(
            self.repo_config,
            [view],
            refs,
            task.entity_df,
            registry,
            task.project,
            task.full_feature_name,
            **dates,
        )

    def _local(self) -> LocalComputeEngine:
        """Feast's engine for what is Python of the user, over this engine's stores."""
        return LocalComputeEngine(
            repo_config=self.repo_config,
            offline_store=self.offline_store,
            online_store=self.online_store,
            backend="pandas",
        )

    def _newest(self, registry: BaseRegistry, task: MaterializationTask) -> Iterator[pa.Table]:
        """The newest row of each key in the task's range, in the view's names, in parts."""
        view = task.feature_view
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        keys, features, event_time, created = _get_column_names(view, entities)
        job: DeltaRayRetrievalJob = DeltaRayOfflineStore.pull_latest_from_table_or_query(
            self.repo_config, _source(view), keys, features, event_time, created, task.start_time, task.end_time
        )
        renamed = _source(view).field_mapping or {}
        for part in job.parts():
            yield part.rename_columns([renamed.get(name, name) for name in part.column_names])

    def _write(self, view: FeatureView, task: MaterializationTask, parts: Iterator[pa.Table]) -> int:
        written = 0
        if not view.online:
            return written
        keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
        for part in parts:
            with task.tqdm_builder(part.num_rows) if task.tqdm_builder else nullcontext() as bar:
                for start in range(0, part.num_rows, self._batch_rows):
                    batch = part.slice(start, self._batch_rows).combine_chunks()
                    values = _convert_arrow_to_proto(batch, view, keys)
                    progress = bar.update if bar is not None else (lambda count: None)
                    self.online_store.online_write_batch(self.repo_config, view, values, progress)
                    written += batch.num_rows
        return written


def _source(view: FeatureView) -> DataSource:
    if view.batch_source is None:
        raise InvalidInput(f"feature view {view.name}", "has no batch source to materialize from")
    return view.batch_source


def _is_plain(view: Any) -> bool:
    """Whether a view's rows are its source's rows."""
    computed = getattr(view, "feature_transformation", None) or getattr(view, "aggregations", None)
    return not computed and not view.offline and not view.source_views and view.batch_source is not None
