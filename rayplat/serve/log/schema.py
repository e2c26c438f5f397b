"""The inference log's columns, and how answered requests become rows of it: one row per entity row.

Values of inputs are what the model was given: one number to a row goes into ``numeric``, one text into
``categorical``; a missing one is null in its map, one of several values to a row has no key in it, and one that is
redacted says so in ``categorical``, whatever it was. `RawRecord` is made on the host's loop and does nothing; `encode`
does the work, in the tap's thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from rayplat.types import AliasHead

TABLE = "inference_log"
PARTITION_BY = ("date",)

ANSWERED = 200
SHADOW = "shadow"
REDACTED = "<redacted>"
MOST_VALUES = 64  # of one output for one row in `answer`; of a larger one only its shape is kept

ENTITY = "entity"
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
        pa.field("variant", pa.string()),
        pa.field("role", pa.string()),
        pa.field("status", pa.int32()),
        pa.field("answer", pa.string()),
    ]
)


RawRecord = tuple[
    str,
    int,
    datetime,
    datetime,
    AliasHead,
    int,
    Sequence[Any] | None,
    Mapping[str, Any],
    Mapping[str, Any] | None,
    float,
    int,
    str,
    str,
    frozenset[str],
]
"""The values of a `Record` in their order, as the host's loop hands them over: quicker to make by half."""


class Record(NamedTuple):
    """One request of ``rows`` rows that was answered or failed.

    ``head`` says which alias and generation answered; ``version`` differs from the head's where the request named an
    exact version. ``inputs`` and ``outputs`` are the model's own, of ``rows`` rows each; ``outputs`` None: it failed,
    and ``status`` is the HTTP status that says how. ``role`` is one of ``primary split canary override pinned shadow
    batch``. Values of the fields named in ``redact`` are not logged (``entity`` names the key).
    """

    request_id: str
    rows: int
    received_at: datetime
    event_time: datetime
    head: AliasHead
    version: int
    entity: Sequence[Any] | None
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any] | None
    latency_ms: float
    status: int
    variant: str
    role: str
    redact: frozenset[str] = frozenset()


class _Layout(NamedTuple):
    """Which of a record's values go where. Records of the same layout become rows together."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    prediction: str | None
    answer: tuple[str, ...]
    entity: bool


def encode(records: Sequence[Record], replica: str) -> bytes:
    """The records as one Arrow IPC stream of `SCHEMA`. Raises ValueError for values that are not of ``rows`` rows."""
    alike: dict[_Layout, list[Record]] = {}
    for record in records:
        alike.setdefault(_layout(record), []).append(record)
    tables = [_table(layout, group, replica) for layout, group in alike.items()]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(pa.concat_tables([SCHEMA.empty_table(), *tables]).combine_chunks())
    return bytes(sink.getvalue())


def decode(batch: bytes) -> pa.Table:
    """The table in an Arrow IPC stream; ValueError where it is not one of `SCHEMA`. Columns that an older host does
    not have are null."""
    try:
        table = pa.ipc.open_stream(batch).read_all()
    except pa.ArrowInvalid as e:
        raise ValueError(f"no Arrow stream: {e}") from e
    found = table.schema
    if found.equals(SCHEMA):
        return table
    if not found.names or not found.equals(pa.schema([f for f in SCHEMA if f.name in found.names])):
        raise ValueError(f"columns are not those of {TABLE}: {found.names}")
    columns = [
        table.column(f.name) if f.name in found.names else pa.nulls(table.num_rows, f.type) for f in SCHEMA
    ]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def warm_up() -> None:
    """Make a first Arrow array. pyarrow imports pandas for it, half a second that no request should wait for."""
    pa.array([0.0])


# --- which value goes where ---------------------------------------------------------------------------


def _layout(record: Record) -> _Layout:
    numeric, categorical = [], []
    for name, values in record.inputs.items():
        kind = "text" if name in record.redact else _kind(values)
        if kind == "numeric":
            numeric.append(name)
        elif kind == "text":
            categorical.append(name)
    outputs = record.outputs or {}
    names = list(outputs)
    first = names[0] if names and _kind(outputs[names[0]]) == "numeric" else None
    shown = tuple(n for n in names if n != first and n not in record.redact and outputs[n] is not None)
    entity = record.entity is not None and ENTITY not in record.redact
    prediction = None if first in record.redact else first
    return _Layout(tuple(numeric), tuple(categorical), prediction, shown, entity)


def _kind(values: Any) -> str:
    """``numeric`` or ``text`` for one value to a row, else ``other``."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1 and not (values.ndim == 2 and values.shape[1] == 1):
            return "other"
        if values.dtype.kind in "biuf":
            return "numeric"
        return "text" if values.dtype.kind in "OUM" else "other"
    return "text" if isinstance(values, list | tuple) else "other"


