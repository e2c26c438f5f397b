"""The join against brute force, on random rows with every kind of edge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from rayplat.data.point_in_time import FeatureRows, index, join
from rayplat.errors import SchemaMismatch

TIME = pa.timestamp("us", tz="UTC")
BASE = int(datetime(2013, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
TTL = timedelta(microseconds=50)


def moments(values: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
    return pa.array(values + BASE, TIME, mask=null)


def sides(seed: int, spine_rows: int, feature_rows: int) -> tuple[pa.Table, pa.Table]:
    """Few keys and a narrow span of time: ties, edges of the ttl and duplicates come by the thousand."""
    rng = np.random.default_rng(seed)
    spine = pa.table(
        {
            "key": pa.array([f"k{i}" for i in rng.integers(0, 220, spine_rows)], mask=rng.random(spine_rows) < 0.02),
            "event_time": moments(rng.integers(0, 2000, spine_rows), rng.random(spine_rows) < 0.02),
            "row": np.arange(spine_rows),
        }
    )
    value = rng.random(feature_rows)
    value[rng.random(feature_rows) < 0.05] = np.nan
    features = pa.table(
        {
            "key": pa.array(
                [f"k{i}" for i in rng.integers(0, 200, feature_rows)], mask=rng.random(feature_rows) < 0.02
            ),
            "event_time": moments(rng.integers(0, 2000, feature_rows), rng.random(feature_rows) < 0.02),
            "created": moments(rng.integers(0, 3, feature_rows)),
            "value": pa.array(value, mask=rng.random(feature_rows) < 0.05),
            "number": np.arange(feature_rows),
        }
    )
    return spine, features


def brute_force(spine: pa.Table, features: pa.Table, ttl: timedelta | None, created: bool) -> list[int | None]:
    """The number of the winning feature row of each spine row, by definition."""
    of_key: dict[str, list[tuple[datetime, datetime | int, int]]] = {}
    for row in features.select(["key", "event_time", "created", "number"]).to_pylist():
        if row["key"] is not None and row["event_time"] is not None:
            order = (row["event_time"], row["created"] if created else 0, row["number"])
            of_key.setdefault(row["key"], []).append(order)
    winners: list[int | None] = []
    for row in spine.to_pylist():
        at = row["event_time"]
        known = [
            c for c in of_key.get(row["key"], []) if at is not None and c[0] <= at and (ttl is None or c[0] >= at - ttl)
        ]
        winners.append(max(known)[2] if known else None)
    return winners


@pytest.mark.parametrize(("ttl", "created"), [(None, False), (TTL, True)])
def test_equals_brute_force(ttl: timedelta | None, created: bool) -> None:
    spine, features = sides(7, 20_000, 20_000)
    side = FeatureRows(features, "key", ("value", "number"), ttl=ttl, created="created" if created else None)
    found = join(spine, [side])
    assert found["row"].to_pylist() == list(range(20_000))
    assert found["number"].to_pylist() == brute_force(spine, features, ttl, created)
    expected = features["value"].take(found["number"])
    assert pa.table({"v": found["value"]}).to_pandas().equals(pa.table({"v": expected}).to_pandas())
    assert found["value"].null_count == expected.null_count


def test_ends_of_the_ttl_are_inclusive_to_the_microsecond() -> None:
    features = pa.table({"key": ["a"], "event_time": moments(np.array([100])), "value": [1.0]})
    at = np.array([99, 100, 149, 150, 151])
    spine = pa.table({"key": ["a"] * 5, "event_time": moments(at)})
    found = join(spine, [FeatureRows(features, "key", ("value",), ttl=TTL)])
    assert found["value"].to_pylist() == [None, 1.0, 1.0, 1.0, None]


def test_times_without_a_zone_are_utc() -> None:
    features = pa.table({"key": ["a"], "event_time": pa.array([datetime(2013, 1, 1)]), "value": [1.0]})
    early = datetime(2012, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    spine = pa.table({"key": ["a", "a"], "event_time": pa.array([early, datetime(2013, 1, 1, tzinfo=UTC)], TIME)})
    assert join(spine, [FeatureRows(features, "key", ("value",))])["value"].to_pylist() == [None, 1.0]


@pytest.mark.parametrize(("spine_rows", "feature_rows"), [(0, 10), (10, 0), (0, 0)])
def test_empty_sides(spine_rows: int, feature_rows: int) -> None:
    spine, features = sides(1, spine_rows, feature_rows)
    found = join(spine, [FeatureRows(features, "key", ("value",), ttl=TTL)])
    assert found["value"].null_count == found.num_rows == spine_rows
    assert found.schema.field("value").type == pa.float64()


def test_several_views_lead_from_one_to_the_next() -> None:
    at = moments(np.array([10, 10]))
    spine = pa.table({"flight": ["f1", "f2"], "event_time": at, "label": [0, 1]})
    flights = pa.table({"flight": ["f1", "f2"], "event_time": moments(np.array([1, 1])), "origin": ["JFK", None]})
    weather = pa.table({"origin": ["JFK"], "event_time": moments(np.array([5])), "temp": [20.0], "label": [7]})
    sides = [FeatureRows(flights, "flight", ("origin",)), index(FeatureRows(weather, "origin", ("temp", "label")))]
    assert join(spine, sides).select(["origin", "temp", "label"]).to_pylist() == [
        {"origin": "JFK", "temp": 20.0, "label": 0},
        {"origin": None, "temp": None, "label": 1},
    ]


def test_bad_columns_are_named() -> None:
    spine, features = sides(1, 3, 3)
    with pytest.raises(SchemaMismatch, match="key: join key"):
        join(spine.drop_columns(["key"]), [FeatureRows(features, "key", ("value",))])
    with pytest.raises(SchemaMismatch, match="event_time: the spine"):
        join(spine.drop_columns(["event_time"]), [FeatureRows(features, "key", ("value",))])
    with pytest.raises(SchemaMismatch, match="timestamp"):
        join(spine.set_column(1, "event_time", pa.array([1, 2, 3])), [FeatureRows(features, "key", ("value",))])
