"""Values of a frame as the model's inputs, cast as MLflow casts them.

MLflow's server first casts every declared column with pandas or numpy (text that reads as a number becomes one, a
fraction in an integer column is cut off), then enforces the schema. A model of our own training has no such schema: its
features are checked as strictly as in every other protocol.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from rayplat.errors import InvalidInput, SchemaMismatch
from rayplat.serve.protocols import elements
from rayplat.serve.protocols.elements import DTYPES, Place, Rules
from rayplat.serve.protocols.strict_json import short, type_name
from rayplat.types import TensorSpec
from rayplat.types.signature import FLOATS

_MOST_DIMENSIONS = 32


def column(rules: Rules, values: Sequence[Any], *, table: bool, strict: bool) -> Any:
    """One column as the model takes it. ``table``: it came in a data frame. ``strict``: nothing is cast. Raises
    `InvalidInput` with the row."""
    spec = rules.spec
    if strict:
        plain = [None if isinstance(value, float) and value != value else value for value in values]
        if spec.datatype in FLOATS or spec.datatype == "BYTES":
            return elements.from_json(rules, Place(spec.name), spec.datatype, plain)
    if spec.logical == "json":
        return [None if value is None else _json(spec, row, value) for row, value in enumerate(values)]
    if spec.datatype == "BYTES":
        return _texts(spec, values, table)
    return numbers(spec, values)


def numbers(spec: TensorSpec, values: Sequence[Any]) -> npt.NDArray[Any]:
    """An array of the datatype, as ``numpy.array(values, dtype)`` makes it, of single values."""
    dtype = DTYPES["FP64"] if spec.wide else DTYPES[spec.datatype]
    nested = next((i for i, value in enumerate(values) if isinstance(value, list | dict)), None)
    if nested is not None:
        reason = f"Incompatible input types: found {type_name(values[nested])}"
        raise SchemaMismatch(f"inputs.{short(spec.name)}[{nested}]", reason)
    found = _cast(spec.name, values, dtype)
    if dtype.kind == "f" and not spec.nullable and np.isnan(found).any():
        row = int(np.argmax(np.isnan(found)))
        raise InvalidInput(f"inputs.{short(spec.name)}[{row}]", "is missing, and the model needs it")
    return found


def tensor(spec: TensorSpec, values: Any) -> Any:
    """Nested lists as an array of the declared shape."""
    found = _objects(spec, values) if spec.datatype == "BYTES" else _cast(spec.name, values, DTYPES[spec.datatype])
    return shaped(spec, found)


def shaped(spec: TensorSpec, found: npt.NDArray[Any]) -> Any:
    """The array where it has the declared shape; text in one dimension is a list."""
    fits = len(found.shape) == len(spec.shape) and all(
        d in (-1, size) for d, size in zip(spec.shape, found.shape, strict=True)
    )
    if not fits:
        reason = f"Shape of input {found.shape} does not match expected shape {spec.shape}"
        raise SchemaMismatch(f"inputs.{short(spec.name)}", reason)
    return found.tolist() if found.dtype == object and found.ndim == 1 else found


def folded(spec: TensorSpec, values: Sequence[Any]) -> Any:
    """A data frame's column for a tensor: single values, or a flat list for each row."""
    if not any(isinstance(value, list) for value in values):
        found = _cast(spec.name, values, DTYPES[spec.datatype]) if spec.datatype != "BYTES" else _objects(spec, values)
        return shaped(spec, found.reshape(-1, 1) if spec.shape[1:] == (1,) else found)
    found = _objects(spec, values) if spec.datatype == "BYTES" else _cast(spec.name, values, DTYPES[spec.datatype])
    try:
        return found.reshape((len(values), *spec.shape[1:]))
    except ValueError:
        reason = f"a row could not be converted to the expected shape {spec.shape}"
        raise SchemaMismatch(f"inputs.{short(spec.name)}", reason) from None