# --- whole columns at a time: Arrow values made one by one are slow -------------------------------------


def _table(layout: _Layout, records: list[Record], replica: str) -> pa.Table:
    counts = np.array([record.rows for record in records])
    rows = int(counts.sum())
    received = [record.received_at for record in records]
    by_record: dict[str, list[Any]] = {
        "request_id": [record.request_id for record in records],
        "received_at": received,
        "event_time": [record.event_time for record in records],
        "model": [record.head.model for record in records],
        "version": [record.version for record in records],
        "alias": [record.head.alias for record in records],
        "generation": [record.head.generation for record in records],
        "latency_ms": [record.latency_ms for record in records],
        "date": [moment.date() for moment in received],
        "variant": [record.variant for record in records],
        "role": [record.role for record in records],
        "status": [record.status for record in records],
    }
    spread = None if rows == len(records) else pa.array(np.repeat(np.arange(len(records)), counts))
    columns = {name: _repeated(values, SCHEMA.field(name).type, spread) for name, values in by_record.items()}
    starts = np.cumsum(counts) - counts
    columns["row"] = pa.array((np.arange(rows) - np.repeat(starts, counts)).astype(np.int32))
    columns["replica"] = pa.repeat(pa.scalar(replica), rows)
    columns["entity"] = _entities(layout, records, rows)
    columns["numeric"] = _numeric(layout, records, rows)
    columns["categorical"] = _categorical(layout, records, rows)
    columns["prediction"] = _prediction(layout, records, rows)
    columns["answer"] = _answers(layout, records, rows)
    wrong = [name for name, column in columns.items() if len(column) != rows]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not of {rows} rows")
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _repeated(values: list[Any], kind: pa.DataType, spread: pa.Array | None) -> pa.Array:
    made = pa.array(values, kind)
    return made if spread is None else made.take(spread)


def _entities(layout: _Layout, records: list[Record], rows: int) -> pa.Array:
    if not layout.entity:
        return pa.nulls(rows, pa.string())
    keys = [key for record in records for key in record.entity or ()]
    return pa.array([key if isinstance(key, str) or key is None else _key_text(key) for key in keys], pa.string())


def _key_text(key: Any) -> str:
    """A key of several join keys as JSON, any other by its own text."""
    return json.dumps([str(part) for part in key]) if isinstance(key, tuple) else str(key)


def _numeric(layout: _Layout, records: list[Record], rows: int) -> pa.Array:
    names = layout.numeric
    if not names:
        return _maps(names, pa.array([], pa.float64()), rows)
    values = np.column_stack([_floats([record.inputs[name] for record in records]) for name in names]).ravel()
    return _maps(names, pa.array(values, mask=np.isnan(values)), rows)


