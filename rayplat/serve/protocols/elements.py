"""Elements of a tensor: from a flat list of JSON values, or from raw bytes, to what the model is handed.

Knows one tensor and what is declared of it. Every refusal names the input and the row.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from rayplat.errors import InvalidInput
from rayplat.serve.protocols.strict_json import short, type_name
from rayplat.types import TensorSpec
from rayplat.types.signature import FLOATS, INTEGERS

# Little-endian: what the binary extension sends, and what every machine this runs on has.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BYTES": np.dtype(object),
}
RANGES: dict[str, tuple[float, float]] = {
    **{name: (int(np.iinfo(DTYPES[name]).min), int(np.iinfo(DTYPES[name]).max)) for name in INTEGERS},
    **{name: (-float(np.finfo(DTYPES[name]).max), float(np.finfo(DTYPES[name]).max)) for name in FLOATS},
}
MAX_TEXT = 1024  # characters of an id, a key, or a value of a model whose features are looked up

_NULL = type(None)
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Place:
    """Where elements stand: the input's name and how many elements make a row."""

    name: str
    width: int = 1

    def at(self, element: int) -> str:
        return f"inputs.{short(self.name)}[{element // self.width}]"


@dataclass(frozen=True, slots=True)
class Rules:
    """What an element may be. ``short_text``: text of 1 to `MAX_TEXT` characters without NUL, as keys and categories
    of looked-up features are. ``finite``: NaN (where not nullable) and infinities are refused in raw bytes too."""

    spec: TensorSpec
    short_text: bool = False
    finite: bool = True

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array that the model is handed."""
        return DTYPES["FP64"] if self.spec.wide else DTYPES[self.spec.datatype]


def check_datatype(rules: Rules, name: str, datatype: str) -> None:
    """Numbers may come in any numeric datatype that the model's can hold (their values are checked); else it must be
    the declared one."""
    wanted = rules.spec.datatype
    fits = datatype == wanted
    if wanted in FLOATS:
        fits = datatype in FLOATS or datatype in INTEGERS
    elif wanted in INTEGERS:
        fits = datatype in INTEGERS
    if not fits:
        takes = f"any FP or INT datatype (the model's is {wanted})" if wanted in FLOATS else wanted
        takes = "any INT datatype" if wanted in INTEGERS else takes
        raise InvalidInput(f"inputs.{short(name)}.datatype", f"it takes {takes}, found {datatype}")


def from_json(rules: Rules, place: Place, datatype: str, flat: Sequence[Any], content: str = "") -> Any:
    """Values of the flat JSON list: an array, or for BYTES a list. ``content`` ``base64``: text stands for bytes."""
    if datatype == "BYTES":
        return _texts(rules, place, flat, content)
    if datatype == "BOOL":
        return _booleans(place, flat)
    if datatype in FLOATS:
        return _floats(rules, place, flat)
    return _integers(rules, place, datatype, flat)


def from_raw(rules: Rules, place: Place, datatype: str, raw: bytes | memoryview, count: int) -> Any:
    """``count`` values out of exactly the bytes ``raw``, in the binary extension's layout."""
    if datatype == "BYTES":
        return _raw_texts(rules, place, bytes(raw), count)
    dtype = DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        wanted = f"{count * dtype.itemsize} bytes for {count} values of {datatype}"
        raise InvalidInput(f"inputs.{short(place.name)}.data", f"has {len(raw)} bytes, the shape says {wanted}")
    if datatype == "BOOL":
        found = np.frombuffer(raw, np.uint8)
        _refuse(place, found > 1, "a BOOL is one byte, 0 or 1")
        return found.astype(np.bool_)
    return converted(rules, place, np.frombuffer(raw, dtype))


