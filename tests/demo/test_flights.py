"""The flights: what is known when, on the real data."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayplat.data.features import FeatureView, Field, Window
from rayplat.data.features.build import rows_of
from rayplat.data.features.transforms import prepare
from rayplat.data.tables import Tables
from rayplat.data.windows import evaluate, fold, patch, touched
from rayplat.demo import flights
from rayplat.errors import InvalidInput


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


FUNCTIONS = ("count", "sum", "mean", "min", "max", "stddev", "last", "distinct_count")


@pytest.fixture(scope="module")
def some(known: pa.Table) -> pa.Table:
    """The flights of three small carriers."""
    return known.filter(pc.field("carrier").isin(["HA", "YV", "OO"]))


def every_window(view: FeatureView) -> FeatureView:
    """``view`` with every function over its columns, and windows from minutes to months."""
    more = tuple(
        Window(f"{column}_{function}_{length}", column, function, length, clock)
        for column, clock in (("dep_delay", "departed_at"), ("arr_delay", "arrived_at"))
        for function in FUNCTIONS
        for length in (timedelta(minutes=20), timedelta(days=2, microseconds=7), timedelta(days=60))
    )
    return replace(view, name="every", windows=view.windows + more)


def asked_of(some: pa.Table) -> tuple[pa.Table, pa.ChunkedArray]:
    """Keys and moments: an hour before departure, and the exact moments at which flights departed and arrived."""
    picked = some.take(list(range(0, some.num_rows, 41)))
    lead = pc.subtract(picked["sched_dep"], pa.scalar(flights.PREDICTION_LEAD, pa.duration("us")))
    moments = pa.concat_arrays([c.combine_chunks() for c in (lead, picked["departed_at"], picked["arrived_at"])])
    keys = pa.table({"carrier": pa.concat_arrays([picked["carrier"].combine_chunks()] * 3)})
    valid = moments.is_valid()
    return keys.filter(valid), pa.chunked_array([moments.filter(valid)])


def by_definition(some: pa.Table, window: Window, keys: pa.Table, moments: pa.ChunkedArray) -> list[float | None]:
    clock = some[window.event_time].cast(pa.int64()).to_numpy(zero_copy_only=False)
    values = some[window.column].to_numpy(zero_copy_only=False)
    carrier, length = np.array(some["carrier"].to_pylist()), window.length // timedelta(microseconds=1)
    order = np.lexsort((values, clock))
    clock, values, carrier = clock[order], values[order], carrier[order]
    found = []
    for key, at in zip(keys["carrier"].to_pylist(), moments.cast(pa.int64()).to_pylist(), strict=True):
        inside = values[(carrier == key) & (clock > at - length) & (clock <= at) & ~np.isnan(values)]
        found.append(of_values(window.function, inside))
    return found


def of_values(function: str, values: np.ndarray) -> float | None:
    if function in ("count", "distinct_count"):
        return len(values) if function == "count" else len(np.unique(values))
    if function == "sum":
        return float(values.sum())
    if len(values) == 0 or (function == "stddev" and len(values) < 2):
        return None
    if function == "last":
        return float(values[-1])
    return float(np.std(values, ddof=1)) if function == "stddev" else float(getattr(np, function)(values))


def test_windows_of_real_flights_equal_their_definition(some: pa.Table) -> None:
    """The table built at once, one patched by late and deleted flights, and brute force agree for every window."""
    view = every_window(next(view for view in flights.DELAYS if view.entity == flights.CARRIER))
    tiles = rows_of(view, some)
    late = pa.array(np.arange(some.num_rows) % 3 == 0)
    wrong = some.slice(100, 50).set_column(some.column_names.index("dep_delay"), "dep_delay", pa.array([999.0] * 50))
    early = fold(view.plan, prepare(view, pa.concat_tables([some.filter(pc.invert(late)), wrong]))[0])
    inserted, deleted = prepare(view, some.filter(late))[0], prepare(view, wrong)[0]
    made = patch(view.plan, early, inserted, deleted)
    names = list(view.plan.identity)
    gone = pa.concat_tables([made.changed.select(names), made.emptied])
    assert touched(view.plan, pa.concat_tables([inserted, deleted])).num_rows == gone.num_rows
    kept = early.to_pandas().merge(gone.to_pandas(), on=names, how="left", indicator=True)
    patched = pa.concat_tables([early.filter(pa.array((kept["_merge"] == "left_only").to_numpy())), made.changed])
    keys, moments = asked_of(some)
    offline, incremental = (evaluate(view.plan, rows, keys, moments) for rows in (tiles, patched))
    for window in view.windows:
        assert incremental[window.name].equals(offline[window.name]), window.name
        expected = by_definition(some, window, keys, moments)
        for got, wanted in zip(offline[window.name].to_pylist(), expected, strict=True):
            assert got == (None if wanted is None else pytest.approx(wanted, rel=1e-9, abs=1e-9)), window.name


def test_planted_future_flights_change_nothing(some: pa.Table) -> None:
    """Values at a moment are the same with and without everything that happened after it."""
    view = every_window(next(view for view in flights.DELAYS if view.entity == flights.CARRIER))
    keys, moments = asked_of(some)
    now = moments[len(moments) // 2]
    asked = pc.less_equal(moments, now)
    keys, moments = keys.filter(asked), moments.filter(asked)
    future = some
    for clock in ("departed_at", "arrived_at"):  # a copy of every flight, a microsecond after the last moment asked
        later = pc.add(pc.max(moments), pa.scalar(1, pa.duration("us")))
        future = future.set_column(future.column_names.index(clock), clock, pa.repeat(later, some.num_rows))
    planted = rows_of(view, pa.concat_tables([some, future]))
    assert evaluate(view.plan, planted, keys, moments).equals(evaluate(view.plan, rows_of(view, some), keys, moments))


def test_a_feature_that_reads_its_own_future_is_refused(some: pa.Table) -> None:
    leaking = replace(flights.SCHEDULE, fields=(*flights.SCHEDULE.fields, Field("dep_delay", "double")))
    with pytest.raises(InvalidInput, match="'dep_delay' is known at 'departed_at' but used as of 'announced_at'"):
        rows_of(leaking, some)
    carriers = next(view for view in flights.DELAYS if view.entity == flights.CARRIER)
    early = Window("late_mean", "late", "mean", timedelta(hours=3), "sched_dep")
    with pytest.raises(InvalidInput, match="'late' is known at 'arrived_at' but used as of 'sched_dep'"):
        rows_of(replace(carriers, windows=(early,)), some)


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
    assert all(view.table.startswith(f"features_{view.name}_") for view in flights.VIEWS)
    assert all(c.dtype in ("int64", "double") for view in flights.DELAYS for c in view.columns)
