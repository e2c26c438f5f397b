"""Snowflake and BigQuery on recorded clients: a SQLite database answers what the readers are asked."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from rayplat.data.sources import BigQuerySource, SnowflakeSource
from rayplat.errors import Conflict, InvalidInput, SchemaMismatch
from tests.data.sources.readers import Rows, install, replace_reader

COLUMNS = pa.schema([("ID", pa.int64()), ("AT", pa.timestamp("us", "UTC"))])
Source = SnowflakeSource | BigQuerySource
Make = Callable[..., Source]


class Contract:
    """What holds for both; subclasses give ``make`` (a source) and ``reader``."""

    reader: str

    @pytest.fixture
    def database(self) -> sqlite3.Connection:
        found = sqlite3.connect(":memory:")
        found.execute('create table T ("ID" integer, "AT" text)')
        return found

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch, database: sqlite3.Connection) -> list[dict[str, Any]]:
        def answer(given: dict[str, Any]) -> pa.Table:
            query = given.get("sql") or given["query"]
            query = re.sub(r'(["`])D\1\.(["`])S\2\.', "", query)
            query = re.sub(r"(TIMESTAMP|DATETIME) '", "'", query)
            cursor = database.execute(query)
            names = [c[0] for c in cursor.description]
            return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in cursor], None) or empty(names)

        def empty(names: list[str]) -> pa.Table:
            return pa.table({n: pa.array([], pa.null()) for n in names})

        return replace_reader(monkeypatch, self.reader, answer)

    def put(self, database: sqlite3.Connection, *rows: tuple[int, str | None]) -> None:
        database.executemany("insert into T values (?, ?)", rows)

    def test_ties_come_once_and_none_is_lost(
        self, make: Make, database: sqlite3.Connection, asked: list[dict[str, Any]]
    ) -> None:
        source = make(watermark="ID")
        self.put(database, (1, "2024-05-01 10:00:00.000000+00:00"), (2, None), (2, None))
        rows, mark = self.read(source, None)
        assert rows.to_pylist() == [{"ID": 1, "AT": datetime(2024, 5, 1, 10, tzinfo=UTC)}]
        assert source.read(mark, None)[1] == mark
        self.put(database, (2, None), (3, None))
        rows, mark = self.read(source, mark)
        assert rows["ID"].to_pylist() == [2, 2, 2]
        assert mark == {"value": {"number": "3"}}

    def test_strict_watermarks_are_read_to_the_end(
        self, make: Make, database: sqlite3.Connection, asked: list[dict[str, Any]]
    ) -> None:
        source = make(watermark="ID", strict=True)
        self.put(database, (1, None), (2, None))
        rows, mark = self.read(source, None)
        assert rows["ID"].to_pylist() == [1, 2]
        self.put(database, (3, None))
        assert self.read(source, mark)[0]["ID"].to_pylist() == [3]

    def test_moments(self, make: Make, database: sqlite3.Connection, asked: list[dict[str, Any]]) -> None:
        source = make(watermark="AT")
        days = [f"2024-05-0{day} 10:00:00.000000+00:00" for day in (1, 2, 3)]
        self.put(database, *enumerate(days[:2]))
        rows, mark = self.read(source, None)
        assert rows["ID"].to_pylist() == [0]
        self.put(database, (2, days[2]))
        assert self.read(source, mark)[0]["ID"].to_pylist() == [1]
        texts = [one.get("sql") or one["query"] for one in asked]
        assert any(f"TIMESTAMP '{days[1]}'" in text for text in texts)

    def test_refusals(self, make: Make, database: sqlite3.Connection, asked: list[dict[str, Any]]) -> None:
        with pytest.raises(SchemaMismatch, match="nope: source w has no such column; it has ID, AT"):
            make(watermark="nope").schema()
        with pytest.raises(SchemaMismatch, match="x: a watermark is a whole number, date or time, and this is string"):
            make(watermark="x", columns=pa.schema([("x", pa.string())])).read(None, None)
        with pytest.raises(InvalidInput, match=r"table: .*T; drop"):
            make(watermark="ID", table='D.S.T; drop table "x"').read(None, None)
        odd = pa.schema([('ID" from x --`', pa.int64())])
        with pytest.raises(InvalidInput, match="cannot quote"):
            make(watermark=odd.names[0], columns=odd).read(None, None)
        with pytest.raises(Conflict, match="another kind of source"):
            make(watermark="ID").read({"files": 1}, None)
        self.put(database, (1, None))
        with pytest.raises(InvalidInput, match="AT: 1 rows of source w have no watermark"):
            make(watermark="AT").read(None, None)
        assert make(watermark="ID").read({"value": {"number": "1"}}, None)[0].num_rows == 0  # type: ignore[union-attr]

    def read(self, source: Source, after: Any) -> tuple[pa.Table, Any]:
        rows, mark = source.read(after, None)
        assert isinstance(rows, Rows)
        return rows.table, mark


class TestSnowflake(Contract):
    reader = "read_snowflake"

    @pytest.fixture
    def make(self, monkeypatch: pytest.MonkeyPatch) -> Make:
        install(monkeypatch, "snowflake.connector")
        known = {"connection": {"user": "u", "password": "geheim"}, "table": "D.S.T", "columns": COLUMNS}
        return lambda **given: SnowflakeSource("w", **{**known, **given})

    def test_the_connection(self, make: Make, asked: list[dict[str, Any]], database: sqlite3.Connection) -> None:
        source = make(watermark="ID")
        source.read(None, None)
        assert asked[0]["connection_parameters"] == {
            "user": "u",
            "password": "geheim",
            "session_parameters": {"TIMEZONE": "UTC"},
        }
        assert "geheim" not in repr(source)


class TestBigQuery(Contract):
    reader = "read_bigquery"

    @pytest.fixture
    def make(self, monkeypatch: pytest.MonkeyPatch) -> Make:
        install(monkeypatch, "google.cloud.bigquery")
        install(monkeypatch, "google.cloud.bigquery_storage")
        known = {"project": "p", "table": "D.S.T", "columns": COLUMNS}
        return lambda **given: BigQuerySource("w", **{**known, **given})

    def test_times_without_a_zone_are_datetimes(
        self, make: Make, asked: list[dict[str, Any]], database: sqlite3.Connection
    ) -> None:
        columns = pa.schema([("ID", pa.int64()), ("AT", pa.timestamp("us"))])
        self.put(database, (1, "2024-05-01 10:00:00.000000"), (2, "2024-05-02 10:00:00.000000"))
        rows, mark = self.read(make(watermark="AT", columns=columns), None)
        assert rows["ID"].to_pylist() == [1]
        assert asked[-1]["project_id"] == "p"
        assert "DATETIME '2024-05-02 10:00:00.000000'" in asked[-1]["query"]
        assert mark == {"value": {"time": "2024-05-02T10:00:00+00:00"}}


def test_what_to_install() -> None:
    with pytest.raises(InvalidInput, match="pip install snowflake-connector-python"):
        SnowflakeSource("s", {}, "T", "ID", COLUMNS).read(None, None)
    with pytest.raises(InvalidInput, match="pip install google-cloud-bigquery"):
        BigQuerySource("s", "p", "D.T", "ID", COLUMNS).read(None, None)
