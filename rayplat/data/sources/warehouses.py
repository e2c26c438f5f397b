"""Snowflake and BigQuery as sources, through Ray Data's readers: the workers read, as many as the warehouse gives
streams. Knows queries and a watermark column; nothing of tables.

One reading takes the rows from the last watermark (included) to below the greatest one there is, so that of rows with
equal watermarks none is read twice and none is lost; those with the very greatest come with the next reading, once a
greater one has followed. ``strict`` says that no two rows have the same watermark: then the greatest is read at once.

Ray's readers of these take a whole query and no parameters. What is put into it are names, quoted, and the watermark:
a number, date or time of ours, never a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rayplat.data.sources.source import Watermark, require_package
from rayplat.data.sources.typed import fit
from rayplat.errors import Conflict, InvalidInput, SchemaMismatch

if TYPE_CHECKING:
    from ray.data import Dataset

_GREATEST, _NULLS = "greatest", "without"
_PART = re.compile(r"[A-Za-z0-9_\-]+")


@dataclass(frozen=True)
class SnowflakeSource:
    """Rows of ``table`` (``database.schema.table``, each part as Snowflake stores it: upper case unless it was
    created in quotes). ``connection`` are the arguments of ``snowflake.connector.connect``."""

    name: str
    connection: Mapping[str, Any] = field(repr=False)
    table: str
    watermark: str
    columns: pa.Schema
    strict: bool = False

    def schema(self) -> pa.Schema:
        """The declared columns. Raises `SchemaMismatch` for a watermark that is none of them or of a wrong type."""
        return _checked(self.name, self.columns, self.watermark)

    def read(
        self,
        after: Watermark | None,
        declared: pa.Schema | None,  # noqa: ARG002 - its columns are declared
    ) -> tuple[pa.Table | Dataset, Watermark]:
        """The rows that came after. Raises `InvalidInput` naming the package that is missing."""
        require_package("snowflake.connector", "snowflake-connector-python", f"source {self.name}")
        import ray.data

        def ask(query: str) -> Dataset:
            session = {**self.connection.get("session_parameters", {}), "TIMEZONE": "UTC"}  # of times without a zone
            return ray.data.read_snowflake(query, {**self.connection, "session_parameters": session})

        query = _Query(
            self.name, _quoted(self.table, '"'), self.watermark, self.schema(), '"', "TIMESTAMP", self.strict
        )
        return query.read(ask, after)


@dataclass(frozen=True)
class BigQuerySource:
    """Rows of ``table`` (``dataset.table`` or ``project.dataset.table``), read with the rights of the environment's
    Google credentials in ``project``."""

    name: str
    project: str
    table: str
    watermark: str
    columns: pa.Schema
    strict: bool = False

    def schema(self) -> pa.Schema:
        """The declared columns. Raises `SchemaMismatch` for a watermark that is none of them or of a wrong type."""
        return _checked(self.name, self.columns, self.watermark)

    def read(
        self,
        after: Watermark | None,
        declared: pa.Schema | None,  # noqa: ARG002 - its columns are declared
    ) -> tuple[pa.Table | Dataset, Watermark]:
        """The rows that came after. Raises `InvalidInput` naming the package that is missing."""
        require_package("google.cloud.bigquery", "google-cloud-bigquery", f"source {self.name}")
        require_package("google.cloud.bigquery_storage", "google-cloud-bigquery-storage", f"source {self.name}")
        import ray.data

        def ask(query: str) -> Dataset:
            return ray.data.read_bigquery(self.project, query=query)  # type: ignore[attr-defined]  # no py.typed name

        query = _Query(self.name, _quoted(self.table, "`"), self.watermark, self.schema(), "`", "DATETIME", self.strict)
        return query.read(ask, after)


@dataclass(frozen=True)
class _Query:
    """What both warehouses are asked."""

    source: str
    table: str
    watermark: str
    schema: pa.Schema
    quote: str
    unzoned: str
    strict: bool

    def read(self, ask: Any, after: Watermark | None) -> tuple[pa.Table | Dataset, Watermark]:
        start = None if after is None else _value(_known(after))
        greatest = self._greatest(ask, start)
        if greatest is None or greatest == start:
            return self.schema.empty_table(), after or {"value": None}
        mark, end = self._name(self.watermark), "<=" if self.strict else "<"
        holds = f"{mark} {end} {self._literal(greatest)}"
        if start is not None:
            holds = f"{mark} {'>' if self.strict else '>='} {self._literal(start)} AND {holds}"
        columns = ", ".join(self._name(n) for n in self.schema.names)
        schema, where = self.schema, f"source {self.source}"
        rows = ask(f"SELECT {columns} FROM {self.table} WHERE {holds}")
        typed = rows.map_batches(
            lambda b: fit(b, schema, where).select(schema.names), batch_format="pyarrow", batch_size=None
        )
        return typed, {"value": _plain(greatest)}

    def _greatest(self, ask: Any, start: Any) -> Any:
        """The greatest watermark. Raises `InvalidInput` where rows have none."""
        mark = self._name(self.watermark)
        found = ask(
            f"SELECT MAX({mark}) AS {self._name(_GREATEST)}, COUNT(*) - COUNT({mark}) AS {self._name(_NULLS)} "
            f"FROM {self.table}"
            + (f" WHERE {mark} >= {self._literal(start)} OR {mark} IS NULL" if start is not None else "")
        ).take_all()[0]
        if found[_NULLS]:
            raise InvalidInput(
                self.watermark, f"{found[_NULLS]} rows of source {self.source} have no watermark: they would be lost"
            )
        value = found[_GREATEST]
        if value is None:
            return start
        as_column = pa.array([value]).cast(self.schema.field(self.watermark).type)
        found_value = as_column[0].as_py()
        return _utc(found_value) if isinstance(found_value, datetime) else found_value

    def _literal(self, value: Any) -> str:
        """A watermark in SQL; its type keeps out everything else."""
        if isinstance(value, datetime):
            zoned = self.schema.field(self.watermark).type.tz is not None
            text = _utc(value).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
            return f"TIMESTAMP '{text}+00:00'" if zoned else f"{self.unzoned} '{text}'"
        if isinstance(value, date):
            return f"DATE '{value.isoformat()}'"
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise TypeError(f"{type(value).__name__} is no watermark")

    def _name(self, column: str) -> str:
        if self.quote in column or "\\" in column:
            raise InvalidInput("columns", f"{column!r} holds a character that source {self.source} cannot quote")
        return f"{self.quote}{column}{self.quote}"


def _checked(name: str, columns: pa.Schema, watermark: str) -> pa.Schema:
    if watermark not in columns.names:
        raise SchemaMismatch(watermark, f"source {name} has no such column; it has {', '.join(columns.names)}")
    dtype = columns.field(watermark).type
    if not (pa.types.is_integer(dtype) or pa.types.is_timestamp(dtype) or pa.types.is_date(dtype)):
        raise SchemaMismatch(watermark, f"a watermark is a whole number, date or time, and this is {dtype}")
    return columns


def _quoted(table: str, quote: str) -> str:
    parts = table.split(".")
    for part in parts:
        if not _PART.fullmatch(part):
            raise InvalidInput("table", f"{table!r}: {part!r} is not made of letters, digits, _ and -")
    return ".".join(f"{quote}{part}{quote}" for part in parts)


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return {"time": _utc(value).isoformat()}
    return {"date": value.isoformat()} if isinstance(value, date) else {"number": str(value)}


def _value(plain: Any) -> Any:
    if plain is None:
        return None
    ((kind, text),) = plain.items()
    if kind == "number":
        return int(text)
    return datetime.fromisoformat(text) if kind == "time" else date.fromisoformat(text)


def _known(mark: Watermark) -> Any:
    if "value" not in mark:
        raise Conflict(f"the watermark {dict(mark)} is not one of a warehouse; another kind of source has this name")
    return mark["value"]
