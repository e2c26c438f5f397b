"""The inference log's columns, and how answered requests become rows of it: one row per entity row.

Feature values are what the model was given; a missing number or category is null in its map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
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
    alike = groupby(records, key=lambda record: (tuple(record.numeric), tuple(record.categorical)))
    table = pa.concat_tables([_table(list(group), replica) for _, group in alike]).combine_chunks()
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


def warm_up() -> None:
    """Make a first Arrow array. pyarrow imports pandas for it, half a second that no request should wait for."""
    pa.array([0.0])


def _table(records: list[Record], replica: str) -> pa.Table:
    """Rows of records that have the same features. Whole columns at a time: Arrow values made one by one are slow."""
    counts = [record.rows for record in records]
    entities: list[str | None] = []
    for record in records:
        entities.extend(record.entity if record.entity is not None else [None] * record.rows)

    def spread(values: list[Any]) -> list[Any]:
        return [value for value, n in zip(values, counts, strict=True) for _ in range(n)]

    received = spread([record.received_at for record in records])
    columns = [
        spread([record.request_id for record in records]),
        [row for n in counts for row in range(n)],
        received,
        spread([record.event_time for record in records]),
        spread([record.head.model for record in records]),
        spread([record.version for record in records]),
        spread([record.head.alias for record in records]),
        spread([record.head.generation for record in records]),
        [replica] * sum(counts),
        entities,
        _numeric(records, sum(counts)),
        _categorical(records, sum(counts)),
        np.concatenate([record.prediction for record in records]).astype(np.float64),
        spread([record.latency_ms for record in records]),
        [moment.date() for moment in received],
    ]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, SCHEMA.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _numeric(records: list[Record], rows: int) -> pa.Array:
    names = list(records[0].numeric)
    if not names:
        return _maps([], pa.array([], pa.float64()), rows)
    by_name = [np.concatenate([record.numeric[name] for record in records]) for name in names]
    values = np.column_stack(by_name).astype(np.float64).ravel()
    return _maps(names, pa.array(values, mask=np.isnan(values)), rows)


def _categorical(records: list[Record], rows: int) -> pa.Array:
    names = list(records[0].categorical)
    values = [record.categorical[name][row] for record in records for row in range(record.rows) for name in names]
    return _maps(names, pa.array(values, pa.string()), rows)


def _maps(names: list[str], values: pa.Array, rows: int) -> pa.Array:
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(len(names))
    return pa.MapArray.from_arrays(pa.array(offsets), pa.array(names * rows, pa.string()), values)
