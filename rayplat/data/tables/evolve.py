"""Growing a table's columns to hold new data: columns it lacks are added, narrow numbers widened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from rayplat.data.tables import log
from rayplat.data.tables.features import refuse_unwritable
from rayplat.data.tables.files import NewFile, new_stem, write_files
from rayplat.data.tables.log import Change
from rayplat.data.tables.place import Place
from rayplat.data.tables.schema import conform, evolution
from rayplat.data.tables.settle import settle
from rayplat.data.tables.snapshot import partition_columns, scan_of, schema_of
from rayplat.errors import InvalidInput, SchemaMismatch

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from ray.data import Dataset


def columns_of(data: pa.Table | Dataset) -> pa.Schema:
    """The columns of ``data``. Raises `InvalidInput` where a Dataset does not tell them."""
    if isinstance(data, pa.Table):
        return data.schema
    from rayplat.data.tables import ray_io

    found = ray_io.schema_of(data)
    if found is None:
        raise InvalidInput("data", "its columns are not known; evolve needs Arrow blocks")
    return found


def grow(place: Place, found: pa.Schema) -> DeltaTable:
    """Give the table the columns it lacks (a commit of its own, without rows) and wider numbers (its files are
    written anew)."""
    import deltalake

    while True:
        table = log.load(place)
        grown = evolution(found, schema_of(table))
        if grown.added:
            fields = deltalake.Schema.from_arrow(pa.schema(grown.added)).fields
            try:
                table.alter.add_columns(fields)
            except deltalake.exceptions.DeltaError as e:
                if schema_of(log.load(place)) == schema_of(table):
                    raise SchemaMismatch(grown.added[0].name, f"cannot be added: {e}") from e
                continue  # another writer was first
            continue
        if not grown.widened:
            return table
        _widen(place, grown.schema)


def _widen(place: Place, schema: pa.Schema) -> None:
    table = log.load(place)
    refuse_unwritable(place.name, table, removes=True)
    written: list[NewFile] = []

    def plan(table: DeltaTable) -> Change:
        scan, by = scan_of(place, table), partition_columns(table)
        adds: list[NewFile] = []
        for index, part in enumerate(scan.batches()):
            files = write_files(place, conform(part, schema, fill=True), by, new_stem(index))
            adds += files
            written.extend(files)
        notes = {"action": "widen columns", "rows": "0"}
        return Change(adds, everything=True, schema=schema, noted=notes)

    settle(place, (), table, plan, lambda: written)
