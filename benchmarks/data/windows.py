"""The window kernels on one core: right on the flights by every path, blind to the future, and beside DuckDB's windows.

The same windows are computed by their definition (`math.fsum` over the events one by one), from tiles folded at once,
from tiles patched with late and deleted rows, and from packed bytes as an online store hands them out. DuckDB's peer
is a `RANGE` window at every event, over the same rows with one thread.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.rows import Row, row
from rayplat.data.windows import (
    FUNCTIONS,
    Fetched,
    PackedTile,
    TilePlan,
    Window,
    answer,
    evaluate,
    fold,
    needed,
    pack,
    patch,
)
from rayplat.demo import flights as demo

COMMAND = "python -m benchmarks.data windows"
TIME = pa.timestamp("us", tz="UTC")
LENGTHS = (timedelta(minutes=20), timedelta(hours=3), timedelta(days=1), timedelta(days=7), timedelta(days=60))
ONLINE = tuple(timedelta(hours=h) for h in (0.25, 1, 3, 6, 12, 24, 48, 72, 120, 168))
NUMBERS = ("count", "sum", "mean", "min", "max", "stddev", "last")


def measure(_work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Rows and what they were made from; nothing is written."""
    table = _flights(4_000 if quick else None)
    rows, raw = _values(table, 20 if quick else 100)
    for part in (_future(table, quick), _throughput(30_000 if quick else 1_000_000), _latency(20 if quick else 400)):
        rows, raw = rows + part[0], raw | part[1]
    return rows, raw


def _flights(first: int | None) -> pa.Table:
    table = demo.with_moments(demo._read("flights.csv.zip"), demo._read("airports.csv"))
    return table if first is None else table.slice(0, first)


def _plans() -> dict[str, TilePlan]:
    """Every function over five lengths for each airport, and for each carrier and airport the demo's own."""
    windows = [
        Window(f"{column}_{f}_{i}", column, f, length, clock)
        for column, clock in (("dep_delay", "departed_at"), ("arr_delay", "arrived_at"))
        for f in FUNCTIONS
        for i, length in enumerate(LENGTHS)
    ]
    windows += [
        Window(f"tailnum_{f}_{i}", "tailnum", f, length, "departed_at", "string" if f == "last" else None)
        for f in ("last", "distinct_count", "approx_distinct_count")
        for i, length in enumerate(LENGTHS)
    ]
    pair = tuple(w for view in demo.DELAYS[:1] for w in view.windows)
    return {
        "origin": TilePlan(("origin",), "departed_at", tuple(windows)),
        "carrier and origin": TilePlan(("carrier", "origin"), "departed_at", pair),
    }


# --- right by every path ----------------------------------------------------------------------------


def _values(table: pa.Table, sample: int) -> tuple[list[Row], dict[str, Any]]:
    rng, rows, raw = np.random.default_rng(7), [], {}
    worst: dict[str, float] = defaultdict(float)
    compared, unequal = 0, 0
    for name, plan in _plans().items():
        asked = table.take(pa.array(np.sort(rng.choice(table.num_rows, sample, replace=False))))
        moments = asked["sched_dep"]
        tiles = fold(plan, table)
        offline = evaluate(plan, tiles, asked, moments)
        paths = {
            "few moments, from tiles": pa.concat_tables(
                evaluate(plan, tiles, asked.slice(i, 1), moments.slice(i, 1)) for i in range(sample)
            ),
            "incremental": evaluate(plan, _patched(plan, table), asked, moments),
            "online": _online(plan, tiles, asked, moments, offline.schema),
            "definition": _definition(plan, table, asked, moments, offline.schema),
        }
        for path, found in paths.items():
            for window in plan.windows:
                if path == "definition" and window.function == "approx_distinct_count":
                    continue
                difference, differ = _difference(offline[window.name], found[window.name])
                worst[path] = max(worst[path], difference)
                compared, unequal = compared + sample, unequal + differ
        raw[name] = {"windows": len(plan.windows), "tiles": tiles.num_rows, "tile_s": plan.tile_us / 1e6}
    for path, value in worst.items():
        what = f"windows of the flights: largest relative difference, offline and {path}"
        rows.append(row(what, value, "", "<= 1e-9", COMMAND))
    rows.append(row("windows of the flights: values compared", compared, "values", None, COMMAND))
    rows.append(row("windows of the flights: values that differ in any bit", unequal, "values", None, COMMAND))
    return rows, {"values": raw, "largest_difference": dict(worst), "compared": compared, "unequal": unequal}


