"""From a source in plain values (a JSON file, a request) to the source. Knows names of types and kinds."""

from __future__ import annotations

import re

import pyarrow as pa

from rayplat.data.sources.files import FORMATS, FileSource
from rayplat.data.sources.source import Source
from rayplat.data.sources.sql import SqlSource
from rayplat.errors import InvalidInput, SchemaMismatch
from rayplat.types import SourceSpec

_DECIMAL = re.compile(r"decimal(?:128)?\((\d+), ?(\d+)\)")
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), ?tz=([\w/+:-]+)\]")
_OURS = {"timestamp": "timestamp[us, tz=UTC]", "decimal": "decimal128(38, 9)", "date": "date32", "bytes": "binary"}


def declared(spec: SourceSpec) -> Source:
    """The source that ``spec`` describes. Raises `InvalidInput` for an unknown kind, `SchemaMismatch` for a type."""
    columns = None if spec.columns is None else pa.schema([(n, dtype(n, text)) for n, text in spec.columns.items()])
    if spec.kind == "sql":
        return SqlSource(spec.name, spec.uri, spec.table, spec.watermark, tuple(spec.key), spec.query, columns)
    kind = next((one for one in FORMATS if one == spec.kind), None)
    if kind is not None:
        given = [name for name in ("table", "query", "watermark", "key") if getattr(spec, name)]
        if given:
            raise InvalidInput(given[0], f"is for SQL databases; source {spec.name} reads {spec.kind} files")
        return FileSource(
            spec.name, spec.uri, kind, columns, spec.delimiter, tuple(spec.nulls), dict(spec.storage_options)
        )
    raise InvalidInput("kind", f"{spec.kind!r} is not one of parquet, csv, json, sql")


def dtype(column: str, text: str) -> pa.DataType:
    """The Arrow type of that name. Raises `SchemaMismatch` naming the column."""
    text = _OURS.get(text, text)
    if found := _DECIMAL.fullmatch(text):
        return pa.decimal128(int(found[1]), int(found[2]))
    if found := _ZONED.fullmatch(text):
        return pa.timestamp(found[1], found[2])
    try:
        return pa.type_for_alias(text)
    except ValueError as e:
        raise SchemaMismatch(column, f"{text!r} is no type; such as int64, double, string, timestamp") from e
