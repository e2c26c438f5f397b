"""A small declared world for the tests of this folder: flights from two airports, their weather, and delays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from rayplat.data.features import Entity, FeatureService, FeatureView, Field
from rayplat.data.windows import Window

TIME = pa.timestamp("us", tz="UTC")
START = datetime(2013, 11, 1, tzinfo=UTC)
FLIGHT, ORIGIN = Entity("flight", "flight"), Entity("origin", "origin")
SCHEDULE = FeatureView(
    "schedule", FLIGHT, "flights", "announced", fields=(Field("origin", "string"), Field("distance", "double"))
)
WEATHER = FeatureView(
    "weather", ORIGIN, "weather", "observed", fields=(Field("temp", "double"),), ttl=timedelta(hours=2)
)
DELAYS = FeatureView(
    "delays",
    ORIGIN,
    "flights",
    "departed",
    windows=(
        Window("departures_1h", "delay", "count", timedelta(hours=1)),
        Window("delay_1h", "delay", "mean", timedelta(hours=1)),
    ),
)
VIEWS = (SCHEDULE, WEATHER, DELAYS)
SERVICE = FeatureService("all", FLIGHT, VIEWS)


def hours(*numbers: float | None) -> pa.Array:
    return pa.array([None if n is None else START + timedelta(hours=n) for n in numbers], TIME)


def flights() -> pa.Table:
    """f0 to f9 depart every half hour in turn from JFK and EWR; f7 was cancelled."""
    departed = [0.5 * i if i != 7 else None for i in range(10)]
    return pa.table(
        {
            "flight": [f"f{i}" for i in range(10)],
            "origin": ["JFK", "EWR"] * 5,
            "distance": [100.0 * i for i in range(10)],
            "announced": hours(*[0.5 * i - 24 for i in range(10)]),
            "departed": hours(*departed),
            "delay": [None if d is None else 10.0 * i for i, d in enumerate(departed)],
            "asked": hours(*[0.5 * i - 0.25 for i in range(10)]),
            "late": [None if d is None else i % 3 == 0 for i, d in enumerate(departed)],
        }
    )


def weather() -> pa.Table:
    return pa.table({"origin": ["JFK", "EWR", "JFK"], "observed": hours(0, 0, 1), "temp": [1.0, 2.0, 3.0]})
