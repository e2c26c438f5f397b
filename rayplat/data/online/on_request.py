"""Features computed when a request asks, by the kernels that compute them in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from rayplat.data.features import Field, OnRequestView
from rayplat.data.features.operations import arrow_type
from rayplat.data.features.transforms import on_request
from rayplat.errors import InvalidInput

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def request_columns(fields: Sequence[Field], given: Mapping[str, Sequence[Any]] | None, rows: int) -> dict[str, Any]:
    """The declared request columns, ``rows`` values each, as plain values (times in microseconds).

    Raises `InvalidInput` for one that is not given and has no default, is of another length or of another type.
    """
    found = {}
    for field in fields:
        values: Sequence[Any] | None = (given or {}).get(field.name)
        if values is None:
            if field.default is None:
                raise InvalidInput(f"request.{field.name}", f"this column is needed, {rows} values of {field.dtype}")
            values = [None] * rows
        if len(values) != rows:
            raise InvalidInput(f"request.{field.name}", f"{len(values)} values for {rows} keys")
        plain = plain_values(_array(field.name, values, field.dtype))
        found[field.name] = [field.default if value is None else value for value in plain]
    return found


def compute(
    view: OnRequestView, columns: Mapping[str, Sequence[Any]], dtypes: Mapping[str, str], rows: int
) -> dict[str, list[Any]]:
    """The view's features from plain ``columns`` of ``rows`` values."""
    names = (*(field.name for field in view.inputs), *view.needs)
    arrays = {name: _array(name, columns[name], dtypes[name]) for name in names}
    return {name: plain_values(array) for name, array in on_request(view, arrays, rows).items()}


def plain_values(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Python values; times as microseconds since the epoch."""
    values: list[Any] = (array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array).to_pylist()
    return values


def _array(name: str, values: Sequence[Any], dtype: str) -> pa.Array:
    kind = arrow_type(dtype)
    try:
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return values.cast(kind)
        if pa.types.is_timestamp(kind):
            return pa.array([_micros(value) for value in values], pa.int64()).cast(kind)
        return pa.array(values, kind, from_pandas=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError) as e:
        raise InvalidInput(name, f"no {dtype}: {e}") from e


def _micros(value: Any) -> int | None:
    if isinstance(value, datetime):
        return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
    return value if value is None else int(value)
