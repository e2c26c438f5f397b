"""One model's HTTP interface as an OpenAPI 3.1 document, made from its signature.

What JSON Schema cannot say is in the descriptions: that ``data`` must have as many values as ``shape`` says, and all
inputs the same rows. Bodies with raw tensors (the binary tensor data extension) are described in words too.
"""

from __future__ import annotations

from typing import Any

import orjson

from rayplat.serve.ports import LoadedVersion
from rayplat.serve.protocols.elements import MAX_TEXT, RANGES
from rayplat.serve.protocols.tensors import plan_of
from rayplat.types import ParamSpec, Signature, TensorSpec
from rayplat.types.signature import DATATYPES, FLOATS, INTEGERS

Schema = dict[str, Any]

_ERRORS = {
    400: "The request cannot be understood: bad JSON, a key twice, a body cut off, an unsupported extension.",
    401: "No token, or one that is not known.",
    403: "The token's role does not allow it.",
    404: "No such path, version or alias.",
    405: "Another method is needed; `Allow` names it.",
    413: "More bytes or rows than are accepted.",
    415: "A content type or encoding that is not taken.",
    422: "A value does not fit the model: which field, which row, what is expected.",
    429: "More is asked than can be answered in time; `Retry-After` says when to come again.",
    500: "The model failed.",
    503: "A part that is needed is down; `Retry-After` says when to come again.",
    504: "No answer within the time that was left.",
}
_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_PARAMETERS: Schema = {"type": ["object", "null"], "description": "Unknown parameters are let pass."}


def document(loaded: LoadedVersion, route: str, alias: str, *, public: bool = False) -> bytes:
    """The document of the version that answers at ``route`` (``/v2/models/<model>``) now."""
    signature = loaded.signature
    found: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": f"Model {loaded.model}",
            "version": str(loaded.version),
            "description": f"Version {loaded.version} ({loaded.digest}) of {loaded.model!r}, served as {alias!r}.",
        },
        "paths": _paths(loaded, route),
        "components": {
            "schemas": _schemas(signature, loaded.model),
            "responses": {f"e{status}": _error(status) for status in _ERRORS}
            | {f"m{status}": _error(status, "MlflowError") for status in _ERRORS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    if not public:
        found["security"] = [{"token": []}]
    return orjson.dumps(found)


# --- paths ------------------------------------------------------------------------------------------


def _paths(loaded: LoadedVersion, route: str) -> Schema:
    infer = _operation("infer", "Inference", "InferRequest", "InferResponse")
    infer["description"] = (
        "Open Inference Protocol v2. `data` may be nested or flat; raw tensors may follow the JSON as "
        "application/octet-stream with the header Inference-Header-Content-Length."
    )
    named = [{"name": "version", "in": "path", "required": True, "schema": _VERSION}]
    paths: Schema = {
        route: {"get": _operation("metadata", "What the model takes and gives", None, "Metadata")},
        f"{route}/ready": {"get": _operation("ready", "Whether the model can answer", None, "Ready", free=True)},
        f"{route}/infer": {"post": infer},
        f"{route}/versions/{{version}}": {
            "parameters": named,
            "get": _operation("metadata_of_version", "What an exact version takes and gives", None, "Metadata"),
        },
        f"{route}/versions/{{version}}/infer": {
            "parameters": named,
            "post": infer | {"operationId": "infer_by_version", "summary": "Inference by an exact version"},
        },
        f"{route}/invocations": {"post": _invocations()},
        f"{route}/ping": {
            "get": _plain("ping", "MLflow's health check", "application/json"),
            "post": _plain("ping_by_post", "The same", "application/json"),
        },
        f"{route}/version": {"get": _plain("mlflow_version", "The version of MLflow's protocol", "text/plain")},
        f"{route}/openapi.json": {"get": _operation("openapi", "This document", None, None)},
    }
    if loaded.explainer is not None:
        explain = _operation("explain", "Each input's part in an answer", "InferRequest", "Explanation")
        paths[f"{route}/explain"] = {"post": explain}
    if loaded.streamer is not None:
        stream = _operation("generate_stream", "An answer in pieces", "InferRequest", None)
        events: Schema = {"schema": {"type": "string"}}
        stream["responses"]["200"] = {
            "description": "Each event is an answer",
            "content": {"text/event-stream": events},
        }
        paths[f"{route}/generate_stream"] = {"post": stream}
        infer["responses"]["200"]["content"]["text/event-stream"] = events
    return paths


def _operation(name: str, summary: str, takes: str | None, gives: str | None, *, free: bool = False) -> Schema:
    schema = {"$ref": f"#/components/schemas/{gives}"} if gives else {"type": "object"}
    responses: Schema = {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}}
    wrong = _ERRORS.keys() if takes else (400, 401, 403, 404, 405, 429, 500, 503, 504)
    responses |= {str(status): {"$ref": f"#/components/responses/e{status}"} for status in wrong}
    found: Schema = {"operationId": name, "summary": summary, "responses": responses}
    if takes:
        body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{takes}"}}}
        found["requestBody"] = {"required": True, "content": body}
    return found | ({"security": []} if free else {})


def _invocations() -> Schema:
    found = _operation("invocations", "MLflow's scoring protocol", "Invocation", "Predictions")
    found["description"] = "Also text/csv with a header line, and Parquet, as `mlflow models serve` takes them."
    for status in _ERRORS:  # MLflow has 400 for what does not fit
        found["responses"][str(status)] = {"$ref": f"#/components/responses/m{status}"}
    return found


def _plain(name: str, summary: str, media: str) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {
            "200": {"description": "OK", "content": {media: {}}},
            "405": {"$ref": "#/components/responses/e405"},
        },
    }


