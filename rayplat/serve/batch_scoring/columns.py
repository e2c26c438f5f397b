"""From columns of a table to a model's inputs, and from its outputs to columns. Pure.

A value that the model cannot take makes its row one that is not scored, with the reason; a column that it cannot take
at all refuses the job. The rules are those of requests: no infinities, nothing missing where the model needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import SchemaMismatch
from rayplat.serve.protocols.elements import DTYPES, RANGES
from rayplat.serve.request import Values
from rayplat.types import Signature, TensorSpec
from rayplat.types.signature import FLOATS

Bools = npt.NDArray[np.bool_]
_MISSING = "is missing, and the model needs it"


@dataclass(frozen=True)
class Given:
    """The inputs of a batch's rows: ``values`` by input, of the rows in ``good`` (None: of all); ``reasons`` say for
    the others (position in the batch) why they cannot be scored."""

    values: dict[str, Values]
    good: npt.NDArray[np.int64] | None
    reasons: dict[int, str]


class Reader:
    """How a table's columns become the inputs of one model. ``stacked`` columns make its one array; ``arrow`` leaves
    text as Arrow columns, dictionaries too, for models that encode these themselves. Raises `SchemaMismatch` for a
    column that is absent or of a type that the model does not take."""

    def __init__(
        self, signature: Signature, schema: pa.Schema, stacked: Sequence[str] = (), *, arrow: bool = False
    ) -> None:
        self._stacked, self._arrow = tuple(stacked), arrow
        self._whole = _whole(signature, len(stacked)) if stacked and not signature.open else None
        self._specs = self._chosen(signature, schema)
        for spec in self._specs:
            if spec.name not in schema.names:
                there = ", ".join(schema.names)
                raise SchemaMismatch(spec.name, f"the model needs this column, there are {there}")
            _check_type(spec, schema.field(spec.name).type)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(spec.name for spec in self._specs)

    @staticmethod
    def wanted(signature: Signature, schema: pa.Schema, stacked: Sequence[str] = ()) -> tuple[str, ...]:
        """The columns of ``schema`` that such a model reads. An optional one may be absent."""
        if stacked:
            return tuple(stacked)
        return tuple(spec.name for spec in signature.inputs if spec.required or spec.name in schema.names)

    def read(self, rows: pa.Table) -> Given:
        """The inputs of ``rows``."""
        values: dict[str, Values] = {}
        reasons: dict[int, str] = {}
        for spec in self._specs:
            values[spec.name], wrong, reason = _converted(rows[spec.name], spec, self._arrow)
            if wrong is not None:
                for row in np.flatnonzero(wrong).tolist():
                    reasons.setdefault(row, f"{spec.name}: {reason}")
        good = None
        if reasons:
            good = np.setdiff1d(np.arange(rows.num_rows), np.fromiter(reasons, np.int64), assume_unique=True)
            values = {name: taken(column, good) for name, column in values.items()}
        if self._whole is not None:
            stack = np.column_stack([np.asarray(values[name]) for name in self._stacked])
            values = {self._whole.name: stack.astype(DTYPES[self._whole.datatype], copy=False)}
        return Given(values, good, reasons)

    def _chosen(self, signature: Signature, schema: pa.Schema) -> list[TensorSpec]:
        """What is read of the table: the declared inputs, the columns of the one array, or for a model that declares
        nothing the columns that are named, as they are."""
        whole = self._whole
        if whole is not None:
            return [TensorSpec(name, whole.datatype, nullable=whole.nullable, wide=True) for name in self._stacked]
        if not signature.open:
            names = self.wanted(signature, schema)
            return [spec for spec in signature.inputs if spec.name in names]
        if not self._stacked:
            raise SchemaMismatch("columns", "the model does not say what it takes: name the columns")
        kinds = {f.name: "FP64" if _is_number(f.type) else "BYTES" for f in schema}
        return [TensorSpec(name, kinds.get(name, "BYTES"), nullable=True) for name in self._stacked]


def _whole(signature: Signature, width: int) -> TensorSpec:
    """The one array that ``width`` columns are stacked into."""
    if len(signature.inputs) != 1 or len(signature.inputs[0].shape) != 2:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise SchemaMismatch("columns", f"the model takes {names}, not one array: name no columns to stack")
    found = signature.inputs[0]
    if found.shape[1] not in (-1, width):
        raise SchemaMismatch("columns", f"{width} are named, the model's array has {found.shape[1]}")
    return found


def output_columns(
    outputs: Sequence[Mapping[str, npt.NDArray[Any]]], good: npt.NDArray[np.int64] | None, rows: int
) -> dict[str, pa.Array]:
    """The outputs of consecutive batches as columns of ``rows`` rows: ``good`` are the positions that they belong to
    (None: all), the others are null. An output of several values to a row becomes a list."""
    where = None
    if good is not None:
        at = np.full(rows, -1, np.int64)
        at[good] = np.arange(len(good))
        where = pa.array(at, mask=at < 0)
    found = {}
    for name in outputs[0] if outputs else ():
        column = _column(np.concatenate([np.asarray(batch[name]) for batch in outputs]))
        found[name] = column if where is None else column.take(where)
    return found


def _column(values: npt.NDArray[Any]) -> pa.Array:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind in "OUS":
        return pa.array([None if v is None else _text(v) for v in values.reshape(len(values), -1)[:, 0].tolist()])
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype.kind == "u":
        values = values.astype(np.int64)  # a table holds signed integers
    if values.ndim == 1:
        return pa.array(values)
    width = int(np.prod(values.shape[1:]))
    offsets = np.arange(len(values) + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# --- one column -------------------------------------------------------------------------------------


def _is_number(dtype: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_timestamp, pa.types.is_decimal)
    return any(kind(dtype) for kind in kinds)


def _is_list(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype))


def _check_type(spec: TensorSpec, dtype: pa.DataType) -> None:
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    if len(spec.shape) > 1 and spec.shape[1:] != (1,):
        fits = _is_list(dtype)
    elif spec.datatype == "BYTES":
        fits = True
    else:
        fits = _is_number(dtype)
    if not fits:
        shown = "a list" if len(spec.shape) > 1 else spec.datatype
        raise SchemaMismatch(spec.name, f"the model takes {shown}, the column is {dtype}")


def _converted(column: pa.ChunkedArray, spec: TensorSpec, arrow: bool) -> tuple[Any, Bools | None, str]:
    """The column as the model takes it, which of its rows are wrong (None: none), and why."""
    if pa.types.is_dictionary(column.type):
        if arrow and spec.datatype == "BYTES" and pa.types.is_string(column.type.value_type):
            wrong = None if spec.nullable or not column.null_count else column.is_null().to_numpy()
            return column, wrong, _MISSING
        column = column.cast(column.type.value_type)
    if len(spec.shape) > 1 and _is_list(column.type):
        return _arrays(column, spec)
    if spec.datatype == "BYTES":
        return _texts(column, spec, arrow)
    return _numbers(column, spec)


def _numbers(column: pa.ChunkedArray, spec: TensorSpec) -> tuple[Any, Bools | None, str]:
    target = np.dtype(np.float64) if spec.wide else DTYPES[spec.datatype]
    plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    if spec.datatype in FLOATS:
        values = plain.cast(pa.float64(), safe=False).to_numpy()
        limit = RANGES[spec.datatype][1]
        with np.errstate(invalid="ignore"):
            outside = ~(np.abs(values) <= limit)  # NaN too
        if not outside.any():
            return values.astype(target, copy=False), None, ""
        if spec.nullable:
            outside &= ~np.isnan(values)
        wrong = outside if outside.any() else None
        with np.errstate(over="ignore"):
            return values.astype(target, copy=False), wrong, _number_reason(spec)
    missing = plain.is_null().to_numpy() if plain.null_count else None
    values = plain.fill_null(False if pa.types.is_boolean(plain.type) else 0).to_numpy()
    low, high = RANGES.get(spec.datatype, (0, 1))
    whole = np.ones(len(values), np.bool_) if values.dtype.kind in "iub" else values == np.floor(values)
    wrong = ~(whole & (values >= low) & (values <= high))
    if missing is not None:
        wrong |= missing
    values = np.where(wrong, 0, values) if wrong.any() else values
    return values.astype(target), wrong if wrong.any() else None, f"is missing or no {spec.datatype}"


def _number_reason(spec: TensorSpec) -> str:
    return f"is {'' if spec.nullable else 'missing, '}infinite or outside the range of {spec.datatype}"


def _texts(column: pa.ChunkedArray, spec: TensorSpec, arrow: bool) -> tuple[Any, Bools | None, str]:
    binary = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    if pa.types.is_timestamp(column.type):
        column = pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    elif not binary and not pa.types.is_string(column.type) and spec.logical != "json":
        column = column.cast(pa.string())
    wrong = None if spec.nullable or not column.null_count else column.is_null().to_numpy()
    if arrow and not binary:
        return column, wrong, _MISSING
    values: list[Any] = column.to_numpy().tolist() if pa.types.is_string(column.type) else column.to_pylist()
    if spec.logical == "binary":
        values = [v.encode() if isinstance(v, str) else v for v in values]
    elif binary:
        values = [None if v is None else v.decode("utf-8", "replace") for v in values]
    return values, wrong, _MISSING


def _arrays(column: pa.ChunkedArray, spec: TensorSpec) -> tuple[Any, Bools | None, str]:
    """Lists of one length as an array [n, width …]; another length is wrong."""
    column = pa.chunked_array([column.combine_chunks()]) if column.num_chunks != 1 else column
    width = int(np.prod([d for d in spec.shape[1:] if d > 0])) if -1 not in spec.shape[1:] else -1
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy()
    if width < 0:
        width = int(lengths.max(initial=0))
    wrong = lengths != width
    target = np.dtype(object) if spec.datatype == "BYTES" else DTYPES[spec.datatype]
    cells = [[0] * width if bad else value for value, bad in zip(column.to_pylist(), wrong.tolist(), strict=True)]
    values = np.array(cells, dtype=np.float64 if target.kind == "f" else target).reshape(len(cells), width)
    if target.kind == "f" and not spec.nullable:
        wrong = wrong | ~np.isfinite(values).all(axis=1)
    inner = spec.shape[1:] if -1 not in spec.shape[1:] else (width,)
    shaped = values.astype(target).reshape(len(cells), *inner)
    return shaped, wrong if wrong.any() else None, f"is no array of {width} finite values"


def taken(values: Any, good: npt.NDArray[np.int64]) -> Any:
    """The values at these positions, in the form that they have."""
    if isinstance(values, list):
        return [values[i] for i in good.tolist()]
    return values.take(pa.array(good)) if isinstance(values, pa.ChunkedArray) else values[good]
