"""Values from outside as Arrow columns of declared types. Knows no source. A time without a zone is UTC."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import SchemaMismatch

_ZONED = r"(Z|z|[+-]\d\d:?\d\d)$"


def is_zoned(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(dtype) and dtype.tz is not None)


def as_text(schema: pa.Schema) -> pa.Schema:
    """``schema`` with strings in place of moments: text parsers want either all zoned or none."""
    return pa.schema([pa.field(f.name, pa.string() if is_zoned(f.type) else f.type) for f in schema])


def parse_moments(rows: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """``rows`` read with `as_text`, with the moments of ``schema`` parsed. Raises `SchemaMismatch`."""
    for field in schema:
        at = rows.schema.get_field_index(field.name)
        if at >= 0 and is_zoned(field.type) and pa.types.is_string(rows.schema.field(at).type):
            try:
                rows = rows.set_column(at, field, _moments(rows[field.name], field.type))
            except pa.ArrowInvalid as e:
                raise SchemaMismatch(field.name, f"{where}: {e}; expected {field.type} in ISO 8601") from e
    return rows


def fit(rows: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """``rows`` with the columns of ``schema`` in its types, and after them those it does not name. Raises
    `SchemaMismatch` naming a column that is missing or that does not fit without loss."""
    columns, fields = [], []
    for field in schema:
        if field.name not in rows.column_names:
            raise SchemaMismatch(field.name, f"{where} has no such column; it has {', '.join(rows.column_names)}")
        column = rows[field.name]
        if is_zoned(field.type) and pa.types.is_string(column.type):
            column = parse_moments(rows.select([field.name]), schema, where)[field.name]
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
            raise SchemaMismatch(field.name, f"{where} has {column.type}, expected {field.type}: {e}") from e
        fields.append(field)
    more = [n for n in rows.column_names if n not in schema.names]
    return pa.table(columns + [rows[n] for n in more], pa.schema(fields + [rows.schema.field(n) for n in more]))


def from_rows(rows: Sequence[Sequence[object]], schema: pa.Schema, where: str) -> pa.Table:
    """Python values, row by row, as a table. Raises `SchemaMismatch` naming the column that does not fit."""
    arrays = []
    for i, field in enumerate(schema):
        values = [row[i] for row in rows]
        try:
            arrays.append(pa.array(values, field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError, ValueError) as e:
            raise SchemaMismatch(field.name, f"{where} holds a value that is no {field.type}: {e}") from e
    return pa.table(arrays, schema)


def _moments(text: pa.ChunkedArray, dtype: pa.DataType) -> pa.ChunkedArray:
    zoned = pc.match_substring_regex(text, _ZONED)
    none = pa.scalar(None, pa.string())
    with_zone = pc.if_else(zoned, text, none).cast(dtype)
    without = pc.if_else(zoned, none, text).cast(pa.timestamp(dtype.unit)).cast(dtype)
    return pc.coalesce(with_zone, without)