def _error(status: int, schema: str = "Error") -> Schema:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": _ERRORS[status], "content": content}


# --- schemas ----------------------------------------------------------------------------------------

_VERSION: Schema = {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
_SHAPE: Schema = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_STRINGS: Schema = {"type": "array", "items": {"type": "string"}}


def _schemas(signature: Signature, model: str) -> Schema:
    return {
        "InferRequest": _request(signature),
        "InferResponse": _object(
            model_name={"const": model},
            model_version=_VERSION,
            id={"type": "string"},
            parameters={"type": "object"},
            outputs={"type": "array", "items": {"$ref": "#/components/schemas/Output"}},
        ),
        "Output": _output(signature),
        "Metadata": _object(
            name={"const": model},
            versions=_STRINGS,
            platform={"type": "string"},
            inputs={"type": "array", "items": {"$ref": "#/components/schemas/TensorMetadata"}},
            outputs={"type": "array", "items": {"$ref": "#/components/schemas/TensorMetadata"}},
        ),
        "TensorMetadata": _object(
            name={"type": "string"},
            datatype={"enum": list(DATATYPES)},
            shape={"type": "array", "items": {"type": "integer", "minimum": -1}},
        ),
        "Ready": _object(name={"const": model}, ready={"type": "boolean"}),
        "Explanation": _object(
            model_name={"const": model},
            model_version=_VERSION,
            id={"type": "string"},
            output={"type": "string"},
            method={"type": "string"},
            evaluations={"type": "integer"},
            base={"type": "array", "items": {"type": "number"}},
            values={"type": "object", "additionalProperties": {"type": "array", "items": {"type": "number"}}},
        ),
        "Invocation": _invocation(),
        "Predictions": _object(predictions={}),
        "Error": _object(error={"type": "string"}, code={"type": "string"}, args={"type": "array"}),
        "MlflowError": _object(error_code={"type": "string"}, message={"type": "string"}),
    }


def _request(signature: Signature) -> Schema:
    inputs: Schema = {"type": "array", "minItems": 1, "items": {"anyOf": _inputs(signature)}}
    needed = [spec.name for spec in signature.inputs if spec.required]
    if needed and not plan_of(signature).keys and signature.matrix is None:
        inputs["allOf"] = [{"contains": {"properties": {"name": {"const": name}}}} for name in needed]
    outputs: Schema = {"type": "string"}
    if signature.outputs:
        outputs = {"enum": list(signature.output_names)}
    asked = {"name": outputs, "parameters": _PARAMETERS}
    given: Schema = {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "id": {"anyOf": [_TEXT, {"type": "null"}]},
            "model_name": {},
            "model_version": {},
            "parameters": _request_parameters(signature),
            "inputs": inputs,
            "outputs": {
                "type": ["array", "null"],
                "items": {"type": "object", "required": ["name"], "additionalProperties": False, "properties": asked},
            },
        },
    }
    return given


