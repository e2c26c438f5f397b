"""The point-in-time join: its kernel beside DuckDB's ASOF join on one core, the join on the cluster beside DuckDB on
the same Parquet files and cores, a join of ten times as many rows with its peak memory, and Feast's own stores.

What runs on Ray runs in a process of its own with a local head of two CPUs; so does DuckDB there, in turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import measure as memory
from benchmarks.data import feast_peers
from benchmarks.rows import Row, row
from rayplat.data.point_in_time import AsOf, FeatureRows, Side, join, join_on_cluster
from rayplat.data.tables import Tables
from tests.data.point_in_time.oracle import brute_force

COMMAND = "python -m benchmarks.data joins"
ROOT = Path(__file__).resolve().parents[2]
TIME = pa.timestamp("us", tz="UTC")
YEAR = 31_536_000_000_000
TTL = timedelta(days=2)
MILLION = 1_000_000
ASOF = (
    "select e.id, e.event_time, f.v, f.w from {} e asof left join {} f on e.id = f.id and e.event_time >= f.event_time"
)


@dataclass(frozen=True)
class Size:
    """(feature rows, spine rows, keys) of each part, and how often the two sides take turns."""

    kernel: tuple[int, int, int] = (5 * MILLION, MILLION, 100_000)
    whole: tuple[int, int, int] = (20 * MILLION, 4 * MILLION, 200_000)
    tenth: tuple[int, int, int] = (5 * MILLION, MILLION // 2, 50_000)
    large: tuple[int, int, int] = (50 * MILLION, 5 * MILLION, 500_000)
    peers: tuple[int, int, int] = (200_000, 50_000, 1_000)
    file_rows: int = 2 * MILLION
    repeats: int = 3


QUICK = Size(
    (200_000, 50_000, 2_000), (200_000, 40_000, 2_000), (50_000, 5_000, 500), (500_000, 50_000, 5_000),
    (8_000, 2_000, 50), 50_000, 2,
)  # fmt: skip


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Rows and raw figures. All times in seconds; the kernel's are of the processor."""
    size = QUICK if quick else Size()
    raw: dict[str, Any] = {"kernel": {kind: kernel(size, kind) for kind in ("integer", "string")}}
    for name in ("whole", "tenth", "large"):
        write_tables(work / name, *getattr(size, name), file_rows=size.file_rows)
    plans = ["duckdb", "shuffle", "broadcast"]
    raw["whole"] = apart(work / "whole", plans, size.repeats)
    raw["tenth"] = apart(work / "tenth", ["shuffle"], size.repeats)
    raw["large"] = apart(work / "large", ["shuffle"], 1)
    raw["large_duckdb"] = apart(work / "large", ["duckdb"], 1)
    raw["peers"] = peers(work / "feast", size)
    return rows(raw, size), raw


# --- the kernel ---------------------------------------------------------------------------------------


def kernel(size: Size, kind: str) -> dict[str, Any]:
    """Processor seconds of ours and DuckDB's on one core, in turns, and the rows in which they differ."""
    features, spine = sides(*size.kernel, kind)
    pa.set_cpu_count(1)
    taken: dict[str, list[float]] = {"ours": [], "duckdb": []}
    with duckdb.connect() as connection:
        connection.execute("set threads = 1; set preserve_insertion_order = false; set TimeZone = 'UTC'")
        connection.register("spine", spine)
        connection.register("features", features)
        side = FeatureRows(features, "id", ("v", "w"))
        ways: dict[str, Callable[[], pa.Table]] = {
            "ours": lambda: join(spine, [side]),
            "duckdb": lambda: connection.sql(ASOF.format("spine", "features")).to_arrow_table(),
        }
        for _ in range(size.repeats):
            for name, run in ways.items():
                begun = time.process_time()
                found = run()
                taken[name].append(time.process_time() - begun)
        wrong = differing(join(spine, [side]), found)
    return {**taken, "wrong": wrong}


def sides(feature_rows: int, spine_rows: int, keys: int, kind: str) -> tuple[pa.Table, pa.Table]:
    rng = np.random.default_rng(1)
    spine = batch(rng, spine_rows, keys, False)
    features = batch(rng, feature_rows, keys, True)
    if kind == "string":
        spine, features = (
            t.set_column(0, "id", pc.binary_join_element_wise("user", t["id"].cast(pa.string()), "-"))
            for t in (spine, features)
        )
    return features, spine


def batch(rng: np.random.Generator, count: int, keys: int, features: bool) -> pa.Table:
    """Moments of a year, in no order."""
    columns = {"id": rng.integers(0, keys, count), "event_time": pa.array(rng.integers(0, YEAR, count)).cast(TIME)}
    return pa.table(columns | ({"v": rng.random(count), "w": rng.random(count)} if features else {}))


