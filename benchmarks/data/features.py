"""Windowed features of the flights: the same value offline, after incremental refreshes and online, and by DuckDB.

Every function over windows from 20 minutes to 60 days, beside the demo's own. The incremental table begins with 70 %
of the flights and some that never were; the others come late, the wrong ones are deleted. Online values are read from
the SQLite store while time moves on. DuckDB computes the definition by a range join, at a sample of moments.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.rows import Row, row
from rayplat import settings as settings_module
from rayplat.data.features import FeatureView, Window
from rayplat.data.features.build import rows_of
from rayplat.data.features.notes import held, note
from rayplat.data.features.refresh import refresh
from rayplat.data.online import OnlineFeatures, catalog, open_store
from rayplat.data.online.materialize import advance
from rayplat.data.tables import Tables
from rayplat.data.windows import evaluate
from rayplat.demo import flights

COMMAND = "python -m benchmarks.data features"
UNIT, TARGET = "× 1e-9", "<= 1"
FUNCTIONS = {
    "count": "count(e.v)",
    "sum": "coalesce(fsum(e.v), 0)",
    "mean": "fsum(e.v) / count(e.v)",
    "min": "min(e.v)",
    "max": "max(e.v)",
    "stddev": "stddev_samp(e.v)",
    "last": "max_by(e.v, (e.at, e.v))",
    "distinct_count": "count(DISTINCT e.v)",
}
LENGTHS = (timedelta(minutes=20), timedelta(hours=5), timedelta(days=2, microseconds=7), timedelta(days=60))


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Largest relative differences by pair of ways, and how long the ways took."""
    known = _flights(quick)
    views = [_every(flights.DELAYS[1]), *(flights.DELAYS[1:2] if quick else flights.DELAYS)]
    tables = _late(Tables(str(work / "tables")), known, views)
    raw: dict[str, Any] = {"flights": known.num_rows, "windows": sum(len(view.windows) for view in views)}
    worst = dict.fromkeys(("incremental", "online", "duckdb", "planted"), 0.0)
    seconds = dict.fromkeys(("build", "refresh", "evaluate", "duckdb"), 0.0)
    for view in views:
        began = time.perf_counter()
        tiles = rows_of(view, known)
        seconds["build"] += time.perf_counter() - began
        began = time.perf_counter()
        refresh(tables, view)
        seconds["refresh"] += time.perf_counter() - began
        keys, moments = _asked(known, view, 40 if quick else 4_000)
        began = time.perf_counter()
        offline = evaluate(view.plan, tiles, keys, moments)
        seconds["evaluate"] += time.perf_counter() - began
        again = evaluate(view.plan, tables.read(view.table), keys, moments)
        worst["incremental"] = max(worst["incremental"], _difference(offline, again))
        worst["online"] = max(worst["online"], _online(work, tables, view, keys, moments, offline))
        worst["planted"] = max(worst["planted"], _planted(known, view, keys, moments, offline))
        some = np.linspace(0, keys.num_rows - 1, 40 if quick else 200).astype(np.int64)
        began = time.perf_counter()
        defined = _duckdb(known, view, keys.take(pa.array(some)), moments.take(pa.array(some)))
        seconds["duckdb"] += time.perf_counter() - began
        worst["duckdb"] = max(worst["duckdb"], _difference(offline.take(pa.array(some)), defined))
    raw |= {"largest_relative_difference": worst, "seconds": seconds}
    return _rows(raw), raw


def _rows(raw: dict[str, Any]) -> list[Row]:
    worst = {name: value * 1e9 for name, value in raw["largest_relative_difference"].items()}
    against = f"{raw['windows']} windows over {raw['flights']:,} flights, largest relative difference to offline"
    return [
        row(f"{against}: DuckDB by definition", worst["duckdb"], UNIT, TARGET, COMMAND),
        row("the same: incremental (late and deleted rows)", worst["incremental"], UNIT, TARGET, COMMAND),
        row("the same: online (SQLite store)", worst["online"], UNIT, TARGET, COMMAND),
        row("the same: with future flights planted", worst["planted"], UNIT, "<= 0", COMMAND),
        row("tiles built", raw["flights"] / raw["seconds"]["build"], "flights × views/s", None, COMMAND),
    ]


def _flights(quick: bool) -> pa.Table:
    known = flights.with_moments(flights._read("flights.csv.zip"), flights._read("airports.csv"))
    return known.filter(pc.field("carrier").isin(["HA", "YV", "OO"])) if quick else known


def _every(view: FeatureView) -> FeatureView:
    windows = tuple(
        Window(f"{column}_{function}_{i}", column, function, length, clock)
        for column, clock in (("dep_delay", "departed_at"), ("arr_delay", "arrived_at"))
        for function in FUNCTIONS
        for i, length in enumerate(LENGTHS)
    )
    return replace(view, name="every", windows=windows)


