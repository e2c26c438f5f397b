"""Which Arrow types a table holds, and whether data fits the columns that a table declares. Knows Arrow only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from rayplat.errors import InvalidInput, SchemaMismatch

_AS_IS = (
    pa.types.is_signed_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_binary,
    pa.types.is_date32,
)
_STRINGS = (pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_MOST_DIGITS = 38
_WIDER = ("int8", "int16", "int32", "int64"), ("float", "double")


@dataclass(frozen=True)
class Evolution:
    """How a table's columns grow to hold some data: ``added`` columns, and the table's ``schema`` with some widened
    (the same as before where ``widened`` is empty)."""

    added: tuple[pa.Field, ...]
    widened: tuple[str, ...]
    schema: pa.Schema


def delta_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` in the types that a Delta table holds. Raises `SchemaMismatch` for a type it cannot hold."""
    seen: set[str] = set()
    for field in schema:
        if field.name.lower() in seen:
            raise SchemaMismatch(field.name, "a column of this name (case aside) comes twice")
        seen.add(field.name.lower())
    return pa.schema([pa.field(f.name, delta_type(f.name, f.type), f.nullable) for f in schema])


def new_schema(schema: pa.Schema) -> pa.Schema:
    """`delta_schema` of a table to be made. Raises `InvalidInput` where there is no column."""
    if not len(schema):
        raise InvalidInput("data", "has no columns; a table needs at least one")
    return delta_schema(schema)


def delta_type(name: str, dtype: pa.DataType) -> pa.DataType:
    """``dtype`` as a table holds it: times in UTC microseconds, plain strings and bytes, decimals of 128 bits."""
    if any(is_one(dtype) for is_one in _AS_IS):
        return dtype
    if pa.types.is_dictionary(dtype):
        return delta_type(name, dtype.value_type)
    if any(is_one(dtype) for is_one in _STRINGS):
        return pa.string()
    if any(is_one(dtype) for is_one in _BYTES):
        return pa.binary()
    if pa.types.is_date64(dtype):
        return pa.date32()
    if pa.types.is_timestamp(dtype):
        return pa.timestamp("us", tz="UTC")
    if pa.types.is_decimal(dtype) and dtype.precision <= _MOST_DIGITS and 0 <= dtype.scale <= dtype.precision:
        return pa.decimal128(dtype.precision, dtype.scale)
    return _nested(name, dtype)


def _nested(name: str, dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_map(dtype):
        item = pa.field("value", delta_type(name, dtype.item_type), dtype.item_field.nullable)
        return pa.map_(delta_type(name, dtype.key_type), item)
    if any(is_one(dtype) for is_one in _LISTS):
        return pa.list_(pa.field("element", delta_type(name, dtype.value_type), dtype.value_field.nullable))
    if pa.types.is_struct(dtype) and dtype.num_fields:
        fields = [pa.field(f.name, delta_type(f"{name}.{f.name}", f.type), f.nullable) for f in dtype]
        return pa.struct(fields)
    raise SchemaMismatch(name, f"a table cannot hold {dtype}; cast it to a signed integer, double, string or timestamp")


def conform(data: pa.Table, schema: pa.Schema, *, fill: bool = False) -> pa.Table:
    """``data`` with the columns of ``schema``; with ``fill`` a nullable column that is missing becomes null and a
    narrower number is widened. Raises `SchemaMismatch` naming the first column that does not fit."""
    for name in data.column_names:
        if data.column_names.count(name) > 1:
            raise SchemaMismatch(name, "the data has two columns of this name; rename one")
        if name not in schema.names:
            raise SchemaMismatch(name, f"the table has no such column; it has {', '.join(schema.names)}")
    return pa.table([_column(data, field, fill) for field in schema], schema=schema)


def evolution(found: pa.Schema, schema: pa.Schema) -> Evolution:
    """What a table with ``schema`` needs to hold data with the columns ``found``. Raises `SchemaMismatch` where neither
    a new nullable column nor a wider number does it."""
    wanted = delta_schema(pa.schema([f for f in found if not pa.types.is_null(f.type)]))
    added, wider = [], {}
    for field in wanted:
        if field.name not in schema.names:
            added.append(field.with_nullable(True))
            continue
        have = schema.field(field.name)
        if is_wider(field.type, have.type):
            wider[field.name] = field.type
    fields = [f.with_type(wider.get(f.name, f.type)) for f in schema]
    grown = pa.schema([*fields, *added])
    delta_schema(grown)  # no two names that differ by case alone
    return Evolution(tuple(added), tuple(wider), grown)


def check_partitions(schema: pa.Schema, by: Sequence[str], name: str) -> None:
    """Raises `InvalidInput` for columns that a table cannot be partitioned by."""
    if isinstance(by, str):
        raise InvalidInput("partition_by", f"{by!r} is one string, not a list of names; write ({by!r},)")
    for column in by:
        if column not in schema.names:
            raise InvalidInput("partition_by", f"{column!r} is no column of {name}")
        dtype = schema.field(column).type
        if pa.types.is_nested(dtype) or pa.types.is_binary(dtype):
            raise InvalidInput("partition_by", f"{column!r} is {dtype}; partition by a number, string, date or time")
    if by and len(set(by)) == len(schema):
        raise InvalidInput("partition_by", "at least one column must be no partition column")
    if len(set(by)) < len(by):
        raise InvalidInput("partition_by", "a column comes twice")


def is_wider(dtype: pa.DataType, than: pa.DataType) -> bool:
    """Whether ``dtype`` is a wider number of the same kind."""
    return any(
        str(dtype) in ladder and str(than) in ladder and ladder.index(str(dtype)) > ladder.index(str(than))
        for ladder in _WIDER
    )


def alike(a: pa.DataType, b: pa.DataType) -> bool:
    """The same type, whatever the elements of lists and maps are called and whether they may be null."""
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        return [f.name for f in a] == [f.name for f in b] and all(
            alike(x.type, y.type) for x, y in zip(a, b, strict=True)
        )
    if pa.types.is_list(a) and pa.types.is_list(b):
        return alike(a.value_type, b.value_type)
    if pa.types.is_map(a) and pa.types.is_map(b):
        return alike(a.key_type, b.key_type) and alike(a.item_type, b.item_type)
    return bool(a == b)


def _column(data: pa.Table, field: pa.Field, fill: bool) -> pa.ChunkedArray:
    if field.name not in data.column_names:
        if fill and field.nullable:
            return pa.chunked_array([pa.nulls(data.num_rows, field.type)])
        raise SchemaMismatch(field.name, f"missing in the data; the table declares {field.type}")
    column = data[field.name]
    if not _fits(column.type, field, fill):
        raise SchemaMismatch(field.name, f"the table declares {field.type}, the data has {column.type}")
    if not field.nullable and column.null_count:
        raise SchemaMismatch(field.name, f"{column.null_count} nulls in a column declared as not null")
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise SchemaMismatch(field.name, f"does not fit {field.type}: {e}") from e


def _fits(dtype: pa.DataType, field: pa.Field, fill: bool) -> bool:
    if pa.types.is_null(dtype):
        return True
    if pa.types.is_timestamp(dtype) and pa.types.is_timestamp(field.type) and field.type.tz is None:
        return dtype.tz is None  # a column without a zone takes times without one
    held = delta_type(field.name, dtype)
    return alike(held, field.type) or (fill and is_wider(field.type, held))
