"""Messages of the gRPC protocol to requests and back. Pure: it knows the model's signature and nothing of servers.

Tensors come typed (`InferTensorContents`, the field that belongs to the datatype) or raw (`raw_input_contents`, one
for each input), never both; the answer is raw where the request was, or where a type has no typed form (FP16).
"""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.errors import InvalidInput
from rayplat.serve.grpc import definition
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.protocols import elements, parameters, tensors
from rayplat.serve.protocols.strict_json import short
from rayplat.serve.request import Answer, InferRequest
from rayplat.types import Signature, TensorSpec

CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_WIRE = {
    "int_contents": np.int32,
    "int64_contents": np.int64,
    "uint_contents": np.uint32,
    "uint64_contents": np.uint64,
    "fp32_contents": np.float32,
    "fp64_contents": np.float64,
    "bool_contents": np.bool_,
}
_LENGTH = struct.Struct("<I")
_RESPONSE = definition.message("inference.ModelInferResponse")
_METADATA = definition.message("inference.ModelMetadataResponse")


def new_id() -> str:
    """An id for a request that came without one."""
    return uuid.uuid4().hex


@dataclass(slots=True)
class Request(InferRequest):
    """``timeout_s`` is how long the client says it will wait (Triton's ``timeout``, in microseconds on the wire)."""

    timeout_s: float | None = None


def parse(message: Any, signature: Signature, max_rows: int) -> Request:
    """The request in a ``ModelInferRequest`` for a model of ``signature``. Raises `InvalidInput` naming the field (and
    the row where there is one), `BadRequest` for an extension that is not there, `TooLarge` beyond ``max_rows``."""
    given = parameters.of("parameters", _plain(message.parameters))
    found = tensors.assemble(signature, _tensors(message), max_rows)
    return Request(
        rows=found.rows,
        inputs=found.inputs,
        outputs=_outputs(message.outputs, signature),
        id=elements.text("id", message.id) if message.id else None,
        entity=found.entity,
        event_time=parameters.event_time(signature, given),
        columns=found.columns,
        params=parameters.of_model(signature, given),
        timeout_s=parameters.timeout_s(signature, given),
    )


def response(answer: Answer, model: str, *, raw: bool) -> Any:
    """The answer as a ``ModelInferResponse``; ``raw`` asks for raw contents."""
    loaded, head = answer.loaded, answer.head
    message = _RESPONSE(model_name=model, model_version=str(loaded.version), id=answer.request_id)
    told = {"alias": head.alias, "generation": head.generation, "digest": loaded.digest}
    for name, value in told.items():
        field = "int64_param" if isinstance(value, int) else "string_param"
        setattr(message.parameters[name], field, value)
    declared = {spec.name: spec.datatype for spec in loaded.signature.outputs}
    arrays = {name: np.asarray(values) for name, values in answer.outputs.items()}
    datatypes = {name: declared.get(name) or datatype_of(values) for name, values in arrays.items()}
    raw = raw or not all(datatype in CONTENTS for datatype in datatypes.values())
    for name, values in arrays.items():
        datatype = datatypes[name]
        output = message.outputs.add(name=name, datatype=datatype, shape=values.shape)
        if raw:
            message.raw_output_contents.append(elements.to_raw(values, datatype))
        else:
            getattr(output.contents, CONTENTS[datatype]).extend(_typed(values, datatype))
    return message


def metadata(loaded: LoadedVersion, versions: Sequence[int]) -> Any:
    """What the model takes and gives, as a ``ModelMetadataResponse``: join keys and request columns are inputs too."""
    signature = loaded.signature
    message = _METADATA(
        name=loaded.model, versions=[str(version) for version in versions], platform=loaded.platform or "rayplat_model"
    )
    named = {spec.name for spec in signature.inputs}
    keys = [TensorSpec(name, "BYTES") for name in signature.keys if name not in named]
    for spec in (*keys, *signature.columns, *signature.inputs):
        message.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    for spec in signature.outputs:
        message.outputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    return message


