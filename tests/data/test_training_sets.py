"""From tables to a training set on the cluster, and the same features online through Feast."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data import training_sets
from rayplat.data.feature_store import FeatureStore
from rayplat.data.features import FeatureService
from rayplat.data.features.build import build
from rayplat.data.tables import Tables
from rayplat.data.training_sets import Spine
from rayplat.errors import InvalidInput, NotFound, SchemaMismatch, Unschedulable
from rayplat.resources import require_resources
from rayplat.settings import Settings
from tests.data.declared import DELAYS, FLIGHT, ORIGIN, SCHEDULE, SERVICE, START, VIEWS, WEATHER, flights, weather

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
        "building the feature view 'schedule'": lambda: build(tables, SCHEDULE),
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
    some = Spine("flights", "flight", "asked", "late", where=pc.field("distance") < 300)
    assert training_sets.build(tables, "some", some, SERVICE).data.row_count == 4


@pytest.mark.ray
def test_refusals(tables: Tables) -> None:
    with pytest.raises(NotFound, match="features_schedule"):
        training_sets.build(tables, "first", SPINE, SERVICE)
    with pytest.raises(InvalidInput, match="keyed by 'flight'"):
        training_sets.build(tables, "first", Spine("flights", "origin", "asked", "late"), SERVICE)
    with pytest.raises(NotFound, match="first"):
        training_sets.get(tables, "first")
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
    names = [f"{view.name}:{name}" for view in (WEATHER, DELAYS) for name in view.feature_names]
    answer = feast.get_online_features(features=names, entity_rows=[{"origin": "JFK"}, {"origin": "LGA"}]).to_dict()
    own = store.online("all").read(["f8"], START + timedelta(hours=4.25))
    assert answer["delay_1h"] == [own.columns["delay_1h"][0], None]
    tags = {view.name: view.tags["rayplat.digest"] for view in feast.list_feature_views()}
    assert tags == SERVICE.view_digests()
    _feast_writes(feast)


def _feast_writes(feast: object) -> None:
    """Feast's own way of writing ends in the same rows, and does not take time back either."""
    import pandas as pd

    for temp, hour in ((50.0, 9), (40.0, 8)):
        frame = pd.DataFrame({"origin": ["LGA"], "temp": [temp], "event_time": [START + timedelta(hours=hour)]})
        feast.write_to_online_store("weather", frame)  # type: ignore[attr-defined]
    read = feast.get_online_features(features=["weather:temp"], entity_rows=[{"origin": "LGA"}])  # type: ignore[attr-defined]
    assert read.to_dict()["temp"] == [50.0]
