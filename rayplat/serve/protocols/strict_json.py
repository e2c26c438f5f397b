"""JSON as requests and answers need it: one meaning for every byte, and an error for everything else.

orjson reads and writes. It takes the last of duplicate keys, so `load_object` counts: a body has exactly one colon
outside of strings for each key, dropped ones included, so as many colons as keys means that none was given twice. Where
the count does not settle it, and where orjson refuses, Python's decoder reads again and says what is wrong: duplicates,
bad UTF-8, too deep nesting, endless digits are `BadRequest`. NaN and Infinity do pass that decoder, as floats: whoever
knows the field refuses them by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson

from rayplat.errors import BadRequest


def load_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body`` (UTF-8, a byte order mark is fine). Raises `BadRequest`."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _read_again(body)
    else:
        try:
            if isinstance(value, dict) and not unambiguous(body, value):
                value = _read_again(body)
        except RecursionError:
            raise BadRequest("the body nests too deeply") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def unambiguous(body: bytes, value: Any) -> bool:
    """Whether no object in ``body`` has a key twice, given its decoded ``value``; False also where counting cannot
    tell (it sees no objects behind the first element of a mixed list, and no escaped colons)."""
    colons, keys = body.count(b":"), _keys(value)
    if colons == keys:
        return True
    return b"\\u003" not in body and colons == keys + _colons(value)


def encode(value: Any) -> bytes:
    """Compact JSON; ValueError for NaN and infinities, which JSON does not have."""
    return _ENCODER.encode(value).encode()


def short(text: object) -> str:
    """``text`` for a message: ASCII, at most 80 characters."""
    if isinstance(text, str) and len(text) <= 80 and text.isascii():
        return text
    shown = str(text).encode("ascii", "backslashreplace").decode()
    return shown if len(shown) <= 80 else shown[:77] + "..."


def type_name(value: Any) -> str:
    """What JSON calls the type of ``value``, with its article."""
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "a number")


def repeated(names: Sequence[str]) -> str | None:
    """The first of ``names`` that was there before, in one pass: a body may hold half a million of them."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _read_again(body: bytes) -> Any:
    try:
        return _DECODER.decode(body.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise BadRequest(f"the body is not valid UTF-8 (byte {e.start})") from None
    except RecursionError:
        raise BadRequest("the body nests too deeply") from None
    except json.JSONDecodeError as e:
        raise BadRequest(f"the body is not valid JSON: {e.msg} at line {e.lineno}, column {e.colno}") from None
    except ValueError:  # an integer literal of thousands of digits
        raise BadRequest("the body is not valid JSON: a number has too many digits") from None


def _keys(value: Any) -> int:
    """At most the number of keys in ``value``: an element of a list counts only where the first one is a container."""
    if isinstance(value, dict):
        return len(value) + sum(_keys(item) for item in value.values() if isinstance(item, dict | list))
    if value and isinstance(value[0], dict | list):
        return sum(_keys(item) for item in value if isinstance(item, dict | list))
    return 0


def _colons(value: Any) -> int:
    """Colons inside the strings and keys of ``value``."""
    if isinstance(value, str):
        return value.count(":")
    if isinstance(value, dict):
        return sum(key.count(":") + _colons(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(map(_colons, value))
    return 0


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = repeated([key for key, _ in pairs])
        raise BadRequest(f"the body is ambiguous: the key {short(twice)!r} appears twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates)
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
