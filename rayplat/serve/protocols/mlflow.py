"""MLflow's scoring protocol: ``/invocations``, ``/ping`` and ``/version`` as `mlflow models serve` of MLflow 3.17
answers them.

Requests become the same `InferRequest` as every other protocol's; answers and errors have MLflow's shapes, with NaN.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from rayplat.errors import BadRequest, RayplatError, SchemaMismatch, TooLarge
from rayplat.serve.protocols import mlflow_casts, parameters, quick
from rayplat.serve.protocols.elements import Rules, text
from rayplat.serve.protocols.mlflow_frames import Frame, read
from rayplat.serve.protocols.request_columns import column_values
from rayplat.serve.protocols.strict_json import short
from rayplat.serve.protocols.tensors import Assembled, completed, plan_of
from rayplat.serve.request import Answer, InferRequest
from rayplat.serve.signatures import INPUT, OUTPUT
from rayplat.types import Signature, TensorSpec

PING = b"\n"
_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(slots=True)
class Request(InferRequest):
    """``unwrapped``: an LLM's request (``messages``, ``prompt``, ``input``), answered without ``predictions``."""

    unwrapped: bool = False


def parse(body: bytes, content_type: str, signature: Signature, max_rows: int) -> Request:
    """The request in ``body`` (JSON where no content type is given, CSV or Parquet). Raises `UnsupportedMediaType`,
    `BadRequest`, `TooLarge` beyond ``max_rows`` and `InvalidInput`; `SchemaMismatch` where columns are missing."""
    frame = read(body, content_type, signature, max_rows)
    if frame.columns is None:
        found = _from_array(signature, frame.array, max_rows)
    else:
        found = _from_columns(signature, frame, max_rows)
    return Request(
        rows=found.rows,
        inputs=found.inputs,
        outputs=signature.output_names,
        entity=found.entity,
        event_time=parameters.event_time(signature, frame.params) if signature.keys else None,
        columns=found.columns,
        params=parameters.of_model(signature, frame.params),
        unwrapped=frame.unwrapped,
    )


def response(answer: Answer, request: InferRequest | None = None) -> bytes:
    """``{"predictions": ...}`` as MLflow's encoder writes it: a list of one output's values, a list of objects, or an
    object of lists, by the signature's ``layout``."""
    layout = _layout(answer)
    found = _predictions(answer, layout)
    if not (isinstance(request, Request) and request.unwrapped):
        found = {"predictions": found}
    elif layout == "records" and len(found) == 1:
        found = found[0]  # one conversation, one answer
    return json.dumps(found, default=_plain).encode("utf-8", "replace")


def error(problem: RayplatError) -> tuple[int, bytes]:
    """Status and body of an error in MLflow's shape; what a request did wrong is 400 there."""
    status = 400 if problem.http_status == 422 else problem.http_status
    if isinstance(problem, SchemaMismatch):
        code = "INVALID_PARAMETER_VALUE"
    else:
        code = _CODES.get(status, "INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST")
    return status, json.dumps({"error_code": code, "message": str(problem)}).encode()


@cache
def version() -> bytes:
    """The version of MLflow whose protocol this is."""
    for package in ("mlflow", "mlflow-skinny"):
        try:
            return metadata.version(package).encode()
        except metadata.PackageNotFoundError:
            continue
    return b"3.17.2"


# --- requests ---------------------------------------------------------------------------------------


def _from_columns(signature: Signature, frame: Frame, max_rows: int) -> Assembled:
    columns = frame.columns or {}
    rows = len(next(iter(columns.values()), []))
    _check_rows(rows, max_rows)
    if signature.open:
        return Assembled(rows, {name: _inferred(values) for name, values in columns.items()})
    if not frame.named or _unnamed(signature):
        return _by_position(signature, columns, frame.table, rows)
    quickly = quick.columns(signature, columns, rows)
    if quickly is not None:
        return Assembled(rows, quickly)
    plan, found = plan_of(signature), Assembled(rows)
    keys: dict[str, list[str]] = {}
    for name, values in columns.items():
        if name in plan.rules:
            found.inputs[name] = _values(signature, plan.rules[name], values, frame.table)
        elif name in plan.keys:
            keys[name] = [text(f"inputs.{name}[{row}]", value) for row, value in enumerate(values)]
        elif name in plan.columns:
            found.columns[name] = column_values(plan.columns[name], values)
    if not signature.keys:
        _none_missing(signature, list(columns))
    return completed(signature, found, keys)


