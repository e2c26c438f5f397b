from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayplat.errors import InvalidInput, NotFound, SchemaMismatch

pytestmark = pytest.mark.services  # Feast alone takes ten seconds to import
STATS = ["stats:rate", "stats:origin"]
EDGE = 50  # seconds: the ttl


@pytest.fixture(scope="module")
def r() -> ModuleType:
    """The repository's definitions, and with them Feast."""
    from tests.data.feast import repository

    return repository


@pytest.fixture
def store(tmp_path: Path, r: ModuleType) -> Any:
    r.tables(tmp_path)
    made, view = r.store(tmp_path, staging_uri="staging"), r.stats_view()
    made.apply([r.driver, r.customer, view, r.world_view(), r.pairs_view(), r.plus_view(view)])
    return made


def values(job: Any, *names: str) -> list[list[Any]]:
    return [[None if pd.isna(v) else v for v in job.to_df()[name]] for name in names]


def test_each_row_gets_what_was_known_then_in_its_place(r: ModuleType, store: Any) -> None:
    micro = 1e-6
    asked = r.entities((2, 5), (1, 10 + EDGE), (1, 10 + EDGE + micro), (1, 10 - micro), (1, -1), (2, 5), (9, 5))
    job = store.get_historical_features(asked, STATS)
    rate, origin = values(job, "rate", "origin")
    assert rate == [4.0, 2.0, None, 1.0, None, 4.0, None]
    assert origin == ["d", "b", None, "a", None, "d", None]
    assert list(job.to_df()["event_timestamp"]) == list(asked["event_timestamp"])


def test_rows_without_key_or_moment_stay_and_have_no_features(r: ModuleType, store: Any) -> None:
    found = store.get_historical_features(r.entities((None, 5), (1, None), (1, 5)), STATS)
    assert values(found, "rate") == [[None, None, 1.0]]


def test_known_by_leaves_out_what_was_written_later(r: ModuleType, store: Any) -> None:
    asked = r.entities((2, 5), (2, 6), (2, 7))
    found = store.get_historical_features(asked, STATS, filter_by_created_timestamp=True)
    assert values(found, "rate") == [[None, 3.0, 4.0]]


def test_views_of_other_keys_of_none_and_on_demand_in_one_retrieval(r: ModuleType, store: Any) -> None:
    asked = r.entities((1, 9), (1, 9)).assign(customer_id=["y", "z"], add=[0.5, 0.25])
    refs = ["stats:rate", "pairs:orders", "world:n", "extra:plus"]
    found = store.get_historical_features(asked, refs, full_feature_names=True)
    assert values(found, "stats__rate", "pairs__orders", "world__n", "extra__plus") == [
        [1.0, 1.0],
        [8, None],
        [20, 20],
        [1.5, 1.25],
    ]


def test_one_view_under_two_names(r: ModuleType, store: Any) -> None:
    view = store.get_feature_view("stats")
    service = r.feast.FeatureService(
        name="two",
        features=[
            view.with_name("first").with_join_key_map({"driver_id": "one"}),
            view.with_name("second").with_join_key_map({"driver_id": "other"}),
        ],
    )
    store.apply([service])
    asked = r.entities((1, 9)).rename(columns={"driver_id": "one"}).assign(other=[2])
    found = store.get_historical_features(asked, store.get_feature_service("two"), full_feature_names=True)
    assert values(found, "first__rate", "second__rate") == [[1.0], [4.0]]


def test_entity_rows_as_arrow_as_text_and_as_a_query(r: ModuleType, store: Any, tmp_path: Path) -> None:
    frame = r.entities((1, 9), (2, 9))
    r.Tables(str(tmp_path / "tables")).create("asked", pa.Table.from_pandas(frame))
    texts = frame.assign(event_timestamp=[t.isoformat() for t in frame["event_timestamp"]])
    query = "SELECT driver_id, event_timestamp FROM asked ORDER BY driver_id"
    for asked in (pa.Table.from_pandas(frame), texts, query, frame.assign(event_timestamp=frame.event_timestamp)):
        assert values(store.get_historical_features(asked, STATS), "rate") == [[1.0, 4.0]]
    with pytest.raises(NotFound, match="asked"):
        store.get_historical_features("SELECT * FROM nothing", STATS)
    with pytest.raises(InvalidInput, match="list"):
        store.get_historical_features([1], STATS)


