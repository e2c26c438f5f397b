"""Universal Binary JSON, as XGBoost writes it (https://ubjson.org): numbers big-endian, arrays of one type packed."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from rayplat.errors import InvalidInput

MAX_DEPTH = 32
_NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_PLAIN = {b"T": True, b"F": False, b"Z": None, b"N": None}


class _Cursor:
    def __init__(self, content: bytes, path: str) -> None:
        self.content, self.path, self.at = content, path, 0

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.content):
            raise InvalidInput(self.path, "it is cut off or damaged")
        found = self.content[self.at : self.at + size]
        self.at += size
        return found

    def peek(self) -> bytes:
        return self.content[self.at : self.at + 1]

    def number(self, kind: bytes) -> Any:
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def size(self) -> int:
        kind = self.take(1)
        if kind not in (b"i", b"U", b"I", b"l", b"L"):
            raise InvalidInput(self.path, "a length in it is no whole number")
        return int(self.number(kind))

    def text(self) -> str:
        try:
            return self.take(self.size()).decode("utf-8")
        except UnicodeDecodeError as e:
            raise InvalidInput(self.path, "a text in it is not UTF-8") from e


def parse(content: bytes, path: str) -> Any:
    """The value in ``content``: dict, list, str, numbers; a packed array as a numpy array. Raises `InvalidInput`."""
    cursor = _Cursor(content, path)
    try:
        found = _value(cursor, cursor.take(1), 0)
    except (struct.error, ValueError, OverflowError, MemoryError) as e:
        raise InvalidInput(path, f"it is damaged: {e}") from e
    if cursor.at != len(content):
        raise InvalidInput(path, f"it goes on for {len(content) - cursor.at} bytes after its end")
    return found


def _value(cursor: _Cursor, kind: bytes, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise InvalidInput(cursor.path, f"it is nested deeper than {MAX_DEPTH}")
    if kind in _NUMBERS:
        return cursor.number(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind == b"S":
        return cursor.text()
    if kind == b"C":
        return cursor.take(1).decode("latin-1")
    if kind == b"[":
        return _array(cursor, depth)
    if kind == b"{":
        return _object(cursor, depth)
    raise InvalidInput(cursor.path, f"{kind!r} begins no value")


def _array(cursor: _Cursor, depth: int) -> Any:
    packed = b""
    if cursor.peek() == b"$":
        cursor.take(1)
        packed = cursor.take(1)
        if packed not in _NUMBERS or cursor.peek() != b"#":
            raise InvalidInput(cursor.path, "a packed array in it is of no number type")
    if cursor.peek() != b"#":
        found = []
        while (kind := cursor.take(1)) != b"]":
            found.append(_value(cursor, kind, depth + 1))
        return found
    cursor.take(1)
    count = cursor.size()
    if packed:
        dtype = np.dtype(_NUMBERS[packed])
        return np.frombuffer(cursor.take(count * dtype.itemsize), dtype)
    if not 0 <= count <= len(cursor.content):
        raise InvalidInput(cursor.path, "an array in it is longer than the file")
    return [_value(cursor, cursor.take(1), depth + 1) for _ in range(count)]


def _object(cursor: _Cursor, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while cursor.peek() != b"}":
        name = cursor.text()
        if name in found:
            raise InvalidInput(cursor.path, f"{name[:60]!r} is there twice")
        found[name] = _value(cursor, cursor.take(1), depth + 1)
    cursor.take(1)
    return found
