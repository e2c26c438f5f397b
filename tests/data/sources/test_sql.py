"""SQL databases as a source: ties, types, names that need quotes. The same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from rayplat.data.sources import SqlSource, ingest
from rayplat.data.tables import Tables
from rayplat.errors import Conflict, InvalidInput, NotFound, SchemaMismatch, Unavailable

AT = datetime(2024, 5, 1, 10, 0, 0, 123456)


def orders(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        'or"ders; select',
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("changed at", sa.DateTime),
        sa.Column("price", sa.Numeric(10, 2)),
        sa.Column("rate", sa.Float),
        sa.Column("open", sa.Boolean),
        sa.Column("day", sa.Date),
        sa.Column("note", sa.Text),
        sa.Column("raw", sa.LargeBinary),
        sa.Column("more", sa.JSON),
    )


class Contract:
    """What holds for every database; subclasses give ``url``, an empty one."""

    @pytest.fixture
    def engine(self, url: str) -> Iterator[sa.Engine]:
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        yield engine
        metadata = sa.MetaData()
        metadata.reflect(engine)
        metadata.drop_all(engine)
        engine.dispose()

    @pytest.fixture
    def table(self, engine: sa.Engine) -> sa.Table:
        metadata = sa.MetaData()
        made = orders(metadata)
        metadata.create_all(engine)
        return made

    @pytest.fixture
    def source(self, url: str, table: sa.Table) -> SqlSource:
        return SqlSource("orders", url, table.name, "changed at", key=("id",))

    def put(self, engine: sa.Engine, table: sa.Table, *ids: int, at: datetime | None = AT) -> None:
        with engine.begin() as connection:
            connection.execute(sa.insert(table), [{"id": i, "changed at": at} for i in ids])

    def test_types(self, engine: sa.Engine, table: sa.Table, source: SqlSource) -> None:
        row: dict[str, Any] = {
            "id": 2**31 - 1,
            "changed at": AT,
            "price": Decimal("12.30"),
            "rate": 0.5,
            "open": True,
            "day": date(2024, 5, 1),
            "note": "ä'\"",
            "raw": b"\0x",
            "more": {"a": [1]},
        }
        with engine.begin() as connection:
            connection.execute(sa.insert(table), [row])
            connection.execute(sa.insert(table), [{"id": 1, "changed at": AT}])
        rows, _ = source.read(None, None)
        assert rows.schema == pa.schema(
            [
                ("id", pa.int64()),
                ("changed at", pa.timestamp("us", "UTC")),
                ("price", pa.decimal128(10, 2)),
                ("rate", pa.float64()),
                ("open", pa.bool_()),
                ("day", pa.date32()),
                ("note", pa.string()),
                ("raw", pa.binary()),
                ("more", pa.string()),
            ]
        )
        found = rows.sort_by("id").to_pylist()
        assert found[1] == row | {"changed at": AT.replace(tzinfo=UTC), "more": '{"a": [1]}'}
        assert found[0] == dict.fromkeys(row) | {
            "id": 1,
            "changed at": AT.replace(tzinfo=UTC),
            "more": found[0]["more"],
        }

    def test_ties_come_once(self, tmp_path: Path, engine: sa.Engine, table: sa.Table, source: SqlSource) -> None:
        tables = Tables(str(tmp_path / "tables"))
        self.put(engine, table, 1, 2)
        assert ingest(tables, "t", source).rows == 2
        assert ingest(tables, "t", source).rows == 0
        self.put(engine, table, 3)  # later, with the very same watermark
        self.put(engine, table, 4, 5, at=AT + timedelta(microseconds=1))
        assert ingest(tables, "t", source).rows == 3
        self.put(engine, table, 6, at=AT + timedelta(microseconds=1))
        assert ingest(tables, "t", source).rows == 1
        assert ingest(tables, "t", source).rows == 0
        assert sorted(tables.read("t")["id"].to_pylist()) == [1, 2, 3, 4, 5, 6]

    def test_bounded_readings_reach_the_end(self, engine: sa.Engine, table: sa.Table, url: str) -> None:
        for i in range(4):
            self.put(engine, table, *range(5 * i, 5 * i + 5), at=AT + timedelta(days=i))
        source = SqlSource("orders", url, table.name, "changed at", max_rows=3)
        seen: list[int] = []
        mark = None
        for _ in range(30):
            rows, reached = source.read(mark, None)
            seen += rows["id"].to_pylist()
            if reached == mark:
                break
            mark = reached
        assert sorted(seen) == list(range(20))

    def test_without_a_key_equal_rows_are_counted(self, engine: sa.Engine, url: str) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text("create table plain (n integer, s varchar(9))"))
            connection.execute(sa.text("insert into plain values (1, 'a'), (1, 'a')"))
        source = SqlSource("plain", url, "plain", "n")
        rows, mark = source.read(None, None)
        assert rows.num_rows == 2
        with engine.begin() as connection:
            connection.execute(sa.text("insert into plain values (1, 'a'), (1, 'b')"))
        rows, mark = source.read(mark, None)
        assert sorted(rows["s"].to_pylist()) == ["a", "b"]
        assert source.read(mark, None)[0].num_rows == 0

    def test_a_query_with_declared_columns(self, engine: sa.Engine, table: sa.Table, url: str) -> None:
        self.put(engine, table, 1, 2)
        columns = pa.schema([("twice", pa.int64()), ("at", pa.timestamp("us", "UTC"))])
        query = 'select id * 2 as twice, "changed at" as at from "or""ders; select"'
        source = SqlSource("q", url, query=query, watermark="at", columns=columns)
        rows, mark = source.read(None, None)
        assert sorted(rows["twice"].to_pylist()) == [2, 4]
        assert source.read(mark, None)[0].num_rows == 0

    def test_rows_without_a_watermark_are_not_passed_over(
        self, engine: sa.Engine, table: sa.Table, source: SqlSource
    ) -> None:
        self.put(engine, table, 1, at=None)
        with pytest.raises(InvalidInput, match="changed at: 1 rows of source orders have no watermark"):
            source.read(None, None)

    def test_an_empty_table(self, table: sa.Table, source: SqlSource, engine: sa.Engine) -> None:
        rows, mark = source.read(None, None)
        assert rows.num_rows == 0
        self.put(engine, table, 1)
        assert source.read(mark, None)[0].num_rows == 1

    def test_refusals(self, engine: sa.Engine, table: sa.Table, url: str) -> None:
        with pytest.raises(NotFound, match=r"'nope'.*there are"):
            SqlSource("s", url, "nope", "id").schema()
        with pytest.raises(SchemaMismatch, match="nope: source s has no such column; it has id"):
            SqlSource("s", url, table.name, "nope").schema()
        with pytest.raises(SchemaMismatch, match="note: a watermark is a whole number, date or time"):
            SqlSource("s", url, table.name, "note").schema()
        missing = pa.schema([("id", pa.int64()), ("gone", pa.string())])
        with pytest.raises(SchemaMismatch, match=r"gone: .* has no such column; it has id"):
            SqlSource("s", url, table.name, "id", columns=missing).read(None, None)
        self.put(engine, table, 1)
        wrong = pa.schema([("id", pa.int64()), ("changed at", pa.int64())])
        with pytest.raises(SchemaMismatch, match="changed at: source s holds a value that is no int64"):
            SqlSource("s", url, table.name, "id", columns=wrong).read(None, None)
        with pytest.raises(InvalidInput, match="source s: the database refuses"):
            SqlSource("s", url, query="select nothing", watermark="id", columns=missing.remove(1)).read(None, None)
        with pytest.raises(Conflict, match="another kind of source"):
            SqlSource("s", url, table.name, "id").read({"files": 3}, None)


class TestSqlite(Contract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/orders.db"


@pytest.mark.services
class TestPostgres(Contract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    def test_moments_with_a_zone(self, engine: sa.Engine, url: str) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text("create table zoned (at timestamptz, n bigint)"))
            connection.execute(sa.text("insert into zoned values ('2024-05-01 12:00:00+02', 1)"))
        source = SqlSource("zoned", url, "public.zoned", "at")
        rows, mark = source.read(None, None)
        assert rows["at"][0].as_py() == datetime(2024, 5, 1, 10, tzinfo=UTC)
        with engine.begin() as connection:
            connection.execute(sa.text("insert into zoned values ('2024-05-01 11:00:00+01', 2)"))
        assert source.read(mark, None)[0]["n"].to_pylist() == [2]


def test_what_cannot_be_reached() -> None:
    with pytest.raises(InvalidInput, match="needs the package mysqlclient: pip install mysqlclient"):
        SqlSource("s", "mysql://u:secret@h/d", "t", "n").schema()
    with pytest.raises(InvalidInput, match="no SQLAlchemy dialect for 'nonsense'"):
        SqlSource("s", "nonsense://h/d", "t", "n").schema()
    with pytest.raises(InvalidInput, match="no database URL"):
        SqlSource("s", "not a url", "t", "n").schema()
    with pytest.raises(Unavailable, match="source s") as caught:
        SqlSource("s", "postgresql://u:geheim@127.0.0.1:1/d", "t", "n").schema()
    assert "geheim" not in str(caught.value)
    assert "secret" not in repr(SqlSource("s", "mysql://u:secret@h/d", "t", "n"))


def test_a_source_says_what_it_reads() -> None:
    with pytest.raises(InvalidInput, match="a table or a query"):
        SqlSource("s", "sqlite://", watermark="n")
    with pytest.raises(InvalidInput, match="declare them"):
        SqlSource("s", "sqlite://", query="select 1", watermark="n")
    with pytest.raises(InvalidInput, match="name a column that only grows"):
        SqlSource("s", "sqlite://", "t")