def test_a_range_of_time_has_a_row_for_each_key_and_event(r: ModuleType, store: Any) -> None:
    found = store.get_historical_features(None, [*STATS, "world:n"], start_date=r.at(0), end_date=r.at(9)).to_df()
    assert [list(row) for row in found[["driver_id", "rate", "n"]].to_numpy()] == [[1, 1.0, 10], [2, 4.0, 10]]


def test_what_is_missing_is_named(r: ModuleType, store: Any, tmp_path: Path) -> None:
    asked = r.entities((1, 9))
    with pytest.raises(r.errors.FeastEntityDFMissingColumnsError):
        store.get_historical_features(asked.drop(columns="driver_id"), STATS)
    with pytest.raises(r.errors.EntityTimestampInferenceException):
        store.get_historical_features(asked.drop(columns="event_timestamp"), STATS)
    with pytest.raises(SchemaMismatch, match="event_timestamp"):
        store.get_historical_features(asked.assign(event_timestamp=[1]), STATS)
    wrong = r.stats_view("wrong", schema=[r.feast.Field(name="nope", dtype=r.types.Int64)])
    gone = r.stats_view("gone", source=r.source(table="nowhere"))
    other = r.stats_view("other", source=r.source(storage="lake", name="lake"))
    store.apply([wrong, gone, other])
    with pytest.raises(SchemaMismatch, match="nope"):
        store.get_historical_features(asked, ["wrong:nope"])
    with pytest.raises(NotFound, match="nowhere"):
        store.get_historical_features(asked, ["gone:rate"])
    with pytest.raises(NotFound, match="lake"):
        store.get_historical_features(asked, ["other:rate"])
    with pytest.raises(InvalidInput, match="either table"):
        r.source_module.DeltaSource(table="a", uri="b")


def test_a_retrieval_reads_the_version_that_was_the_latest_when_it_was_asked_for(
    r: ModuleType, store: Any, tmp_path: Path
) -> None:
    pinned = r.stats_view("pinned", source=r.source(version=0, name="pinned"))
    store.apply([pinned])
    tables = r.Tables(str(tmp_path / "tables"))
    before = store.get_historical_features(r.entities((1, 20)), STATS)
    tables.append("stats", r.stats().slice(0, 1).set_column(1, "ts", r.times(15)).set_column(3, "rate", [[9.0]]))
    assert values(before, "rate") == [[2.0]]
    assert values(store.get_historical_features(r.entities((1, 20)), STATS), "rate") == [[9.0]]
    assert values(store.get_historical_features(r.entities((1, 20)), ["pinned:rate"]), "rate") == [[2.0]]


@pytest.mark.parametrize("kind", ["file", "folder", "delta"])
def test_feasts_own_file_sources(r: ModuleType, store: Any, tmp_path: Path, kind: str) -> None:
    path, form = tmp_path / "Files.of_others", r.ParquetFormat()
    if kind == "file":
        path = tmp_path / "stats.parquet"
        pq.write_table(r.stats(), path)
    elif kind == "folder":
        pq.write_to_dataset(r.stats().append_column("day", pa.array(["m", "m", "t", "t", "t"])), path, ["day"])
    else:
        r.Tables(str(tmp_path)).create("made", r.stats())
        (tmp_path / "made").rename(path)
        form = r.DeltaFormat()
    source = r.feast.FileSource(
        path=path.name,
        file_format=form,
        timestamp_field="ts",
        created_timestamp_column="made",
        field_mapping={"id": "driver_id", "src": "origin"},
    )
    store.apply([r.stats_view("files", source=source)])
    asked = r.entities((2, 5), (1, 10))
    assert values(store.get_historical_features(asked, ["files:rate"]), "rate") == [[4.0, 2.0]]
    more = r.stats().slice(0, 1).to_pandas().assign(id=2, ts=r.at(6), rate=8.0)
    if kind == "folder":
        more = more.assign(day="m")
    store.write_to_offline_store("files", more, allow_registry_cache=False)
    assert values(store.get_historical_features(r.entities((2, 6)), ["files:rate"]), "rate") == [[8.0]]


