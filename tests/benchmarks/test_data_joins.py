"""The benchmark of joins: its small parts run, and its rows judge what the promise says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.data import joins

TINY = joins.Size(kernel=(3_000, 500, 40), peers=(300, 60, 5), repeats=1)


def test_the_kernel_and_duckdb_agree() -> None:
    cpus = pa.cpu_count()
    try:
        for kind in ("integer", "string"):
            found = joins.kernel(TINY, kind)
            assert found["wrong"] == 0
            assert len(found["ours"]) == len(found["duckdb"]) == 1
    finally:
        pa.set_cpu_count(cpus)


def test_differing_rows_are_counted_in_any_order() -> None:
    features, spine = joins.sides(100, 50, 5, "integer")
    rows = spine.append_column("v", features["v"].slice(0, 50)).append_column("w", features["w"].slice(0, 50))
    assert joins.differing(rows, rows.take(list(range(49, -1, -1)))) == 0
    other = rows.set_column(2, "v", pa.array([None, *rows["v"].to_pylist()[1:]], pa.float64()))
    assert joins.differing(rows, other) == 1
    assert joins.differing(rows, rows.slice(1)) == 50
    assert joins.sums(rows) != joins.sums(other)


def test_tables_are_written_in_files(tmp_path: Path) -> None:
    joins.write_tables(tmp_path, 250, 100, 5, file_rows=100)
    tables = joins.Tables(str(tmp_path))
    assert [len(tables.scan(name).files) for name in ("features", "spine")] == [3, 1]
    scans = [[file.path for file in tables.scan(name).files] for name in ("spine", "features")]
    assert joins.by_duckdb(*scans).num_rows == 100


def test_rows_judge_the_promise() -> None:
    turns: dict[str, Any] = {"duckdb": [1.0], "shuffle": [2.0], "broadcast": [1.0]}
    raw = {
        "kernel": {"integer": {"ours": [1.0], "duckdb": [2.0], "wrong": 0}},
        "whole": {**turns, "wrong": {"shuffle": 0, "broadcast": 3}},
        "tenth": {"shuffle": [1.0]},
        "large": {"shuffle": [10.0], "peak_pss_bytes": 2**31, "sums": {"shuffle": [1]}},
        "large_duckdb": {"duckdb": [8.0], "peak_pss_bytes": 2**30, "sums": {"duckdb": [1]}},
        "peers": {"ours": {"seconds": 1.0, "wrong": 0}, "dask": {"failed": "no"}},
    }
    made = {row.metric: row for row in joins.rows(raw, joins.Size())}
    held = {name: row.holds for name, row in made.items() if row.holds is not None}
    assert [name for name, holds in held.items() if not holds] == [
        "join on Ray, shuffle, 20M x 4M, Delta to Arrow: speed / DuckDB",
        "join on Ray, broadcast, 20M x 4M, Delta to Arrow: wrong rows",
    ]
    assert made["time per row, 50M x 5M / 5M x 0.5M"].value == 1.0
    assert made["join of 50,000 rows with 200,000, Feast dask: time"].value is None
