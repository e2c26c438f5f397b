from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from rayplat.errors import InvalidInput

pytestmark = pytest.mark.services  # Feast alone takes ten seconds to import


@pytest.fixture(scope="module")
def r() -> ModuleType:
    from tests.data.feast import repository

    return repository


def online(store: Any, feature: str, *drivers: int) -> list[Any]:
    asked = [{"driver_id": driver} for driver in drivers]
    found: list[Any] = store.get_online_features([feature], asked).to_dict()[feature.split(":")[1]]
    return found


def test_the_newest_row_of_each_key_is_written_whatever_the_order(r: ModuleType, tmp_path: Path) -> None:
    r.tables(tmp_path)
    store = r.store(tmp_path)
    store.apply([r.driver, r.stats_view(ttl=timedelta(0)), r.world_view()])
    store.materialize(r.at(0), r.at(9))
    assert online(store, "stats:rate", 1, 2, 3) == [1.0, 4.0, None]  # of two of one moment: created later
    assert online(store, "world:n", 1) == [20]
    store.materialize_incremental(r.at(10))
    assert online(store, "stats:rate", 1, 2) == [2.0, 4.0]
    assert online(store, "stats:origin", 1) == ["b"]


def test_what_the_online_store_raises_is_raised(r: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    r.tables(tmp_path)
    store = r.store(tmp_path)
    store.apply([r.driver, r.stats_view()])

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(store._get_provider().online_store, "online_write_batch", broken)
    with pytest.raises(OSError, match="no space left"):
        store.materialize(r.at(0), r.at(9))


def test_views_that_feast_transforms_run_in_feasts_engine(r: ModuleType, tmp_path: Path) -> None:
    r.tables(tmp_path)
    store = r.store(tmp_path)

    def doubled(rows):  # Feast evaluates annotations without this module's imports
        return rows.assign(twice=rows["orders"] * 2)

    twice = [r.feast.Field(name="twice", dtype=r.types.Int64)]
    source = r.DeltaSource(table="pairs", timestamp_field="ts")
    view = r.feast.BatchFeatureView(
        name="doubled", entities=[r.driver], schema=twice, source=source, udf=doubled, mode="pandas", online=True
    )
    store.apply([r.driver, view])
    store.materialize(r.at(-1), r.at(9))
    assert online(store, "doubled:twice", 1)[0] in (14, 16)  # two customers of one driver at one moment


def test_history_through_the_engine(r: ModuleType, tmp_path: Path) -> None:
    from feast.infra.common.retrieval_task import HistoricalRetrievalTask

    r.tables(tmp_path)
    store = r.store(tmp_path)
    store.apply([r.driver, r.stats_view()])
    task = HistoricalRetrievalTask(
        project="test",
        entity_df=r.entities((1, 9), (2, 9)),
        feature_view=store.get_feature_view("stats"),
        full_feature_name=True,
        registry=store.registry,
    )
    engine = store._get_provider().batch_engine
    assert engine.get_historical_features(store.registry, task).to_df()["stats__rate"].tolist() == [1.0, 4.0]


def test_the_engine_needs_its_offline_store(r: ModuleType, tmp_path: Path) -> None:
    config = r.feast.RepoConfig(
        project="test",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        offline_store={"type": "file"},
        batch_engine={"type": r.ENGINE},
        entity_key_serialization_version=3,
    )
    with pytest.raises(InvalidInput, match="DeltaRayOfflineStore"):
        _ = r.feast.FeatureStore(config=config)._get_provider().batch_engine


def test_windows_are_refused_where_the_online_store_cannot_hold_them(r: ModuleType, tmp_path: Path) -> None:
    from rayplat.data.feast.declare import feast_objects
    from rayplat.data.features.build import rows_of
    from tests.data import declared

    r.Tables(str(tmp_path / "tables")).create(declared.DELAYS.table, rows_of(declared.DELAYS, declared.flights()))
    store = r.store(tmp_path)
    store.apply(feast_objects([declared.DELAYS]).all())
    asked = pd.DataFrame({"origin": ["JFK"], "event_timestamp": [declared.START + timedelta(hours=4.25)]})
    assert store.get_historical_features(asked, ["delays:delay_1h"]).to_df()["delay_1h"].tolist() == [80.0]
    with pytest.raises(InvalidInput, match="windows"):
        store.materialize(declared.START, datetime.now(UTC))
    with pytest.raises(InvalidInput, match="entity rows"):
        store.get_historical_features(None, ["delays:delay_1h"], start_date=declared.START, end_date=r.at(0))


@pytest.mark.ray
def test_large_questions_get_the_same_answers_on_the_cluster(r: ModuleType, tmp_path: Path, ray_cluster: str) -> None:
    import ray

    r.tables(tmp_path)
    here, there = r.store(tmp_path), r.store(tmp_path, in_process_bytes=0)
    view = r.stats_view()
    here.apply([r.driver, view, r.world_view(), r.plus_view(view)])
    asked = r.entities((2, 5), (1, 10), (None, 3), (9, 9), (1, 61)).assign(add=1.0)
    refs = ["stats:rate", "stats:origin", "world:n", "extra:plus"]
    expected = here.get_historical_features(asked, refs).to_df()
    pd.testing.assert_frame_equal(there.get_historical_features(asked, refs).to_df(), expected)
    spine = ray.data.from_arrow(pa.Table.from_pandas(asked))
    given = there.get_historical_features(spine, refs)
    blocks = [pa.table(block) for block in ray.get(given.to_ray_dataset().to_arrow_refs())]
    found = pa.concat_tables(blocks, promote_options="permissive").to_pandas()
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False)
    dates = {"start_date": r.at(0), "end_date": r.at(9)}
    ranged = there.get_historical_features(None, ["stats:rate"], **dates).to_df().sort_values("driver_id")
    assert (
        ranged["rate"].tolist() == here.get_historical_features(None, ["stats:rate"], **dates).to_df()["rate"].tolist()
    )
    there.materialize(r.at(0), r.at(100))
    assert online(there, "stats:rate", 1, 2) == [2.0, 4.0]
