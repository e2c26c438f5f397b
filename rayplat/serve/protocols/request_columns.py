"""Columns that a request carries for features computed on request: from tensor data to values of the declared types."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rayplat.errors import InvalidInput

_WIDEST = range(-(2**63), 2**63)


def datatype_of(dtype: str) -> str:
    """The protocol's datatype for a declared type; times travel as ISO 8601 text."""
    return {"int64": "INT64", "double": "FP64", "float": "FP32", "bool": "BOOL"}.get(dtype, "BYTES")


def request_values(name: str, dtype: str, data: Sequence[Any]) -> list[Any]:
    """Plain values of the type ``dtype`` (times as UTC datetimes), null as None. `InvalidInput` names the row."""
    return [None if value is None else _value(f"inputs.{name}[{row}]", dtype, value) for row, value in enumerate(data)]


def _value(where: str, dtype: str, value: Any) -> Any:
    if dtype == "string" and isinstance(value, str):
        return value
    if dtype == "bool" and isinstance(value, bool):
        return value
    if dtype == "int64" and type(value) is int and value in _WIDEST:
        return value
    if dtype in ("double", "float") and type(value) in (int, float):
        return _float(where, value)
    if dtype.startswith("timestamp") and isinstance(value, str):
        return _moment(where, value)
    wanted = {"string": "a string", "bool": "a boolean", "int64": "an integer of 64 bits"}
    wanted |= {"double": "a number", "float": "a number"}
    raise InvalidInput(where, f"must be {wanted.get(dtype, 'an ISO 8601 time')} or null, found {str(value)[:80]!r}")


def _float(where: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InvalidInput(where, "is outside the range of a double") from None


def _moment(where: str, value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(where, f"{value[:80]!r} is no ISO 8601 time, such as 2013-11-05T14:30:00Z") from None
