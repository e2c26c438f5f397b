"""JSON as requests and answers need it: one meaning for every byte, and an error for everything else.

Python's decoder takes the last of duplicate keys and nests to its own limit; here duplicates, bad UTF-8, too deep
nesting and endless digits are `BadRequest`. NaN and Infinity do pass the decoder, as floats: whoever knows the field
refuses them by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rayplat.errors import BadRequest


def load_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body`` (UTF-8, a byte order mark is fine). Raises `BadRequest`."""
    try:
        value = _DECODER.decode(body.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise BadRequest(f"the body is not valid UTF-8 (byte {e.start})") from None
    except RecursionError:
        raise BadRequest("the body nests too deeply") from None
    except json.JSONDecodeError as e:
        raise BadRequest(f"the body is not valid JSON: {e.msg} at line {e.lineno}, column {e.colno}") from None
    except ValueError:  # an integer literal of thousands of digits
        raise BadRequest("the body is not valid JSON: a number has too many digits") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def encode(value: Mapping[str, Any]) -> bytes:
    """Compact JSON; ValueError for NaN and infinities, which JSON does not have."""
    return _ENCODER.encode(value).encode()


def short(text: object) -> str:
    """``text`` for a message: ASCII, at most 80 characters."""
    shown = str(text).encode("ascii", "backslashreplace").decode()
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"the body is ambiguous: the key {short(twice)!r} appears twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates)
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