def _floats(parts: list[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float64, copy=False)


def _categorical(layout: _Layout, records: list[Record], rows: int) -> pa.Array:
    names = layout.categorical
    if not names:
        return _maps(names, pa.array([], pa.string()), rows)
    columns = [
        [text for r in records for text in ([REDACTED] * r.rows if name in r.redact else _texts(r.inputs[name]))]
        for name in names
    ]
    if any(len(column) != rows for column in columns):
        raise ValueError(f"text inputs are not of {rows} rows")
    return _maps(names, pa.array([value for row in zip(*columns, strict=True) for value in row], pa.string()), rows)


def _texts(values: Any) -> list[str | None]:
    if isinstance(values, np.ndarray):
        values = (np.datetime_as_string(values) if values.dtype.kind == "M" else values).reshape(-1).tolist()
    return [value if value is None or isinstance(value, str) else _text(value) for value in values]


def _text(value: Any) -> str | None:
    """Bytes are no category: they would fill the log and say nothing."""
    if isinstance(value, bytes) or value != value:
        return None
    return str(value)


def _maps(names: Sequence[str], values: pa.Array, rows: int) -> pa.Array:
    if len(values) != rows * len(names):
        raise ValueError(f"inputs are not of {rows} rows")
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(len(names))
    keys = pa.array(list(names), pa.string())
    return pa.MapArray.from_arrays(pa.array(offsets), keys.take(pa.array(np.tile(np.arange(len(names)), rows))), values)


def _prediction(layout: _Layout, records: list[Record], rows: int) -> pa.Array:
    name = layout.prediction
    if name is None:
        return pa.nulls(rows, pa.float64())
    values = _floats([record.outputs[name] for record in records if record.outputs is not None])
    return pa.array(values, mask=np.isnan(values))


def _answers(layout: _Layout, records: list[Record], rows: int) -> pa.Array:
    """JSON of each row's outputs beside the prediction."""
    if not layout.answer:
        return pa.nulls(rows, pa.string())
    numbers = [_numbers(name, records) for name in layout.answer]
    if None not in numbers:
        heads = [orjson.dumps(name) + b":" for name in layout.answer]
        rows_of = zip(*numbers, strict=True)  # type: ignore[arg-type]
        texts = [b"{" + b",".join([h + v for h, v in zip(heads, row, strict=True)]) + b"}" for row in rows_of]
        return pa.array(texts, pa.binary()).cast(pa.string())
    found: list[str] = []
    for record in records:
        outputs = {name: _by_row(record.outputs[name], record.rows) for name in layout.answer} if record.outputs else {}
        found += [
            json.dumps({name: values[row] for name, values in outputs.items()}, separators=(",", ":"))
            for row in range(record.rows)
        ]
    return pa.array(found, pa.string())


def _numbers(name: str, records: list[Record]) -> list[bytes] | None:
    """The output ``name`` as JSON by row, where it is an array of few numbers to a row in all records; else None.
    Written as a whole and cut: a text made by itself leaves a hole in memory, and costs ten times as much."""
    column: list[Any] = []
    shape: tuple[int, ...] | None = None
    for record in records:
        values = record.outputs[name] if record.outputs is not None else None
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
            return None
        if values.ndim not in (1, 2) or len(values) != record.rows or values.shape[1:] != (shape or values.shape)[1:]:
            return None
        if values.size > MOST_VALUES * max(record.rows, 1):
            return None
        shape = values.shape
        column += values.tolist()
    if not column:
        return []
    text = orjson.dumps(column)
    if shape is not None and len(shape) == 1:
        return text[1:-1].split(b",")
    return [b"[" + row + b"]" for row in text[2:-2].split(b"],[")]


def _by_row(values: Any, rows: int) -> list[Any]:
    """One plain value, list or description to a row."""
    array = values if isinstance(values, np.ndarray) else None
    if array is not None and array.ndim and array.size > MOST_VALUES * max(rows, 1):
        return [{"shape": list(array.shape[1:])}] * rows
    plain = array.tolist() if array is not None else list(values)
    if not isinstance(plain, list) or len(plain) != rows:
        raise ValueError(f"an output is not of {rows} rows")
    return [_plain(value) for value in plain]


def _plain(value: Any) -> Any:
    """What JSON can say: a number that is not finite is null, bytes are not shown."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if value is None or isinstance(value, str | int | bool):
        return value
    return {"bytes": len(value)} if isinstance(value, bytes) else str(value)
