"""What a version takes and gives, as a `Signature`: from our spec, from an MLmodel, or from what a loaded model knows.

Pure: nothing is loaded or read here. Inputs without a name in MLflow's signature are ``input-0``, an output without one
is ``prediction``. A model of one matrix takes it whole (`Signature.matrix`, under any name where it is the request's
only input) and, where its columns have names, as columns too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayplat.artifacts import schema
from rayplat.artifacts.schema import Schema
from rayplat.errors import InvalidInput
from rayplat.types import ModelSpec, ParamSpec, Signature, TensorSpec
from rayplat.types.signature import FLOATS

INPUT, OUTPUT = "input-0", "prediction"
# MLflow's types of columns: datatype, logical name, whether a value may be missing
_COLUMN = {
    "boolean": ("BOOL", "", False),
    "integer": ("INT32", "", False),
    "long": ("INT64", "", False),
    "float": ("FP32", "", True),
    "double": ("FP64", "", True),
    "string": ("BYTES", "", True),
    "binary": ("BYTES", "binary", True),
    "datetime": ("BYTES", "datetime", True),
}
_JSON = ("BYTES", "json", True)  # objects, maps and arrays of these: a value is the text of its JSON
_NUMPY = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"}
_NUMPY |= {f"{sign}int{bits}": f"{sign}INT{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)}
_NUMPY_OF = {datatype: dtype for dtype, datatype in _NUMPY.items()} | {"BYTES": "object"}
_REQUEST = {"int64": "INT64", "double": "FP64", "float": "FP32", "bool": "BOOL"}


def of_spec(spec: ModelSpec, request_columns: Mapping[str, str] | None = None) -> Signature:
    """Of a model of our own training. Where feature views are named the join key is enough: every feature is looked up
    and may be given. ``request_columns``: name and declared type of what features computed on request need."""
    looked_up = bool(spec.views)
    inputs = tuple(
        TensorSpec(f.name, "FP32", required=not looked_up, nullable=f.nullable, wide=True)
        if f.kind == "numeric"
        else TensorSpec(f.name, "BYTES", required=not looked_up, nullable=f.nullable)
        for f in spec.features
    )
    columns = tuple(
        TensorSpec(name, _REQUEST.get(dtype, "BYTES"), required=False, nullable=True, logical=dtype)
        for name, dtype in (request_columns or {}).items()
    )
    keys = (spec.entity,) if looked_up else ()
    outputs = tuple(TensorSpec(name, "FP32") for name in spec.outputs)
    return Signature(inputs, outputs, keys=keys, columns=columns, tabular=True)


def of_mlflow(block: Mapping[str, Any]) -> Signature:
    """Of the ``signature`` of an MLmodel, whose sides are JSON text. Without inputs it is ``open``; without outputs
    none are declared. Raises `InvalidInput`."""
    try:
        inputs, outputs, params = (json.loads(block.get(side) or "[]") for side in ("inputs", "outputs", "params"))
        columns = tuple(_mlflow(field, i, len(inputs), INPUT) for i, field in enumerate(inputs))
        answers = tuple(_mlflow(field, i, len(outputs), OUTPUT) for i, field in enumerate(outputs))
        taken = tuple(_param(field) for field in params)
        tabular = bool(inputs) and not any(field["type"] == "tensor" for field in inputs)
        alone = len(inputs) == 1 and "name" not in inputs[0]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise InvalidInput("MLmodel", f"its signature cannot be read: {e!r}"[:300]) from e
    if len({spec.name for spec in columns}) != len(columns):
        raise InvalidInput("MLmodel", "two inputs of its signature have one name")
    whole = columns[0] if alone else None
    return Signature(columns, answers, taken, tabular=tabular, open=not columns, matrix=whole)


def of_matrix(names: Sequence[str], width: int | None, outputs: tuple[TensorSpec, ...], datatype: str) -> Signature:
    """Of a model that computes with a matrix of numbers: one tensor [n, width], and the columns ``names`` where it has
    any. A missing number is the model's to judge."""
    matrix = TensorSpec(INPUT, datatype, (-1, width or -1), nullable=True)
    if not names:
        return Signature((matrix,), outputs, matrix=matrix)
    columns = tuple(TensorSpec(name, datatype, nullable=True, wide=True) for name in names)
    return Signature(columns, outputs, tabular=True, matrix=matrix)