def _patched(plan: TilePlan, table: pa.Table) -> pa.Table:
    """Tiles of 70 % of the rows and some wrong ones, to which the others come late while the wrong ones are deleted."""
    rng = np.random.default_rng(1)
    late = rng.random(table.num_rows) < 0.3
    wrong = table.slice(0, 500).set_column(
        table.schema.get_field_index("dep_delay"), "dep_delay", pc.add(table["dep_delay"].slice(0, 500), 1000.0)
    )
    tiles = fold(plan, pa.concat_tables([table.filter(pa.array(~late)), wrong]))
    rest, gone = table.filter(pa.array(late)), wrong
    for i in range(3):
        part = rest.slice(i * rest.num_rows // 3, (i + 1) * rest.num_rows // 3 - i * rest.num_rows // 3)
        found = patch(plan, tiles, part, gone if i == 1 else None)
        replaced = pa.concat_tables([found.changed.select(list(plan.identity)), found.emptied])
        tiles = pa.concat_tables([_without(plan, tiles, replaced), found.changed])
    return tiles


def _without(plan: TilePlan, tiles: pa.Table, gone: pa.Table) -> pa.Table:
    names = list(plan.identity)
    rows = tiles.select(names).append_column("row", pa.array(np.arange(tiles.num_rows)))
    return tiles.take(rows.join(gone, names, join_type="left anti")["row"])


def _online(plan: TilePlan, tiles: pa.Table, asked: pa.Table, moments: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    shelf = _shelf(pack(plan, tiles))
    keys = list(zip(*(asked[k].to_pylist() for k in plan.keys), strict=True))
    found: dict[str, list[Any]] = defaultdict(list)
    for key, at in zip(keys, moments.cast(pa.int64()).to_pylist(), strict=True):
        for name, values in answer(plan, _fetch(plan, shelf, [key], at), [at]).items():
            found[name] += list(values)
    return pa.table({f.name: pa.array(found[f.name], from_pandas=True).cast(f.type) for f in schema})


def _shelf(packed: Sequence[PackedTile]) -> dict[tuple[Any, ...], list[PackedTile]]:
    shelf: dict[tuple[Any, ...], list[PackedTile]] = defaultdict(list)
    for tile in packed:
        shelf[tile.key].append(tile)
    return shelf


def _fetch(
    plan: TilePlan, shelf: dict[tuple[Any, ...], list[PackedTile]], keys: Sequence[tuple[Any, ...]], at: int
) -> Fetched:
    wanted = needed(plan, at)
    ends = set(wanted.end_starts)
    found = [
        (i, t.clock, t.start_us, t.moments, t.events if t.start_us in ends else None, None)
        for i, key in enumerate(keys)
        for t in shelf.get(key, ())
        if wanted.first_start <= t.start_us <= wanted.last_start
    ]
    return Fetched(*([list(c) for c in zip(*found, strict=True)] if found else [[] for _ in range(6)]))


def _definition(
    plan: TilePlan, table: pa.Table, asked: pa.Table, moments: pa.ChunkedArray, schema: pa.Schema
) -> pa.Table:
    """By the definition, event by event: `math.fsum`, `statistics.stdev`, sets."""
    keys = list(zip(*(asked[k].to_pylist() for k in plan.keys), strict=True))
    at = moments.cast(pa.int64()).to_numpy()
    of_key = np.array([hash(k) for k in zip(*(table[k].to_pylist() for k in plan.keys), strict=True)])
    rows_of = {key: np.flatnonzero(of_key == hash(key)) for key in set(keys)}
    times = {c.name: table[c.name].cast(pa.int64()).to_numpy() for c in plan.clocks}
    columns = {w.column: np.array(table[w.column].to_pylist(), object) for w in plan.windows}
    found: dict[str, list[Any]] = defaultdict(list)
    streams: dict[tuple[str, str, int], list[Window]] = defaultdict(list)
    for w in plan.windows:
        streams[plan.clock_of(w), w.column, w.length_us].append(w)
    for key, moment in zip(keys, at, strict=True):
        own = rows_of[key]
        for (clock, column, length_us), windows in streams.items():
            when = times[clock][own]
            inside = own[(when > moment - length_us) & (when <= moment)]
            pairs = zip(times[clock][inside].tolist(), columns[column][inside].tolist(), strict=True)
            known = [(t, x) for t, x in pairs if x is not None and x == x]
            for w in windows:
                found[w.name].append(_by_definition(w.function, known))
    return pa.table({f.name: pa.array(found[f.name], f.type) for f in schema})


def _by_definition(function: str, known: list[tuple[int, Any]]) -> Any:
    values = [x for _, x in known]
    if function in ("count", "sum"):
        return len(values) if function == "count" else math.fsum(values)
    if function.endswith("distinct_count"):
        return len(set(values))
    if not values or (function == "stddev" and len(values) < 2):
        return None
    if function == "last":
        return max(known)[1]
    whole = {"mean": lambda v: math.fsum(v) / len(v), "min": min, "max": max, "stddev": statistics.stdev}
    return whole[function](values)


def _difference(a: pa.ChunkedArray, b: pa.ChunkedArray) -> tuple[float, int]:
    """The largest relative difference (infinite for null against a value, or other text), and how many differ."""
    worst, differ = 0.0, 0
    for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True):
        if x == y:
            continue
        differ += 1
        known = isinstance(x, int | float) and isinstance(y, int | float)
        worst = max(worst, abs(x - y) / max(abs(x), abs(y)) if known else math.inf)
    return worst, differ


def _future(table: pa.Table, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Flights of the future, with delays that would show, planted after each of several moments."""
    plan, changed, compared = _plans()["origin"], 0, 0
    times = table["departed_at"].drop_null().cast(pa.int64()).to_numpy()
    for share in (0.3, 0.7) if quick else (0.1, 0.3, 0.5, 0.7, 0.9):
        now = int(np.quantile(times, share))
        asked = pa.table({"origin": ["EWR", "JFK", "LGA"]})
        moments = pa.array([now] * 3, TIME)
        planted = table.slice(0, 3_000)
        for clock in ("departed_at", "arrived_at"):
            later = pa.array(now + 1 + np.arange(planted.num_rows) ** 2, TIME)
            planted = planted.set_column(table.schema.get_field_index(clock), clock, later)
        for column in ("dep_delay", "arr_delay"):
            wild = pa.array(np.full(planted.num_rows, 1e9))
            planted = planted.set_column(table.schema.get_field_index(column), column, wild)
        before = evaluate(plan, fold(plan, table), asked, moments)
        after = evaluate(plan, fold(plan, pa.concat_tables([table, planted])), asked, moments)
        for name in before.column_names:
            pairs = zip(before[name].to_pylist(), after[name].to_pylist(), strict=True)
            changed += sum(x != y for x, y in pairs)
            compared += 3
    raw = {"planted_future": {"compared": compared, "changed": changed}}
    return [row("windows: values changed by planted future events", changed, "values", "= 0", COMMAND)], raw


# --- fast -------------------------------------------------------------------------------------------


def _throughput(events: int) -> tuple[list[Row], dict[str, Any]]:
    """Seven functions over three lengths at every event, of 2,000 keys."""
    import duckdb

    rng = np.random.default_rng(0)
    at = np.sort(rng.integers(0, 30 * 86_400, events)) * 1_000_000 + 1_700_000_000_000_000
    table = pa.table({"k": rng.integers(0, 2_000, events), "at": pa.array(at, TIME), "x": rng.normal(size=events)})
    lengths = LENGTHS[1:4]
    windows = tuple(Window(f"{f}_{i}", "x", f, n) for f in NUMBERS for i, n in enumerate(lengths))
    plan = TilePlan(("k",), "at", windows)
    fold_s, tiles = _best(lambda: fold(plan, table))
    evaluate_s, ours = _best(lambda: evaluate(plan, tiles, table, table["at"]))
    names = {"count": "count", "sum": "sum", "mean": "avg", "min": "min", "max": "max", "stddev": "stddev_samp"}
    names["last"] = "last"
    columns = ", ".join(f"{names[f]}(x) over w{i} as {f}_{i}" for f in NUMBERS for i in range(len(lengths)))
    frames = ", ".join(
        f"w{i} as (partition by k order by t range between {w.length_us - 1} preceding and current row)"
        for i, w in enumerate(windows[: len(lengths)])
    )
    flat = table.set_column(1, "t", table["at"].cast(pa.int64())).append_column("row", pa.array(np.arange(events)))
    with duckdb.connect(config={"threads": 1}) as db:
        db.register("events", flat)
        db.execute("create table held as select * from events")
        query = f"select row, {columns} from held window {frames}"
        duck_s, theirs = _best(lambda: db.sql(query).to_arrow_table())
    theirs = theirs.take(pc.sort_indices(theirs["row"]))
    worst = max(_largest(ours[w.name], theirs[w.name]) for w in windows if w.function != "last")
    per_s = events * len(windows) / evaluate_s
    peers = {"DuckDB window values/s": events * len(windows) / duck_s, "events": events}
    rows = [
        row("window kernel: events folded into tiles", events / fold_s / 1e6, "M events/s", None, COMMAND),
        row("window kernel: values at every event", per_s / 1e6, "M values/s", None, COMMAND, peers),
        row(
            "window kernel: speed of fold and evaluate over DuckDB's",
            duck_s / (fold_s + evaluate_s),
            "×",
            None,
            COMMAND,
        ),
        row("window kernel: speed of evaluate over DuckDB's", duck_s / evaluate_s, "×", None, COMMAND),
        row("window kernel: largest difference from DuckDB, to the values' size", worst, "", "<= 1e-9", COMMAND),
    ]
    seconds = {"fold_s": fold_s, "evaluate_s": evaluate_s, "duckdb_s": duck_s, "events": events}
    return rows, {"throughput": seconds | {"largest_difference_from_duckdb": worst}}


def _largest(a: pa.ChunkedArray, b: pa.ChunkedArray) -> float:
    """Beside the spread of the column: DuckDB's running sums are plain, so sums near zero differ relatively."""
    x, y = (c.cast(pa.float64()).fill_null(0.0).to_numpy() for c in (a, b))
    return float(np.max(np.abs(x - y)) / max(float(np.max(np.abs(x))), 1.0))


def _best(what: Callable[[], Any]) -> tuple[float, Any]:
    seconds, found = [], None
    for _ in range(2):
        start = time.perf_counter()
        found = what()
        seconds.append(time.perf_counter() - start)
    return min(seconds), found


def _latency(rounds: int) -> tuple[list[Row], dict[str, Any]]:
    """Ten windows of five columns from fetched bytes: 168 tiles an hour each and 2,000 events in the longest window."""
    rng, keys = np.random.default_rng(0), 100
    events = 2_000 * keys
    columns = {f"v{c}": rng.normal(size=events).round(2) for c in range(5)}
    at = pa.array(rng.integers(0, 7 * 86_400_000_000, events), TIME)
    table = pa.table({"k": [f"k{i}" for i in np.arange(events) % keys], "at": at, **columns})
    functions = ("count", "sum", "mean", "min", "max", "stddev", "last", "sum", "mean", "count")
    windows = tuple(
        Window(f"v{c}_{i}", f"v{c}", f, n)
        for c in range(5)
        for i, (f, n) in enumerate(zip(functions, ONLINE, strict=True))
    )
    plan = TilePlan(("k",), "at", windows, timedelta(hours=1))
    shelf, moment = _shelf(pack(plan, fold(plan, table))), 7 * 86_400_000_000 - 1_800_000_000
    rows, raw = [], {}
    for many in (1, keys):
        fetched = _fetch(plan, shelf, [(f"k{i}",) for i in range(many)], moment)
        taken = []
        for _ in range(max(rounds // (1 if many == 1 else 10), 3)):
            start = time.perf_counter()
            answer(plan, fetched, [moment] * many)
            taken.append(1e3 * (time.perf_counter() - start))
        median = statistics.median(taken)
        what = f"window kernel: {many} key{'s' if many > 1 else ''} × 50 windowed features from bytes, median"
        rows.append(row(what, median, "ms", None, COMMAND))
        raw[f"{many} keys"] = {"median_ms": median, "p99_ms": float(np.percentile(taken, 99)), "min_ms": min(taken)}
    return rows, {"latency": raw}
