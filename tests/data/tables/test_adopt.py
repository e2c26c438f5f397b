"""Ranges of rows, and files that workers wrote before anybody commits them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayplat.data.tables import Tables
from rayplat.data.tables.checks import Checks
from rayplat.errors import Conflict, SchemaMismatch


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"))


def _rows(first: int, count: int) -> pa.Table:
    return pa.table({"n": np.arange(first, first + count), "t": [str(i) for i in range(first, first + count)]})


def _files(tables: Tables, name: str) -> list[str]:
    return sorted(path.name for path in Path(tables.place(name).root).glob("*.parquet"))


@pytest.mark.parametrize(
    ("start", "count"), [(0, 10), (0, 0), (99_990, 40), (65_530, 12), (100_000, 50), (149_990, 100), (150_000, 5)]
)
def test_any_range_of_rows_is_that_range_of_the_table(tables: Tables, start: int, count: int) -> None:
    tables.create("numbers", _rows(0, 100_000))
    tables.append("numbers", _rows(100_000, 50_000))
    scan = tables.scan("numbers")
    assert scan.slice(start, count).equals(scan.table().slice(start, count))
    assert scan.slice(start, count, ["n"])["n"].to_pylist() == list(range(start, min(start + count, 150_000)))


def test_only_the_row_groups_that_hold_the_range_are_read(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.create("numbers", _rows(0, 200_000))
    (file,) = Path(tables.place("numbers").root).glob("*.parquet")
    groups = pq.ParquetFile(file).num_row_groups
    assert groups > 2
    content = bytearray(file.read_bytes())
    start = pq.ParquetFile(file).metadata.row_group(groups - 1).column(0).data_page_offset
    content[start + 40 : start + 400] = b"\xff" * 360  # the last group is damaged
    file.write_bytes(bytes(content))
    assert tables.scan("numbers").slice(10, 20).num_rows == 20


def test_files_are_nothing_until_they_are_adopted_and_then_once(tables: Tables) -> None:
    first, second = tables.write_files("out", _rows(0, 5)), tables.write_files("out", _rows(5, 5))
    assert tables.names() == []
    tables.adopt("out", first, transaction=("job", 0), metadata={"note": "a"}, run_id="r")
    tables.adopt("out", second, transaction=("job", 1))
    again = tables.write_files("out", _rows(5, 5))
    version = tables.adopt("out", again, transaction=("job", 1))
    assert version.version == 1
    assert tables.read("out")["n"].to_pylist() == list(range(10))
    assert tables.metadata("out", 0)["note"] == "a"
    assert tables.transaction_version("out", "job") == 1
    assert len(_files(tables, "out")) == 2  # what was not taken is gone


def test_a_column_that_the_table_lacks_is_added(tables: Tables) -> None:
    tables.adopt("out", tables.write_files("out", _rows(0, 2)), transaction=("job", 0))
    wider = _rows(2, 1).append_column("y", pa.array([0.5]))
    tables.adopt("out", tables.write_files("out", wider), transaction=("job", 1))
    tables.adopt("out", tables.write_files("out", _rows(3, 1)), transaction=("job", 2))
    assert tables.read("out")["y"].to_pylist() == [None, None, 0.5, None]


def test_files_that_do_not_fit_are_refused_and_removed(tables: Tables) -> None:
    tables.adopt("out", tables.write_files("out", _rows(0, 2)), transaction=("job", 0))
    other = tables.write_files("out", pa.table({"n": ["a"], "t": ["b"]}))
    with pytest.raises(SchemaMismatch, match="n: "):
        tables.adopt("out", other, transaction=("job", 1))
    assert len(_files(tables, "out")) == 1
    tables.create("checked", _rows(0, 2), checks=Checks(not_null=("n",)))
    with pytest.raises(Conflict, match="partitions or checks"):
        tables.adopt("checked", tables.write_files("checked", _rows(2, 1)), transaction=("job", 0))
    assert len(_files(tables, "checked")) == 1
