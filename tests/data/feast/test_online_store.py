"""Our online store behind Feast's own calls: writes, reads, ttl, types, versions, deletion."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rayplat.data.online import OnlineFeatures
from rayplat.errors import InvalidInput
from rayplat.settings import Settings
from tests.data.declared import DELAYS, WEATHER
from tests.data.online.world import apply

pytestmark = pytest.mark.services  # Feast alone takes ten seconds to import
NOW = datetime.now(UTC)
Opened = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path, settings: Settings) -> Opened:
    """A Feast store whose rows lie at ``path``; without one, where the settings say."""
    import feast

    def make(path: str | None = None, project: str = "plain") -> Any:
        config = feast.RepoConfig(
            project=project,
            provider="local",
            registry=str(tmp_path / "registry.db"),
            online_store={
                "type": "rayplat.data.feast.online_store.NewestOnlineStore",
                "path": path or settings.online_store,
            },
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
        return feast.FeatureStore(config=config)

    return make


def _view(fields: dict[str, Any], ttl: timedelta | None = None, **more: Any) -> list[Any]:
    import feast
    from feast.types import Int64, String

    city = feast.Entity(name="city", join_keys=["city"], value_type=feast.ValueType.STRING)
    gate = feast.Entity(name="gate", join_keys=["gate"], value_type=feast.ValueType.INT64)
    source = feast.FileSource(name="s", path="none.parquet", timestamp_field="at", created_timestamp_column="created")
    keys = [feast.Field(name="city", dtype=String), feast.Field(name="gate", dtype=Int64)]
    schema = [*keys, *(feast.Field(name=name, dtype=dtype) for name, dtype in fields.items())]
    return [
        city,
        gate,
        feast.FeatureView(name="v", entities=[city, gate], schema=schema, source=source, ttl=ttl, **more),
    ]


def _frame(at: datetime, created: datetime | None = None, **values: Any) -> pd.DataFrame:
    times = {"at": [at], "created": [created or at]}
    return pd.DataFrame({"city": ["JFK"], "gate": [2**53 + 1], **times, **{name: [v] for name, v in values.items()}})


def _read(store: Any, *names: str, gate: int = 2**53 + 1) -> dict[str, Any]:
    rows = [{"city": "JFK", "gate": gate}]
    found: dict[str, Any] = store.get_online_features(features=[f"v:{n}" for n in names], entity_rows=rows).to_dict()
    return {name: found[name][0] for name in names}


def test_newest_event_then_created_wins(opened: Opened) -> None:
    from feast.types import Int64

    store = opened()
    store.apply(_view({"x": Int64}))
    microsecond = timedelta(microseconds=1)
    for at, created, x, expected in (
        (NOW, NOW, 1, 1),
        (NOW - microsecond, NOW, 2, 1),
        (NOW, NOW - microsecond, 3, 1),
        (NOW, NOW + microsecond, 4, 4),
        (NOW + microsecond, NOW, 5, 5),
    ):
        store.write_to_online_store("v", _frame(at, created, x=x))
        assert _read(store, "x") == {"x": expected}
    assert _read(store, "x", gate=7) == {"x": None}


def test_rows_older_than_the_ttl_are_not_given_out(opened: Opened) -> None:
    from feast.types import Int64

    store = opened()
    store.apply(_view({"x": Int64}, ttl=timedelta(hours=1)))
    store.write_to_online_store("v", _frame(NOW - timedelta(hours=2), x=1))
    assert _read(store, "x") == {"x": None}
    store.write_to_online_store("v", _frame(NOW - timedelta(minutes=30), x=2))
    assert _read(store, "x") == {"x": 2}


def test_every_type_comes_back(opened: Opened) -> None:
    from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

    kinds = {"a": Int64, "b": Int32, "c": Float64, "d": Float32, "e": String, "f": Bool, "g": UnixTimestamp}
    kinds |= {"h": Bytes, "i": Array(Int64), "j": Array(String)}
    moment = NOW.replace(microsecond=0)
    values: dict[str, Any] = {"a": 2**53 + 1, "b": -5, "c": 0.1, "d": 0.5, "e": "Zürich 😀", "f": True, "g": moment}
    values |= {"h": b"\0\xff", "i": [1, 2], "j": ["a", "b"]}
    store = opened()
    store.apply(_view(kinds))
    store.write_to_online_store("v", _frame(NOW, **values))
    found = _read(store, *kinds)
    assert found.pop("g").timestamp() == moment.timestamp()
    assert found == {name: value for name, value in values.items() if name != "g"}


def test_a_new_field_leaves_the_others(opened: Opened) -> None:
    from feast.types import Float64, Int64

    store = opened()
    store.apply(_view({"x": Int64}))
    store.write_to_online_store("v", _frame(NOW, x=1))
    store.apply(_view({"x": Int64, "y": Float64}))
    assert _read(store, "x", "y") == {"x": 1, "y": None}


def test_projects_are_apart_and_deletion_forgets(opened: Opened) -> None:
    from feast.types import Int64

    one, two = opened(), opened(project="other")
    for store, x in ((one, 1), (two, 2)):
        store.apply(_view({"x": Int64}))
        store.write_to_online_store("v", _frame(NOW, x=x))
    assert (_read(one, "x"), _read(two, "x")) == ({"x": 1}, {"x": 2})
    objects = _view({"x": Int64})
    one.apply(objects[:2], objects_to_delete=[one.get_feature_view("v")], partial=False)
    one.apply(objects)
    assert (_read(one, "x"), _read(two, "x")) == ({"x": None}, {"x": 2})


def test_views_declared_here_share_their_rows(opened: Opened, settings: Settings) -> None:
    import feast
    from feast.types import Float64

    from rayplat.data.feast.online_store import DECLARATION_TAG, DIGEST_TAG

    tags = {DIGEST_TAG: WEATHER.digest(), DECLARATION_TAG: json.dumps(WEATHER.to_dict())}
    origin = feast.Entity(name="origin", join_keys=["origin"], value_type=feast.ValueType.STRING)
    source = feast.FileSource(name="s", path="none.parquet", timestamp_field="at")
    schema = [feast.Field(name="temp", dtype=Float64)]
    store = opened()
    store.apply([origin, feast.FeatureView(name="weather", entities=[origin], schema=schema, source=source, tags=tags)])
    store.write_to_online_store("weather", pd.DataFrame({"origin": ["JFK"], "at": [NOW], "temp": [3.5]}))
    own = OnlineFeatures(settings, {"weather": WEATHER.digest()}, "origin")
    assert own.read(["JFK"], NOW).values["temp"] == [3.5]


def test_windows_are_not_written_as_values(opened: Opened, settings: Settings) -> None:
    import feast

    from rayplat.data.feast.online_store import DECLARATION_TAG, DIGEST_TAG, NewestOnlineStore

    apply(settings, [DELAYS])
    tags = {DIGEST_TAG: DELAYS.digest(), DECLARATION_TAG: json.dumps(DELAYS.to_dict())}
    view = feast.FeatureView(name="delays", source=feast.FileSource(name="s", path="x"), tags=tags)
    with pytest.raises(InvalidInput, match="kept as tiles"):
        NewestOnlineStore().online_write_batch(opened().config, view, [], None)


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_other_servers(opened: Opened, request: pytest.FixtureRequest, kind: str) -> None:
    from feast.types import Float64

    store = opened(request.getfixturevalue(f"{kind}_url"), project=f"p{NOW.timestamp():.0f}")
    store.apply(_view({"x": Float64}))
    store.write_to_online_store("v", _frame(NOW, x=1.5))
    store.write_to_online_store("v", _frame(NOW - timedelta(days=1), x=2.5))
    assert _read(store, "x") == {"x": 1.5}
