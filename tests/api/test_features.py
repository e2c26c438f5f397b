"""The verbs on features over real tables and a real online store."""

from __future__ import annotations

from typing import Any

import pytest

from rayplat.data.feature_store import FeatureStore
from rayplat.data.features import FeatureService, col
from rayplat.data.online import catalog, open_store
from rayplat.errors import InvalidInput, NotFound, RayplatError
from rayplat.services.features import Features
from rayplat.services.verbs import Context
from rayplat.settings import Settings
from rayplat.types import Principal, Role
from tests.data.declared import DELAYS, FLIGHT, SCHEDULE, START, flights
from tests.data.online.world import apply_all

EVENT: dict[str, tuple[Any, ...]] = {
    "flight": ("f99",),
    "origin": ("JFK",),
    "departed": ("2013-11-01T01:05:00+00:00",),
    "announced": ("2013-11-01T00:00:00",),
    "distance": (5,),
    "delay": (40,),
    "late": (True,),
    "asked": (None,),
}


@pytest.fixture
def features(settings: Settings) -> Features:
    tables = apply_all(settings)
    tables.create("flights", flights())
    store, nobody = FeatureStore(settings), Principal("ann", Role.DEVELOPER)
    return Features(Context(settings, None, tables, None, store, None, "", nobody))  # type: ignore[arg-type]


def test_materialize_push_and_read(features: Features) -> None:
    moment = START.replace(hour=1)
    assert features.materialize(("schedule", "weather"), moment) == {"schedule": 10, "weather": 2}
    assert features.materialize((), moment)["delays"] > 0
    with pytest.raises(NotFound, match="nope"):
        features.materialize(("nope",), moment)
    later = moment.replace(minute=12)
    assert features.read("all", ("f4", "nobody"), later)[0]["features"]["departures_1h"] == 1
    done = features.push("flights", EVENT, "both")
    assert done["version"] == 1
    assert done["rows"][DELAYS.id] == 1
    found, missing = features.read("all", ("f4", "nobody"), later)
    assert (found["features"]["departures_1h"], found["features"]["delay_1h"]) == (2, 30.0)
    assert (missing["found"], missing["features"]["distance"]) == (False, None)
    assert features.read("all", ("f99",), later)[0]["features"]["distance"] == 5.0


def test_versions_tell_what_the_tables_hold(features: Features) -> None:
    (only,) = features.versions("delays")
    assert (only.id, only.current, only.built, only.source_version) == (DELAYS.id, True, None, None)
    with pytest.raises(NotFound, match="nope"):
        features.versions("nope")


@pytest.mark.ray
def test_build_refresh_and_training_set(features: Features, ray_cluster: str) -> None:
    tables = features._context.tables
    built = features.build("schedule")
    (version,) = features.versions("schedule")
    assert (version.built, version.source_version) == (built, 0)
    assert features.build("schedule") == built
    tables.append("flights", flights().slice(0, 1).set_column(0, "flight", [["new"]]))
    (refreshed,) = features.refresh("schedule")
    assert (refreshed.version, refreshed.row_count) == (built.version + 1, 11)
    service = FeatureService("one", FLIGHT, (SCHEDULE,))
    catalog.put_service(open_store(features._context.settings.online_store), service)
    made = features.training_set("one", service="one", table="flights", event_time="asked", label="late")
    assert (made.data.row_count, made.keys, made.service) == (10, ("flight",), "one")
    assert features.training_sets() == (made,) == features.training_sets("one")
    few = (col("distance") < 300).to_dict()
    some = features.training_set("few", service="one", table="flights", event_time="asked", label="late", where=few)
    assert some.data.row_count == 4
    assert features.training_sets() == (some, made)
    for wrong, said in (
        ({"service": "nope"}, "nope"),
        ({"label": "nope"}, "no label 'nope'"),
        ({"event_time": "nope"}, "no event time 'nope'"),
        ({"key": ("origin",)}, "keyed by 'flight'"),
        ({"pins": {"nope": 1}}, "no built view 'nope'"),
        ({"where": {"op": "nope"}}, "known operation"),
        ({"where": {"column": 1, "op": 2}}, "expression|where"),
    ):
        given: dict[str, Any] = {"service": "one", "table": "flights", "event_time": "asked", "label": "late"}
        with pytest.raises(RayplatError, match=said):
            features.training_set("bad", **(given | wrong))


def test_what_does_not_fit_is_named(features: Features) -> None:
    with pytest.raises(InvalidInput, match=r"events\.nope"):
        features.push("flights", {"nope": (1,)})
    with pytest.raises(NotFound, match="no_such"):
        features.push("no_such", EVENT)
    with pytest.raises(InvalidInput, match="0 keys"):
        features.read("all", ())
