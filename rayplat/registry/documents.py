"""Values as JSON documents and back, strictly: evidence, policies, designs. Pure.

JSON has no NaN and no infinity: a float that is one is written as the string ``nan``, ``inf`` or ``-inf`` and read
back as that float. Nothing else is bent: an unknown or missing key, a number for a string, a boolean for a number are
`InvalidInput` with the path to it.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from datetime import UTC, datetime
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from rayplat.artifacts.manifest import canonical, sha256
from rayplat.errors import InvalidInput

T = TypeVar("T")
_NOT_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def finite(value: Any) -> Any:
    """``value`` with NaN and infinities as the strings ``nan``, ``inf``, ``-inf``, tuples as lists."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """``value`` in JSON's types: dataclasses as objects, times as ISO 8601 in UTC. A field of a dataclass that is
    ``later`` by its metadata is left out while it has its default: an older document keeps its digest."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {f.name: (f, getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {name: plain(v) for name, (f, v) in given.items() if not (f.metadata.get("later") and v == f.default)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return finite(value)


def text(value: Any) -> str:
    """Canonical JSON (RFC 8785). Raises `InvalidInput` for what JSON cannot hold."""
    return canonical(plain(value)).decode()


def digest(value: Any) -> str:
    """The digest of `text`."""
    return sha256(text(value).encode())


def parse(kind: type[T], content: str | bytes, where: str) -> T:
    """The value of type ``kind`` in a JSON text. Raises `InvalidInput`."""
    try:
        found = json.loads(content)
    except ValueError as e:
        raise InvalidInput(where, f"is no JSON: {e}") from e
    return build(kind, found, where)


def build(kind: type[T], found: Any, where: str) -> T:
    """The dataclass ``kind`` from what `plain` made of it. Raises `InvalidInput` naming the path."""
    if not isinstance(found, dict):
        raise InvalidInput(where, f"an object is needed, not {_shown(found)}")
    hints = _hints(kind)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(str(name) for name in found if name not in fields):
        raise InvalidInput(where, f"{unknown[0]!r} is not known here; known are {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in found:
            raise InvalidInput(where, f"{name!r} is missing")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in found.items()})


def check(value: T, where: str) -> T:
    """``value`` itself, a dataclass that was made in a program, if it would come back from its JSON."""
    found = plain(value)
    canonical(found)
    build(type(value), found, where)
    return value


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _value(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        items = _expect(value, list, where, "a list")
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        pairs = _expect(value, dict, where, "an object")
        return {str(k): _value(args[1], v, f"{where}.{k}") for k, v in pairs.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    return value if hint is typing.Any else _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is datetime:
        return _time(_expect(value, str, where, "a time"), where)
    if hint is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput(where, f"a number is needed, not {_shown(value)}")
        return float(value)
    if hint is int and isinstance(value, bool):
        raise InvalidInput(where, "a whole number is needed, not a boolean")
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            raise InvalidInput(where, f"{_shown(value)} is none of {', '.join(e.value for e in hint)}") from None
    return _expect(value, hint, where, {int: "a whole number", str: "a string", bool: "true or false"}[hint])


def _time(value: str, where: str) -> datetime:
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidInput(where, f"{_shown(value)} is no ISO 8601 time") from None
    if found.tzinfo is None:
        raise InvalidInput(where, f"{_shown(value)} names no time zone")
    return found


def _expect(value: Any, kind: type, where: str, called: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidInput(where, f"{called} is needed, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    found = repr(value)
    return found if len(found) <= 80 else found[:77] + "..."


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
