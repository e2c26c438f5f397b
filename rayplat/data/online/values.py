"""Keys and feature values as bytes: typed, compact, the same on every store.

Values are a JSON array in the order of the view's columns: integers of any size, floats that read back to the same
bits, NaN and null apart, timestamps as microseconds since the epoch. A key is the string itself where it is one
string, else the JSON array of its parts.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from rayplat.errors import InvalidInput

Key = str | int | tuple[str | int | None, ...] | None

_dumps = json.JSONEncoder(separators=(",", ":")).encode
_decoder = json.JSONDecoder()
_INT64 = range(-(2**63), 2**63)


def encode(values: Sequence[Any]) -> bytes:
    """Values as bytes; `decode` gives them back equal, bit for bit."""
    return _dumps(values).encode()


def decode(data: bytes) -> list[Any]:
    values: list[Any] = _decoder.raw_decode(data.decode())[0]
    return values


def key_bytes(parts: tuple[Any, ...]) -> bytes:
    """The bytes of a key with these parts, none of them None."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0].encode(errors="surrogatepass")
    return _dumps(parts).encode()


def normal_key(key: Key, names: Sequence[str], dtypes: Sequence[str]) -> tuple[Any, ...] | None:
    """``key`` as a tuple of its declared types; None where a part is missing: no row has that key.

    An integer may be given as its decimal text (HTTP carries keys as text). Raises `InvalidInput` for another type or
    another number of parts.
    """
    parts = key if isinstance(key, tuple | list) else (key,)
    if len(parts) != len(names):
        raise InvalidInput("keys", f"{key!r} has {len(parts)} parts; a key is ({', '.join(names)})")
    made = tuple(_part(p, name, dtype) for p, name, dtype in zip(parts, names, dtypes, strict=True))
    return None if None in made else made


def _part(value: Any, name: str, dtype: str) -> Any:
    if value is None or (isinstance(value, str) and dtype == "string"):
        return value
    if dtype == "string":
        raise InvalidInput(name, f"keys are strings, got {value!r}")
    if isinstance(value, float):
        if value != value:
            return None
        value = int(value) if value.is_integer() else value
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) not in _INT64:
        raise InvalidInput(name, f"keys are integers of 64 bits, got {value!r}")
    return int(value)


def columns_of(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows to columns; ``width`` says how many there are where there is no row."""
    made = [list(column) for column in zip(*rows, strict=True)]
    return made or [[] for _ in range(width)]


@functools.lru_cache(maxsize=4096)
def view_number(view: str) -> int:
    """A view id in 8 bytes: the beginning of its sha256, signed."""
    return int.from_bytes(hashlib.sha256(view.encode()).digest()[:8], "big", signed=True)