def test_rows_of_other_columns_are_refused_and_nothing_is_written(r: ModuleType, store: Any, tmp_path: Path) -> None:
    more = r.stats().slice(0, 1).to_pandas()
    with pytest.raises(ValueError, match="columns"):
        store.write_to_offline_store("stats", more[more.columns[::-1]], reorder_columns=False)
    with pytest.raises(ValueError, match="rate"):
        store.write_to_offline_store("stats", more.assign(rate="fast"))
    assert r.Tables(str(tmp_path / "tables")).version("stats").row_count == 5
    store.write_to_offline_store("stats", more.assign(ts=r.at(12)))
    assert values(store.get_historical_features(r.entities((1, 12)), STATS), "rate") == [[1.0]]


def test_saved_datasets_and_exports(r: ModuleType, store: Any) -> None:
    job = store.get_historical_features(r.entities((2, 5), (1, 9)), STATS)
    place = r.source_module.SavedDatasetDeltaStorage(table="saved")
    store.create_saved_dataset(job, "saved", place)
    found = store.get_saved_dataset("saved").to_df()
    assert list(found["rate"]) == [4.0, 1.0]
    with pytest.raises(r.errors.SavedDatasetLocationAlreadyExists):
        store.create_saved_dataset(job, "again", r.SavedDatasetStorage.from_data_source(place.to_data_source()))
    [path] = job.to_remote_storage()
    assert pq.read_table(path)["rate"].to_pylist() == [4.0, 1.0]


def test_feature_logs_are_appended_and_read_back(r: ModuleType, store: Any) -> None:
    destination = r.source_module.DeltaLoggingDestination(table="logs")
    service = r.feast.FeatureService(
        name="served",
        features=[store.get_feature_view("stats")[["rate"]]],
        logging_config=r.feature_logging.LoggingConfig(destination=destination),
    )
    store.apply([service])
    service = store.get_feature_service("served")
    schema = r.feature_logging.FeatureServiceLoggingSource(service, "test").get_schema(store.registry)
    for i in range(2):
        row = {
            "driver_id": 1,
            "stats__rate": 0.5 + i,
            "stats__rate__timestamp": r.at(0),
            "stats__rate__status": 2,
            r.feature_logging.LOG_TIMESTAMP_FIELD: r.at(60 + i),
            r.feature_logging.LOG_DATE_FIELD: r.START.date(),
            r.feature_logging.REQUEST_ID_FIELD: f"q{i}",
        }
        store.write_logged_features(pa.Table.from_pylist([row], schema), service)
    read = store._get_provider().retrieve_feature_service_logs(
        service, r.at(60), r.at(60.5), store.config, store.registry
    )
    assert read.to_df()[["stats__rate", r.feature_logging.REQUEST_ID_FIELD]].to_numpy().tolist() == [[0.5, "q0"]]


def test_columns_are_inferred_with_their_types(r: ModuleType, store: Any) -> None:
    pairs = r.source_module.DeltaSource(table="pairs", name="seen", timestamp_field="ts")
    store.apply([r.feast.FeatureView(name="seen", entities=[r.driver, r.customer], source=pairs)])
    found = {field.name: field.dtype for field in store.get_feature_view("seen").features}
    assert found == {"orders": r.types.Int64}
    with pytest.raises(SchemaMismatch, match="when"):
        r.source_module.DeltaSource(table="stats", timestamp_field="when").validate(store.config)


def test_tables_on_s3_with_options_that_the_registry_does_not_hold(r: ModuleType, tmp_path: Path, s3: Any) -> None:
    folder = f"{s3.uri}/{tmp_path.name}"
    r.Tables(folder, s3.options).create("stats", r.stats())
    made = r.store(tmp_path, tables_uri=folder, storage_options=s3.options, staging_uri=f"{folder}/staging")
    named = r.stats_view("named", source=r.source(table=None, uri=f"{folder}/stats", storage="lake", name="lake"))
    made.apply([r.driver, r.stats_view(), named])
    job = made.get_historical_features(r.entities((2, 5), (1, 10)), STATS)
    assert values(job, "rate") == [[4.0, 2.0]]
    made.write_to_offline_store("stats", r.stats().slice(0, 1).to_pandas().assign(ts=r.at(12), rate=9.0))
    assert values(made.get_historical_features(r.entities((1, 12)), STATS), "rate") == [[9.0]]
    [path] = job.to_remote_storage()
    assert path.startswith(f"{folder}/staging/")
    other = r.store(tmp_path, storages={"lake": s3.options})
    assert values(other.get_historical_features(r.entities((2, 5)), ["named:rate"]), "rate") == [[4.0]]
