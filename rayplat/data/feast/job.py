"""A retrieval as Feast hands it out: as a frame, a table, a Ray Dataset, a saved dataset or files."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from rayplat.data.feast import rows
from rayplat.data.feast.retrieval import Question
from rayplat.errors import InvalidInput

if TYPE_CHECKING:
    from ray.data import Dataset


@dataclass(frozen=True)
class Shape:
    """What Feast asks of a job beside its rows."""

    full_feature_names: bool = False
    on_demand: Sequence[OnDemandFeatureView] = ()
    metadata: RetrievalMetadata | None = None


class DeltaRayRetrievalJob(RetrievalJob):
    """Evaluated when it is asked for, each time from the same pinned files. On-demand views are Feast's own."""

    def __init__(self, question: Question, config: RepoConfig, shape: Shape) -> None:
        self._question, self._config, self._shape = question, config, shape

    @property
    def full_feature_names(self) -> bool:
        return self._shape.full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return list(self._shape.on_demand)

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._shape.metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 (Feast's signature)
        return self._question.table()

    def _to_df_internal(self, timeout: int | None = None) -> Any:
        return self._to_arrow_internal(timeout).to_pandas()

    def parts(self) -> Iterator[pa.Table]:
        """The rows one part after the other, without on-demand features: a large answer is never whole here."""
        if self._question.here:
            yield self._question.table()
            return
        from rayplat.data.feast import cluster

        cluster.connect(self._question.limits.ray_address)
        yield from cluster.fetched(self._question.blocks())

    def to_ray_dataset(self) -> Dataset:
        """The rows as blocks on the cluster, on-demand features included; a large answer never passes through this
        process."""
        import ray

        from rayplat.data.feast import cluster

        cluster.connect(self._question.limits.ray_address)
        if self._question.here:
            return ray.data.from_arrow(self.to_arrow())
        blocks: Any = self._question.blocks()
        found = ray.data.from_arrow_refs(blocks)
        if not self._shape.on_demand:
            return found
        shape = self._shape
        return found.map_batches(lambda block: _on_demand(block, shape), batch_format="pyarrow", batch_size=None)

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,  # noqa: ARG002 (Feast's signature)
    ) -> None:
        """Write the rows to ``storage`` (a `SavedDatasetDeltaStorage`, or Feast's own for files) in one step. Raises
        Feast's `SavedDatasetLocationAlreadyExists`."""
        at = rows.locate(self._config, storage.to_data_source())
        if rows.exists(at) and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=at.uri)
        rows.replace(at, self.to_arrow() if self._question.here or not at.delta else self.to_ray_dataset())

    def supports_remote_storage_export(self) -> bool:
        return self._staging() is not None

    def to_remote_storage(self) -> list[str]:
        """Paths of new Parquet files below ``offline_store.staging_uri``."""
        staging = self._staging()
        if staging is None:
            raise InvalidInput("offline_store.staging_uri", "not set: there is no place to export to")
        at = rows.below(self._config, staging, uuid.uuid4().hex)
        if self._question.here:
            rows.add(at, self.to_arrow())
        else:
            self.to_ray_dataset().write_parquet(at.place.root, filesystem=at.place.filesystem)
        return [at.full(file.path) for file in rows.scan(at).files]

    def _staging(self) -> str | None:
        found: str | None = getattr(self._config.offline_store, "staging_uri", None)
        return found


def _on_demand(block: pa.Table, shape: Shape) -> pa.Table:
    """``block`` with its on-demand features, by Feast's own code."""
    return _Known(block, shape).to_arrow()


class _Known(RetrievalJob):
    """A retrieval whose rows are there."""

    def __init__(self, block: pa.Table, shape: Shape) -> None:
        self._block, self._shape = block, shape

    @property
    def full_feature_names(self) -> bool:
        return self._shape.full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return list(self._shape.on_demand)

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._shape.metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 (Feast's signature)
        return self._block
