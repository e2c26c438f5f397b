"""From named columns to the one matrix that tabular formats take, and from their answers to named outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.errors import SchemaMismatch

Matrix = npt.NDArray[np.float32]


def matrix(columns: Mapping[str, Any], names: Sequence[str], width: int | None) -> Matrix:
    """FP32 [n, width]: the columns ``names`` in order (None and NaN are missing), or the only value where it has two
    dimensions. Raises `SchemaMismatch` naming the column."""
    arrays = {name: np.asarray(value) for name, value in columns.items()}
    if len(arrays) == 1 and next(iter(arrays.values())).ndim == 2:
        name, found = next(iter(arrays.items()))
        return _checked(name, found, width)
    if not names:
        raise SchemaMismatch("inputs", "the model names no columns: give one array of shape [rows, width]")
    absent = [name for name in names if name not in arrays]
    if absent:
        raise SchemaMismatch(absent[0], "this column is absent and the model needs it")
    lengths = {arrays[name].shape for name in names}
    if len(lengths) != 1 or len(next(iter(lengths))) != 1:
        raise SchemaMismatch("inputs", f"every column needs the same number of values, found shapes {sorted(lengths)}")
    return _checked("inputs", np.stack([_numbers(name, arrays[name]) for name in names], axis=1), width)


def outputs(name: str, values: Any, rows: int) -> dict[str, npt.NDArray[Any]]:
    """``values`` under ``name``, its first dimension ``rows``."""
    found = np.asarray(values)
    if found.ndim == 0 or found.shape[0] != rows:
        raise SchemaMismatch(name, f"the model answered with shape {found.shape} to {rows} rows")
    return {name: found}


def _numbers(name: str, values: npt.NDArray[Any]) -> Matrix:
    if values.dtype.kind in "fiubO":
        try:
            return values.astype(np.float32)  # None becomes NaN
        except (TypeError, ValueError):
            pass
    raise SchemaMismatch(name, "a list of numbers (or null) is expected")


def _checked(name: str, found: npt.NDArray[Any], width: int | None) -> Matrix:
    if width is not None and found.shape[1] != width:
        raise SchemaMismatch(name, f"has {found.shape[1]} columns, the model takes {width}")
    return _numbers(name, found)
