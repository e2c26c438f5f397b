"""The online store: reads of 50 features, fields and windows, and push to readable, on SQLite, Redis and PostgreSQL.

Beside them, in the same run, Feast's own `get_online_features` on its own SQLite and Redis stores, with the same keys
and values. Servers are started here. Feast's call has no moment to ask for, so its rows are of today.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.rows import Row, row
from rayplat import settings as settings_module
from rayplat.data.features import Entity, FeatureView, Field, Window
from rayplat.data.features.build import rows_of
from rayplat.data.online import OnlineFeatures, catalog, open_store
from rayplat.data.online.materialize import advance
from rayplat.data.online.push import push
from rayplat.data.tables import Tables
from tests.servers import postgres_server, redis_server

COMMAND = "python -m benchmarks.data online"
FEATURES = 50
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
TIME = pa.timestamp("us", tz="UTC")
DRIVER = Entity("driver", "driver_id")
FIELDS = FeatureView(
    "driver_stats", DRIVER, "stats", "at", fields=tuple(Field(f"f{i}", "double") for i in range(FEATURES))
)
LENGTHS = [timedelta(hours=1), timedelta(hours=6), timedelta(days=1), timedelta(days=3), timedelta(days=7)]
WINDOWS = FeatureView(
    "driver_windows",
    DRIVER,
    "trips",
    "at",
    windows=tuple(
        Window(f"{column}_{function}_{n}", column, function, length)
        for column in ("fare", "miles")
        for function in ("count", "sum", "mean", "max", "stddev")
        for n, length in enumerate(LENGTHS)
    ),
)


@dataclass(frozen=True)
class Size:
    """``entities`` have a row each and ``events`` each; reads are repeated ``single`` and ``batched`` times."""

    entities: int = 2000
    events: int = 500
    single: int = 4000
    batched: int = 400
    pushes: int = 100


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Rows and raw figures (all times in milliseconds)."""
    size = Size(100, 40, 100, 20, 5) if quick else Size()
    raw: dict[str, Any] = {"entities": size.entities, "features": FEATURES, "events_per_entity": size.events}
    tables = Tables(str(work / "tables"))
    tables.create(FIELDS.table, rows_of(FIELDS, stats(size.entities)))
    tables.create(WINDOWS.table, rows_of(WINDOWS, trips(size)))
    with stores(work) as urls:
        raw["feast"] = {kind: _feast(work / kind, kind, url, size) for kind, url in urls.items() if kind != "postgres"}
        raw["ours"] = {kind: _ours(work / kind, url, tables, size) for kind, url in urls.items()}
    return _rows(raw), raw


@contextmanager
def stores(work: Path) -> Iterator[dict[str, str]]:
    with redis_server() as redis, postgres_server() as postgres:
        yield {"sqlite": str(work / "online.db"), "redis": redis, "postgres": postgres}


def stats(entities: int) -> pa.Table:
    values = np.random.default_rng(1).normal(size=(FEATURES, entities))
    columns = {f"f{i}": values[i] for i in range(FEATURES)}
    return pa.table({"driver_id": keys(entities), "at": pa.array([NOW] * entities, TIME), **columns})


def trips(size: Size) -> pa.Table:
    """Events of the last eight days, all keys alike."""
    rng, count = np.random.default_rng(2), size.entities * size.events
    back = rng.integers(0, 8 * 86_400_000_000, count)
    at = pa.array(int(NOW.timestamp()) * 1_000_000 - back).cast(TIME)
    who = pa.array(keys(size.entities)).take(pa.array(rng.integers(0, size.entities, count)))
    return pa.table({"driver_id": who, "at": at, "fare": rng.normal(20, 5, count), "miles": rng.exponential(3, count)})


def keys(entities: int) -> list[str]:
    return [f"driver {i}" for i in range(entities)]


def _ours(home: Path, url: str, tables: Tables, size: Size) -> dict[str, Any]:
    settings = settings_module.load(home, environ={}, data={"online_store": url})
    store = open_store(settings.online_store)
    found: dict[str, Any] = {}
    for view in (FIELDS, WINDOWS):
        catalog.declare(store, catalog.Definition.of(view))
        begun = time.perf_counter()
        written = advance(store, tables, view, NOW)
        found[f"{view.name}_rows_per_s"] = written / (time.perf_counter() - begun)
        online = OnlineFeatures(settings, {view.name: view.digest()}, "driver_id")
        at = NOW + timedelta(minutes=1)
        found[f"{view.name}_1"] = _timed(lambda who: online.read(who, at), size.entities, 1, size.single)  # noqa: B023
        found[f"{view.name}_100"] = _timed(lambda who: online.read(who, at), size.entities, 100, size.batched)  # noqa: B023
        reader = online
    found["push_to_readable"] = _pushed(store, reader, size)
    return found


