"""Feast's own offline stores on the join of the benchmark: the file store (Dask) and the DuckDB store. The same rows
and the same question as ours; what they return is compared row by row with the contract.
"""

from __future__ import annotations

import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

STORES = ("dask", "duckdb")


def run(work: Path, spine: pa.Table, features: pa.Table, ttl: timedelta, expected: list[int | None]) -> dict[str, Any]:
    """Seconds and wrong rows of each store; the reason where it failed. ``spine`` has k, event_time and row,
    ``features`` k, event_time, created and number, which ``expected`` holds for each row."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "features.parquet"
    pq.write_table(features, path)
    found: dict[str, Any] = {}
    for kind in STORES:
        try:
            found[kind] = _joined(work / kind, kind, path, spine, ttl, expected)
        except Exception as e:  # noqa: BLE001 - a peer that fails is a result
            found[kind] = {"failed": f"{type(e).__name__}: {e}"[:300]}
    return found


def _joined(
    repo: Path, kind: str, path: Path, spine: pa.Table, ttl: timedelta, expected: list[int | None]
) -> dict[str, Any]:
    import feast
    from feast.types import Int64, String

    repo.mkdir(parents=True)
    config = feast.RepoConfig(
        project="bench",
        provider="local",
        registry=str(repo / "registry.db"),
        online_store={"type": "sqlite", "path": str(repo / "online.db")},
        offline_store={"type": kind},
        entity_key_serialization_version=3,
    )
    store = feast.FeatureStore(config=config)
    entity = feast.Entity(name="k", join_keys=["k"], value_type=feast.ValueType.STRING)
    source = feast.FileSource(path=str(path), timestamp_field="event_time", created_timestamp_column="created")
    schema = [feast.Field(name="number", dtype=Int64), feast.Field(name="k", dtype=String)]
    view = feast.FeatureView(name="view", entities=[entity], ttl=ttl, schema=schema, source=source)
    asked = spine.rename_columns({"event_time": "event_timestamp"}).to_pandas()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store.apply([entity, view])
        begun = time.perf_counter()
        made = store.get_historical_features(entity_df=asked, features=["view:number"]).to_arrow()
        seconds = time.perf_counter() - begun
    numbers = made["number"].cast(pa.float64()).to_pylist()
    answers = dict(zip(made["row"].to_pylist(), numbers, strict=True))
    known = [
        None if answer is None or answer != answer else int(answer) for answer in map(answers.get, range(len(expected)))
    ]
    wrong = sum(
        row not in answers or answer != right for row, (answer, right) in enumerate(zip(known, expected, strict=True))
    )
    return {"seconds": seconds, "rows": made.num_rows, "wrong": wrong}
