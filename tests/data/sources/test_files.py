"""Files as a source: what is new, in which types, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayplat.data.sources import FileSource, files, ingest
from rayplat.data.tables import Tables
from rayplat.data.tables.place import Place
from rayplat.errors import Conflict, Corrupt, InvalidInput, NotFound, SchemaMismatch
from tests.servers import S3

COLUMNS = pa.schema([("n", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("s", pa.string())])
AT = datetime(2024, 5, 1, 10, tzinfo=UTC)


def csv(folder: Path, name: str, text: str, mtime: float = 1_700_000_000) -> Path:
    file = folder / name
    file.write_text(text)
    os.utime(file, (mtime, mtime))
    return file


def test_a_folder_is_read_once_and_then_what_is_new(tmp_path: Path) -> None:
    source = FileSource("in", str(tmp_path), "csv", COLUMNS)
    csv(tmp_path, "b.csv", "n,at,s\n1,2024-05-01T10:00:00Z,x\n", 2e9)
    csv(tmp_path, "a.csv", "n,at,s\n2,2024-05-01 12:00:00+02:00,\n", 1e9)
    csv(tmp_path, "_tmp.csv", "n\n")
    csv(tmp_path, "other.txt", "n\n")
    rows, first = source.read(None, None)
    assert rows.to_pylist() == [{"n": 2, "at": AT, "s": None}, {"n": 1, "at": AT, "s": "x"}]
    assert first["files"] == 2
    rows, again = source.read(first, None)
    assert rows.num_rows == 0
    assert again == first
    (tmp_path / "day=2").mkdir()
    csv(tmp_path / "day=2", "c.csv", 'n,at,s\n3,2024-05-01 10:00:00,""\n', 1e9)  # older than what was read
    rows, second = source.read(first, None)
    assert rows.to_pylist() == [{"n": 3, "at": AT, "s": ""}]
    assert second["files"] == 3


def test_a_changed_file_is_refused_by_name(tmp_path: Path) -> None:
    source = FileSource("in", str(tmp_path), "csv")
    file = csv(tmp_path, "a.csv", "n\n1\n")
    _, mark = source.read(None, None)
    csv(tmp_path, "a.csv", "n\n1\n2\n")
    with pytest.raises(Conflict, match=rf"{file} changed after it was ingested"):
        source.read(mark, None)


def test_types_are_suggested_by_the_first_file_and_then_the_tables(tmp_path: Path) -> None:
    source = FileSource("in", str(tmp_path), "csv")
    csv(tmp_path, "a.csv", "n,at,s\n1,2024-05-01T10:00:00Z,x\n")
    assert source.schema() == COLUMNS
    declared = pa.schema([("n", pa.float64()), ("s", pa.string()), ("at", pa.string())])
    assert source.read(None, declared)[0].schema == declared


def test_json_lines_and_arrays(tmp_path: Path) -> None:
    source = FileSource("in", str(tmp_path), "json", COLUMNS)
    csv(tmp_path, "a.jsonl", '{"n": 1, "at": "2024-05-01T10:00:00Z", "s": "x"}\n', 1)
    csv(tmp_path, "b.json", '[{"n": 2, "s": null, "at": "2024-05-01 10:00:00"}]', 2)
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(b'{"n": 3, "at": null, "s": "z"}'))
    csv(tmp_path, "d.json", "", 4)
    assert source.read(None, None)[0].sort_by("n").to_pylist() == [
        {"n": 1, "at": AT, "s": "x"},
        {"n": 2, "at": AT, "s": None},
        {"n": 3, "at": None, "s": "z"},
    ]


def test_parquet_and_patterns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "x1.bin")
    pq.write_table(pa.table({"n": [2]}), tmp_path / "y1.bin")
    assert FileSource("in", f"{tmp_path}/x*.bin", "parquet").read(None, None)[0].to_pylist() == [{"n": 1}]
    assert FileSource("in", f"{tmp_path}/y1.bin", "parquet").schema() == pa.schema([("n", pa.int64())])


def test_a_column_that_is_new_is_kept_for_the_table_to_judge(tmp_path: Path) -> None:
    csv(tmp_path, "a.csv", "n,extra\n1,x\n")
    rows, _ = FileSource("in", str(tmp_path), "csv").read(None, pa.schema([("n", pa.int64())]))
    assert rows.column_names == ["n", "extra"]


CASES: list[tuple[str, str, str, type[Exception], str]] = [
    ("csv", "a.csv", "n,at,s\nx,2024-05-01,a\n", SchemaMismatch, "n: .*a.csv.*expected int64"),
    ("csv", "a.csv", "at,s,n\n2024-05-01T10:00:00Z,a,x\n", SchemaMismatch, "n: .*a.csv.*expected int64"),
    ("csv", "a.csv", "n,at\n1,2024-05-01\n", SchemaMismatch, "s: .*a.csv has no such column; it has n, at"),
    ("csv", "a.csv", "n,at,s\n1,yesterday,a\n", SchemaMismatch, "at: .*yesterday.*ISO 8601"),
    ("csv", "a.csv", "n,at,s\n1,2\n", Corrupt, "a.csv is damaged: expected a CSV file"),
    ("json", "a.json", '{"n": "x", "at": null, "s": ""}', SchemaMismatch, "n: .*a.json.*expected int64"),
    ("json", "a.json", '{"n": 1', Corrupt, "a.json"),
    ("json", "a.json", "[1, ", Corrupt, "a.json.*one object per line"),
    ("parquet", "a.parquet", "PAR1 no", Corrupt, "a.parquet is damaged: expected a Parquet file"),
]


@pytest.mark.parametrize(("kind", "name", "text", "error", "match"), CASES)
def test_what_does_not_fit(tmp_path: Path, kind: Any, name: str, text: str, error: Any, match: str) -> None:
    csv(tmp_path, name, text)
    with pytest.raises(error, match=match):
        FileSource("in", str(tmp_path), kind, COLUMNS).read(None, None)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        FileSource("in", str(tmp_path / "nowhere"), "csv").schema()
    with pytest.raises(NotFound, match="csv file"):
        FileSource("in", str(tmp_path), "csv").schema()
    with pytest.raises(InvalidInput, match="'xml' is not one of parquet, csv, json"):
        FileSource("in", str(tmp_path), "xml")  # type: ignore[arg-type]
    with pytest.raises(Conflict, match="another kind of source"):
        FileSource("in", str(tmp_path), "csv").read({"value": 1}, COLUMNS)


@pytest.mark.ray
def test_large_files_are_read_by_workers(tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_IN_PROCESS", 0)
    tables, folder = Tables(str(tmp_path / "tables")), tmp_path / "in"
    folder.mkdir()
    source = FileSource("in", str(folder), "csv", COLUMNS)
    for n in range(3):
        csv(folder, f"{n}.csv", f"n,at,s\n{n},2024-05-01T10:00:00Z,x\n")
    assert ingest(tables, "t", source).rows == 3
    assert ingest(tables, "t", source).rows == 0
    assert sorted(tables.read("t")["n"].to_pylist()) == [0, 1, 2]
    csv(folder, "3.csv", "n,at,s\nx,2024-05-01T10:00:00Z,x\n")
    with pytest.raises(SchemaMismatch, match=r"n: .*3.csv"):
        ingest(tables, "t", source)
    assert tables.read("t").num_rows == 3


@pytest.mark.services
def test_files_on_s3(s3: S3) -> None:
    place = Place.of(f"{s3.uri}/incoming", s3.options)
    source = FileSource("in", f"{s3.uri}/incoming/*.json", "json", storage_options=s3.options)
    tables = Tables(f"{s3.uri}/ingested", s3.options)
    for n in range(2):
        with place.filesystem.open_output_stream(f"{place.root}/{n}.json") as out:
            out.write(json.dumps({"n": n}).encode())
        assert ingest(tables, "t", source).rows == 1
    assert tables.read("t")["n"].to_pylist() == [0, 1]
    with place.filesystem.open_output_stream(f"{place.root}/1.json") as out:
        out.write(b'{"n": 100}')
    with pytest.raises(Conflict, match=r"1.json changed after it was ingested"):
        ingest(tables, "t", source)