def _request_parameters(signature: Signature) -> Schema:
    known: Schema = {"timeout": {"type": ["number", "null"], "minimum": 0, "description": "Microseconds."}}
    known["event_time"] = {"type": ["string", "null"], "format": "date-time"}
    known["priority"] = {"type": ["integer", "null"], "minimum": 0}
    known["binary_data_output"] = {"type": ["boolean", "null"]}
    return _PARAMETERS | {"properties": known | {spec.name: _parameter(spec) for spec in signature.params}}


def _parameter(spec: ParamSpec) -> Schema:
    one: Schema = {} if spec.datatype == "BYTES" else _element(TensorSpec(spec.name, spec.datatype))
    found: Schema = {"type": "array", "items": one} if spec.is_list else one
    return {"anyOf": [found, {"type": "null"}], "default": spec.default} if found else {"default": spec.default}


def _inputs(signature: Signature) -> list[Schema]:
    if signature.open:
        return [_tensor(TensorSpec("any", datatype), named=False) for datatype in DATATYPES]
    specs = [TensorSpec(name, "BYTES") for name in plan_of(signature).keys]
    found = [_tensor(spec, short=True) for spec in specs]
    found += [_tensor(spec, short=bool(signature.keys)) for spec in signature.inputs]
    found += [_tensor(spec) for spec in signature.columns]
    if signature.matrix is not None:
        found.append(_tensor(signature.matrix, named=False))
    return found


def _tensor(spec: TensorSpec, *, named: bool = True, short: bool = False) -> Schema:
    """An input as it may be given, as JSON."""
    datatypes = [spec.datatype]
    if spec.datatype in FLOATS:
        datatypes = [*FLOATS, *INTEGERS]
    elif spec.datatype in INTEGERS:
        datatypes = list(INTEGERS)
    element = _element(spec, short=short)
    rank = len(spec.shape)
    nested: Schema = element
    for _ in range(max(rank - 1, 1)):
        nested = {"anyOf": [element, {"type": "array", "items": nested}]}
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "additionalProperties": False,
        "properties": {
            "name": {"const": spec.name} if named else _TEXT,
            "shape": _SHAPE | {"maxItems": max(rank, 2)},
            "datatype": {"enum": datatypes},
            "parameters": _PARAMETERS,
            "data": {"type": "array", "items": nested},
        },
    }


def _element(spec: TensorSpec, *, short: bool = False) -> Schema:
    low_high = RANGES.get(spec.datatype)
    if spec.datatype == "BYTES":
        found: Schema = {} if spec.logical == "json" else _TEXT if short else {"type": "string"}
    elif spec.datatype == "BOOL":
        found = {"enum": [True, False, 0, 1]}
    else:
        kind = "number" if spec.datatype in FLOATS else "integer"
        found = {"type": kind} | ({"minimum": low_high[0], "maximum": low_high[1]} if low_high else {})
    return {"anyOf": [found, {"type": "null"}]} if spec.nullable and found else found


def _output(signature: Signature) -> Schema:
    names: Schema = {"enum": list(signature.output_names)} if signature.outputs else {"type": "string"}
    return _object(
        name=names,
        shape={"type": "array", "items": {"type": "integer", "minimum": 0}},
        datatype={"enum": list(DATATYPES)},
        data={"type": "array"},
    )


def _invocation() -> Schema:
    rows: Schema = {"type": "array", "minItems": 1}
    formats: dict[str, Schema] = {
        "dataframe_split": {
            "type": "object",
            "required": ["data"],
            "additionalProperties": False,
            "properties": {
                "columns": {"type": ["array", "null"]},
                "index": {"type": ["array", "null"]},
                "data": rows,
            },
        },
        "dataframe_records": rows | {"items": {"type": "object"}},
        "instances": {},
        "inputs": {},
    }
    return {
        "type": "object",
        "properties": formats | {"params": {}},
        "oneOf": [{"required": [name]} for name in formats],
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}
