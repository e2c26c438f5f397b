"""The online store without Feast's import: newest wins, cursor, and lookup as of a moment."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from rayplat.data.feature_store import FeatureStore
from rayplat.data.features import FeatureView, build
from rayplat.data.online import OnlineFeatures
from rayplat.data.online.sqlite import Definition, OnlineDatabase
from rayplat.data.tables import Tables
from rayplat.errors import Conflict, InvalidInput, NotFound
from rayplat.settings import Settings
from tests.data.declared import DELAYS, SCHEDULE, SERVICE, START, VIEWS, WEATHER, flights, weather


def declare(settings: Settings, *views: FeatureView) -> OnlineDatabase:
    database = OnlineDatabase(settings.online_store)
    for view in views:
        columns = tuple(column.name for column in view.columns)
        database.declare(Definition(view.name, view.digest(), columns, json.dumps(view.to_dict())))
    return database


@pytest.fixture
def tables(settings: Settings) -> Tables:
    """The feature tables, built in this process by the functions that workers run."""
    made = Tables(settings.tables_uri)
    made.overwrite(SCHEDULE.table, build.selected(flights(), SCHEDULE))
    made.overwrite(WEATHER.table, build.selected(weather(), WEATHER))
    made.overwrite(DELAYS.table, build.windowed(flights(), DELAYS))
    return made


@pytest.fixture
def store(settings: Settings, tables: Tables) -> FeatureStore:
    declare(settings, *VIEWS).put_service(SERVICE.name, json.dumps(SERVICE.to_dict()))
    return FeatureStore(settings)


def at(hours: float) -> object:
    return START + timedelta(hours=hours)


def test_declarations_are_read_back(store: FeatureStore) -> None:
    assert [view.name for view in store.views()] == ["delays", "schedule", "weather"]
    assert store.view("weather") == WEATHER.info()
    assert store.declaration("delays") == DELAYS
    assert store.service("all") == SERVICE
    assert store.services() == {"all": ("schedule", "weather", "delays")}
    for name in (store.view, store.service):
        with pytest.raises(NotFound, match="nope"):
            name("nope")


def test_lookup_follows_the_chain(store: FeatureStore, tables: Tables) -> None:
    written = store.materialize(tables, VIEWS, START + timedelta(hours=1))
    assert written == {"schedule": 10, "weather": 2, "delays": 2}
    rows = store.online("all").read(["f4", "f5", "nobody"], START + timedelta(hours=1.2))
    assert rows.found.tolist() == [True, True, False]
    assert rows.columns["origin"] == ["JFK", "EWR", None]
    np.testing.assert_array_equal(rows.columns["distance"], [400.0, 500.0, np.nan])
    np.testing.assert_array_equal(rows.columns["temp"], [3.0, 2.0, np.nan])
    np.testing.assert_array_equal(rows.columns["departures_1h"], [1.0, 1.0, np.nan])
    np.testing.assert_array_equal(rows.columns["delay_1h"], [20.0, 10.0, np.nan])
    assert rows.status["weather"] == ["present", "present", "missing"]


def test_ages_count_from_the_moment_asked_for(store: FeatureStore, tables: Tables) -> None:
    store.materialize(tables, VIEWS, START + timedelta(hours=1))
    moments = [START + timedelta(hours=h) for h in (0.5, 1, 3, 3.01)]
    rows = store.online("all").read(["f4"] * 4, moments)
    assert rows.status["weather"] == ["future", "present", "present", "expired"]
    np.testing.assert_array_equal(rows.columns["temp"], [np.nan, 3.0, 3.0, np.nan])
    early = store.online("all").read(["f4"], START - timedelta(days=30))
    assert early.found.tolist() == [False]
    assert early.status == {"schedule": ["future"], "weather": ["missing"], "delays": ["missing"]}


def test_now_is_the_default_moment(store: FeatureStore, tables: Tables) -> None:
    store.materialize(tables, VIEWS, START + timedelta(hours=1))
    rows = store.online("all").read(["f4"])
    assert rows.found.tolist() == [True]
    assert rows.status["weather"] == ["expired"]
    with pytest.raises(InvalidInput, match="2 moments for 1 keys"):
        store.online("all").read(["f4"], [START, START])


def test_step_by_step_equals_at_once(settings: Settings, store: FeatureStore, tables: Tables) -> None:
    online = store.online("all")
    for half in range(1, 9):
        moment = START + timedelta(hours=half / 2)
        store.materialize(tables, VIEWS, moment)
        step = online.read([f"f{i}" for i in range(10)], moment)
        store.materialize(tables, VIEWS, moment, fresh=True)
        whole = online.read([f"f{i}" for i in range(10)], moment)
        assert step.status == whole.status
        for name, values in whole.columns.items():
            np.testing.assert_array_equal(np.array(step.columns[name]), np.array(values))


def test_only_what_is_new_is_written(store: FeatureStore, tables: Tables) -> None:
    store.materialize(tables, [DELAYS], START + timedelta(hours=1))
    assert store.materialize(tables, [DELAYS], START + timedelta(hours=1)) == {"delays": 0}
    assert store.materialize(tables, [DELAYS], START + timedelta(minutes=65)) == {"delays": 0}
    assert store.materialize(tables, [DELAYS], START + timedelta(minutes=90)) == {"delays": 1}
    assert store.materialize(tables, [DELAYS], START) == {"delays": 0}


def test_a_new_version_of_the_table_is_read_from_its_beginning(store: FeatureStore, tables: Tables) -> None:
    store.materialize(tables, [WEATHER], START + timedelta(hours=1))
    late = pa.table({"origin": ["LGA"], "observed": weather()["observed"].slice(0, 1), "temp": [9.0]})
    tables.overwrite(WEATHER.table, build.selected(pa.concat_tables([weather(), late]), WEATHER))
    assert store.materialize(tables, [WEATHER], START + timedelta(hours=1)) == {"weather": 3}


def test_an_older_event_never_replaces_a_newer_one(settings: Settings) -> None:
    database = declare(settings, WEATHER)
    database.upsert("weather", [("JFK", 200, "[2.0]"), ("EWR", 100, "[1.0]")])
    database.upsert("weather", [("JFK", 100, "[1.0]"), ("EWR", 100, "[5.0]")])
    assert database.read("weather", ["JFK", "EWR", "LGA"]) == {"JFK": (200, [2.0]), "EWR": (100, [5.0])}


def test_another_definition_is_refused_and_drops_the_rows(
    settings: Settings, store: FeatureStore, tables: Tables
) -> None:
    store.materialize(tables, VIEWS, START)
    online = store.online("all")
    changed = replace(WEATHER, ttl=timedelta(hours=9))
    with pytest.raises(Conflict, match="another definition"):
        store.materialize(tables, [changed], START)
    declare(settings, changed)
    assert OnlineDatabase(settings.online_store).read("weather", ["JFK"]) == {}
    with pytest.raises(Conflict, match="weather"):
        online.read(["f1"], START)
    with pytest.raises(Conflict, match="weather"):
        OnlineFeatures(settings, SERVICE.view_digests(), "flight")
    with pytest.raises(NotFound, match="nope"):
        OnlineFeatures(settings, {"nope": "sha256:0"}, "flight")
    with pytest.raises(InvalidInput, match="nothing leads from 'flight' to origin"):
        OnlineFeatures(settings, {"delays": DELAYS.digest()}, "flight")


def test_readers_in_threads_see_whole_rows_while_a_writer_works(settings: Settings) -> None:
    database = declare(settings, DELAYS)
    database.upsert("delays", [("JFK", 0, "[0, 0]")])
    stop, odd = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            event_us, values = database.read("delays", ["JFK"])["JFK"]
            if values != [event_us, event_us]:
                odd.append((event_us, values))

    readers = [threading.Thread(target=watch) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(1, 200):
        database.upsert("delays", [("JFK", n, f"[{n}, {n}]")], {"n": n})
    stop.set()
    for reader in readers:
        reader.join(10)
    assert odd == []
    assert database.cursor("delays") == {"n": 199}


def test_a_failed_write_leaves_rows_and_cursor(settings: Settings) -> None:
    database = declare(settings, WEATHER)
    database.upsert("weather", [("JFK", 1, "[1.0]")], {"upto": "a"})

    def broken() -> object:
        yield "JFK", 2, "[2.0]"
        raise RuntimeError("the source ended")

    with pytest.raises(RuntimeError):
        database.upsert("weather", broken(), {"upto": "b"})  # type: ignore[arg-type]
    assert database.read("weather", ["JFK"]) == {"JFK": (1, [1.0])}
    assert database.cursor("weather") == {"upto": "a"}