def converted(rules: Rules, place: Place, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Numbers of any datatype as the model's own, within its range."""
    spec = rules.spec
    if spec.datatype in FLOATS:
        values = values if values.dtype.kind == "f" else values.astype(np.float64)
        if rules.finite:
            nan = np.isnan(values)
            if not spec.nullable:
                _refuse(place, nan, "NaN is not accepted")
            _refuse(place, np.isinf(values), "Infinity is not accepted")
            _refuse(place, _outside(spec.datatype, values) & ~nan, f"is outside the range of {spec.datatype}")
    elif values.dtype != rules.dtype:
        _refuse(place, _outside(spec.datatype, values), f"is outside the range of {spec.datatype}")
    with np.errstate(over="ignore"):  # an infinity of an array model that takes them
        return values.astype(rules.dtype)


def to_raw(values: npt.NDArray[Any], datatype: str) -> bytes:
    """``values`` in row-major order as the binary extension has them."""
    if datatype != "BYTES":
        return np.ascontiguousarray(values, DTYPES[datatype]).tobytes()
    parts: list[bytes] = []
    for value in values.ravel().tolist():
        item = value if isinstance(value, bytes) else text_of(value).encode("utf-8", "replace")
        parts += (_LENGTH.pack(len(item)), item)
    return b"".join(parts)


def text_of(value: Any) -> str:
    """An element of a BYTES output as text; a missing one is empty."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def text(where: str, value: Any, *, strict: bool = True) -> str:
    """A string of real characters; ``strict``: 1 to `MAX_TEXT` of them, none of them NUL."""
    if type(value) is not str:
        raise InvalidInput(where, f"must be a string, found {type_name(value)}")
    if strict and (not value or len(value) > MAX_TEXT):
        raise InvalidInput(where, f"must have 1 to {MAX_TEXT} characters, found {len(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInput(where, "contains an unpaired surrogate, which is no character") from None
    if strict and "\x00" in value:
        raise InvalidInput(where, "contains a NUL character")
    return value


def moment(where: str, value: Any) -> datetime:
    """An ISO 8601 text as a UTC time; without an offset it is taken as UTC."""
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise InvalidInput(where, f"{short(value)!r} is no ISO 8601 time, such as 2013-11-05T14:30:00Z")


# --- JSON -----------------------------------------------------------------------------------------


def _texts(rules: Rules, place: Place, flat: Sequence[Any], content: str) -> list[Any]:
    spec = rules.spec
    found: list[Any] = []
    for i, value in enumerate(flat):
        if value is None and spec.nullable:
            found.append(None)
            continue
        if spec.logical == "json":
            found.append(_json_text(place.at(i), value))
            continue
        item = text(place.at(i), value, strict=rules.short_text)
        if spec.logical == "datetime":
            moment(place.at(i), item)
        found.append(_bytes_of(place.at(i), item, content) if spec.logical == "binary" else item)
    return found


def _bytes_of(where: str, value: str, content: str) -> bytes:
    if content != "base64":
        return value.encode()
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(where, "is no base64 text, as its content_type says") from None


def _booleans(place: Place, flat: Sequence[Any]) -> npt.NDArray[np.bool_]:
    if not set(map(type, flat)) <= {bool}:
        for i, value in enumerate(flat):
            if not (isinstance(value, bool) or (type(value) is int and value in (0, 1))):
                raise InvalidInput(place.at(i), f"must be a boolean, found {type_name(value)}")
    return np.array(flat, dtype=np.bool_)


def _floats(rules: Rules, place: Place, flat: Sequence[Any]) -> npt.NDArray[Any]:
    spec = rules.spec
    allowed: set[type] = {int, float, _NULL} if spec.nullable else {int, float}
    if not set(map(type, flat)) <= allowed:
        _wrong_type(place, flat, allowed, "a number" + (" or null" if spec.nullable else ""))
    try:
        values = np.array(flat, dtype=np.float64)
    except OverflowError:  # an integer beyond a double
        values = np.array([math.inf if isinstance(v, int) and abs(v) > 1e308 else v for v in flat], dtype=np.float64)
    low, high = RANGES[spec.datatype] if spec.datatype in RANGES else RANGES["FP64"]
    inside = (values >= low) & (values <= high)  # NaN compares false
    if not inside.all():
        for i in np.flatnonzero(~inside).tolist():
            value = flat[i]
            if value is None:
                continue
            if isinstance(value, float) and not math.isfinite(value):
                instead = "; send null for a missing value" if spec.nullable else ""
                raise InvalidInput(place.at(i), f"NaN and Infinity are not accepted{instead}")
            raise InvalidInput(place.at(i), f"is outside the range of {spec.datatype}")
    return values.astype(rules.dtype, copy=False)


def _integers(rules: Rules, place: Place, datatype: str, flat: Sequence[Any]) -> npt.NDArray[Any]:
    spec = rules.spec
    missing = spec.nullable and (spec.wide or spec.datatype in FLOATS)  # an integer array has no place for it
    allowed: set[type] = {int, _NULL} if missing else {int}
    if not set(map(type, flat)) <= allowed:
        _wrong_type(place, flat, allowed, "an integer" + (" or null" if missing else ""))
    given = [value for value in flat if value is not None] if missing else flat
    for name in dict.fromkeys((datatype, spec.datatype)):
        low, high = RANGES[name]
        if given and not low <= min(given) <= max(given) <= high:
            i = next(i for i, value in enumerate(flat) if value is not None and not low <= value <= high)
            raise InvalidInput(place.at(i), f"is outside the range of {name}")
    return np.array(flat, dtype=rules.dtype)


def _wrong_type(place: Place, flat: Sequence[Any], allowed: set[type], wanted: str) -> None:
    i = next(i for i, value in enumerate(flat) if type(value) not in allowed)
    value = flat[i]
    if isinstance(value, float) and abs(value) >= 2**63 and int in allowed:  # what JSON decoders make of long integers
        raise InvalidInput(place.at(i), f"is outside the range of 64-bit integers, or not {wanted}")
    raise InvalidInput(place.at(i), f"must be {wanted}, found {type_name(value)}")


# --- raw bytes ------------------------------------------------------------------------------------


def _raw_texts(rules: Rules, place: Place, raw: bytes, count: int) -> list[Any]:
    spec, found, at = rules.spec, [], 0
    binary = spec.logical == "binary"
    where = f"inputs.{short(place.name)}.data"
    for i in range(count):
        if at + 4 > len(raw):
            raise InvalidInput(where, f"ends before the length of value {i}; the shape says {count} values")
        (length,) = _LENGTH.unpack_from(raw, at)
        item, at = raw[at + 4 : at + 4 + length], at + 4 + length
        if at > len(raw):
            raise InvalidInput(where, f"ends within value {i}, whose length is given as {length} bytes")
        found.append(item if binary else _decoded(rules, place.at(i), item))
    if at != len(raw):
        raise InvalidInput(where, f"has {len(raw) - at} bytes behind the {count} values that the shape says")
    return found


def _decoded(rules: Rules, where: str, item: bytes) -> Any:
    try:
        value = text(where, item.decode(), strict=rules.short_text)
    except UnicodeDecodeError as e:
        raise InvalidInput(where, f"is not valid UTF-8 (byte {e.start})") from None
    if rules.spec.logical == "datetime":
        moment(where, value)
    return _json_text(where, value) if rules.spec.logical == "json" else value


def _json_text(where: str, value: Any) -> str:
    """The text of a JSON value: itself where it is text already."""
    try:
        if isinstance(value, str):
            orjson.loads(value)
            return value
        return orjson.dumps(value).decode()
    except (orjson.JSONDecodeError, TypeError):
        raise InvalidInput(where, "is no JSON text, which this input takes") from None


def _outside(datatype: str, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Compared as Python numbers where numpy would compare across int64 and uint64 as doubles."""
    low, high = RANGES[datatype]
    if values.dtype.kind == "f":
        return ~((values >= low) & (values <= high))
    info = np.iinfo(values.dtype)
    outside = np.zeros(len(values), dtype=np.bool_)
    if info.min < low:
        outside |= values < values.dtype.type(low)
    if info.max > high:
        outside |= values > values.dtype.type(high)
    return outside


def _refuse(place: Place, wrong: npt.NDArray[np.bool_], reason: str) -> None:
    if wrong.any():
        raise InvalidInput(place.at(int(np.argmax(wrong))), reason)
