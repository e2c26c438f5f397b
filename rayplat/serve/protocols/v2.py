"""Open Inference Protocol (REST, version 2): a request's bytes to a checked `Request`, an answer to bytes.

Pure: it knows a model's signature and nothing of hosts, lookups or clocks. Tensors come as JSON, natural or flattened,
or as raw bytes behind the JSON (the binary tensor data extension, both ways). Every refusal names the field, and the
row where there is one.

Beyond the protocol: join keys may replace features (they are looked up), any feature may be given to override the
lookup, and the request parameter ``event_time`` is the moment the request speaks of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rayplat.errors import BadRequest, InvalidInput
from rayplat.serve.ports import Explanation, LoadedVersion
from rayplat.serve.protocols import encoding, parameters, quick, strict_json
from rayplat.serve.protocols.elements import text
from rayplat.serve.protocols.strict_json import short, type_name
from rayplat.serve.protocols.tensors import Assembled, Tensor, assemble, plan_of
from rayplat.serve.request import Answer, InferRequest
from rayplat.types import AliasHead, Signature, TensorSpec

_REQUEST_KEYS = frozenset({"id", "parameters", "inputs", "outputs", "model_name", "model_version"})
_INPUT_KEYS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_KEYS = frozenset({"name", "parameters"})
EXTENSIONS = ("binary_tensor_data", "model_repository")


@dataclass(slots=True)
class Request(InferRequest):
    """``binary``: the outputs to be answered as raw bytes, None for all of them. ``timeout_s``: how long the client
    will wait. ``priority``: 1 is the most urgent, None the default."""

    binary: frozenset[str] | None = frozenset()
    timeout_s: float | None = None
    priority: int | None = None


def parse(body: bytes, signature: Signature, max_rows: int, header_length: int | None = None) -> Request:
    """The request in ``body`` for a model with ``signature``; ``header_length`` bytes of it are JSON where raw tensors
    follow. Raises `BadRequest` for bytes that are no JSON object or ask for what is not supported, `TooLarge` beyond
    ``max_rows``, and `InvalidInput` for everything that does not fit the model."""
    if header_length is None:
        raw = memoryview(b"")
        try:
            given = orjson.loads(body)
            tensors = given["inputs"]
            if body.count(b":") == len(given) + sum(map(len, tensors)):  # no key twice: see `strict_json`
                if len(given) == 1 or (len(given) == 2 and "id" in given):
                    found = quick.assembled(signature, tensors, max_rows)
                    if found is not None:
                        return Request(found.rows, found.inputs, signature.output_names, _id(given), found.entity)
            else:
                given = strict_json.load_object(body)
        except (ValueError, TypeError, LookupError, AttributeError):
            given = strict_json.load_object(body)
    else:
        if not 0 <= header_length <= len(body):
            reason = f"the JSON is said to have {header_length} bytes, the body has {len(body)}"
            raise BadRequest(f"inference-header-content-length: {reason}")
        given, raw = strict_json.load_object(body[:header_length]), memoryview(body)[header_length:]
    return _parsed(given, raw, signature, max_rows, header_length is not None)


def timeout_s(body: bytes, signature: Signature, header_length: int | None = None) -> float | None:
    """How long the client of the request in ``body`` will wait, before anything else is known of it; None where it does
    not say so in a way that `parse` takes."""
    if b'"timeout"' not in body:
        return None
    try:
        given = orjson.loads(body if header_length is None else body[:header_length])
        return parameters.timeout_s(signature, given["parameters"])
    except (ValueError, TypeError, LookupError, AttributeError, InvalidInput):
        return None


def response(answer: Answer, request: InferRequest | None = None) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """The answer's body, and the headers that say how much of it is JSON where raw tensors follow. Numbers that JSON
    does not have (NaN, infinities) are null in it, and exact in raw tensors."""
    binary: frozenset[str] | None = request.binary if isinstance(request, Request) else frozenset()
    return encoding.encoded(answer, binary)


def metadata(loaded: LoadedVersion, versions: Sequence[int]) -> dict[str, Any]:
    """The model's metadata. Inputs that a lookup gives are optional; keys and columns for features computed on request
    are inputs too."""
    signature = loaded.signature
    inputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in plan_of(signature).keys_in_order]
    inputs += [_tensor_metadata(spec, optional=not spec.required) for spec in signature.inputs]
    inputs += [_tensor_metadata(spec) for spec in signature.columns]
    return {
        "name": loaded.model,
        "versions": [str(version) for version in versions],
        "platform": loaded.platform or "rayplat_model",
        "inputs": inputs,
        "outputs": [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in signature.outputs],
    }


def server_metadata(version: str) -> dict[str, Any]:
    """What the server as a whole says of itself."""
    return {"name": "rayplat", "version": version, "extensions": list(EXTENSIONS)}


def ready(model: str, is_ready: bool) -> bytes:
    """Whether a model can answer."""
    return orjson.dumps({"name": model, "ready": is_ready})


def explanation(loaded: LoadedVersion, head: AliasHead, request_id: str, found: Explanation) -> bytes:
    """``values`` per input and ``base`` add up to the output that is explained, row by row."""
    return orjson.dumps(
        {
            "model_name": loaded.model,
            "model_version": str(loaded.version),
            "id": request_id,
            "parameters": {"alias": head.alias, "generation": head.generation, "digest": loaded.digest},
            "output": found.output,
            "method": found.method,
            "evaluations": found.evaluations,
            "base": found.base.tolist(),
            "values": {name: values.tolist() for name, values in found.values.items()},
        }
    )


# --- requests ---------------------------------------------------------------------------------------


def _parsed(given: dict[str, Any], raw: memoryview, signature: Signature, max_rows: int, has_raw: bool) -> Request:
    _known_keys("request", given, _REQUEST_KEYS)
    said = parameters.of("parameters", given.get("parameters"))
    inputs = given.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput("inputs", "must be a non-empty array of tensors")
    found = _assembled(signature, inputs, raw, max_rows, has_raw)
    binary: frozenset[str] | None
    outputs, binary = _outputs(given.get("outputs"), signature)
    if parameters.flag("parameters", said, "binary_data_output"):
        binary = frozenset(outputs) - _not_binary(given) if outputs else None
    return Request(
        rows=found.rows,
        inputs=found.inputs,
        outputs=outputs,
        id=_id(given),
        entity=found.entity,
        event_time=parameters.event_time(signature, said),
        columns=found.columns,
        params=parameters.of_model(signature, said),
        binary=binary,
        timeout_s=parameters.timeout_s(signature, said),
        priority=parameters.priority(signature, said),
    )


def _assembled(signature: Signature, inputs: list[Any], raw: memoryview, max_rows: int, has_raw: bool) -> Assembled:
    tensors: list[Tensor] = []
    at = 0
    for i, item in enumerate(inputs):
        tensor, size = _tensor(f"inputs[{i}]", item, raw[at:], has_raw)
        tensors.append(tensor)
        at += size
    if at != len(raw):
        raise BadRequest(f"the body has {len(raw) - at} bytes behind the last tensor's data")
    return assemble(signature, tensors, max_rows)


def _tensor(where: str, item: Any, raw: memoryview, has_raw: bool) -> tuple[Tensor, int]:
    """The tensor that ``item`` describes, and how many of the raw bytes are its."""
    if not isinstance(item, dict):
        raise InvalidInput(where, "must be an object with name, shape, datatype and data")
    if "name" not in item:
        raise InvalidInput(f"{where}.name", "missing")
    name = text(f"{where}.name", item["name"])
    where = f"inputs.{short(name)}"
    _known_keys(where, item, _INPUT_KEYS)
    for key in ("shape", "datatype"):
        if key not in item:
            raise InvalidInput(f"{where}.{key}", "missing")
    if not isinstance(item["datatype"], str):
        raise InvalidInput(f"{where}.datatype", f"must be a string, found {type_name(item['datatype'])}")
    said = parameters.of(f"{where}.parameters", item.get("parameters"))
    size = said.get("binary_data_size")
    if size is None:
        if "data" not in item:
            raise InvalidInput(f"{where}.data", "missing")
        if not isinstance(item["data"], list):
            raise InvalidInput(f"{where}.data", f"must be an array, found {type_name(item['data'])}")
        content = said.get("content_type")
        content = content if isinstance(content, str) else ""
        return Tensor(name, item["datatype"], item["shape"], item["data"], content=content), 0
    return _raw_tensor(name, item, raw, size, has_raw)


def _raw_tensor(name: str, item: dict[str, Any], raw: memoryview, size: Any, has_raw: bool) -> tuple[Tensor, int]:
    where = f"inputs.{short(name)}.parameters.binary_data_size"
    if not has_raw:
        raise BadRequest(f"{where}: send the header inference-header-content-length with binary tensor data")
    if type(size) is not int or size < 0:
        raise InvalidInput(where, "must be an integer, 0 or more")
    if "data" in item:
        raise InvalidInput(f"inputs.{short(name)}.data", "is given in JSON and as binary data; send one of them")
    if size > len(raw):
        raise BadRequest(f"{where}: says {size} bytes, the body has {len(raw)} left")
    return Tensor(name, item["datatype"], item["shape"], raw[:size], raw=True), size


def _outputs(value: Any, signature: Signature) -> tuple[tuple[str, ...], frozenset[str]]:
    """The outputs asked for, and which of them as raw bytes."""
    declared = signature.output_names
    if value is None or value == []:
        return declared, frozenset()
    if not isinstance(value, list):
        raise InvalidInput("outputs", "must be an array of objects with a name")
    names: dict[str, None] = {}
    binary: list[str] = []
    for i, item in enumerate(value):
        if not isinstance(item, dict) or "name" not in item:
            raise InvalidInput(f"outputs[{i}]", "must be an object with a name")
        name = text(f"outputs[{i}].name", item["name"])
        where = f"outputs.{short(name)}"
        _known_keys(where, item, _OUTPUT_KEYS)
        said = parameters.of(f"{where}.parameters", item.get("parameters"))
        if declared and name not in declared:
            raise InvalidInput(where, f"unknown output; the model gives {', '.join(map(short, declared))}")
        if name in names:
            raise InvalidInput(where, "asked for twice")
        names[name] = None
        if parameters.flag(f"{where}.parameters", said, "binary_data"):
            binary.append(name)
    return tuple(names), frozenset(binary)


def _not_binary(given: Mapping[str, Any]) -> frozenset[str]:
    """Outputs whose own ``binary_data`` is false: that goes before the request's ``binary_data_output``."""
    said = [(item["name"], item.get("parameters") or {}) for item in given.get("outputs") or []]
    return frozenset(name for name, of_output in said if of_output.get("binary_data") is False)


def _id(given: dict[str, Any]) -> str | None:
    value = given.get("id")
    return None if value is None else text("id", value)


def _known_keys(where: str, value: dict[str, Any], known: frozenset[str]) -> None:
    for key in value:
        if key not in known:
            raise InvalidInput(f"{where}.{short(key)}", f"unknown field; known are {', '.join(sorted(known))}")


def _tensor_metadata(spec: TensorSpec, *, optional: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
    said: dict[str, Any] = {"optional": True} if optional else {}
    if spec.nullable:
        said["nullable"] = True
    if spec.logical:
        said["content_type"] = spec.logical
    return found | ({"parameters": said} if said else {})
