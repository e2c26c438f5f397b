"""Open Inference Protocol (REST, version 2): a request's bytes to a checked `InferRequest`, an answer to bytes.

Pure: it knows the model's declared inputs and outputs and nothing of hosts, lookups or clocks. Tensors are JSON
(the binary tensor extension is refused), shaped ``[n]`` or ``[n, 1]``, in natural or flattened form. Every refusal
names the field, and the row where there is one.

Beyond the protocol: the entity key may replace the features (they are looked up), any feature may be given to
override the lookup, and the request parameter ``event_time`` is the moment the request speaks of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.errors import BadRequest, InvalidInput, TooLarge
from rayplat.serve.protocols import strict_json
from rayplat.serve.protocols.request_columns import datatype_of, request_values
from rayplat.serve.protocols.strict_json import short
from rayplat.types import FeatureSpec, ModelSpec

FloatArray = npt.NDArray[np.float64]
Values = FloatArray | list[str | None]

_INTEGERS: dict[str, tuple[int, int]] = {
    **{f"INT{b}": (-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in (8, 16, 32, 64)},
    **{f"UINT{b}": (0, 2**b - 1) for b in (8, 16, 32, 64)},
}
_FLOATS = ("FP16", "FP32", "FP64")
_OTHERS = ("BOOL", "BYTES")
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MAX_TEXT = 1024  # characters of an id, a key or a categorical value
_REQUEST_KEYS = frozenset({"id", "parameters", "inputs", "outputs"})
_INPUT_KEYS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_KEYS = frozenset({"name", "parameters"})
_PARAMETERS = frozenset({"event_time", "content_type"})
_BINARY = ("binary_data", "shared_memory")  # prefixes of the parameters that ask for the binary tensor extension


@dataclass(frozen=True)
class InferRequest:
    """A checked request. ``overrides`` holds a float64 array (NaN = missing) or a list of strings (None = missing)
    per given feature, each of ``rows`` values; ``entity`` is None only where every feature is given. ``columns`` are
    given for features that are computed on request."""

    id: str | None
    rows: int
    entity: list[str] | None
    event_time: datetime | None
    overrides: dict[str, Values]
    outputs: tuple[str, ...]
    columns: Mapping[str, list[Any]] = field(default_factory=dict)


def parse(
    body: bytes, spec: ModelSpec, max_rows: int, request_columns: Mapping[str, str] | None = None
) -> InferRequest:
    """The request in ``body`` for ``spec``; ``request_columns`` (name to declared type) may come with the keys.

    Raises `BadRequest` for bytes that are no JSON object or ask for the binary extension, `TooLarge` beyond
    ``max_rows``, and `InvalidInput` for everything that does not fit the model.
    """
    request = strict_json.load_object(body)
    _known_keys("request", request, _REQUEST_KEYS)
    parameters = _parameters("parameters", request.get("parameters"))
    for key in parameters:
        if key not in _PARAMETERS and not key.startswith(_BINARY):
            raise InvalidInput(f"parameters.{short(key)}", "unknown request parameter; 'event_time' is known")
    tensors = _tensors(request, max_rows)
    features = {feature.name: feature for feature in spec.features}
    entity: list[str] | None = None
    overrides: dict[str, Values] = {}
    columns: dict[str, list[Any]] = {}
    known = request_columns or {}
    for name, tensor in tensors.items():
        if name == spec.entity and name not in features:
            entity = _keys(tensor)
        elif name in features:
            overrides[name] = _feature_values(tensor, features[name])
        elif name in known:
            columns[name] = request_values(name, known[name], tensor.data)
        else:
            takes = _input_names(spec, known)
            raise InvalidInput(f"inputs.{short(name)}", f"unknown input; the model takes {takes}")
    missing = [name for name in features if name not in overrides]
    if entity is None and missing:
        raise InvalidInput(
            f"inputs.{spec.entity}",
            f"missing: send the keys as BYTES [n], or every feature ({len(missing)} not given, first {missing[0]!r})",
        )
    return InferRequest(
        id=_text("id", request["id"]) if request.get("id") is not None else None,
        rows=next(iter(tensors.values())).rows,
        entity=entity,
        event_time=_event_time(parameters.get("event_time")),
        overrides=overrides,
        outputs=_outputs(request.get("outputs"), spec),
        columns=columns,
    )


def response(
    spec: ModelSpec, version: int, request_id: str, outputs: Mapping[str, npt.NDArray[np.float32]], **parameters: Any
) -> bytes:
    """The answer's body. ``outputs`` are FP32 ``[n]`` and finite: a ValueError here is the host's fault."""
    return strict_json.encode(
        {
            "model_name": spec.model,
            "model_version": str(version),
            "id": request_id,
            "parameters": {key: value for key, value in parameters.items() if value is not None},
            "outputs": [
                {"name": name, "shape": [len(values)], "datatype": "FP32", "data": values.tolist()}
                for name, values in outputs.items()
            ],
        }
    )


def metadata(
    spec: ModelSpec, versions: Sequence[int], request_columns: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The model's metadata. Features are optional inputs: what is not given is looked up by the entity key. Columns
    for features computed on request are inputs too."""
    inputs: list[dict[str, Any]] = [{"name": spec.entity, "datatype": "BYTES", "shape": [-1]}]
    inputs += [
        {
            "name": feature.name,
            "datatype": "FP32" if feature.kind == "numeric" else "BYTES",
            "shape": [-1],
            "parameters": {"optional": True, "nullable": feature.nullable},
        }
        for feature in spec.features
        if feature.name != spec.entity
    ]
    for name, dtype in (request_columns or {}).items():
        inputs.append({"name": name, "datatype": datatype_of(dtype), "shape": [-1], "parameters": {"nullable": True}})
    return {
        "name": spec.model,
        "versions": [str(version) for version in versions],
        "platform": "pytorch_pt2",
        "inputs": inputs,
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1]} for name in spec.outputs],
    }