def _cast(name: str, values: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype=dtype)
    except (ValueError, TypeError, OverflowError) as e:
        wrong = values if isinstance(values, list) else [values]
        for row, value in enumerate(wrong):
            try:
                np.array(value, dtype=dtype)
            except (ValueError, TypeError, OverflowError):
                reason = f"Failed to convert column {short(name)} to type '{dtype}', found {short(value)!r}"
                raise InvalidInput(f"inputs.{short(name)}[{row}]", reason) from None
        raise InvalidInput(f"inputs.{short(name)}", f"is no array of one shape: {short(e)}") from None


def _objects(spec: TensorSpec, values: Any) -> npt.NDArray[Any]:
    """An array of text in the shape that the nesting has."""
    try:
        shape = _nesting(values)
    except ValueError as e:
        raise InvalidInput(f"inputs.{short(spec.name)}", f"is no array of one shape: {short(e)}") from None
    flat: Any = values
    for _ in shape[1:]:
        flat = [item for part in flat for item in part]
    found = np.empty(len(flat) if shape else 1, dtype=object)
    found[:] = _texts(spec, flat if shape else [flat], table=False)
    return found.reshape(shape or (1,))


def _nesting(values: Any) -> tuple[int, ...]:
    """The shape of evenly nested lists. numpy would tell it by making an array in which each text takes as much memory
    as the longest one. Raises ValueError for uneven ones."""
    shape: list[int] = []
    level = [values]
    while level and all(isinstance(item, list) for item in level):
        sizes = set(map(len, level))
        if len(sizes) > 1 or len(shape) == _MOST_DIMENSIONS:
            raise ValueError(f"lists of different lengths, or too deep, in dimension {len(shape)}")
        shape.append(sizes.pop())
        level = [item for part in level for item in part]
    if any(isinstance(item, list) for item in level):
        raise ValueError(f"single values beside lists in dimension {len(shape)}")
    return tuple(shape)


def has_text(values: Any) -> bool:
    """Whether there is text in nested lists."""
    level = [values]
    while level:
        kinds = set(map(type, level))
        if str in kinds:
            return True
        level = [item for part in level if isinstance(part, list) for item in part]
    return False


def _texts(spec: TensorSpec, values: Sequence[Any], table: bool) -> list[Any]:
    found: list[Any] = []
    for row, value in enumerate(values):
        where = f"inputs.{short(spec.name)}[{row}]"
        if value is None or value != value:
            if not spec.nullable:
                raise InvalidInput(where, "is missing, and the model needs it")
            found.append(None)
        elif isinstance(value, list | dict):
            raise SchemaMismatch(where, f"Incompatible input types: found {type_name(value)}")
        elif spec.logical == "binary":
            found.append(_bytes(where, value, encoded=table))
        elif spec.logical == "datetime":
            found.append(_moment(where, value, table))
        else:
            found.append(value if isinstance(value, str) else str(value))
            elements.text(where, found[-1], strict=False)
    return found


def _bytes(where: str, value: Any, *, encoded: bool) -> bytes:
    """Bytes travel as base64 in data frames, and as plain ASCII in ``inputs`` and ``instances``."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InvalidInput(where, f"must be base64 text, found {type_name(value)}")
    try:
        return base64.decodebytes(value.encode()) if encoded else value.encode("ascii")
    except (binascii.Error, UnicodeEncodeError, ValueError) as e:
        raise InvalidInput(where, f"Failed to convert to type 'binary': {short(e)}") from None


def _moment(where: str, value: Any, table: bool) -> str:
    """A time as ISO 8601 text, from what pandas reads as one in data frames, and what numpy reads elsewhere."""
    import pandas

    try:
        found = pandas.Timestamp(value)
        if isinstance(value, str) and not table:
            np.datetime64(value.removesuffix("Z"))
            found = found.tz_convert(None) if found.tz is not None else found
        if not isinstance(value, bool) and not pandas.isna(found):
            return str(found.isoformat())
    except (ValueError, TypeError, OverflowError):
        pass
    raise InvalidInput(where, f"Failed to convert to type 'datetime', found {short(value)!r}")


def _json(spec: TensorSpec, row: int, value: Any) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError as e:
        raise InvalidInput(f"inputs.{short(spec.name)}[{row}]", f"is no JSON: {short(e)}") from None
