"""A query over tables, in this process, by the engine inside delta-rs (DataFusion)."""

from __future__ import annotations

import re

import pyarrow as pa

from rayplat.data.tables import log
from rayplat.data.tables.tables import Tables
from rayplat.errors import InvalidInput, NotFound


def query(tables: Tables, sql: str) -> pa.Table:
    """The rows of a ``SELECT`` over the latest versions of tables named in it (``"quoted"`` where a name holds a dot
    or a dash). Raises `InvalidInput` with the engine's words, `NotFound` where no table is named."""
    from deltalake import QueryBuilder
    from deltalake.exceptions import DeltaError

    names = [name for name in tables.names() if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", sql)]
    if not names:
        raise NotFound("table", sql[:80], f"a query names at least one of {', '.join(tables.names()) or 'none'}")
    engine = QueryBuilder()
    for name in names:
        engine = engine.register(name, log.load(tables.place(name)))
    try:
        found = pa.table(engine.execute(sql))
    except (DeltaError, OSError, ValueError) as e:
        raise InvalidInput("query", f"{e} (tables are {', '.join(names)})") from e
    return pa.table([_plain(column) for column in found.columns], names=found.column_names)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without the engine's views of strings and bytes."""
    if pa.types.is_string_view(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    return column.cast(pa.binary()) if pa.types.is_binary_view(column.type) else column
