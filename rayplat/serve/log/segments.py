"""The layout of a spooled segment: a magic line, the replica's name, then one frame for each record.

A frame is its payload's length and CRC-32 (both 4 bytes, little endian) and the payload, `marshal` of plain values
(it only holds values, it cannot run code). Reading ends at the first frame that is short or does not fit its sum: the
host was killed while it wrote it.
"""

from __future__ import annotations

import marshal
import struct
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rayplat.serve.log.schema import ENTITY, REDACTED, Record
from rayplat.types import AliasHead

_MAGIC = b"rayplat-spool/1\n"
_FRAME = struct.Struct("<II")
_FORMAT = 4  # of marshal: the same in every Python since 3.4
_FEW = 8  # values; more of them are kept as bytes


def header(replica: str) -> bytes:
    """What a segment begins with."""
    return _MAGIC + _framed(replica.encode())


def frame(record: Record) -> bytes:
    """One record, without what the log would not show: redacted values and inputs of several values to a row."""
    redact = record.redact
    inputs = {
        name: [REDACTED] * record.rows if name in redact else _packed(values)
        for name, values in record.inputs.items()
        if name in redact or type(values) is list or values.ndim == 1 or values.shape[1:] == (1,)
    }
    outputs = None
    if record.outputs is not None:
        outputs = {name: None if name in redact else _packed(v) for name, v in record.outputs.items()}
    head = record.head
    values: Any = (
        record.request_id,
        record.rows,
        record.received_at.timestamp(),
        record.event_time.timestamp(),
        (head.model, head.alias, head.generation),
        record.version,
        None if record.entity is None or ENTITY in redact else _packed(list(record.entity)),
        inputs,
        outputs,
        record.latency_ms,
        record.status,
        record.variant,
        record.role,
    )
    try:
        payload = marshal.dumps(values, _FORMAT)
    except ValueError:  # a value that is none of Python's own
        payload = marshal.dumps(_simple(values), _FORMAT)
    return _framed(payload)


def read(path: Path) -> tuple[list[Record], str]:
    """The records of a segment, and the replica that wrote it. Raises ValueError for what is no segment."""
    content = path.read_bytes()
    if not content.startswith(_MAGIC):
        raise ValueError(f"{path.name} does not begin as a spooled segment does")
    payloads = _payloads(memoryview(content)[len(_MAGIC) :])
    replica = bytes(next(payloads, b"")).decode(errors="replace")
    return [_record(marshal.loads(payload)) for payload in payloads], replica


def _framed(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _payloads(content: memoryview) -> Iterator[memoryview]:
    at = 0
    while at + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, at)
        at += _FRAME.size
        payload = content[at : at + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        yield payload
        at += length


def _packed(values: Any) -> Any:
    """Few numbers as a list with their kind, many as bytes; text as it is."""
    if type(values) is list:
        for value in values:
            if type(value) is not str and value is not None:
                return [_simple(value) for value in values]
        return values
    kind = values.dtype.kind
    if kind not in "biuf":
        return values.tolist() if kind != "M" else [str(value) for value in values.reshape(-1)]
    if values.ndim == 1 and len(values) <= _FEW:
        return kind, values.tolist()
    return values.dtype.str, values.shape, values.tobytes()


def _unpacked(values: Any) -> Any:
    if not isinstance(values, tuple):
        return values
    if len(values) == 2:
        return np.array(values[1], {"b": "?", "i": "i8", "u": "u8", "f": "f8"}[values[0]])
    return np.frombuffer(values[2], values[0]).reshape(values[1])


def _simple(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _simple(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_simple(part) for part in value]
    if isinstance(value, tuple):
        return tuple(_simple(part) for part in value)
    for kind in (bool, int, float, str, bytes):  # marshal takes a subclass of them (numpy has some) for something else
        if isinstance(value, kind):
            return kind(value)  # type: ignore[arg-type]
    return None if value is None else str(value)


def _record(values: tuple[Any, ...]) -> Record:
    request_id, rows, received, event, (model, alias, generation), version, entity, inputs, outputs, *rest = values
    latency_ms, status, variant, role = rest
    received_at, event_time = datetime.fromtimestamp(received, UTC), datetime.fromtimestamp(event, UTC)
    return Record(
        request_id=request_id,
        rows=rows,
        received_at=received_at,
        event_time=event_time,
        head=AliasHead(model, alias, version, "", generation, received_at, ""),
        version=version,
        entity=entity,
        inputs={name: _unpacked(part) for name, part in inputs.items()},
        outputs=None if outputs is None else {name: _unpacked(part) for name, part in outputs.items()},
        latency_ms=latency_ms,
        status=status,
        variant=variant,
        role=role,
    )
