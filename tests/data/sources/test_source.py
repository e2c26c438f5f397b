"""Ingestion: each row once whatever is killed when, and drift named by its column."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from rayplat.data.sources import FileSource, ingest, watermark
from rayplat.data.tables import Tables
from rayplat.data.tables.checks import Checks, Range
from rayplat.errors import BadRows, Conflict, InvalidName, SchemaMismatch


@dataclass
class Numbers:
    """Rows 0, 1, 2, … up to ``upto``."""

    upto: int
    name: str = "numbers"
    dtype: pa.DataType = field(default_factory=pa.int64)

    def schema(self) -> pa.Schema:
        return pa.schema([("n", self.dtype)])

    def read(self, after: Mapping[str, Any] | None, declared: pa.Schema | None) -> tuple[pa.Table, dict[str, Any]]:
        start = 0 if after is None else after["next"]
        return pa.table({"n": pa.array(range(start, self.upto), pa.int64()).cast(self.dtype)}), {"next": self.upto}


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"))


def test_the_first_time_makes_the_table_and_then_only_what_is_new_comes(tables: Tables) -> None:
    first = ingest(tables, "t", Numbers(3), run_id="r1")
    assert (first.rows, first.watermark, first.source) == (3, {"next": 3}, "numbers")
    again = ingest(tables, "t", Numbers(3))
    assert (again.rows, again.table) == (0, first.table)
    more = ingest(tables, "t", Numbers(5))
    assert (more.rows, more.table.version) == (2, first.table.version + 1)
    assert tables.read("t")["n"].to_pylist() == [0, 1, 2, 3, 4]
    assert watermark(tables, "t", "numbers") == {"next": 5}
    assert watermark(tables, "t", "other") is None
    assert tables.history("t")[1].run_id == "r1"


def test_two_sources_fill_one_table(tables: Tables) -> None:
    ingest(tables, "t", Numbers(2))
    assert ingest(tables, "t", Numbers(1, "others")).rows == 1
    assert sorted(tables.read("t")["n"].to_pylist()) == [0, 0, 1]


def test_killed_at_any_moment_nothing_is_lost_or_doubled(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Tables.append

    def killed_before(self: Tables, *args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    def killed_after(self: Tables, *args: Any, **kwargs: Any) -> Any:
        whole(self, *args, **kwargs)
        raise KeyboardInterrupt

    for upto, moment in enumerate([killed_before, killed_after, killed_before, killed_after], 1):
        monkeypatch.setattr(Tables, "append", moment)
        with pytest.raises(KeyboardInterrupt):
            ingest(tables, "t", Numbers(upto))
        monkeypatch.setattr(Tables, "append", whole)
        assert ingest(tables, "t", Numbers(upto)).watermark == {"next": upto}
        assert tables.read("t")["n"].to_pylist() == list(range(upto))


def test_concurrent_ingestions_of_one_source_add_its_rows_once(tables: Tables) -> None:
    ingest(tables, "t", Numbers(1))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(ingest(tables, "t", Numbers(9)).rows)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert tables.read("t")["n"].to_pylist() == list(range(9))
    assert len(found) == 4


def test_drift_is_named_and_changes_nothing(tables: Tables, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = FileSource("in", str(folder), "json")
    (folder / "a.json").write_text('{"n": 1, "s": "x"}\n')
    before = ingest(tables, "t", source)
    (folder / "b.json").write_text('{"n": 2, "s": "y", "more": true}\n')
    with pytest.raises(SchemaMismatch, match=r"more: .*source in, table t"):
        ingest(tables, "t", source)
    assert tables.version("t") == before.table
    after = ingest(tables, "t", source, evolve=True)
    assert after.rows == 1
    assert tables.read("t").to_pylist() == [{"n": 1, "s": "x", "more": None}, {"n": 2, "s": "y", "more": True}]
    (folder / "c.json").write_text('{"n": "three", "s": "y", "more": true}\n')
    with pytest.raises(SchemaMismatch, match=r"n: .*c.json"):
        ingest(tables, "t", source)
    with pytest.raises(SchemaMismatch, match="n: "):
        ingest(tables, "t", Numbers(2, dtype=pa.string()))


def test_checks_stop_a_bad_batch_and_hold_for_the_next(tables: Tables) -> None:
    ingest(tables, "t", Numbers(3), checks=Checks(ranges=(Range("n", high=5),)))
    with pytest.raises(BadRows, match="2 of 5 rows break 'at most 5' of n"):
        ingest(tables, "t", Numbers(8))
    assert watermark(tables, "t", "numbers") == {"next": 3}


def test_a_watermark_that_left_the_log(tables: Tables) -> None:
    first = ingest(tables, "t", Numbers(1))
    tables.append("t", pa.table({"n": [7]}))
    DeltaTable(first.table.uri).create_checkpoint()
    for commit in Path(first.table.uri, "_delta_log").glob("*.json"):
        commit.unlink()
    with pytest.raises(Conflict, match="no longer holds the watermark of source 'numbers'"):
        ingest(tables, "t", Numbers(3))


def test_a_source_has_a_name_like_any_other(tables: Tables) -> None:
    with pytest.raises(InvalidName, match="source"):
        ingest(tables, "t", Numbers(1, "No Name"))
    assert tables.names() == []
