"""The flights: what is known when, on the real data."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data.point_in_time import FeatureRows, join
from rayplat.data.tables import Tables
from rayplat.data.windows import change_points
from rayplat.demo import flights


@pytest.fixture(scope="module")
def raw() -> dict[str, pa.Table]:
    names = ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")
    return {name: flights._read(name) for name in names}


@pytest.fixture(scope="module")
def known(raw: dict[str, pa.Table]) -> pa.Table:
    return flights.with_moments(raw["flights.csv.zip"], raw["airports.csv"])


def minutes(later: pa.ChunkedArray, earlier: pa.ChunkedArray) -> np.ndarray:
    return pc.subtract(later, earlier).cast(pa.int64()).to_numpy(zero_copy_only=False) / 60e6


def test_every_flight_has_its_own_key(known: pa.Table) -> None:
    assert known.num_rows == 336_776
    assert pc.count_distinct(known["flight"]).as_py() == known.num_rows
    assert known["flight"][0].as_py() == "UA1545-2013-01-01T10"


def test_local_times_become_moments(known: pa.Table) -> None:
    """Time on the ground (arrival less departure less time in the air) cannot be negative; it is where a time zone
    or the day of arrival is wrong."""
    landed = known.filter(known["arrived_at"].is_valid())
    ground = minutes(landed["arrived_at"], landed["departed_at"]) - landed["air_time"].to_numpy()
    assert ground.min() > 0
    assert (ground > 180).sum() < 10
    assert np.median(ground) < 40
    first = known.slice(0, 1).to_pylist()[0]
    assert first["sched_dep"].isoformat() == "2013-01-01T10:15:00+00:00"  # 05:15 in New York
    assert first["sched_arr"].isoformat() == "2013-01-01T14:19:00+00:00"  # 08:19 in Houston
    assert (first["weekday"], first["month"], first["minute_of_day"]) == (1, 1, 315)


def test_flights_without_an_arrival_have_no_label(known: pa.Table) -> None:
    labels = flights.labels(known)
    assert labels["late"].null_count == labels["known_at"].null_count == known["arr_delay"].null_count == 9_430
    late = pc.greater(known["arr_delay"], flights.LATE_MINUTES)
    assert labels["late"].equals(late)
    assert set(minutes(known["sched_dep"], labels["prediction_at"])) == {60.0}
    cancelled = known.filter(known["dep_delay"].is_null())
    assert cancelled["departed_at"].null_count == cancelled["arrived_at"].null_count == cancelled.num_rows == 8_255


def test_nothing_is_known_before_it_happened(known: pa.Table) -> None:
    """No outcome of a flight is known at its own moment of prediction: this is why a model cannot score above what
    the past tells, and why a much higher figure would be a leak."""
    asked = pc.subtract(known["sched_dep"], pa.scalar(flights.PREDICTION_LEAD, pa.duration("us")))
    for outcome in ("departed_at", "arrived_at"):
        assert pc.all(pc.greater(known[outcome], asked)).as_py()
    outcomes = {"dep_delay", "arr_delay", "late", "air_time", "departed_at", "arrived_at"}
    assert not outcomes & {field.name for field in flights.SCHEDULE.fields}
    for view in flights.DELAYS:
        for window in view.windows:
            assert window.event_time == ("departed_at" if window.column == "dep_delay" else "arrived_at")


def test_windows_of_real_flights_equal_their_definition(known: pa.Table) -> None:
    view = next(view for view in flights.DELAYS if view.entity == flights.CARRIER)
    some = known.filter(pc.field("carrier").isin(["HA", "YV", "OO"]))
    points = change_points(some, "carrier", view.event_time, view.windows)
    asked = some.select(["flight", "carrier", "sched_dep"]).take(list(range(0, some.num_rows, 29)))
    asked = asked.append_column(
        "event_time", pc.subtract(asked["sched_dep"], pa.scalar(flights.PREDICTION_LEAD, pa.duration("us")))
    )
    found = join(asked, [FeatureRows(points, "carrier", view.feature_names)]).to_pylist()
    rows = some.to_pylist()
    for row in found[1:]:
        for window in view.windows:
            values = [
                r[window.column] for r in rows if r["carrier"] == row["carrier"] and r[window.event_time] is not None
                and row["event_time"] - window.length < r[window.event_time] <= row["event_time"]
            ]  # fmt: skip
            expected = float(len(values)) if window.function == "count" else np.mean(values) if values else None
            got = row[window.name]
            assert got == (None if expected is None else pytest.approx(expected, rel=1e-5, abs=1e-6)), window.name


def test_ingesting_again_makes_a_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: dict[str, pa.Table]
) -> None:
    monkeypatch.setattr(flights, "_read", lambda name: raw[name].slice(0, 1_500))
    tables = Tables(str(tmp_path))
    first, second = flights.ingest(tables, run_id="a"), flights.ingest(tables, run_id="b")
    assert second["flights"].version == first["flights"].version + 1
    assert second["flights"].row_count == second["flight_labels"].row_count == 1_500
    assert tables.history("flights")[0].run_id == "b"
    assert tables.names() == ["airports", "flight_labels", "flights", "planes", "weather"]
    assert tables.read("weather").schema.field("observed_at").type == pa.timestamp("us", tz="UTC")


def test_declarations_fit_together() -> None:
    assert flights.SCHEDULE_WEATHER.entity.join_key == "flight"
    assert "tailnum" not in flights.ALL.features
    assert len(flights.ALL.features) == 9 + 9 + 4 * 12
    assert flights.WEATHER.ttl == timedelta(hours=6)
    assert {view.table for view in flights.VIEWS} == {f"features_{view.name}" for view in flights.VIEWS}
