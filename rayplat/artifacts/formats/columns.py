"""From named columns to the one matrix that tabular formats take, and from their answers to named outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.errors import SchemaMismatch

Matrix = npt.NDArray[Any]


def matrix(columns: Mapping[str, Any], names: Sequence[str], width: int | None, dtype: Any = np.float32) -> Matrix:
    """[n, width] of ``dtype``: the columns ``names`` in order (None and NaN are missing), or the only value where it
    has two dimensions. With ``dtype`` None numbers stay as wide as they came: float32 where all are, else float64.
    Raises `SchemaMismatch` naming the column."""
    whole = only_matrix(columns)
    if whole is not None:
        return _checked(*whole, width, dtype)
    if not names:
        raise SchemaMismatch("inputs", "the model names no columns: give one array of shape [rows, width]")
    row = _one_row(columns, names, dtype)
    if row is not None:
        return row if width is None or width == len(names) else _checked("inputs", row, width, dtype)
    found = [_column(name, columns) for name in names]
    rows = len(found[0])
    for name, values in zip(names, found, strict=True):
        if len(values) != rows:
            shapes = sorted({(len(v),) for v in found})
            raise SchemaMismatch(
                "inputs", f"every column needs the same number of values, found shapes {shapes}: {name}"
            )
    x = np.empty((rows, len(found)), dtype=_wide(found) if dtype is None else dtype)
    for i, values in enumerate(found):
        x[:, i] = values
    return x if width is None or width == len(found) else _checked("inputs", x, width, dtype)


def only_matrix(columns: Mapping[str, Any]) -> tuple[str, Matrix] | None:
    """The name and value of the only input, where that has two dimensions."""
    if len(columns) != 1:
        return None
    ((name, value),) = columns.items()
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    return (name, array) if array.ndim == 2 else None


def outputs(name: str, values: Any, rows: int) -> dict[str, npt.NDArray[Any]]:
    """``values`` under ``name``, its first dimension ``rows``."""
    found = np.asarray(values)
    if found.ndim == 0 or found.shape[0] != rows:
        raise SchemaMismatch(name, f"the model answered with shape {found.shape} to {rows} rows")
    return {name: found}


def _column(name: str, columns: Mapping[str, Any]) -> npt.NDArray[Any]:
    try:
        values = columns[name]
    except KeyError:
        raise SchemaMismatch(name, "this column is absent and the model needs it") from None
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.ndim != 1:
        raise SchemaMismatch(name, f"one value to a row is expected, found the shape {array.shape}")
    return array if array.dtype.kind in "fiub" else _numbers(name, array, np.float64)


def _one_row(columns: Mapping[str, Any], names: Sequence[str], dtype: Any) -> Matrix | None:
    """The matrix of a single row that comes as arrays of one number, the commonest request, in one call of numpy; None
    for anything else."""
    try:
        found = [columns[name] for name in names]
        row = np.concatenate(found)
    except (KeyError, ValueError, TypeError):
        return None
    if row.ndim != 1 or row.dtype.kind not in "fiub" or not all(len(values) == 1 for values in found):
        return None
    return row.reshape(1, -1).astype(_wide([row]) if dtype is None else dtype, copy=False)


def _wide(arrays: Sequence[npt.NDArray[Any]]) -> Any:
    return np.float32 if all(array.dtype == np.float32 for array in arrays) else np.float64


def _numbers(name: str, values: npt.NDArray[Any], dtype: Any) -> Matrix:
    if values.dtype.kind in "fiub" or (values.dtype.kind == "O" and not _has_text(values)):
        try:
            return values.astype(dtype, copy=False)  # None becomes NaN
        except (TypeError, ValueError):
            pass
    raise SchemaMismatch(name, "a list of numbers (or null) is expected")


def _has_text(values: npt.NDArray[Any]) -> bool:
    return any(isinstance(value, str | bytes) for value in values.ravel())


def _checked(name: str, found: npt.NDArray[Any], width: int | None, dtype: Any) -> Matrix:
    if width is not None and found.shape[1] != width:
        raise SchemaMismatch(name, f"has {found.shape[1]} columns, the model takes {width}")
    return _numbers(name, found, _wide([found]) if dtype is None else dtype)
