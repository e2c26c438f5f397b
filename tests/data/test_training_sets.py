"""From tables to a training set on the cluster, and the same features online through Feast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data import training_rows, training_sets
from rayplat.data.feature_store import FeatureStore
from rayplat.data.features import Derived, Entity, FeatureService, FeatureView, Field, OnRequestView, col
from rayplat.data.features.build import build
from rayplat.data.point_in_time import FeatureRows, join
from rayplat.data.tables import Tables, upkeep
from rayplat.data.training_sets import Spine
from rayplat.errors import InvalidInput, NotFound, SchemaMismatch, Unschedulable
from rayplat.resources import require_resources
from rayplat.settings import Settings
from tests.data.declared import (
    DELAYS,
    FLIGHT,
    ORIGIN,
    SCHEDULE,
    SERVICE,
    START,
    VIEWS,
    WEATHER,
    flights,
    hours,
    weather,
)

SPINE = Spine("flights", "flight", "asked", "late")


@pytest.fixture
def tables(settings: Settings, ray_cluster: str) -> Tables:
    made = Tables(settings.tables_uri)
    made.create("flights", flights())
    made.create("weather", weather())
    return made


class Hog:
    def ready(self) -> bool:
        return True


@pytest.mark.ray
def test_a_data_step_that_cannot_be_placed_is_refused(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data

    from rayplat.data.features import build as building
    from rayplat.data.tables import ray_io

    build(tables, SCHEDULE)
    service, rows = FeatureService("one", FLIGHT, (SCHEDULE,)), ray.data.from_arrow(flights())
    for module in (building, training_sets, ray_io):
        monkeypatch.setattr(module, "require_resources", partial(require_resources, timeout_s=1))
    hog: Any = ray.remote(num_cpus=1.5)(Hog).options(name="hog").remote()
    ray.get(hog.ready.remote())
    steps: dict[str, Callable[[], Any]] = {
        "building the feature view 'weather'": lambda: build(tables, WEATHER),
        "building the training set 'one'": lambda: training_sets.build(tables, "one", SPINE, service),
        "reading .*/flights": lambda: tables.dataset("flights"),
        "writing .*/flights": lambda: tables.append("flights", rows),
    }
    try:
        for what, step in steps.items():
            with pytest.raises(Unschedulable, match=rf"{what} .*needs 1 CPU and 0\.5 of 2 CPU.*hog \(1\.5 CPU\)"):
                step()
    finally:
        ray.kill(hog)


@pytest.mark.ray
def test_a_training_set_is_pinned_reproducible_and_right(tables: Tables) -> None:
    for view in VIEWS:
        build(tables, view, run_id="r")
    made = training_sets.build(tables, "first", SPINE, SERVICE)
    rows = tables.read(made.data)
    assert rows.column_names == ["flight", "event_time", "late", *SERVICE.features]
    assert rows["flight"].to_pylist() == [f"f{i}" for i in range(10) if i != 7]
    assert rows.schema.field("late").type == pa.int8()
    fifth = rows.filter(pc.equal(rows["flight"], "f5")).to_pylist()[0]
    # asked at 2.25 h: f3 left EWR at 1.5 h with 30 minutes, the weather of 0 h is older than the ttl
    assert (fifth["temp"], fifth["departures_1h"], fifth["delay_1h"]) == (None, 1.0, 30.0)
    assert rows["temp"].to_pylist()[:5] == [None, 2.0, 1.0, 2.0, 3.0]

    assert training_sets.build(tables, "first", SPINE, SERVICE) == made
    assert training_sets.get(tables, "first") == made
    tables.append("flights", flights().slice(0, 1).set_column(0, "flight", pa.array(["new"])))
    pinned = Spine("flights", "flight", "asked", "late", version=made.pins[0].version)
    assert training_sets.build(tables, "first", pinned, SERVICE) == made
    more = training_sets.build(tables, "first", SPINE, SERVICE)
    assert more.digest != made.digest
    assert (more.data.version, more.data.row_count) == (made.data.version + 1, made.data.row_count + 1)
    assert training_sets.get(tables, "first", made.data.version) == made
    assert tables.read(made.data).equals(rows)
    for where in (pc.field("distance") < 300, col("distance") < 300):
        some = Spine("flights", "flight", "asked", "late", where=where)
        assert training_sets.build(tables, "some", some, SERVICE).data.row_count == 4
    assert training_sets.stream(tables, made, ["flight"], col("late") == 1).count() == 4


@pytest.mark.ray
def test_used_versions_are_pinned_for_as_long_as_the_set_is_there(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    for view in VIEWS:
        build(tables, view)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_sets, "_written", cut_off)
    with pytest.raises(KeyboardInterrupt):
        training_sets.build(tables, "first", SPINE, SERVICE)
    assert not any(upkeep.pins(tables, name) for name in tables.names())
    monkeypatch.undo()
    made = training_sets.build(tables, "first", SPINE, SERVICE)
    assert made.data.version == 0
    for at in (made.data, *made.pins):
        assert [(pin.version, pin.by) for pin in upkeep.pins(tables, at.table)] == [(at.version, "training_set:first")]


VISIT = Entity("visit", ("shop", "user"), ("int64", "string"))
SHOP = Entity("shop", "shop", ("int64",))
SEEN = FeatureView(
    "seen", VISIT, "visits", "at", fields=(Field("kind", "string", lookup=True), Field("n", "int64", default=-1))
)
KINDS = FeatureView(
    "kinds", Entity("kind", "kind"), "kinds", "at", fields=(Field("weight", "double"),), created="written"
)
ASKED = OnRequestView(
    "asked",
    (Field("amount", "double"),),
    (Derived("share", col("amount") / col("weight"), "double"), Derived("big", col("share") > 1, "bool")),
)
VISITS = FeatureService("visits", VISIT, (SEEN, KINDS, ASKED))
VISIT_SPINE = Spine("asked", ("shop", "user"), "at", "bought")


def _visits(tables: Tables, rows: int) -> None:
    """``rows`` asked in three files, some with keys and kinds that are unknown or null, many at the same moment."""
    number = np.arange(rows)
    at = (
        pa.array(START)
        if rows == 0
        else pc.add(pa.scalar(START, hours(0).type), pa.array(number // 7 * 60_000_000, pa.duration("us")))
    )
    shop, user = pa.array(number % 5), pa.array([None if i % 9 == 0 else f"u{i % 4}" for i in number.tolist()])
    asked = pa.table({"shop": shop, "user": user, "at": at, "bought": pa.array(number % 3 == 0), "amount": number / 4})
    tables.create("asked", asked.slice(0, rows // 3))
    tables.append("asked", asked.slice(rows // 3, rows // 3))
    tables.append("asked", asked.slice(rows // 3 * 2))
    kinds = [None if i % 6 == 0 else f"k{i % 3}" for i in range(40)]
    seen = {"shop": [i % 4 for i in range(40)], "user": [f"u{i % 3}" for i in range(40)], "kind": kinds}
    tables.create("visits", pa.table(seen | {"n": [None, *range(39)], "at": hours(*[i / 90 for i in range(40)])}))
    times = hours(-1, -1, 0.1, -1)
    tables.create(
        "kinds",
        pa.table(
            {
                "kind": ["k1", "k2", "k1", "k1"],
                "weight": [1.0, 2.0, 3.0, 9.0],
                "at": times,
                "written": hours(1, 1, 1, 0),
            }
        ),
    )
    for view in VISITS.stored:
        build(tables, view)


@pytest.mark.ray
def test_any_plan_gives_the_same_rows_bit_for_bit(
    settings: Settings, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_rows, "SLICE_ROWS", 50)
    monkeypatch.setattr(training_rows, "PART_BYTES", 2_000)
    tables = Tables(settings.tables_uri)
    _visits(tables, 300)
    made = training_sets.build(tables, "visits", VISIT_SPINE, VISITS)
    shuffled = training_sets.build(tables, "visits", VISIT_SPINE, VISITS, plan="shuffle")
    assert shuffled == made
    rows = tables.read(made.data)
    assert rows.column_names == ["shop", "user", "event_time", "bought", "n", "weight", "share", "big"]
    assert (made.join_key, made.keys) == ("shop,user", ("shop", "user"))
    moments = rows["event_time"].to_pylist()
    assert moments == sorted(moments)
    assert len(tables.scan(made.data).files) == 6
    spine = tables.read("asked").sort_by(
        [("at", "ascending"), ("shop", "ascending"), ("user", "ascending"), ("bought", "ascending")]
    )
    sides = [
        FeatureRows(tables.read(v.table), v.keys, v.feature_names, created="created" if v.created else None)
        for v in VISITS.stored
    ]
    expected = join(spine, sides, event_time="at")
    assert rows["weight"].to_pylist() == expected["weight"].to_pylist()
    assert rows["n"].to_pylist() == [-1 if n is None else n for n in expected["n"].to_pylist()]
    share = pc.divide(expected["amount"], expected["weight"])
    assert rows["share"].to_pylist() == share.to_pylist()
    assert rows["big"].to_pylist() == pc.greater(share, 1).to_pylist()
    known = training_sets.build(tables, "known", replace(VISIT_SPINE, known_by=True), VISITS)
    assert set(tables.read(known.data)["weight"].to_pylist()) == {None, 9.0}


@pytest.mark.ray
def test_refusals(tables: Tables) -> None:
    with pytest.raises(NotFound, match="build the view 'schedule' first"):
        training_sets.build(tables, "first", SPINE, SERVICE)
    with pytest.raises(InvalidInput, match="keyed by 'flight'"):
        training_sets.build(tables, "first", Spine("flights", "origin", "asked", "late"), SERVICE)
    with pytest.raises(NotFound, match="first"):
        training_sets.get(tables, "first")
    with pytest.raises(SchemaMismatch, match="table weather: there is no join key 'flight' in it; there are origin"):
        training_sets.build(tables, "first", Spine("weather", "flight", "observed", "temp"), SERVICE)
    with pytest.raises(SchemaMismatch, match="event time 'distance' must be a timestamp, not double"):
        training_sets.build(tables, "first", Spine("flights", "flight", "distance", "late"), SERVICE)
    named = replace(WEATHER, fields=(Field("delay", "double"),))
    service = FeatureService("s", FLIGHT, (SCHEDULE, named))
    with pytest.raises(InvalidInput, match="feature delay: of view 'weather' has the name of the spine's own column"):
        training_sets.build(tables, "first", Spine("flights", "flight", "asked", "delay"), service)
    outcome = replace(SCHEDULE, fields=(Field("outcome", "bool"),), derived=(Derived("outcome", ~col("late"), "bool"),))
    with pytest.raises(
        InvalidInput, match="'schedule' computes it from the label 'late': it would read its own future"
    ):
        training_sets.build(tables, "first", SPINE, FeatureService("s", FLIGHT, (outcome,)))
    asks = FeatureService(
        "s", FLIGHT, (OnRequestView("r", (Field("seat", "string"),), (Derived("s", col("seat"), "string"),)),)
    )
    with pytest.raises(SchemaMismatch, match="there is no input 'seat'"):
        training_sets.build(tables, "first", SPINE, asks)
    tables.overwrite("weather", pa.table({"origin": ["JFK"]}), replace_schema=True)
    with pytest.raises(SchemaMismatch, match="observed"):
        build(tables, WEATHER)


@pytest.mark.ray
def test_feast_and_we_read_the_same_and_training_equals_serving(settings: Settings, tables: Tables) -> None:
    for view in VIEWS:
        build(tables, view)
    store = FeatureStore(settings)
    store.apply([FLIGHT, ORIGIN], VIEWS, [SERVICE])
    store.apply([FLIGHT, ORIGIN], VIEWS, [SERVICE])
    assert store.service("all") == SERVICE
    assert store.views() == [view.info() for view in sorted(VIEWS, key=lambda view: view.name)]

    made = training_sets.build(tables, "parity", SPINE, SERVICE)
    online = store.online("all")
    for row in tables.read(made.data).to_pylist():
        store.materialize(tables, VIEWS, row["event_time"])
        found = online.read([row["flight"]], row["event_time"])
        for name in SERVICE.features:
            served = found.columns[name][0]
            missing = served is None or (isinstance(served, float) and np.isnan(served))
            assert (None if missing else served) == row[name], (row["flight"], name)

    feast = store.feast()
    names = [f"{view.name}:{name}" for view in (SCHEDULE, DELAYS) for name in view.feature_names if name != "origin"]
    rows = [{"flight": "f8", "origin": "JFK"}, {"flight": "f99", "origin": "LGA"}]
    answer = feast.get_online_features(features=names, entity_rows=rows).to_dict()
    own = store.online("all").read(["f8"])  # Feast asks as of now: the windows are empty long since
    assert answer["distance"] == [own.columns["distance"][0], None]
    assert answer["delay_1h"] == [None, None]
    tags = {view.name: view.tags["rayplat.digest"] for view in feast.list_feature_views()}
    assert tags == SERVICE.view_digests()
    _feast_writes(feast)


def _feast_writes(feast: object) -> None:
    """Feast's own way of writing ends in the same rows, and does not take time back either."""
    import pandas as pd

    for temp, minutes in ((50.0, 30), (40.0, 60)):  # of today: Feast asks as of now, and the view has a ttl
        at = [datetime.now(UTC) - timedelta(minutes=minutes)]
        frame = pd.DataFrame({"origin": ["LGA"], "temp": [temp], "event_time": at})
        feast.write_to_online_store("weather", frame)  # type: ignore[attr-defined]
    read = feast.get_online_features(features=["weather:temp"], entity_rows=[{"origin": "LGA"}])  # type: ignore[attr-defined]
    assert read.to_dict()["temp"] == [50.0]
