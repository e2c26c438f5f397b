"""Columns that a request carries for features computed on request: from tensor data to values of the declared types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayplat.errors import InvalidInput
from rayplat.serve.protocols.elements import RANGES, moment
from rayplat.types import TensorSpec
from rayplat.types.signature import FLOATS, INTEGERS


def column_values(spec: TensorSpec, data: Sequence[Any]) -> list[Any]:
    """Plain values of the declared type (times as UTC datetimes), null as None. `InvalidInput` names the row."""
    return [
        None if value is None else _value(f"inputs.{spec.name}[{row}]", spec, value) for row, value in enumerate(data)
    ]


def _value(where: str, spec: TensorSpec, value: Any) -> Any:
    if spec.logical.startswith(("datetime", "timestamp")):
        return moment(where, value)
    if spec.datatype == "BYTES":
        if isinstance(value, str):
            return value
        wanted = "a string"
    elif spec.datatype == "BOOL":
        if isinstance(value, bool):
            return value
        wanted = "a boolean"
    elif spec.datatype in INTEGERS:
        low, high = RANGES[spec.datatype]
        if type(value) is int and low <= value <= high:
            return value
        wanted = f"an integer of {spec.datatype.removeprefix('U').removeprefix('INT')} bits"
    else:
        if spec.datatype in FLOATS and type(value) in (int, float):
            return _float(where, value)
        wanted = "a number"
    raise InvalidInput(where, f"must be {wanted} or null, found {str(value)[:80]!r}")


def _float(where: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InvalidInput(where, "is outside the range of a double") from None