def differing(left: pa.Table, right: pa.Table) -> int:
    """Rows of one that are not in the other, whatever their order."""
    names = ["id", "event_time", "v", "w"]
    by = [(name, "ascending") for name in names]
    one, other = (table.select(names).sort_by(by) for table in (left, right))
    if one.num_rows != other.num_rows:
        return max(one.num_rows, other.num_rows)
    same = np.ones(one.num_rows, np.bool_)
    for name in names:
        equal = pc.equal(one[name].combine_chunks(), other[name].combine_chunks())
        both = pc.and_(one[name].combine_chunks().is_null(), other[name].combine_chunks().is_null())
        same &= pc.if_else(both, True, equal.fill_null(False)).to_numpy(zero_copy_only=False)
    return int((~same).sum())


# --- on the cluster -----------------------------------------------------------------------------------


def write_tables(home: Path, feature_rows: int, spine_rows: int, keys: int, *, file_rows: int) -> None:
    """Delta tables ``features`` and ``spine``."""
    tables, rng = Tables(str(home)), np.random.default_rng(2)
    for name, count in (("features", feature_rows), ("spine", spine_rows)):
        for start in range(0, count, file_rows):
            made = batch(rng, min(file_rows, count - start), keys, name == "features")
            if start == 0:
                tables.create(name, made)
            else:
                tables.append(name, made)


def apart(home: Path, ways: list[str], repeats: int) -> dict[str, Any]:
    """`turns` in a process of its own, and its peak memory with all that it started."""
    command = [sys.executable, "-m", "benchmarks.data.joins", str(home), ",".join(ways), str(repeats)]
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        peak = max(peak, memory.sample(started, None, process.pid).pss_bytes)
        time.sleep(0.5)
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    if process.returncode:
        raise RuntimeError(f"joining {home.name} by {ways} failed with exit code {process.returncode}")
    return {**json.loads(lines[-1]), "peak_pss_bytes": peak}


def turns(home: str, ways: list[str], repeats: int) -> dict[str, Any]:
    """Seconds of each way from Delta to Arrow, in turns; the rows in which it differs from the first of them."""
    import ray

    tables = Tables(home)
    spine, features = tables.scan("spine"), tables.scan("features")
    paths = [[file.path for file in scan.files] for scan in (spine, features)]
    found: dict[str, Any] = {way: [] for way in ways} | {"reports": {}}
    kept: dict[str, pa.Table] = {}
    with tempfile.TemporaryDirectory(prefix="rp-") as scratch:
        if set(ways) - {"duckdb"}:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=scratch)
            warm_up(spine.head(10), features.head(10))
        for _ in range(repeats):
            for way in ways:
                begun = time.perf_counter()
                if way == "duckdb":
                    made = by_duckdb(*paths)
                else:
                    sides_ = [Side("features", features, AsOf(("id",), ("v", "w")))]
                    joined = join_on_cluster(spine, sides_, plan=way)  # type: ignore[arg-type]
                    made = pa.concat_tables(ray.get(joined.blocks))
                    found["reports"][way] = joined.report
                found[way].append(time.perf_counter() - begun)
                kept.setdefault(way, made)
        found["sums"] = {way: sums(table) for way, table in kept.items()}
        if len(kept) > 1:
            found["wrong"] = {way: differing(kept[ways[0]], table) for way, table in kept.items() if way != ways[0]}
        kept.clear()
        ray.shutdown()
    return found


def warm_up(spine: pa.Table, features: pa.Table) -> None:
    """Workers that are up and have loaded the code, as on a cluster in use."""
    import ray

    blocks = [ray.put(spine)] * 4
    for plan in ("broadcast", "shuffle"):
        join_on_cluster(blocks, [Side("f", features, AsOf(("id",), ("v", "w")))], plan=plan, partitions=4)  # type: ignore[arg-type]


def by_duckdb(spine: list[str], features: list[str]) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("set threads = 2; set preserve_insertion_order = false; set TimeZone = 'UTC'")
        query = ASOF.format(f"read_parquet({spine})", f"read_parquet({features})")
        return connection.sql(query).to_arrow_table()


def sums(table: pa.Table) -> list[int]:
    """The same for the same rows in any order."""
    values = [table[name].fill_null(0).to_numpy() for name in ("v", "w")]
    whole = [int((value * 2**40).astype(np.int64).sum()) for value in values]
    return [table.num_rows, table["v"].null_count, *whole]


# --- Feast --------------------------------------------------------------------------------------------


