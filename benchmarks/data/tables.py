"""Reading tables beside what reads the same files without a table, and writing them: medians of interleaved repeats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from benchmarks.rows import Row, row
from rayplat.data.tables import Tables
from rayplat.data.tables.scan import Scan

TABLE = "events"
COMMAND = "python -m benchmarks.data tables"


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Ten million rows of six columns in 100 files (quick: 10,000 in 10). Starts Ray for the Dataset if none runs."""
    rows, files, repeats = (10_000, 10, 2) if quick else (10_000_000, 100, 7)
    tables = Tables(str(work / "tables"))
    made = _table(tables, rows, files)
    arrow = _arrow(tables, repeats)
    found = [*_arrow_rows(arrow, rows), *_pruning(tables, rows, files)]
    raw: dict[str, Any] = {"rows": rows, "write_s": made, "arrow_s": arrow}
    found.append(row(f"Arrow: {rows:,} rows written in {files} commits", rows / made, "rows/s", None, COMMAND))
    if not quick:
        ray = _dataset(tables, repeats)
        raw["ray_s"] = ray
        ratio = ray["ray.data.read_parquet"] / ray["table"]
        peers = {"ray.data.read_parquet (s)": round(ray["ray.data.read_parquet"], 3)}
        found.append(row("Ray Dataset read: speed over ray.data.read_parquet", ratio, "×", ">= 0.9", COMMAND, peers))
        raw["changes_s"] = _changes(tables, rows)
        found += [row(f"Arrow: {name}", s, "s", None, COMMAND) for name, s in raw["changes_s"].items()]
    return found, raw


def _table(tables: Tables, rows: int, files: int) -> float:
    """Rows in time order, a commit per file; the seconds it took."""
    each, chance, began = rows // files, np.random.default_rng(0), time.perf_counter()
    start = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1e6)
    for i in range(files):
        ids = np.arange(i * each, (i + 1) * each)
        part = pa.table(
            {
                "id": ids,
                "key": chance.integers(0, 100_000, each),
                "at": pa.array(start + ids * 1_000_000, pa.timestamp("us", "UTC")),
                "x": chance.normal(size=each),
                "y": np.round(chance.exponential(size=each), 2),
                "carrier": pa.array(np.array(["UA", "AA", "DL", "WN", "B6"])[chance.integers(0, 5, each)]),
            }
        )
        tables.overwrite(TABLE, part) if i == 0 else tables.append(TABLE, part)
    return time.perf_counter() - began


def _arrow(tables: Tables, repeats: int) -> dict[str, float]:
    """Everything and two of six columns; the log is loaded anew every time."""
    paths = [file.path for file in tables.scan(TABLE).files]
    schema = tables.scan(TABLE).schema

    def plain(columns: list[str] | None) -> pa.Table:
        return pads.dataset(paths, schema=schema).to_table(columns=columns)

    return medians(
        {
            "table": lambda: tables.read(TABLE),
            "pyarrow.dataset": lambda: plain(None),
            "table, 2 columns": lambda: tables.read(TABLE, columns=["at", "x"]),
            "pyarrow.dataset, 2 columns": lambda: plain(["at", "x"]),
            "log": lambda: tables.scan(TABLE),
        },
        repeats,
    )


def _arrow_rows(seconds: Mapping[str, float], rows: int) -> list[Row]:
    found = []
    for suffix, target in (("", ">= 0.8"), (", 2 columns", None)):
        ours, theirs = seconds[f"table{suffix}"], seconds[f"pyarrow.dataset{suffix}"]
        what = f"Arrow read{suffix}: speed over pyarrow.dataset"
        found.append(row(what, theirs / ours, "×", target, COMMAND, {"pyarrow.dataset (s)": round(theirs, 4)}))
    found.append(row("Arrow read", rows / seconds["table"] / 1e6, "M rows/s", None, COMMAND))
    found.append(row("log read and resolved to files", seconds["log"] * 1000, "ms", None, COMMAND))
    return found


def _pruning(tables: Tables, rows: int, files: int) -> list[Row]:
    """Files left for a predicate that one of them can fulfil."""
    wanted = pc.field("id") == rows // 2 + 1
    pruned: Scan = tables.scan(TABLE).prune(wanted)
    began = time.perf_counter()
    count = tables.read(TABLE, where=wanted).num_rows
    took = time.perf_counter() - began
    return [
        row(f"files opened of {files} for a predicate that selects one", len(pruned.files), "files", "= 1", COMMAND),
        row("rows found by it", count, "rows", "= 1", COMMAND),
        row("time of it", took * 1000, "ms", None, COMMAND),
    ]


def _dataset(tables: Tables, repeats: int) -> dict[str, float]:
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    folder = tables.version(TABLE).uri
    paths = [file.path for file in tables.scan(TABLE).files]
    assert all(path.startswith(folder) for path in paths)
    return medians(
        {
            "table": lambda: tables.dataset(TABLE).materialize(),
            "ray.data.read_parquet": lambda: ray.data.read_parquet(paths).materialize(),
        },
        min(repeats, 5),
    )


def _changes(tables: Tables, rows: int) -> dict[str, float]:
    """One upsert and one delete that each touch one file in a hundred."""
    some = tables.read(TABLE, where=pc.field("id") < 1000)
    upsert = _seconds(lambda: tables.upsert(TABLE, some, ["id"]))
    delete = _seconds(lambda: tables.delete(TABLE, pc.field("id") == rows - 1))
    return {"upsert of 1,000 rows of one file": upsert, "delete of one row": delete}


def medians(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, one after the other in turn, after one warm-up round."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            seconds = _seconds(run)
            if turn:
                taken[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