# --- fields -----------------------------------------------------------------------------------------


def _known_keys(where: str, value: dict[str, Any], known: frozenset[str]) -> None:
    for key in value:
        if key not in known:
            raise InvalidInput(f"{where}.{short(key)}", f"unknown field; known are {', '.join(sorted(known))}")


def _parameters(where: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(where, "must be an object of strings, numbers and booleans")
    for key, item in value.items():
        if key.startswith(_BINARY) and item is not False:
            raise BadRequest(f"{where}.{short(key)}: binary tensor data is not supported; send JSON tensors")
        if not isinstance(item, str | int | float | bool):
            raise InvalidInput(f"{where}.{short(key)}", "must be a string, a number or a boolean")
    return value


def _text(where: str, value: Any) -> str:
    if type(value) is not str:
        raise InvalidInput(where, f"must be a string, found {_type_name(value)}")
    if not value or len(value) > _MAX_TEXT:
        raise InvalidInput(where, f"must have 1 to {_MAX_TEXT} characters, found {len(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(where, "contains an unpaired surrogate, which is no character") from None
    if "\x00" in value:
        raise InvalidInput(where, "contains a NUL character")
    return value


def _type_name(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "a number")


# --- tensors --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensor:
    name: str
    datatype: str
    rows: int
    data: list[Any]

    def at(self, row: int) -> str:
        return f"inputs.{short(self.name)}[{row}]"


def _tensors(request: dict[str, Any], max_rows: int) -> dict[str, _Tensor]:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput("inputs", "must be a non-empty array of tensors")
    tensors: dict[str, _Tensor] = {}
    for i, item in enumerate(inputs):
        tensor = _tensor(f"inputs[{i}]", item, max_rows)
        if tensor.name in tensors:
            raise InvalidInput(f"inputs.{short(tensor.name)}", "given twice")
        tensors[tensor.name] = tensor
    first = next(iter(tensors.values()))
    for tensor in tensors.values():
        if tensor.rows != first.rows:
            raise InvalidInput(
                f"inputs.{short(tensor.name)}.shape",
                f"has {tensor.rows} rows where {short(first.name)!r} has {first.rows}; all inputs need the same",
            )
    return tensors


def _tensor(where: str, item: Any, max_rows: int) -> _Tensor:
    if not isinstance(item, dict):
        raise InvalidInput(where, "must be an object with name, shape, datatype and data")
    if "name" not in item:
        raise InvalidInput(f"{where}.name", "missing")
    name = _text(f"{where}.name", item["name"])
    where = f"inputs.{short(name)}"
    _known_keys(where, item, _INPUT_KEYS)
    _parameters(f"{where}.parameters", item.get("parameters"))
    for key in ("shape", "datatype", "data"):
        if key not in item:
            raise InvalidInput(f"{where}.{key}", "missing")
    datatype = item["datatype"]
    if not isinstance(datatype, str):
        raise InvalidInput(f"{where}.datatype", f"must be a string, found {_type_name(datatype)}")
    if not (datatype in _INTEGERS or datatype in _FLOATS or datatype in _OTHERS):
        raise InvalidInput(f"{where}.datatype", f"{short(datatype)!r} is no tensor datatype of the protocol")
    shape, data = item["shape"], item["data"]
    rows = _rows(f"{where}.shape", shape)
    if rows == 0:
        raise InvalidInput(f"{where}.shape", "must hold at least one row")
    if rows > max_rows:
        raise TooLarge("the request", rows, max_rows, "rows")
    if not isinstance(data, list):
        raise InvalidInput(f"{where}.data", f"must be an array, found {_type_name(data)}")
    if len(data) != rows:
        raise InvalidInput(f"{where}.data", f"has {len(data)} values, the shape says {rows}")
    if len(shape) == 2 and isinstance(data[0], list):
        for row, cell in enumerate(data):
            if not isinstance(cell, list) or len(cell) != 1:
                raise InvalidInput(f"{where}[{row}]", "must be an array of one value, as the shape says")
        data = [cell[0] for cell in data]
    return _Tensor(name, datatype, rows, data)


def _rows(where: str, shape: Any) -> int:
    if not isinstance(shape, list) or not all(type(d) is int and d >= 0 for d in shape):
        raise InvalidInput(where, "must be an array of non-negative integers")
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise InvalidInput(where, f"must be [n] or [n, 1], found {short(shape[:8])}")
    return int(shape[0])


def _keys(tensor: _Tensor) -> list[str]:
    if tensor.datatype != "BYTES":
        raise InvalidInput(f"inputs.{tensor.name}.datatype", f"keys are BYTES, found {tensor.datatype}")
    return [_text(tensor.at(row), value) for row, value in enumerate(tensor.data)]


def _feature_values(tensor: _Tensor, feature: FeatureSpec) -> Values:
    if feature.kind == "categorical":
        return _categories(tensor, feature)
    if tensor.datatype not in _INTEGERS and tensor.datatype not in _FLOATS:
        raise InvalidInput(
            f"inputs.{tensor.name}.datatype", f"a numeric feature takes FP32, FP64 or INT*, found {tensor.datatype}"
        )
    return _numbers(tensor, feature)


def _categories(tensor: _Tensor, feature: FeatureSpec) -> list[str | None]:
    if tensor.datatype != "BYTES":
        raise InvalidInput(
            f"inputs.{tensor.name}.datatype", f"a categorical feature takes BYTES, found {tensor.datatype}"
        )
    values: list[str | None] = []
    for row, value in enumerate(tensor.data):
        if value is None and feature.nullable:
            values.append(None)
        else:
            values.append(_text(tensor.at(row), value))
    return values


def _numbers(tensor: _Tensor, feature: FeatureSpec) -> FloatArray:
    allowed: set[type] = {int, float} if tensor.datatype in _FLOATS else {int}
    if feature.nullable:
        allowed.add(type(None))
    if not set(map(type, tensor.data)) <= allowed:
        row = next(i for i, value in enumerate(tensor.data) if type(value) not in allowed)
        wanted = "an integer" if tensor.datatype in _INTEGERS else "a number"
        null = " or null" if feature.nullable else ""
        raise InvalidInput(tensor.at(row), f"must be {wanted}{null}, found {_type_name(tensor.data[row])}")
    if tensor.datatype in _FLOATS:
        try:
            values = np.array(tensor.data, dtype=np.float64)
            outside = int(np.count_nonzero(~(np.abs(values) <= _FLOAT32_MAX)))  # NaN compares false
        except OverflowError:  # an integer beyond a double
            outside = len(tensor.data)
        if outside == tensor.data.count(None):
            return values
    _check_range(tensor, feature)
    return np.array(tensor.data, dtype=np.float64)


def _check_range(tensor: _Tensor, feature: FeatureSpec) -> None:
    low, high = _INTEGERS.get(tensor.datatype, (-_FLOAT32_MAX, _FLOAT32_MAX))
    for row, value in enumerate(tensor.data):
        if value is None or low <= value <= high:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(tensor.at(row), "NaN and Infinity are not accepted" + _null_instead(feature))
        raise InvalidInput(tensor.at(row), f"is outside the range of {tensor.datatype}")


def _null_instead(feature: FeatureSpec) -> str:
    return "; send null for a missing value" if feature.nullable else ""


# --- the rest of a request ------------------------------------------------------------------------


def _event_time(value: Any) -> datetime | None:
    if value is None:
        return None
    field = "parameters.event_time"
    if not isinstance(value, str):
        raise InvalidInput(field, f"must be an ISO 8601 string, found {_type_name(value)}")
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(field, f"{short(value)!r} is no ISO 8601 time, such as 2013-11-05T14:30:00Z") from None


def _outputs(value: Any, spec: ModelSpec) -> tuple[str, ...]:
    if value is None or value == []:
        return spec.outputs
    if not isinstance(value, list):
        raise InvalidInput("outputs", "must be an array of objects with a name")
    names: list[str] = []
    for i, item in enumerate(value):
        if not isinstance(item, dict) or "name" not in item:
            raise InvalidInput(f"outputs[{i}]", "must be an object with a name")
        name = _text(f"outputs[{i}].name", item["name"])
        _known_keys(f"outputs.{short(name)}", item, _OUTPUT_KEYS)
        _parameters(f"outputs.{short(name)}.parameters", item.get("parameters"))
        if name not in spec.outputs:
            raise InvalidInput(f"outputs.{short(name)}", f"unknown output; the model gives {', '.join(spec.outputs)}")
        if name in names:
            raise InvalidInput(f"outputs.{short(name)}", "asked for twice")
        names.append(name)
    return tuple(names)


def _input_names(spec: ModelSpec, request_columns: Mapping[str, str]) -> str:
    names = [spec.entity, *request_columns, *(f.name for f in spec.features if f.name != spec.entity)]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
