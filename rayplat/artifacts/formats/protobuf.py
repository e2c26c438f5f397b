"""Protocol Buffers on the wire, without a schema: which fields a message has, and where their bytes are.

The encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

from rayplat.errors import InvalidInput

Value = int | memoryview


def fields(message: memoryview, name: str) -> Iterator[tuple[int, Value]]:
    """(field number, value) in order: varints as int, everything else as its bytes. Raises `InvalidInput`."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at, name)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise InvalidInput(name, "a field has the number 0")
        if kind == 0:
            value, at = _varint(message, at, name)
            yield number, value
            continue
        size, at = _varint(message, at, name) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
        if size < 0 or at + size > end:
            raise InvalidInput(name, "it is cut off or damaged")
        yield number, message[at : at + size]
        at += size


def text(value: Value, name: str) -> str:
    """A string field. Raises `InvalidInput`."""
    if isinstance(value, int):
        raise InvalidInput(name, "a text is stored as a number")
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as e:
        raise InvalidInput(name, "a text in it is not UTF-8") from e


def nested(value: Value, name: str) -> memoryview:
    """A message field. Raises `InvalidInput`."""
    if isinstance(value, int):
        raise InvalidInput(name, "a message is stored as a number")
    return value


def _varint(message: memoryview, at: int, name: str) -> tuple[int, int]:
    value, shift = 0, 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise InvalidInput(name, "it is cut off or damaged")
