"""From a loaded Delta table to what is read: its schema, its files, its identity. Knows delta-rs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from rayplat.data.tables import statistics
from rayplat.data.tables.features import mapping_mode, schema_tree
from rayplat.data.tables.files import partition_text
from rayplat.data.tables.layout import Layout
from rayplat.data.tables.place import Place, inside, is_absolute
from rayplat.data.tables.scan import File, Scan
from rayplat.errors import Corrupt
from rayplat.types import TableVersion

if TYPE_CHECKING:
    from deltalake import DeltaTable


def schema_of(table: DeltaTable) -> pa.Schema:
    """The table's columns as Arrow types, without metadata."""
    found = pa.schema(table.schema().to_arrow())
    return pa.schema([pa.field(f.name, f.type, f.nullable) for f in found])


def partition_columns(table: DeltaTable) -> list[str]:
    return list(table.metadata().partition_columns)


def scan_of(place: Place, table: DeltaTable) -> Scan:
    """The files of the loaded version, in the order in which they were committed."""
    schema, layout = schema_of(table), _layout(table)
    actions = pa.table(table.get_add_actions())
    names = {name: name for name in schema.names} if layout is None else layout.names()
    ends = _ends(actions, schema, names)
    deleted = _deleted(place, table)
    parts = actions["partition"].to_pylist() if "partition" in actions.column_names else [{}] * actions.num_rows
    keys = [unquote(path) for path in actions["path"].to_pylist()]
    sizes, rows = actions["size_bytes"].to_pylist(), actions["num_records"].to_pylist()
    times, files = actions["modification_time"].to_pylist(), []
    for i, key in enumerate(keys):
        gone = deleted.get(place.resolve(key), b"")
        left = None if rows[i] is None else rows[i] - len(gone) // 8
        path = key if is_absolute(key) else f"{place.uri}/{key}"
        text = {k: partition_text(v) for k, v in parts[i].items()}
        files.append((times[i], File(path, sizes[i], left, key, parts[i], text, ends[i], gone, times[i])))
    files.sort(key=lambda pair: (pair[0], pair[1].path))
    return Scan(place, schema, tuple(file for _, file in files), layout)


def identify(place: Place, table: DeltaTable, scan: Scan | None = None) -> TableVersion:
    """The identity of the loaded version."""
    scan = scan or scan_of(place, table)
    table_id = str(table.metadata().id)
    return TableVersion(
        place.name,
        place.uri,
        table_id,
        table.version(),
        manifest_digest(scan),
        schema_digest(scan.schema),
        scan.count(),
    )


def manifest_digest(scan: Scan) -> str:
    """Of the sorted list of files: path in the table, bytes, and the deleted rows where there are any."""
    files = []
    for file in scan.files:
        entry: list[Any] = [file.path.removeprefix(scan.uri), file.size_bytes]
        files.append(entry + ([hashlib.sha256(file.deleted).hexdigest()] if file.deleted else []))
    return _digest(sorted(files))


def schema_digest(schema: pa.Schema) -> str:
    return _digest([[f.name, str(f.type), f.nullable] for f in schema])


def _layout(table: DeltaTable) -> Layout | None:
    mode, features = mapping_mode(table), table.protocol().reader_features or []
    if mode == "none" and not any(feature.startswith("typeWidening") for feature in features):
        return None
    return Layout(mode, schema_tree(table))


def _ends(actions: pa.Table, schema: pa.Schema, names: Mapping[str, str]) -> list[dict[str, tuple[Any, Any, bool]]]:
    """By file and column: lowest, highest, whether there are no nulls."""
    found: list[dict[str, tuple[Any, Any, bool]]] = [{} for _ in range(actions.num_rows)]
    lows, highs, nulls = (_under(actions, part) for part in ("min", "max", "null_count"))
    for physical in lows:
        name = names.get(physical)
        if name is None or not statistics.usable(schema.field(name).type):
            continue
        try:
            low, high = lows[physical].to_pylist(), highs[physical].to_pylist()
        except (ValueError, OverflowError, KeyError):
            continue  # a time that Python cannot hold
        missing = nulls[physical].to_pylist() if physical in nulls else [None] * len(low)
        for i, ends in enumerate(found):
            if low[i] is not None or high[i] is not None:
                ends[name] = (low[i], high[i], missing[i] == 0)
    return found


def _under(actions: pa.Table, part: str) -> dict[str, pa.ChunkedArray]:
    if part not in actions.column_names or not pa.types.is_struct(actions.schema.field(part).type):
        return {}
    column = actions[part].combine_chunks()
    column = column if isinstance(column, pa.Array) else column.chunk(0)
    return {f.name: v for f, v in zip(column.type, column.flatten(), strict=True)}


def _deleted(place: Place, table: DeltaTable) -> dict[str, bytes]:
    """By path as the file system knows it: the positions of deleted rows as int64."""
    from deltalake.exceptions import DeltaError

    if "deletionVectors" not in (table.protocol().reader_features or []):
        return {}
    found = {}
    try:
        vectors = pa.table(table.deletion_vectors()).to_batches()
    except DeltaError as e:
        raise Corrupt(f"a deletion vector of table {place.name}", "a vector and a file that fit", str(e)) from e
    for batch in vectors:
        for path, keep in zip(batch["filepath"].to_pylist(), batch["selection_vector"], strict=True):
            mask = keep.values.to_numpy(zero_copy_only=False)
            found[inside(unquote(path)) if is_absolute(path) else place.resolve(path)] = (
                np.flatnonzero(~mask).astype(np.int64).tobytes()
            )
    return found


def _digest(tree: Any) -> str:
    text = json.dumps(tree, separators=(",", ":"), sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
