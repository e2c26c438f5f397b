"""Backfill on the cluster: the same rows as in one process, one commit, once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

from rayplat.data.features import FeatureView, Window, build
from rayplat.data.features.build import rows_of
from rayplat.data.features.notes import built, held
from rayplat.data.tables import Tables
from rayplat.errors import Conflict, InvalidInput, NotFound, SchemaMismatch
from rayplat.settings import Settings
from tests.data.declared import DELAYS, SCHEDULE, VIEWS, WEATHER, flights, weather
from tests.data.features.declared_visits import HOURS, SPENT, as_set, visits


@pytest.fixture
def tables(settings: Settings, ray_cluster: str) -> Tables:
    made = Tables(settings.tables_uri)
    made.create("flights", flights())
    made.create("weather", weather())
    return made


@pytest.mark.ray
def test_a_build_holds_what_the_declaration_says(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "PART_BYTES", 400)  # several parts and several groups of keys
    tables.create("visits", visits(list(range(120))))
    tables.append("visits", visits(list(range(60, 200)), 120))
    for view in (*VIEWS, SPENT, HOURS):
        made = build.build(tables, view, run_id="r")
        assert (made.table, made.version) == (view.table, tables.version(view.table).version)
        assert as_set(tables.read(made)) == as_set(rows_of(view, tables.read(view.source))), view.name
        assert held(tables, view).holds(tables.version(view.source))
        assert build.build(tables, view) == made == built(tables, view)
    assert tables.history(HOURS.table)[0].run_id == "r"
    older = build.build(tables, HOURS, 0)
    assert as_set(tables.read(older)) == as_set(rows_of(HOURS, visits(list(range(120)))))


@pytest.mark.ray
def test_changing_a_definition_leaves_the_older_version_alone(tables: Tables) -> None:
    first = build.build(tables, WEATHER)
    second = build.build(tables, replace(WEATHER, ttl=timedelta(hours=9)))
    assert first.table != second.table
    assert tables.version(first.table) == first


@pytest.mark.ray
def test_refusals_write_nothing(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="table 'visits'"):
        build.build(tables, SPENT)
    with pytest.raises(NotFound, match="build the view 'schedule' first"):
        built(tables, SCHEDULE)
    ahead = replace(SCHEDULE, known_at={"distance": "asked"})
    with pytest.raises(InvalidInput, match=r"view schedule: reads its own future: 'distance' .* in 10 rows"):
        build.build(tables, ahead)
    month = replace(DELAYS, windows=(Window("delay_30d", "delay", "mean", timedelta(days=30)),))
    with pytest.raises(InvalidInput, match="window 'delay_30d' looks back 30 days"):
        build.build(tables, month)
    with pytest.raises(SchemaMismatch, match="feature view delays: there is no column 'left' in 'flights'"):
        build.build(tables, replace(DELAYS, event_time="left"))
    assert not [name for name in tables.names() if name.startswith("features_")]
    assert build.build(tables, month, allow_short_history=True).row_count > 0

    def another_was_faster(tables: Tables, view: FeatureView) -> object:
        return replace(real(tables, view), source_version=-1)

    real = build.held
    monkeypatch.setattr(build, "held", another_was_faster)
    with pytest.raises(Conflict, match="'weather' was built or refreshed by another writer meanwhile"):
        build.build(tables, WEATHER)


@pytest.mark.ray
def test_an_empty_source_makes_an_empty_table_of_the_right_columns(tables: Tables) -> None:
    tables.create("visits", visits([]))
    made = build.build(tables, SPENT)
    assert (made.row_count, tables.read(made).schema.names) == (
        0,
        ["shop", "user", "event_time", "created", "amount", "twice"],
    )
    with pytest.raises(InvalidInput, match="looks back 1:00:00, but the events of 'visits' span only 0:00:00"):
        build.build(tables, HOURS)
    tiles = build.build(tables, HOURS, allow_short_history=True)
    assert tables.read(tiles).schema.equals(rows_of(HOURS, visits([])).schema)
    assert pa.types.is_list(tables.read(tiles).schema.field("event_times").type)