def peers(work: Path, size: Size) -> dict[str, Any]:
    """Ours and Feast's stores on one join with ties, duplicates, null keys and a ttl; wrong rows by the contract."""
    feature_rows, spine_rows, keys = size.peers
    rng = np.random.default_rng(3)

    def keyed(count: int, nulls: float) -> dict[str, pa.Array]:
        names = pa.array([f"user {n}" for n in rng.integers(0, keys, count)], mask=rng.random(count) < nulls)
        return {"k": names, "event_time": pa.array(rng.integers(0, 40_000, count) * 60_000_000).cast(TIME)}

    features = pa.table({**keyed(feature_rows, 0.0), "number": np.arange(feature_rows)})
    late = rng.integers(0, 60_000_000, feature_rows)
    created = pa.array(features["event_time"].cast(pa.int64()).to_numpy() + late).cast(TIME)
    features = features.append_column("created", created)
    spine = pa.table(keyed(spine_rows, 0.01)).slice(0, spine_rows - spine_rows // 20)
    spine = pa.concat_tables([spine, spine.slice(0, spine_rows // 20)])
    spine = spine.append_column("row", pa.array(np.arange(spine_rows)))
    expected = brute_force(spine, features, ("k",), ttl=TTL, created=True)
    begun = time.perf_counter()
    made = join(spine, [FeatureRows(features, "k", ("number",), ttl=TTL, created="created")])
    seconds = time.perf_counter() - begun
    wrong = sum(a != b for a, b in zip(made["number"].to_pylist(), expected, strict=True))
    ours = {"seconds": seconds, "rows": made.num_rows, "wrong": wrong}
    return {"ours": ours, **feast_peers.run(work, spine, features, TTL, expected)}


# --- rows ---------------------------------------------------------------------------------------------


def rows(raw: dict[str, Any], size: Size) -> list[Row]:
    def ratio(part: dict[str, Any], way: str) -> float:
        return statistics.median(part["duckdb"]) / statistics.median(part[way])

    def of(
        metric: str, value: float | None, unit: str, target: str | None, peers: dict[str, float] | None = None
    ) -> Row:
        return row(metric, value, unit, target, COMMAND, peers)

    whole, large, duck = raw["whole"], raw["large"], raw["large_duckdb"]
    parts = {name: getattr(size, name) for name in ("kernel", "whole", "tenth", "large")}
    named = {name: f"{feature / MILLION:g}M x {spine / MILLION:g}M" for name, (feature, spine, _) in parts.items()}
    made = []
    for kind, part in raw["kernel"].items():
        seconds = {"duckdb_cpu_s": statistics.median(part["duckdb"]), "ours_cpu_s": statistics.median(part["ours"])}
        what = f"join kernel, {kind} keys, {named['kernel']}, one core"
        made.append(of(f"{what}: speed / DuckDB", ratio(part, "ours"), "x", ">= 0.8", seconds))
        made.append(of(f"{what}: wrong rows", part["wrong"], "rows", "= 0"))
    for way in ("shuffle", "broadcast"):
        seconds = {"duckdb_s": statistics.median(whole["duckdb"]), "ours_s": statistics.median(whole[way])}
        what = f"join on Ray, {way}, {named['whole']}, Delta to Arrow"
        made.append(of(f"{what}: speed / DuckDB", ratio(whole, way), "x", ">= 0.7", seconds))
        made.append(of(f"{what}: wrong rows", whole["wrong"][way], "rows", "= 0"))
    what = f"join on Ray, shuffle, {named['large']}"
    peak = {"duckdb_gib": duck["peak_pss_bytes"] / 2**30}
    made.append(of(f"{what}: peak memory (summed PSS)", large["peak_pss_bytes"] / 2**30, "GiB", None, peak))
    seconds = {"duckdb_s": duck["duckdb"][0], "ours_s": large["shuffle"][0]}
    made.append(of(f"{what}: speed / DuckDB", duck["duckdb"][0] / large["shuffle"][0], "x", None, seconds))
    same = large["sums"]["shuffle"] == duck["sums"]["duckdb"]
    made.append(of(f"{what}: sums other than DuckDB's", int(not same), "", "= 0"))
    growth = (
        large["shuffle"][0] / sum(size.large[:2]) / (statistics.median(raw["tenth"]["shuffle"]) / sum(size.tenth[:2]))
    )
    made.append(of(f"time per row, {named['large']} / {named['tenth']}", growth, "x", "<= 1.5"))
    for name, part in raw["peers"].items():
        what = f"join of {size.peers[1]:,} rows with {size.peers[0]:,}, {'ours' if name == 'ours' else 'Feast ' + name}"
        made.append(of(f"{what}: time", part.get("seconds"), "s", None))
        made.append(of(f"{what}: wrong rows", part.get("wrong"), "rows", "= 0" if name == "ours" else None))
    return made


if __name__ == "__main__":
    print(json.dumps(turns(sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]))))