def datatype_of(values: npt.NDArray[Any]) -> str:
    """The protocol's datatype of an array whose output is not declared."""
    kind, bits = values.dtype.kind, values.dtype.itemsize * 8
    if kind == "b":
        return "BOOL"
    name = {"i": f"INT{bits}", "u": f"UINT{bits}", "f": f"FP{bits}"}.get(kind, "BYTES")
    return name if name in elements.DTYPES else "FP64"


# --- inside ---------------------------------------------------------------------------------------


def _tensors(message: Any) -> list[tensors.Tensor]:
    """Every input in raw bytes."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        reason = f"has {len(raw)} items for {len(message.inputs)} inputs; raw contents are given for all or for none"
        raise InvalidInput("raw_input_contents", reason)
    found = []
    for i, given in enumerate(message.inputs):
        where = f"inputs.{short(given.name)}" if given.name else f"inputs[{i}]"
        if not given.name:
            raise InvalidInput(f"{where}.name", "missing")
        if given.datatype not in elements.DTYPES:
            raise InvalidInput(f"{where}.datatype", f"{short(given.datatype)!r} is no tensor datatype of the protocol")
        parameters.of(f"{where}.parameters", _plain(given.parameters))
        fields = [field.name for field, _ in given.contents.ListFields()]
        if raw and fields:
            raise InvalidInput(f"{where}.contents", "must be empty where raw_input_contents are given")
        data = raw[i] if raw else _contents(where, given, fields)
        found.append(tensors.Tensor(given.name, given.datatype, list(given.shape), data, raw=True))
    return found


def _contents(where: str, given: Any, fields: Sequence[str]) -> bytes:
    """Typed contents as raw bytes of the datatype."""
    wanted = CONTENTS.get(given.datatype)
    if wanted is None:
        raise InvalidInput(f"{where}.contents", f"{given.datatype} has no typed form; send raw_input_contents")
    if any(name != wanted for name in fields):
        raise InvalidInput(f"{where}.contents", f"{given.datatype} belongs into {wanted}, found {', '.join(fields)}")
    values = getattr(given.contents, wanted)
    count = math.prod(given.shape)
    if len(values) != count:
        raise InvalidInput(f"{where}.contents", f"has {len(values)} values, the shape says {count}")
    if wanted == "bytes_contents":
        return b"".join(part for value in values for part in (_LENGTH.pack(len(value)), value))
    array: npt.NDArray[Any] = np.array(values, _WIRE[wanted])
    low, high = elements.RANGES.get(given.datatype, (0, 1))
    if wanted in ("int_contents", "uint_contents") and len(array):
        wrong = (array < low) | (array > high)
        if wrong.any():
            row = int(np.argmax(wrong)) // max(1, count // max(1, given.shape[0]))
            raise InvalidInput(f"{where}[{row}]", f"is outside the range of {given.datatype}")
    return array.astype(elements.DTYPES[given.datatype]).tobytes()


def _outputs(asked: Any, signature: Signature) -> tuple[str, ...]:
    """The names asked for; all of them where none are named."""
    names: list[str] = []
    for i, output in enumerate(asked):
        where = f"outputs.{short(output.name)}" if output.name else f"outputs[{i}].name"
        if not output.name:
            raise InvalidInput(where, "missing")
        parameters.of(f"{where}.parameters", _plain(output.parameters))
        if signature.outputs and output.name not in signature.output_names:
            raise InvalidInput(where, f"unknown output; the model gives {', '.join(signature.output_names)}")
        if output.name in names:
            raise InvalidInput(where, "asked for twice")
        names.append(output.name)
    return tuple(names) or signature.output_names


def _plain(given: Any) -> dict[str, Any]:
    """Parameters as plain values; one without a value is left out."""
    found = {}
    for name, parameter in given.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(parameter, choice)
    return found


def _typed(values: npt.NDArray[Any], datatype: str) -> list[Any]:
    flat = values.ravel()
    if datatype == "BYTES":
        return [v if isinstance(v, bytes) else elements.text_of(v).encode("utf-8", "replace") for v in flat.tolist()]
    return flat.astype(elements.DTYPES[datatype], copy=False).tolist()  # type: ignore[no-any-return]
