"""A SQL database as a source, through SQLAlchemy: any database that has a dialect and a driver. Knows columns, a
watermark column and how to ask for what is new; nothing of tables.

Rows are asked for in the order of the watermark column, beginning with the last value seen: rows that came later with
that same value are found, and those already read are told by their key (or, without one, by all of their columns).
Rows that appear later with a smaller value than the last are not seen: choose a column that only grows, such as the
time of insertion or change. Values are bound, names quoted by the dialect.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data.sources.source import Watermark
from rayplat.data.sources.typed import from_rows, is_zoned
from rayplat.errors import Conflict, InvalidInput, NotFound, SchemaMismatch, Unavailable

if TYPE_CHECKING:
    from sqlalchemy import Engine, Select

_CHUNK = 50_000
_DRIVERS = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient", "pyodbc": "pyodbc", "oracledb": "oracledb"}


@dataclass(frozen=True)
class SqlSource:
    """Rows of ``table`` (``schema.table`` names one of another schema), or of ``query``, a SELECT whose ``columns``
    must be declared. ``watermark`` is an integer, date or time column that only grows; ``key`` tells rows with equal
    watermarks apart. ``max_rows`` bounds one reading; the next goes on from there."""

    name: str
    url: str = field(repr=False)
    table: str | None = None
    watermark: str = ""
    key: tuple[str, ...] = ()
    query: str | None = None
    columns: pa.Schema | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        if (self.table is None) == (self.query is None):
            raise InvalidInput("source", f"{self.name}: give a table or a query, one of them")
        if self.query is not None and self.columns is None:
            raise InvalidInput("columns", f"{self.name}: a query does not say its columns; declare them")
        if not self.watermark:
            raise InvalidInput("watermark", f"{self.name}: name a column that only grows")

    def schema(self) -> pa.Schema:
        """The declared columns, or those that the database declares. Raises `NotFound` for a table that is not there,
        `SchemaMismatch` for a column of a type that a table cannot hold, `Unavailable` where nobody answers."""
        if self.columns is not None:
            return self._checked(self.columns)
        with self._engine() as engine:
            return self._checked(pa.schema([_field(c) for c in _reflected(engine, self.name, str(self.table))]))

    def read(
        self,
        after: Watermark | None,
        declared: pa.Schema | None,  # noqa: ARG002 - the database says its types
    ) -> tuple[pa.Table, Watermark]:
        """The rows whose watermark is not below ``after``, without those read before, in its order."""
        schema = self.schema()
        start = None if after is None else _value(_known(after, "value"))
        seen = Counter([] if after is None else _known(after, "rows"))
        limit = None if self.max_rows is None else self.max_rows + seen.total()
        with self._engine() as engine:
            self._refuse_nulls(engine)
            parts = list(self._chunks(engine, self._select(engine, schema, start).limit(limit), schema))
        rows = pa.concat_tables(parts) if parts else schema.empty_table()
        if not rows.num_rows:
            return rows, after or {"value": None, "rows": []}
        last = rows[self.watermark][-1].as_py()
        edge = rows.filter(pc.equal(rows[self.watermark], rows[self.watermark][-1]))
        new = rows if start is None else self._without(rows, start, seen)
        return new, {"value": _plain(last), "rows": sorted(self._digests(edge))}

    def _without(self, rows: pa.Table, start: Any, seen: Counter[str]) -> pa.Table:
        """``rows`` without those at ``start`` that were read before."""
        known = pc.sum(pc.equal(rows[self.watermark], pa.scalar(start, rows[self.watermark].type))).as_py() or 0
        keep = []
        for digest in self._digests(rows.slice(0, known)):
            keep.append(not seen[digest])
            seen[digest] -= seen[digest] > 0
        return pa.concat_tables([rows.slice(0, known).filter(pa.array(keep, pa.bool_())), rows.slice(known)])

    def _digests(self, rows: pa.Table) -> list[str]:
        names = self.key or tuple(rows.column_names)
        values = [[row[name] for name in names] for row in rows.select(list(names)).to_pylist()]
        return [hashlib.sha256(repr(one).encode()).hexdigest()[:16] for one in values]

    def _checked(self, schema: pa.Schema) -> pa.Schema:
        for name in (self.watermark, *self.key):
            if name not in schema.names:
                raise SchemaMismatch(name, f"source {self.name} has no such column; it has {', '.join(schema.names)}")
        dtype = schema.field(self.watermark).type
        whole = pa.types.is_integer(dtype) or (pa.types.is_decimal(dtype) and dtype.scale == 0)
        if not (whole or pa.types.is_timestamp(dtype) or pa.types.is_date(dtype)):
            raise SchemaMismatch(self.watermark, f"a watermark is a whole number, date or time, and this is {dtype}")
        return schema

    def _chunks(self, engine: Engine, query: Select[Any], schema: pa.Schema) -> Iterator[pa.Table]:
        from sqlalchemy.exc import DBAPIError

        convert = [_converter(f.type) for f in schema]
        try:
            with engine.connect().execution_options(stream_results=True) as connection:
                for part in connection.execute(query).partitions(_CHUNK):
                    rows = [[None if v is None else c(v) for v, c in zip(r, convert, strict=True)] for r in part]
                    yield from_rows(rows, schema, f"source {self.name}")
        except DBAPIError as e:
            raise InvalidInput(f"source {self.name}", f"the database refuses the query: {e.orig}") from e

    def _select(self, engine: Engine, schema: pa.Schema, last: Any) -> Select[Any]:
        from sqlalchemy import select

        origin = self._origin(engine, schema)
        mark = origin.c[self.watermark]
        found = select(*(origin.c[name] for name in schema.names)).where(mark.is_not(None)).order_by(mark)
        if last is None:
            return found
        naive = isinstance(last, datetime) and not getattr(mark.type, "timezone", False)
        return found.where(mark >= (last.replace(tzinfo=None) if naive else last))

    def _origin(self, engine: Engine, schema: pa.Schema) -> Any:
        import sqlalchemy as sa

        if self.query is not None:
            types = {f.name: _sql_type(f.type) for f in schema}
            return sa.text(self.query).columns(*(sa.column(n, t) for n, t in types.items())).subquery("source")
        found = {c["name"]: c["type"] for c in _reflected(engine, self.name, str(self.table))}
        for name in schema.names:
            if name not in found:
                raise SchemaMismatch(name, f"{self.table} has no such column; it has {', '.join(found)}")
        owner, _, table = str(self.table).rpartition(".")
        return sa.table(table, *(sa.column(n, t) for n, t in found.items()), schema=owner or None)

    def _refuse_nulls(self, engine: Engine) -> None:
        import sqlalchemy as sa
        from sqlalchemy.exc import DBAPIError

        origin = self._origin(engine, self.schema())
        try:
            with engine.connect() as connection:
                none = connection.execute(
                    sa.select(sa.func.count()).select_from(origin).where(origin.c[self.watermark].is_(None))
                ).scalar_one()
        except DBAPIError as e:
            raise InvalidInput(f"source {self.name}", f"the database refuses the query: {e.orig}") from e
        if none:
            raise InvalidInput(
                self.watermark, f"{none} rows of source {self.name} have no watermark: they would be lost"
            )

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        engine = _open(self.name, self.url)
        try:
            yield engine
        finally:
            engine.dispose()


def _open(name: str, url: str) -> Engine:
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":  # the driver that is installed with the platform
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, poolclass=sa.NullPool)
    except ModuleNotFoundError as e:
        package = _DRIVERS.get(str(e.name), str(e.name))
        raise InvalidInput("url", f"source {name} needs the package {package}: pip install {package}") from e
    except NoSuchModuleError as e:
        kind = url.partition(":")[0]
        raise InvalidInput("url", f"source {name}: no SQLAlchemy dialect for {kind!r} is installed") from e
    except ArgumentError as e:
        raise InvalidInput("url", f"source {name}: no database URL (dialect://user:password@host/database)") from e
    try:
        engine.connect().close()
    except DBAPIError as e:
        raise Unavailable(f"source {name}", str(e.orig).replace(str(parsed.password or "\0"), "***")) from e
    return engine


def _reflected(engine: Engine, name: str, table: str) -> list[dict[str, Any]]:
    import sqlalchemy as sa
    from sqlalchemy.exc import NoSuchTableError

    owner, _, bare = table.rpartition(".")
    looked = sa.inspect(engine)
    try:
        found = looked.get_columns(bare, schema=owner or None)
    except NoSuchTableError:
        found = []
    if not found:
        there = ", ".join([*looked.get_table_names(owner or None), *looked.get_view_names(owner or None)]) or "none"
        raise NotFound("table of the database", table, f"source {name} reads it; there are {there}")
    return [dict(c) for c in found]


def _field(column: dict[str, Any]) -> pa.Field:
    """The Arrow type of a column of a database. Whole numbers become int64 whatever their size."""
    import sqlalchemy as sa

    kinds: list[tuple[Any, pa.DataType]] = [
        (sa.Boolean, pa.bool_()),
        (sa.Integer, pa.int64()),
        (sa.Float, pa.float64()),
        (sa.DateTime, pa.timestamp("us", "UTC")),
        (sa.Date, pa.date32()),
        (sa.LargeBinary, pa.binary()),
        ((sa.String, sa.Uuid, sa.JSON, sa.Time), pa.string()),
    ]
    dtype = column["type"]
    if isinstance(dtype, sa.Numeric) and not isinstance(dtype, sa.Float):
        exact = dtype.precision is not None and dtype.precision <= 38
        return pa.field(column["name"], pa.decimal128(dtype.precision, dtype.scale or 0) if exact else pa.float64())
    for kind, arrow in kinds:
        if isinstance(dtype, kind):
            return pa.field(column["name"], arrow)
    raise SchemaMismatch(
        column["name"], f"{dtype!r} has no counterpart in a table; declare columns and cast in a query"
    )


def _sql_type(dtype: pa.DataType) -> Any:
    import sqlalchemy as sa

    if pa.types.is_timestamp(dtype):
        return sa.DateTime(timezone=is_zoned(dtype))
    if pa.types.is_date(dtype):
        return sa.Date()
    return sa.BigInteger() if pa.types.is_integer(dtype) else sa.types.NullType()


def _converter(dtype: pa.DataType) -> Callable[[Any], Any]:
    """From what drivers give to what Arrow takes."""
    if pa.types.is_timestamp(dtype):
        return _moment
    if pa.types.is_string(dtype):
        return lambda v: v if isinstance(v, str) else json.dumps(v) if isinstance(v, dict | list) else str(v)
    if pa.types.is_floating(dtype):
        return float
    if pa.types.is_decimal(dtype):
        return lambda v: v if isinstance(v, Decimal) else Decimal(str(v))
    return (lambda v: bool(v)) if pa.types.is_boolean(dtype) else (lambda v: v)


def _moment(value: Any) -> Any:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return value
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _plain(value: Any) -> Any:
    """A watermark as JSON: its kind and its text."""
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    return {"number": str(value)}


def _value(plain: Any) -> Any:
    if plain is None:
        return None
    ((kind, text),) = plain.items()
    if kind == "number":
        return int(text) if text.lstrip("-").isdecimal() else Decimal(text)
    return datetime.fromisoformat(text) if kind == "time" else date.fromisoformat(text)


def _known(mark: Watermark, key: str) -> Any:
    if key not in mark:
        raise Conflict(f"the watermark {dict(mark)} is not one of a database; another kind of source has this name")
    return mark[key]