def _by_position(signature: Signature, columns: dict[str, list[Any]], table: bool, rows: int) -> Assembled:
    """Columns without names, or for inputs without: the first goes to the first."""
    specs, matrix = signature.inputs, signature.matrix
    if not _unnamed(signature):
        _none_missing(signature, list(columns))
    if not table and not signature.tabular:
        raise SchemaMismatch("inputs", "the model's input has no name: send one array, or a data frame")
    if matrix is not None and len(specs) == 1 and not signature.tabular:
        if len(columns) == 1:
            return Assembled(rows, {specs[0].name: mlflow_casts.folded(matrix, next(iter(columns.values())))})
        cast = [mlflow_casts.numbers(TensorSpec(name, matrix.datatype), column) for name, column in columns.items()]
        return Assembled(rows, {specs[0].name: mlflow_casts.shaped(matrix, np.stack(cast, axis=1))})
    if len(columns) < len(specs):
        reason = f"the model signature declares {len(specs)} inputs but the provided value only has {len(columns)}"
        raise SchemaMismatch("inputs", f"Model inference is missing inputs: {reason}")
    rules = plan_of(signature).rules
    pairs = zip(specs, columns.values(), strict=False)
    found = {spec.name: _values(signature, rules[spec.name], values, table) for spec, values in pairs}
    return Assembled(rows, found)


def _from_array(signature: Signature, value: Any, max_rows: int) -> Assembled:
    """One value or array without a name: for the model's only input."""
    if not isinstance(value, list):
        if not signature.open and not _unnamed(signature):
            _none_missing(signature, [])
        value = [value]
    _check_rows(len(value), max_rows)
    if signature.open:
        return Assembled(len(value), {INPUT: _inferred(value)})
    required = [spec for spec in signature.inputs if spec.required] or list(signature.inputs)
    if len(signature.inputs) == 1 or (len(required) == 1 and not signature.tabular):
        spec = required[0]
        rules = plan_of(signature).rules[spec.name]
        return completed(signature, Assembled(len(value), {spec.name: _values(signature, rules, value, False)}), {})
    if not _unnamed(signature):
        _none_missing(signature, [])
    block = mlflow_casts.tensor(TensorSpec(INPUT, required[0].datatype, (-1, -1)), value)
    columns = {str(i): column for i, column in enumerate(block.T.tolist())}
    return _by_position(signature, columns, True, len(value))


def _values(signature: Signature, rules: Rules, values: list[Any], table: bool) -> Any:
    spec = rules.spec
    if len(spec.shape) == 1 and (signature.tabular or signature.keys):
        return mlflow_casts.column(rules, values, table=table, strict=bool(signature.keys))
    return mlflow_casts.folded(spec, values) if table else mlflow_casts.tensor(spec, values)


def _check_rows(rows: int, max_rows: int) -> None:
    if rows == 0:
        raise BadRequest("the input holds no rows; send at least one")
    if rows > max_rows:
        raise TooLarge("the request", rows, max_rows, "rows")


def _none_missing(signature: Signature, given: list[str]) -> None:
    missing = [spec.name for spec in signature.inputs if spec.required and spec.name not in given]
    if missing:
        known = {spec.name for spec in signature.inputs}
        extra = [short(name) for name in given if name not in known]
        note = f" Note that there were extra inputs: {extra[:12]}." if extra else ""
        shown = [short(name) for name in missing[:12]]
        raise SchemaMismatch(f"inputs.{short(missing[0])}", f"Model is missing inputs {shown}.{note}")


def _unnamed(signature: Signature) -> bool:
    """Whether MLflow's signature had no names, and the names here are made up."""
    stem = INPUT.removesuffix("0")
    return all(spec.name == f"{stem}{i}" for i, spec in enumerate(signature.inputs))


def _inferred(values: list[Any]) -> Any:
    """For a model that declares nothing: an array where the values are numbers or nested lists of them, else a list."""
    if mlflow_casts.has_text(values):  # numpy would give each of them the room of the longest
        return list(values)
    try:
        found = np.array(values)
    except ValueError:
        return list(values)
    return found if found.dtype.kind in "biuf" else list(values)


# --- answers ----------------------------------------------------------------------------------------


def _layout(answer: Answer) -> str:
    """What the model gave, where the signature does not say: a name of its own is a data frame's column."""
    signature, outputs = answer.loaded.signature, answer.outputs
    if signature.layout:
        return "records" if signature.layout == "array" and len(outputs) != 1 else signature.layout
    if len(outputs) == 1 and (signature.outputs or OUTPUT in outputs):
        return "array"
    if signature.tabular or (signature.open and all(values.ndim == 1 for values in outputs.values())):
        return "records"
    return "arrays" if len(outputs) > 1 else "array"


def _predictions(answer: Answer, layout: str) -> Any:
    outputs = answer.outputs
    if layout == "array":
        return next(iter(outputs.values())).tolist()
    if layout == "arrays":
        return {name: values.tolist() for name, values in outputs.items()}
    columns = [_cells(values) for values in outputs.values()]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _cells(values: Any) -> list[Any]:
    """A data frame's column: times as times, which an array's ``tolist`` would turn into numbers."""
    if values.dtype.kind == "M":
        import pandas

        return [pandas.Timestamp(value) for value in values]
    return list(values.tolist())


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return base64.encodebytes(value).decode("ascii")
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)