def _pushed(store: Any, online: OnlineFeatures, size: Size) -> dict[str, float]:
    """From before the push until a read holds its event."""
    taken = []
    for n in range(size.pushes):
        who, at = f"driver {n}", NOW + timedelta(seconds=1)
        before = online.read([who], at).columns["fare_count_4"][0]
        event = pa.table({"driver_id": [who], "at": pa.array([at], TIME), "fare": [1.0 + n], "miles": [2.0]})
        begun = time.perf_counter()
        push(store, None, "trips", event)
        while online.read([who], at).columns["fare_count_4"][0] != before + 1:
            pass
        taken.append(time.perf_counter() - begun)
    return _quantiles(taken)


def _feast(repo: Path, kind: str, url: str, size: Size) -> dict[str, Any]:
    """Feast's own store of this kind, filled by its own `write_to_online_store`."""
    import feast
    from feast.types import Float64

    repo.mkdir(parents=True)
    online = {"type": "redis", "connection_string": url.removeprefix("redis://").replace("/0", ",db=1")}
    if kind == "sqlite":
        online = {"type": "sqlite", "path": str(repo / "feast.db")}
    config = feast.RepoConfig(
        project="bench",
        provider="local",
        registry=str(repo / "registry.db"),
        online_store=online,
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    driver = feast.Entity(name="driver", join_keys=["driver_id"], value_type=feast.ValueType.STRING)
    source = feast.FileSource(name="stats", path=str(repo / "stats.parquet"), timestamp_field="at")
    fields = [feast.Field(name=f"f{i}", dtype=Float64) for i in range(FEATURES)]
    view = feast.FeatureView(name="driver_stats", entities=[driver], schema=fields, source=source)
    store = feast.FeatureStore(config=config)
    frame = stats(size.entities)
    import pyarrow.parquet as pq

    pq.write_table(frame.slice(0, 1), repo / "stats.parquet")
    store.apply([driver, view])
    store.write_to_online_store("driver_stats", frame.to_pandas())
    names = [f"driver_stats:f{i}" for i in range(FEATURES)]

    def read(who: list[str]) -> Any:
        return store.get_online_features(features=names, entity_rows=[{"driver_id": w} for w in who])

    first = read(["driver 0"]).to_dict()["f0"]
    if first != [frame["f0"][0].as_py()]:
        raise RuntimeError(f"Feast answers {first}")
    return {
        "driver_stats_1": _timed(read, size.entities, 1, max(size.single // 10, 20)),
        "driver_stats_100": _timed(read, size.entities, 100, max(size.batched // 10, 10)),
    }


def _timed(read: Callable[[list[str]], Any], entities: int, batch: int, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(3)
    chosen = [[f"driver {i}" for i in rng.integers(0, entities, batch)] for _ in range(repeats)]
    for who in chosen[:10]:
        read(who)
    taken = []
    for who in chosen:
        begun = time.perf_counter()
        read(who)
        taken.append(time.perf_counter() - begun)
    return _quantiles(taken)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"p50": float(p50), "p99": float(p99)}


def _rows(raw: dict[str, Any]) -> list[Row]:
    made = []
    for kind, ours in raw["ours"].items():
        feast = raw["feast"].get(kind, {})
        targets = {1: "<= 2", 100: "<= 25"} if kind != "postgres" else {}
        for batch in (1, 100):
            for q in ("p50", "p99"):
                name = f"driver_stats_{batch}"
                peers = {"Feast": round(feast[name][q], 3)} if feast else None
                target = targets.get(batch) if q == "p99" else None
                what = f"online read, {batch} x {FEATURES} features, {kind}, {q}"
                made.append(row(what, ours[name][q], "ms", target, COMMAND, peers))
                what = f"online read, {batch} x {FEATURES} windows, {kind}, {q}"
                made.append(row(what, ours[f"driver_windows_{batch}"][q], "ms", target, COMMAND))
        pushed = ours["push_to_readable"]["p99"]
        made.append(row(f"push to readable, {kind}, p99", pushed, "ms", "<= 1000", COMMAND))
        made.append(row(f"rows materialized, {kind}", ours["driver_stats_rows_per_s"], "rows/s", None, COMMAND))
    return made


if __name__ == "__main__":
    sys.exit("run it as: " + COMMAND)