def with_matrix(signature: Signature) -> Signature:
    """The same, its columns also accepted as one matrix where all of them are required numbers."""
    numbers = [spec for spec in signature.inputs if spec.datatype in FLOATS and spec.required and spec.shape == (-1,)]
    if signature.matrix is not None or not numbers or len(numbers) != len(signature.inputs):
        return signature
    datatype = "FP32" if all(spec.datatype == "FP32" for spec in numbers) else "FP64"
    return replace(signature, matrix=TensorSpec(INPUT, datatype, (-1, len(numbers)), nullable=True))


def opened(outputs: tuple[TensorSpec, ...] = ()) -> Signature:
    """Of a model that says nothing of what it takes."""
    return Signature((), outputs, open=True)


def compatible(candidate: Signature, served: Signature) -> tuple[str, ...]:
    """Why requests to ``served`` and readers of its answers would not do for ``candidate``, in words; nothing where
    they do. An input may be added where it is optional, an output may be added."""
    if served.open:
        return ()
    found = list(schema.problems(None if candidate.open else _schema(candidate), _schema(served)))
    if not candidate.open and served.matrix is not None and _whole(candidate) != _whole(served):
        found.append(f"one array of shape {list(served.matrix.shape)} was taken, and is no longer")
    return tuple(found)


def numpy_type(spec: TensorSpec) -> str:
    """What numpy calls the values of ``spec``; ``object`` for text and bytes."""
    return "float64" if spec.wide else _NUMPY_OF[spec.datatype]


def spec_of(name: str, values: Any) -> TensorSpec:
    """How an array that a model gave is declared."""
    return TensorSpec(name, _NUMPY.get(str(values.dtype), "BYTES"), (-1, *values.shape[1:]))


def _schema(signature: Signature) -> Schema:
    """Of requests: what has to be in one, looked up or not."""
    found = schema.of_signature(signature)
    required = {s.name: s.required for s in signature.inputs}
    return replace(found, inputs=tuple(replace(field, required=required[field.name]) for field in found.inputs))


def _whole(signature: Signature) -> tuple[int, ...] | None:
    return None if signature.matrix is None else signature.matrix.shape


def _mlflow(field: Mapping[str, Any], i: int, of: int, unnamed: str) -> TensorSpec:
    name = str(field["name"]) if "name" in field else unnamed if of == 1 else f"{unnamed.removesuffix('-0')}-{i}"
    if field["type"] == "tensor":
        return _tensor(name, field["tensor-spec"])
    datatype, logical, nullable = _COLUMN.get(field["type"], _JSON)
    shape: tuple[int, ...] = (-1,)
    if field["type"] == "array" and field["items"]["type"] in _COLUMN:
        datatype, logical, nullable = _COLUMN[field["items"]["type"]]
        shape = (-1, -1)
    return TensorSpec(name, datatype, shape, bool(field.get("required", True)), nullable, logical=logical)


def _tensor(name: str, spec: Mapping[str, Any]) -> TensorSpec:
    dtype, shape = str(spec["dtype"]), tuple(int(size) for size in spec["shape"])
    logical = "datetime" if dtype.startswith("datetime") else "binary" if dtype in ("bytes", "S") else ""
    return TensorSpec(name, _NUMPY.get(dtype, "BYTES"), shape or (-1,), logical=logical)


def _param(field: Mapping[str, Any]) -> ParamSpec:
    datatype = _COLUMN.get(str(field["type"]), _JSON)[0]
    return ParamSpec(str(field["name"]), datatype, field.get("default"), field.get("shape") is not None)
