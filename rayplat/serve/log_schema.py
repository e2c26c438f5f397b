"""The inference log's columns, and how answered requests become rows of it: one row per entity row.

Feature values are what the model was given; a missing number or category is null in its map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayplat.types import AliasHead

TABLE = "inference_log"
PARTITION_BY = ("date",)

_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string()),
        pa.field("row", pa.int32()),
        pa.field("received_at", _TIME),
        pa.field("event_time", _TIME),
        pa.field("model", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("alias", pa.string()),
        pa.field("generation", pa.int64()),
        pa.field("replica", pa.string()),
        pa.field("entity", pa.string()),
        pa.field("numeric", pa.map_(pa.string(), pa.float64())),
        pa.field("categorical", pa.map_(pa.string(), pa.string())),
        pa.field("prediction", pa.float64()),
        pa.field("latency_ms", pa.float64()),
        pa.field("date", pa.date32()),
    ]
)


@dataclass(frozen=True)
class Record:
    """One answered request of ``rows`` rows. ``head`` says which alias and generation answered; ``version`` differs
    from the head's where the request named an exact version. ``numeric`` are float64 [n], ``categorical`` lists."""

    request_id: str
    rows: int
    received_at: datetime
    event_time: datetime
    head: AliasHead
    version: int
    entity: Sequence[str] | None
    numeric: Mapping[str, npt.NDArray[np.float64]]
    categorical: Mapping[str, Sequence[str | None]]
    prediction: npt.NDArray[np.floating[Any]]
    latency_ms: float


def encode(records: Sequence[Record], replica: str) -> bytes:
    """The records as one Arrow IPC stream of `SCHEMA`."""
    table = pa.concat_tables([_table(record, replica) for record in records]).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode(batch: bytes) -> pa.Table:
    """The table in an Arrow IPC stream; ValueError where it is not one of `SCHEMA`."""
    try:
        table = pa.ipc.open_stream(batch).read_all()
    except pa.ArrowInvalid as e:
        raise ValueError(f"no Arrow stream: {e}") from e
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"columns are not those of {TABLE}: {table.schema.names}")
    return table


def _table(record: Record, replica: str) -> pa.Table:
    n = record.rows

    def same(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), n)

    columns = [
        same(record.request_id, pa.string()),
        pa.array(np.arange(n, dtype=np.int32)),
        same(record.received_at, _TIME),
        same(record.event_time, _TIME),
        same(record.head.model, pa.string()),
        same(record.version, pa.int64()),
        same(record.head.alias, pa.string()),
        same(record.head.generation, pa.int64()),
        same(replica, pa.string()),
        pa.nulls(n, pa.string()) if record.entity is None else pa.array(record.entity, pa.string()),
        _numeric(record),
        _categorical(record),
        pa.array(np.asarray(record.prediction, dtype=np.float64)),
        same(record.latency_ms, pa.float64()),
        same(record.received_at.date(), pa.date32()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _numeric(record: Record) -> pa.Array:
    names = list(record.numeric)
    if not names:
        return _maps([], pa.array([], pa.float64()), record.rows)
    values = np.column_stack([np.asarray(record.numeric[name], dtype=np.float64) for name in names]).ravel()
    return _maps(names, pa.array(values, mask=np.isnan(values)), record.rows)


def _categorical(record: Record) -> pa.Array:
    names = list(record.categorical)
    values = [record.categorical[name][row] for row in range(record.rows) for name in names]
    return _maps(names, pa.array(values, pa.string()), record.rows)


def _maps(names: list[str], values: pa.Array, rows: int) -> pa.Array:
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(len(names))
    return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(names * rows, pa.string()), values)