def _late(tables: Tables, known: pa.Table, views: Sequence[FeatureView]) -> Tables:
    """The source after late and deleted rows, its feature tables as they were before."""
    chance = np.random.default_rng(0)
    late = pa.array(chance.random(known.num_rows) < 0.3)
    wrong = known.take(pa.array(np.sort(chance.choice(known.num_rows, known.num_rows // 50, replace=False))))
    wrong = wrong.set_column(0, "flight", pc.binary_join_element_wise(wrong["flight"], "wrong", "-"))
    wrong = wrong.set_column(wrong.column_names.index("dep_delay"), "dep_delay", pa.array(np.full(len(wrong), 999.0)))
    first = tables.create("flights", pa.concat_tables([known.filter(pc.invert(late)), wrong]))
    for view in views:
        rows = rows_of(view, tables.read(first))
        tables.overwrite(
            view.table, rows, transaction=held(tables, view).transaction, metadata=note(view, first, "build")
        )
    tables.append("flights", known.filter(late))
    tables.delete("flights", pc.ends_with(pc.field("flight"), "-wrong"))
    return tables


def _asked(known: pa.Table, view: FeatureView, count: int) -> tuple[pa.Table, pa.ChunkedArray]:
    """Keys at an hour before a departure and at the very moments of departures and arrivals, in order of time."""
    rows = known.take(pa.array(np.linspace(0, known.num_rows - 1, count).astype(np.int64)))
    lead = pc.subtract(rows["sched_dep"], pa.scalar(flights.PREDICTION_LEAD, pa.duration("us")))
    moments = pa.chunked_array([c for m in (lead, rows["departed_at"], rows["arrived_at"]) for c in m.chunks])
    table = pa.table({key: pa.chunked_array(rows[key].chunks * 3) for key in view.keys} | {"at": moments})
    table = table.filter(pc.and_(table["at"].is_valid(), table[view.keys[0]].is_valid())).sort_by("at")
    return table.select(list(view.keys)), table["at"]


def _online(
    work: Path, tables: Tables, view: FeatureView, keys: pa.Table, moments: pa.ChunkedArray, offline: pa.Table
) -> float:
    """Reads at thirty moments, the store brought up to each before."""
    settings = settings_module.load(work / "home", environ={})
    store = open_store(settings.online_store)
    catalog.declare(store, catalog.Definition.of(view))
    reader, worst = OnlineFeatures(settings, {view.name: view.digest()}, view.keys), 0.0
    for i in np.linspace(0, len(moments) - 1, 30).astype(np.int64).tolist():
        at = moments[i].as_py()
        advance(store, tables, view, at)
        found = reader.read([keys[view.keys[0]][i].as_py()], at)
        served = pa.table(
            {name: pa.array(found.values[name], offline.schema.field(name).type) for name in offline.column_names}
        )
        worst = max(worst, _difference(offline.slice(i, 1), served))
    return worst


def _planted(known: pa.Table, view: FeatureView, keys: pa.Table, moments: pa.ChunkedArray, offline: pa.Table) -> float:
    """The first half of the moments, with a copy of every flight planted a microsecond after the last of them."""
    half = len(moments) // 2
    later, planted = pc.add(moments[half - 1], pa.scalar(1, pa.duration("us"))), known
    for clock in ("departed_at", "arrived_at"):
        planted = planted.set_column(planted.column_names.index(clock), clock, pa.repeat(later, known.num_rows))
    tiles = rows_of(view, pa.concat_tables([known, planted]))
    return _difference(offline.slice(0, half), evaluate(view.plan, tiles, keys.slice(0, half), moments.slice(0, half)))


def _duckdb(known: pa.Table, view: FeatureView, keys: pa.Table, moments: pa.ChunkedArray) -> pa.Table:
    key, columns = view.keys[0], {}
    asked = pa.table({"i": pa.array(np.arange(keys.num_rows)), "k": keys[key], "t": moments})
    with duckdb.connect() as db:
        db.execute("SET threads = 2; SET TimeZone = 'UTC'")
        db.register("asked", asked)
        db.register("known", known)
        for window in view.windows:
            clock, length = window.event_time or view.event_time, window.length // timedelta(microseconds=1)
            events = f"SELECT {key} AS k, {clock} AS at, {window.column} AS v FROM known"
            made = db.sql(
                f"SELECT {FUNCTIONS[window.function]} AS x FROM asked a LEFT JOIN ({events}) e ON e.v IS NOT NULL "
                f"AND e.k = a.k AND e.at <= a.t AND e.at > a.t - to_microseconds({length}) GROUP BY a.i ORDER BY a.i"
            )
            columns[window.name] = made.to_arrow_table()["x"]
    return pa.table(columns)


def _difference(one: pa.Table, other: pa.Table) -> float:
    """The largest relative difference; infinite where one has a value and the other none."""
    worst = 0.0
    for name in one.column_names:
        a, b = (t[name].cast(pa.float64()).to_numpy() for t in (one, other))
        if (np.isnan(a) != np.isnan(b)).any():
            return float("inf")
        both = ~np.isnan(a)
        scale = np.maximum(np.maximum(np.abs(a[both]), np.abs(b[both])), 1.0)
        worst = max(worst, float(np.max(np.abs(a[both] - b[both]) / scale, initial=0.0)))
    return worst
