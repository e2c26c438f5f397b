from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rayplat import settings as settings_module
from rayplat.data.feature_store import FeatureStore
from rayplat.data.features import Derived, Entity, FeatureService, FeatureView, Field, OnRequestView, col
from rayplat.data.features.build import rows_of
from rayplat.data.tables import Tables
from rayplat.errors import InvalidInput
from rayplat.settings import Settings
from tests.data import declared as d

pytestmark = pytest.mark.services  # Feast alone takes ten seconds to import
ASK = OnRequestView("ask", (Field("hours", "double"),), (Derived("miles", col("distance") * col("hours"), "double"),))
PAIRS = FeatureView(
    "pairs",
    Entity("pair", ("origin", "flight")),
    "flights",
    "announced",
    fields=(Field("twice", "double", default=7.0),),
    derived=(Derived("twice", col("distance") * 2, "double"),),
)
SERVICE = FeatureService("asked", d.FLIGHT, (*d.VIEWS, ASK))


def built(settings: Settings) -> tuple[FeatureStore, Tables]:
    tables = Tables(settings.tables_uri)
    tables.create("flights", d.flights())
    tables.create("weather", d.weather())
    sources = {"flights": d.flights(), "weather": d.weather()}
    for view in (*d.VIEWS, PAIRS):
        tables.overwrite(view.table, rows_of(view, sources[view.source]))
    store = FeatureStore(settings)
    store.apply([d.FLIGHT, d.ORIGIN], [*d.VIEWS, PAIRS], [SERVICE])
    return store, tables


def test_declarations_answer_through_feast_as_they_do_here(settings: Settings) -> None:
    feast = built(settings)[0].feast()
    moments = [d.START + timedelta(hours=h) for h in (1.75, 3.75, 4.25, 1)]
    asked = pd.DataFrame({"flight": ["f4", "f8", "f9", "zz"], "event_timestamp": moments, "hours": [1.0, 2, 3, 4]})
    found = feast.get_historical_features(asked, feast.get_feature_service("asked")).to_df()
    assert found["origin"].tolist() == ["JFK", "JFK", "EWR", None]  # leads to weather and delays
    assert found["temp"].fillna(-1).tolist() == [3.0, -1, -1, -1]
    assert found["departures_1h"].fillna(-1).tolist() == [1, 1, 0, -1]
    assert found["delay_1h"].fillna(-1).tolist() == [20.0, 60.0, -1, -1]
    assert found["miles"].fillna(-1).tolist() == [400.0, 1600.0, 2700.0, -1]
    keyed = pd.DataFrame({"origin": ["JFK", "EWR"], "flight": ["f4", "f4"], "event_timestamp": moments[:2]})
    assert feast.get_historical_features(keyed, ["pairs:twice"]).to_df()["twice"].tolist() == [800.0, 7.0]


def test_materialize_and_push_through_feast(settings: Settings) -> None:
    from feast.data_source import PushMode

    store, tables = built(settings)
    feast, now = store.feast(), datetime.now(UTC)
    feast.materialize(d.START - timedelta(days=3), now)
    found = feast.get_online_features(["schedule:distance", "ask:miles"], [{"flight": "f4", "hours": 2.0}]).to_dict()
    assert (found["distance"], found["miles"]) == ([400.0], [800.0])
    assert feast.get_online_features(["delays:departures_1h"], [{"origin": "JFK"}]).to_dict()["departures_1h"] == [0]
    row = pd.DataFrame({"origin": ["JFK"], "event_time": [now], "temp": [9.5]})
    feast.push("weather_push", row, to=PushMode.ONLINE_AND_OFFLINE)
    assert feast.get_online_features(["weather:temp"], [{"origin": "JFK"}]).to_dict()["temp"] == [9.5]
    assert tables.read("weather").to_pylist()[-1] == {"origin": "JFK", "observed": now, "temp": 9.5}
    computed = feast.get_feature_view("pairs")
    with pytest.raises(InvalidInput, match="push rows of the source"):
        feast._get_provider().ingest_df_to_offline_store(computed, rows_of(PAIRS, d.flights()))


def test_applying_again_changes_nothing_and_another_definition_stands_beside(settings: Settings) -> None:
    store, tables = built(settings)
    first = store.feast().get_feature_view("weather")
    store.apply([], [d.WEATHER], [])
    again = store.feast().get_feature_view("weather")
    assert (again.tags, again.created_timestamp) == (first.tags, first.created_timestamp)
    store.materialize(tables, [d.SCHEDULE, d.WEATHER], datetime.now(UTC))
    longer = FeatureView(
        "weather", d.ORIGIN, "weather", "observed", fields=(Field("temp", "double"),), ttl=timedelta(days=9999)
    )
    store.apply([], [longer], [])
    assert store.feast().get_feature_view("weather").tags["rayplat.digest"] == longer.digest()
    assert store.view("weather").digest == longer.digest()
    held = store.online("asked").read(["f4"], d.START + timedelta(hours=2), request={"hours": [1.0]})
    assert held.columns["temp"].tolist() == [3.0]  # the version of the service, still materialized


def test_what_feast_cannot_hold_is_named(settings: Settings, caplog: Any) -> None:
    keyed = OnRequestView("keyed", (), (Derived("same", col("flight") == col("origin"), "bool"),))
    chained = OnRequestView("chained", (), (Derived("far", col("miles") > 10.0, "bool"),))
    service = FeatureService("more", d.FLIGHT, (d.SCHEDULE, ASK, chained, keyed))
    store = FeatureStore(settings)
    with caplog.at_level(logging.WARNING):
        store.apply([], [], [service])
    refused = {record.view: record.reason for record in caplog.records if hasattr(record, "view")}
    assert "'miles'" in refused["chained"]
    assert "join key" in refused["keyed"]
    assert [view.name for view in store.service("more").views] == ["schedule", "ask", "chained", "keyed"]


def test_the_registry_lies_in_postgresql_where_the_settings_say_so(tmp_path: Path, postgres_url: str) -> None:
    settings = settings_module.load(tmp_path / "home", environ={}, registry={"database_url": postgres_url})
    store = FeatureStore(settings)
    store.apply([d.ORIGIN], [d.WEATHER], [])
    assert not (tmp_path / "home" / "feast" / "registry.db").exists()
    assert FeatureStore(settings).feast().get_feature_view("weather").tags["rayplat.digest"] == d.WEATHER.digest()


def test_the_example_repository_is_driven_by_feasts_commands(tmp_path: Path, monkeypatch: Any) -> None:
    from click.testing import CliRunner
    from feast.cli.cli import cli

    home = tmp_path / "repo"
    shutil.copytree(
        Path(__file__).parents[3] / "examples" / "feature_repo", home, ignore=shutil.ignore_patterns("data")
    )
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))

    def feast(*arguments: str) -> str:
        done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    import make_data  # type: ignore[import-not-found]

    make_data.main(home)
    feast("apply")
    assert "driver_activity" in feast("feature-views", "list")
    now = datetime.now(UTC).isoformat()
    feast("materialize", (datetime.now(UTC) - timedelta(days=2)).isoformat(), now)
    feast("materialize-incremental", now)
    import ask  # type: ignore[import-not-found]

    ask.main(home)
