"""Views of fields online: materialize, then look up as of a moment; on SQLite (the contract holds for the others)."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data.feature_store import FeatureStore
from rayplat.data.features import Derived, Entity, FeatureView, Field, OnRequestView, col
from rayplat.data.features.build import rows_of
from rayplat.data.online import OnlineFeatures, catalog
from rayplat.data.online import field_rows as field_rows_module
from rayplat.data.online.materialize import advance
from rayplat.data.tables import Tables
from rayplat.errors import Conflict, InvalidInput, NotFound
from rayplat.settings import Settings
from tests.data.declared import DELAYS, FLIGHT, ORIGIN, SCHEDULE, SERVICE, START, TIME, WEATHER, weather
from tests.data.online.world import apply, apply_all, build

VIEWS = (SCHEDULE, WEATHER)
GATE = Entity("gate", ("origin", "gate"), ("string", "int64"))


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def moments(*hours: float) -> pa.Array:
    return pa.array([at(h) for h in hours], TIME)


@pytest.fixture
def tables(settings: Settings) -> Tables:
    return apply_all(settings)


@pytest.fixture
def store(settings: Settings, tables: Tables) -> FeatureStore:
    return FeatureStore(settings)


@pytest.fixture
def online(settings: Settings, store: FeatureStore) -> OnlineFeatures:
    return OnlineFeatures(settings, {view.name: view.digest() for view in VIEWS}, "flight")


def test_declarations_are_read_back(store: FeatureStore) -> None:
    assert [view.name for view in store.views()] == ["delays", "schedule", "weather"]
    assert store.view("weather") == WEATHER.info()
    assert store.declaration("delays") == DELAYS
    assert store.service("all") == SERVICE
    assert store.services() == {"all": ("schedule", "weather", "delays")}
    for name in (store.view, store.service):
        with pytest.raises(NotFound, match="nope"):
            name("nope")


def test_lookup_follows_the_chain(store: FeatureStore, online: OnlineFeatures, tables: Tables) -> None:
    assert store.materialize(tables, VIEWS, at(1)) == {"schedule": 10, "weather": 2}
    rows = online.read(["f4", "f5", "nobody"], at(1.2))
    assert rows.found.tolist() == [True, True, False]
    assert rows.columns["origin"] == ["JFK", "EWR", None]
    np.testing.assert_array_equal(rows.columns["distance"], [400.0, 500.0, np.nan])
    np.testing.assert_array_equal(rows.columns["temp"], [3.0, 2.0, np.nan])
    assert rows.status == {"schedule": ["present", "present", "missing"], "weather": ["present", "present", "missing"]}


def test_ages_count_from_the_moment_asked_for(store: FeatureStore, online: OnlineFeatures, tables: Tables) -> None:
    store.materialize(tables, VIEWS, at(1))
    microsecond = timedelta(microseconds=1)
    rows = online.read(["f4"] * 5, [at(0.5), at(1) - microsecond, at(1), at(3), at(3) + microsecond])
    assert rows.status["weather"] == ["future", "future", "present", "present", "expired"]
    np.testing.assert_array_equal(rows.columns["temp"], [np.nan, np.nan, 3.0, 3.0, np.nan])
    early = online.read(["f4"], START - timedelta(days=30))
    assert early.found.tolist() == [False]
    assert early.status == {"schedule": ["future"], "weather": ["missing"]}


def test_now_is_the_default_moment(store: FeatureStore, online: OnlineFeatures, tables: Tables) -> None:
    store.materialize(tables, VIEWS, at(1))
    rows = online.read(["f4"])
    assert rows.found.tolist() == [True]
    assert rows.status["weather"] == ["expired"]
    with pytest.raises(InvalidInput, match="2 moments for 1 keys"):
        online.read(["f4"], [START, START])


def test_no_keys_and_missing_keys_are_answers(store: FeatureStore, online: OnlineFeatures, tables: Tables) -> None:
    store.materialize(tables, VIEWS, at(1))
    assert online.read([], at(1)).status == {"schedule": [], "weather": []}
    rows = online.read([None, "f4", "f4"], at(1))
    assert rows.status["schedule"] == ["missing", "present", "present"]
    with pytest.raises(InvalidInput, match="flight"):
        online.read([4], at(1))


def test_step_by_step_equals_at_once(store: FeatureStore, online: OnlineFeatures, tables: Tables) -> None:
    for half in range(1, 9):
        store.materialize(tables, VIEWS, at(half / 2))
        step = online.read([f"f{i}" for i in range(10)], at(half / 2))
        store.materialize(tables, VIEWS, at(half / 2), fresh=True)
        whole = online.read([f"f{i}" for i in range(10)], at(half / 2))
        assert step.status == whole.status
        for name, values in whole.columns.items():
            np.testing.assert_array_equal(np.array(step.columns[name]), np.array(values))


def test_only_what_is_new_is_written(store: FeatureStore, tables: Tables) -> None:
    assert store.materialize(tables, [WEATHER], at(0.5)) == {"weather": 2}
    assert store.materialize(tables, [WEATHER], at(0.5)) == {"weather": 0}
    assert store.materialize(tables, [WEATHER], at(0.9)) == {"weather": 0}
    assert store.materialize(tables, [WEATHER], at(1)) == {"weather": 1}
    assert store.materialize(tables, [WEATHER], at(0)) == {"weather": 0}


def test_late_rows_are_taken_and_never_replace_newer_ones(
    store: FeatureStore, online: OnlineFeatures, tables: Tables
) -> None:
    store.materialize(tables, VIEWS, at(1))
    late = pa.table({"origin": ["EWR", "JFK", "LGA"], "observed": moments(0.9, 0.9, 0.5), "temp": [8.0, 9.0, 7.0]})
    tables.append(WEATHER.table, rows_of(WEATHER, late))
    assert store.materialize(tables, [WEATHER], at(1)) == {"weather": 3}
    np.testing.assert_array_equal(online.read(["f4", "f5"], at(1)).columns["temp"], [3.0, 8.0])


def test_rows_after_the_moment_wait_for_theirs(store: FeatureStore, online: OnlineFeatures, tables: Tables) -> None:
    store.materialize(tables, VIEWS, at(1))
    more = pa.table({"origin": ["EWR", "JFK"], "observed": moments(1.5, 2), "temp": [8.0, 9.0]})
    tables.append(WEATHER.table, rows_of(WEATHER, more))
    store.materialize(tables, [WEATHER], at(1.7))
    np.testing.assert_array_equal(online.read(["f4", "f5"], at(2)).columns["temp"], [3.0, 8.0])
    store.materialize(tables, [WEATHER], at(2))
    np.testing.assert_array_equal(online.read(["f4", "f5"], at(2)).columns["temp"], [9.0, 8.0])


def test_rows_that_go_give_way_to_those_before(store: FeatureStore, online: OnlineFeatures, tables: Tables) -> None:
    store.materialize(tables, VIEWS, at(1))
    tables.delete(WEATHER.table, (pc.field("origin") == "JFK") & (pc.field("event_time") == pa.scalar(at(1), TIME)))
    store.materialize(tables, [WEATHER], at(1))
    np.testing.assert_array_equal(online.read(["f4", "f5"], at(1)).columns["temp"], [1.0, 2.0])
    tables.delete(WEATHER.table, pc.field("origin") == "EWR")
    assert store.materialize(tables, [WEATHER], at(1)) == {"weather": 0}
    assert online.read(["f4", "f5"], at(1)).status["weather"] == ["present", "missing"]


def test_rows_that_were_corrected_are_replaced(store: FeatureStore, online: OnlineFeatures, tables: Tables) -> None:
    store.materialize(tables, VIEWS, at(1))
    corrected = pa.table({"origin": ["JFK"], "observed": moments(1), "temp": [-3.0]})
    tables.upsert(WEATHER.table, rows_of(WEATHER, corrected), ["origin", "event_time"])
    assert store.materialize(tables, [WEATHER], at(1)) == {"weather": 1}
    np.testing.assert_array_equal(online.read(["f4", "f5"], at(1)).columns["temp"], [-3.0, 2.0])


def test_an_advance_opens_only_what_changed(store: FeatureStore, tables: Tables, online: OnlineFeatures) -> None:
    store.materialize(tables, VIEWS, at(1))
    first = next(Path(tables.version(WEATHER.table).uri).glob("*.parquet"))
    late = pa.table({"origin": ["EWR"], "observed": moments(0.9), "temp": [8.0]})
    tables.append(WEATHER.table, rows_of(WEATHER, late))
    first.write_bytes(b"no Parquet")
    assert store.materialize(tables, [WEATHER], at(1)) == {"weather": 1}
    np.testing.assert_array_equal(online.read(["f5"], at(1)).columns["temp"], [8.0])


def test_a_table_made_anew_is_read_anew(store: FeatureStore, online: OnlineFeatures, tables: Tables) -> None:
    store.materialize(tables, VIEWS, at(1))
    kept = weather().filter(pa.array([True, False, False]))
    build(tables, WEATHER, kept)
    store.materialize(tables, [WEATHER], at(1))
    rows = online.read(["f4", "f5"], at(1))
    assert rows.status["weather"] == ["present", "missing"]
    np.testing.assert_array_equal(rows.columns["temp"], [1.0, np.nan])


def test_versions_of_a_view_are_read_side_by_side(settings: Settings, store: FeatureStore, tables: Tables) -> None:
    store.materialize(tables, VIEWS, at(1))
    old = OnlineFeatures(settings, {view.name: view.digest() for view in VIEWS}, "flight")
    changed = replace(WEATHER, ttl=timedelta(hours=9))
    with pytest.raises(Conflict, match="weather"):
        store.materialize(tables, [changed], at(1))
    with pytest.raises(Conflict, match="weather"):
        OnlineFeatures(settings, {"weather": changed.digest()}, "origin")
    apply(settings, [changed])
    build(tables, changed, weather())
    new = OnlineFeatures(settings, {"weather": changed.digest()}, "origin")
    assert new.read(["JFK"], at(4)).status["weather"] == ["missing"]
    store.materialize(tables, [changed], at(1))
    assert new.read(["JFK"], at(4)).status["weather"] == ["present"]
    assert old.read(["f4"], at(4)).status["weather"] == ["expired"]
    assert old.read(["f4"], at(2)).status["weather"] == ["present"]
    with pytest.raises(NotFound, match="nope"):
        OnlineFeatures(settings, {"nope": "sha256:0"}, "flight")
    with pytest.raises(InvalidInput, match="nothing leads from 'flight' to origin"):
        OnlineFeatures(settings, {"weather": WEATHER.digest()}, "flight")


def test_a_forgotten_version_leaves_the_others(settings: Settings, store: FeatureStore, tables: Tables) -> None:
    changed = replace(WEATHER, ttl=timedelta(hours=9))
    online = apply(settings, [changed])
    build(tables, changed, weather())
    store.materialize(tables, [WEATHER, changed], at(1))
    assert {view.id for view in store.versions()} == {DELAYS.id, SCHEDULE.id, WEATHER.id, changed.id}
    catalog.forget(online, catalog.get(online, "weather"))
    assert OnlineFeatures(settings, {"weather": WEATHER.digest()}, "origin").read(["JFK"], at(1)).found.all()
    with pytest.raises(NotFound, match="weather"):
        catalog.get(online, "weather")


KINDS = FeatureView(
    "kinds",
    GATE,
    "kinds",
    "known",
    fields=(
        Field("whole", "int64"),
        Field("number", "double"),
        Field("single", "float"),
        Field("text", "string"),
        Field("flag", "bool"),
        Field("moment", "timestamp[us, tz=UTC]"),
        Field("filled", "double", default=-1.0),
    ),
    created="written",
)


def test_every_type_comes_back_exactly(settings: Settings) -> None:
    tables, store = Tables(settings.tables_uri), apply(settings, [KINDS])
    source = pa.table(
        {
            "origin": pa.array(["JFK", "Zürich 😀", None], pa.string()),
            "gate": pa.array([7, -(2**62), 1], pa.int64()),
            "known": moments(0, 0, 0),
            "written": moments(0, 0, 0),
            "whole": pa.array([2**53 + 1, None, 0], pa.int64()),
            "number": [1.5, float("nan"), 0.0],
            "single": pa.array([0.1, None, 0], pa.float32()),
            "text": ["a\0\n", None, ""],
            "flag": [True, None, False],
            "moment": pa.array([START + timedelta(microseconds=1), None, START], TIME),
            "filled": [None, 2.0, 0.0],
        }
    )
    build(tables, KINDS, source)
    assert advance(store, tables, KINDS, at(0)) == 2
    online = OnlineFeatures(settings, {KINDS.name: KINDS.digest()}, ("origin", "gate"))
    found = online.read([("JFK", 7), ("Zürich 😀", "-4611686018427387904"), ("JFK", 8), ("JFK", None)], at(0))
    assert found.found.tolist() == [True, True, False, False]
    values = found.values
    assert values["whole"] == [2**53 + 1, None, None, None]
    assert values["number"][0] == 1.5
    assert math.isnan(values["number"][1])
    assert values["number"][2:] == [None, None]
    assert values["single"][0] == np.float32(0.1)
    assert values["text"] == ["a\0\n", None, None, None]
    assert values["flag"] == [True, None, None, None]
    assert values["moment"][0] == int(START.timestamp()) * 1_000_000 + 1
    assert values["filled"] == [-1.0, 2.0, -1.0, -1.0]
    np.testing.assert_array_equal(found.columns["filled"], [-1.0, 2.0, -1.0, -1.0])
    with pytest.raises(InvalidInput, match=r"a key is \(origin, gate\)"):
        online.read(["JFK"], at(0))


def test_ties_go_to_the_later_created_and_nulls_are_earliest(settings: Settings) -> None:
    view = FeatureView("tied", ORIGIN, "tied", "known", fields=(Field("x", "int64"),), created="written")
    tables, store = Tables(settings.tables_uri), apply(settings, [view])
    written = pa.array([at(2), at(3), None, at(1)], TIME)
    rows = pa.table({"origin": ["JFK"] * 4, "known": moments(0, 0, 0, 0), "written": written, "x": [1, 2, 3, 4]})
    build(tables, view, rows)
    advance(store, tables, view, at(5))
    online = OnlineFeatures(settings, {view.name: view.digest()}, "origin")
    assert online.read(["JFK"], at(5)).values["x"] == [2]
    tables.append(view.table, rows_of(view, rows.slice(0, 1)))
    advance(store, tables, view, at(5))
    assert online.read(["JFK"], at(5)).values["x"] == [2]


def test_large_tables_pass_in_parts(settings: Settings, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplat.data.online.field_steps._ROWS_PER_WRITE", 3)
    parts = field_rows_module.newest_parts(
        SCHEDULE, [tables.read(SCHEDULE.table).slice(i, 2) for i in range(0, 10, 2)], 4
    )
    assert [part.num_rows for part in parts] == [4, 4, 2]
    store = apply(settings, [SCHEDULE])
    assert advance(store, tables, SCHEDULE, at(9)) == 10
    assert store.cursor(SCHEDULE.id)["upto"] == at(9).isoformat()  # type: ignore[index]
    online = OnlineFeatures(settings, {"schedule": SCHEDULE.digest()}, "flight")
    assert online.read([f"f{i}" for i in range(10)], at(9)).found.all()


HASTE = OnRequestView(
    "haste",
    inputs=(Field("minutes", "int64"), Field("zone", "string", default="EST"), Field("asked", "timestamp[us, tz=UTC]")),
    features=(
        Derived("speed", col("distance") / col("minutes"), "double"),
        Derived("slow", (col("speed") < 10.0) | col("temp").is_null(), "bool"),
        Derived("zoned", col("zone"), "string"),
        Derived("when", col("asked"), "timestamp[us, tz=UTC]"),
    ),
)


def test_views_on_request_follow_from_request_and_features(
    settings: Settings, store: FeatureStore, tables: Tables
) -> None:
    apply(settings, [HASTE])
    store.materialize(tables, VIEWS, at(1))
    digests = {"haste": HASTE.digest(), **{view.name: view.digest() for view in VIEWS}}
    online = OnlineFeatures(settings, digests, "flight")
    assert [field.name for field in online.inputs] == ["minutes", "zone", "asked"]
    request = {"minutes": [100, 20, 1], "asked": [at(0), None, at(0)]}
    rows = online.read(["f4", "f5", "nobody"], at(1), request)
    assert rows.values["speed"] == [4.0, 25.0, None]
    assert rows.values["slow"] == [True, False, True]
    assert rows.values["zoned"] == ["EST"] * 3
    assert rows.values["when"][0] == int(START.timestamp()) * 1_000_000
    assert rows.status["haste"] == ["present"] * 3
    with pytest.raises(InvalidInput, match=r"request\.minutes: this column is needed"):
        online.read(["f4"], at(1))
    with pytest.raises(InvalidInput, match=r"request\.minutes: 2 values for 1 keys"):
        online.read(["f4"], at(1), {"minutes": [1, 2]})
    with pytest.raises(InvalidInput, match="minutes"):
        online.read(["f4"], at(1), {"minutes": ["soon"], "asked": [at(0)]})


def test_flights_without_views_of_their_own_are_found(settings: Settings) -> None:
    view = OnRequestView("twice", (Field("x", "double"),), (Derived("y", col("x") * 2, "double"),))
    apply(settings, [view])
    rows = OnlineFeatures(settings, {"twice": view.digest()}, FLIGHT.join_key).read(["any"], None, {"x": [2]})
    assert rows.found.tolist() == [True]
    assert rows.values["y"] == [4.0]
