"""A small repository of plain Feast definitions over Delta tables, for the tests of this folder."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import feast
import pandas as pd
import pyarrow as pa
from feast import errors, feature_logging, types
from feast.data_format import DeltaFormat, ParquetFormat
from feast.saved_dataset import SavedDatasetStorage
from feast.transformation.pandas_transformation import PandasTransformation

from rayplat.data.feast import source as source_module
from rayplat.data.feast.source import DeltaSource
from rayplat.data.tables import Tables

__all__ = ["DeltaFormat", "ParquetFormat", "SavedDatasetStorage", "errors", "feature_logging", "source_module"]

TIME = pa.timestamp("us", tz="UTC")
START = datetime(2026, 3, 1, tzinfo=UTC)
TTL = timedelta(seconds=50)
OFFLINE = "rayplat.data.feast.offline_store.DeltaRayOfflineStore"
ENGINE = "rayplat.data.feast.engine.DeltaRayComputeEngine"

driver = feast.Entity(name="driver", join_keys=["driver_id"], value_type=feast.ValueType.INT64)
customer = feast.Entity(name="customer", join_keys=["customer_id"], value_type=feast.ValueType.STRING)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def times(*seconds: float | None) -> pa.Array:
    return pa.array([None if s is None else at(s) for s in seconds], TIME)


def stats() -> pa.Table:
    """Two drivers; the second has two rows of one moment, of which the one created later is first in the table."""
    return pa.table(
        {
            "id": pa.array([1, 1, 2, 2, None], pa.int64()),
            "ts": times(0, 10, 5, 5, 1),
            "made": times(0, 10, 7, 6, 1),
            "rate": [1.0, 2.0, 4.0, 3.0, 5.0],
            "src": ["a", "b", "d", "c", "e"],
        }
    )


def tables(home: Path) -> Tables:
    found = Tables(str(home / "tables"))
    found.create("stats", stats())
    found.create("world", pa.table({"ts": times(0, 8), "n": [10, 20]}))
    pairs = {"driver_id": [1, 1], "customer_id": ["x", "y"], "ts": times(0, 0), "orders": [7, 8]}
    found.create("pairs", pa.table(pairs))
    return found


def source(**given: Any) -> DeltaSource:
    mapped = {"id": "driver_id", "src": "origin"}
    return DeltaSource(
        **({"table": "stats"} | given), timestamp_field="ts", created_timestamp_column="made", field_mapping=mapped
    )


def stats_view(name: str = "stats", **given: Any) -> feast.FeatureView:
    fields = [feast.Field(name="rate", dtype=types.Float64), feast.Field(name="origin", dtype=types.String)]
    options: dict[str, Any] = {"entities": [driver], "ttl": TTL, "schema": fields, "source": source()} | given
    return feast.FeatureView(name=name, **options)


def world_view() -> feast.FeatureView:
    n = feast.Field(name="n", dtype=types.Int64)
    return feast.FeatureView(
        name="world", entities=[], schema=[n], source=DeltaSource(table="world", timestamp_field="ts")
    )


def pairs_view() -> feast.FeatureView:
    orders = feast.Field(name="orders", dtype=types.Int64)
    made = DeltaSource(table="pairs", timestamp_field="ts")
    return feast.FeatureView(name="pairs", entities=[driver, customer], schema=[orders], source=made)


def plus(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"plus": inputs["rate"] + inputs["add"]})


def plus_view(stats: feast.FeatureView) -> feast.OnDemandFeatureView:
    request = feast.RequestSource(name="request", schema=[feast.Field(name="add", dtype=types.Float64)])
    return feast.OnDemandFeatureView(
        name="extra",
        schema=[feast.Field(name="plus", dtype=types.Float64)],
        sources=[stats, request],
        feature_transformation=PandasTransformation(udf=plus, udf_string="plus"),
        mode="pandas",
    )


def store(home: Path, *, online: dict[str, Any] | None = None, **offline: Any) -> feast.FeatureStore:
    """Our offline store and engine over the tables in ``home``; Feast's own SQLite unless ``online`` says more."""
    config = feast.RepoConfig(
        project="test",
        provider="local",
        registry=str(home / "registry.db"),
        online_store=online or {"type": "sqlite", "path": str(home / "online.db")},
        offline_store={"type": OFFLINE, "tables_uri": "tables", **offline},
        batch_engine={"type": ENGINE},
        repo_path=home,
        entity_key_serialization_version=3,
    )
    return feast.FeatureStore(config=config)


def entities(*rows: tuple[int | None, float | None]) -> pd.DataFrame:
    """Driver ids and moments in seconds."""
    ids = pd.array([i for i, _ in rows], dtype="Int64")
    moments = pd.to_datetime([None if s is None else at(s) for _, s in rows], utc=True)
    return pd.DataFrame({"driver_id": ids, "event_timestamp": moments})
