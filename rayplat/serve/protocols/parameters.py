"""Parameters of a request: those that mean something here, those that are the model's, and all others, which are let
pass: parameters are the protocol's open extension point.

Known beside the model's own: ``event_time`` (the moment the request speaks of), ``timeout`` (microseconds that the
client will wait), ``priority``, and those of the binary tensor extension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rayplat.errors import BadRequest, InvalidInput
from rayplat.serve.protocols.elements import RANGES, moment, text
from rayplat.serve.protocols.strict_json import short, type_name
from rayplat.types import ParamSpec, Signature
from rayplat.types.signature import FLOATS, INTEGERS

_REFUSED = {
    "shared_memory": "shared memory is not supported: a client's memory cannot be reached; send the data",
    "classification": "classification is not supported: ask for the output itself",
}


def of(where: str, value: Any) -> dict[str, Any]:
    """The object of parameters at ``where``. Raises `BadRequest` for an extension that is not there."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(where, "must be an object of strings, numbers and booleans")
    for key in value:
        for prefix, reason in _REFUSED.items():
            if key.startswith(prefix):
                raise BadRequest(f"{where}.{short(key)}: {reason}")
    return value


def flag(where: str, given: Mapping[str, Any], name: str) -> bool:
    """A parameter that says yes or no; not given is no."""
    value = given.get(name, False)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidInput(f"{where}.{name}", f"must be a boolean, found {type_name(value)}")


def event_time(signature: Signature, given: Mapping[str, Any]) -> datetime | None:
    """The moment that the request speaks of, as UTC."""
    value = given.get("event_time")
    if value is None or _is_model_s(signature, "event_time"):
        return None
    if not isinstance(value, str):
        raise InvalidInput("parameters.event_time", f"must be an ISO 8601 string, found {type_name(value)}")
    return moment("parameters.event_time", value)


def timeout_s(signature: Signature, given: Mapping[str, Any]) -> float | None:
    """How long the client will wait, from Triton's ``timeout`` in microseconds; 0 is no limit."""
    value = given.get("timeout")
    if value is None or _is_model_s(signature, "timeout"):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidInput("parameters.timeout", "must be a number of microseconds, 0 or more")
    return min(float(value), 1e15) / 1e6 or None


def priority(signature: Signature, given: Mapping[str, Any]) -> int | None:
    """1 is the most urgent; 0 and None are the default."""
    value = given.get("priority")
    if value is None or _is_model_s(signature, "priority"):
        return None
    if type(value) is not int or not 0 <= value < 2**64:
        raise InvalidInput("parameters.priority", "must be an integer, 0 or more")
    return value or None


def of_model(signature: Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the signature names, of the declared types. One that is not given keeps its default."""
    return {
        spec.name: value_of(spec, f"parameters.{short(spec.name)}", given[spec.name])
        for spec in signature.params
        if given.get(spec.name) is not None
    }


def value_of(spec: ParamSpec, where: str, value: Any) -> Any:
    """``value`` as the parameter's declared type; an integer is a number too."""
    if not spec.is_list:
        return _scalar(spec.datatype, where, value)
    if not isinstance(value, list):
        raise InvalidInput(where, f"must be an array, found {type_name(value)}")
    return [_scalar(spec.datatype, f"{where}[{i}]", item) for i, item in enumerate(value)]


def _scalar(datatype: str, where: str, value: Any) -> Any:
    if datatype == "BOOL" and isinstance(value, bool):
        return value
    if datatype in INTEGERS and type(value) is int:
        low, high = RANGES[datatype]
        if low <= value <= high:
            return value
        raise InvalidInput(where, f"is outside the range of {datatype}")
    if datatype in FLOATS and type(value) in (int, float):
        low, high = RANGES[datatype]
        if low <= value <= high:
            return float(value)
        raise InvalidInput(where, f"is outside the range of {datatype}, or no finite number")
    if datatype == "BYTES":
        return text(where, value, strict=False) if isinstance(value, str) else value
    raise InvalidInput(where, f"must be {_wanted(datatype)}, found {type_name(value)}")


def _wanted(datatype: str) -> str:
    return "a boolean" if datatype == "BOOL" else "an integer" if datatype in INTEGERS else "a number"


def _is_model_s(signature: Signature, name: str) -> bool:
    return any(spec.name == name for spec in signature.params)
