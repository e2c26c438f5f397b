"""Reading one data file whose columns are not simply the table's: renamed ones (column mapping by name or id), types
that were widened since, rows that a deletion vector marks. Slower than the plain way of `scan`, and used only then.

Delta protocol, "Column Mapping", "Type Widening", "Deletion Vectors".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from rayplat.errors import InvalidInput

_ID = b"PARQUET:field_id"


@dataclass(frozen=True)
class Layout:
    """How the files of a table name their columns: ``mode`` is ``none``, ``name`` or ``id``; ``fields`` the schema as
    the log declares it."""

    mode: str
    fields: list[dict[str, Any]]

    def names(self) -> dict[str, str]:
        """The table's column by the name that files and statistics use."""
        return {_physical(field, self.mode): field["name"] for field in self.fields}


def read(
    fragment: pads.ParquetFileFragment,
    schema: pa.Schema,
    layout: Layout,
    partition: Mapping[str, Any],
    deleted: np.ndarray[Any, np.dtype[np.int64]],
) -> pa.Table:
    """The rows of one file with the columns of ``schema`` (some of the table's), without those at ``deleted``."""
    found = fragment.physical_schema
    sources = {f["name"]: _source(f, found, layout.mode) for f in layout.fields if f["name"] not in partition}
    wanted = [at for field in schema if (at := sources.get(field.name)) is not None]
    rows = fragment.to_table(columns=[found.field(at).name for at in wanted])
    keep = None
    if len(deleted):
        keep = np.ones(rows.num_rows, bool)
        keep[deleted[deleted < rows.num_rows]] = False
        rows = rows.filter(pa.array(keep))
    trees = {f["name"]: f for f in layout.fields}
    columns = []
    for field in schema:
        at = sources.get(field.name)
        if field.name in partition:
            columns.append(_constant(partition[field.name], field.type, rows.num_rows))
        elif at is None:
            columns.append(pa.chunked_array([pa.nulls(rows.num_rows, field.type)]))
        else:
            column = rows.column(wanted.index(at))
            columns.append(_shaped(column, field, _named(found.field(at).type, trees[field.name]["type"], layout.mode)))
    return pa.table(columns, schema=schema) if len(schema) else rows.select([])


def _source(field: Mapping[str, Any], found: pa.Schema | pa.StructType, mode: str) -> int | None:
    """The index among ``found`` of the column that holds ``field``."""
    if mode == "id":
        wanted = str(field["metadata"].get("delta.columnMapping.id", "")).encode()
        if any(f.metadata and _ID in f.metadata for f in found):
            return next((i for i, f in enumerate(found) if (f.metadata or {}).get(_ID) == wanted), None)
    name = _physical(field, mode)
    return next((i for i, f in enumerate(found) if f.name == name), None)


def _physical(field: Mapping[str, Any], mode: str) -> str:
    mapped = (field.get("metadata") or {}).get("delta.columnMapping.physicalName") if mode != "none" else None
    return str(mapped or field["name"])


def _named(dtype: pa.DataType, tree: Any, mode: str) -> pa.DataType:
    """``dtype`` with the names that the table has for the fields of structs, at every depth; same memory layout."""
    if mode == "none" or not isinstance(tree, Mapping):
        return dtype
    if pa.types.is_struct(dtype) and tree["type"] == "struct":
        names = [f"\ue000{i}" for i in range(dtype.num_fields)]  # what the table no longer has
        types = [field.type for field in dtype]
        for field in tree["fields"]:
            at = _source(field, dtype, mode)
            if at is not None:
                names[at], types[at] = field["name"], _named(types[at], field["type"], mode)
        return pa.struct([pa.field(n, t, f.nullable) for n, t, f in zip(names, types, dtype, strict=True)])
    if pa.types.is_list(dtype) and tree["type"] == "array":
        return pa.list_(dtype.value_field.with_type(_named(dtype.value_type, tree["elementType"], mode)))
    if pa.types.is_map(dtype) and tree["type"] == "map":
        key = _named(dtype.key_type, tree["keyType"], mode)
        return pa.map_(key, dtype.item_field.with_type(_named(dtype.item_type, tree["valueType"], mode)))
    return dtype


def _shaped(column: pa.ChunkedArray, field: pa.Field, named: pa.DataType) -> pa.ChunkedArray:
    if named != column.type:
        column = pa.chunked_array([pa.array(_Renamed(chunk, named)) for chunk in column.chunks], named)
    if pa.types.is_integer(column.type) and pa.types.is_decimal(field.type):
        column = column.cast(pa.decimal128(38, field.type.scale))
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise InvalidInput(field.name, f"its file holds {column.type}, which does not read as {field.type}: {e}") from e


class _Renamed:
    """An array under another type of the same layout (Arrow PyCapsule interface); copies nothing."""

    def __init__(self, array: pa.Array, dtype: pa.DataType) -> None:
        self._array, self._dtype = array, dtype

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self._dtype.__arrow_c_schema__(), self._array.__arrow_c_array__()[1]


def _constant(value: Any, dtype: pa.DataType, rows: int) -> pa.ChunkedArray:
    if value is None:
        return pa.chunked_array([pa.nulls(rows, dtype)])
    return pa.chunked_array([pa.repeat(pa.scalar(value, dtype), rows)])


def where_columns(where: Any, names: Sequence[str]) -> list[str]:
    """The columns among ``names`` that the expression ``where`` may use (all that it uses are in it)."""
    text = str(where)
    return [name for name in names if name in text]
