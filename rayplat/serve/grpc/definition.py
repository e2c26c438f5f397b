"""Messages and services that the gRPC port speaks, made at import time of this module in a descriptor pool of our own.

Names and field numbers are the protocol's (Open Inference Protocol 2, gRPC; gRPC health checking 1; gRPC server
reflection 1 and 1alpha; google.rpc status details). The pool is ours because protobuf's default one holds a name once:
a client library in the same process registers the same messages there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory

Fields = Mapping[str, str]

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}


@dataclass(frozen=True)
class _File:
    """One definition. A message is its fields by name: ``number type``, with ``repeated``, ``map`` (of strings to the
    type) or ``oneof=<group>`` before; nested messages are named ``Outer.Inner``. ``enums`` hold their values in order,
    ``calls`` of a service are ``name: request response``, with ``stream`` before a call that streams both ways."""

    name: str
    package: str
    messages: Mapping[str, Fields]
    services: Mapping[str, Mapping[str, str]]
    enums: Mapping[str, tuple[str, ...]]
    imports: tuple[str, ...] = ()


_TENSOR = {"name": "1 string", "datatype": "2 string", "shape": "3 repeated int64"}
_PAYLOAD = {**_TENSOR, "parameters": "4 map InferParameter", "contents": "5 InferTensorContents"}
_NAMED = {"name": "1 string", "version": "2 string"}

_INFERENCE = _File(
    "rayplat/open_inference.proto",
    "inference",
    {
        "ServerLiveRequest": {},
        "ServerLiveResponse": {"live": "1 bool"},
        "ServerReadyRequest": {},
        "ServerReadyResponse": {"ready": "1 bool"},
        "ModelReadyRequest": _NAMED,
        "ModelReadyResponse": {"ready": "1 bool"},
        "ServerMetadataRequest": {},
        "ServerMetadataResponse": {**_NAMED, "extensions": "3 repeated string"},
        "ModelMetadataRequest": _NAMED,
        "ModelMetadataResponse": {
            "name": "1 string",
            "versions": "2 repeated string",
            "platform": "3 string",
            "inputs": "4 repeated ModelMetadataResponse.TensorMetadata",
            "outputs": "5 repeated ModelMetadataResponse.TensorMetadata",
        },
        "ModelMetadataResponse.TensorMetadata": _TENSOR,
        "InferParameter": {
            "bool_param": "1 oneof=parameter_choice bool",
            "int64_param": "2 oneof=parameter_choice int64",
            "string_param": "3 oneof=parameter_choice string",
            # In use beside the three of the text: clients of Triton and KServe send them.
            "double_param": "4 oneof=parameter_choice double",
            "uint64_param": "5 oneof=parameter_choice uint64",
        },
        "InferTensorContents": {
            "bool_contents": "1 repeated bool",
            "int_contents": "2 repeated int32",
            "int64_contents": "3 repeated int64",
            "uint_contents": "4 repeated uint32",
            "uint64_contents": "5 repeated uint64",
            "fp32_contents": "6 repeated float",
            "fp64_contents": "7 repeated double",
            "bytes_contents": "8 repeated bytes",
        },
        "ModelInferRequest": {
            "model_name": "1 string",
            "model_version": "2 string",
            "id": "3 string",
            "parameters": "4 map InferParameter",
            "inputs": "5 repeated ModelInferRequest.InferInputTensor",
            "outputs": "6 repeated ModelInferRequest.InferRequestedOutputTensor",
            "raw_input_contents": "7 repeated bytes",
        },
        "ModelInferRequest.InferInputTensor": _PAYLOAD,
        "ModelInferRequest.InferRequestedOutputTensor": {"name": "1 string", "parameters": "2 map InferParameter"},
        "ModelInferResponse": {
            "model_name": "1 string",
            "model_version": "2 string",
            "id": "3 string",
            "parameters": "4 map InferParameter",
            "outputs": "5 repeated ModelInferResponse.InferOutputTensor",
            "raw_output_contents": "6 repeated bytes",
        },
        "ModelInferResponse.InferOutputTensor": _PAYLOAD,
    },
    {
        "GRPCInferenceService": {
            call: f"{call}Request {call}Response"
            for call in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
        }
    },
    {},
)

_HEALTH = _File(
    "rayplat/health.proto",
    "grpc.health.v1",
    {"HealthCheckRequest": {"service": "1 string"}, "HealthCheckResponse": {"status": "1 HealthCheckResponse.Status"}},
    {"Health": {"Check": "HealthCheckRequest HealthCheckResponse"}},
    {"HealthCheckResponse.Status": ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")},
)


def _reflection(version: str) -> _File:
    one_of = "oneof=message_request"
    answer = "oneof=message_response"
    return _File(
        f"rayplat/reflection_{version}.proto",
        f"grpc.reflection.{version}",
        {
            "ServerReflectionRequest": {
                "host": "1 string",
                "file_by_filename": f"3 {one_of} string",
                "file_containing_symbol": f"4 {one_of} string",
                "all_extension_numbers_of_type": f"6 {one_of} string",
                "list_services": f"7 {one_of} string",
            },
            "FileDescriptorResponse": {"file_descriptor_proto": "1 repeated bytes"},
            "ServiceResponse": {"name": "1 string"},
            "ListServiceResponse": {"service": "1 repeated ServiceResponse"},
            "ErrorResponse": {"error_code": "1 int32", "error_message": "2 string"},
            "ServerReflectionResponse": {
                "valid_host": "1 string",
                "original_request": "2 ServerReflectionRequest",
                "file_descriptor_response": f"4 {answer} FileDescriptorResponse",
                "list_services_response": f"6 {answer} ListServiceResponse",
                "error_response": f"7 {answer} ErrorResponse",
            },
        },
        {"ServerReflection": {"ServerReflectionInfo": "stream ServerReflectionRequest ServerReflectionResponse"}},
        {},
    )


_STATUS = _File(
    "rayplat/status.proto",
    "google.rpc",
    {
        "Status": {"code": "1 int32", "message": "2 string", "details": "3 repeated .google.protobuf.Any"},
        "RetryInfo": {"retry_delay": "1 .google.protobuf.Duration"},
        "ErrorInfo": {"reason": "1 string", "domain": "2 string", "metadata": "3 map string"},
    },
    {},
    {},
    (any_pb2.DESCRIPTOR.name, duration_pb2.DESCRIPTOR.name),
)


def _described(file: _File) -> descriptor_pb2.FileDescriptorProto:
    """The definition as protobuf describes one."""
    made = descriptor_pb2.FileDescriptorProto(name=file.name, package=file.package, syntax="proto3")
    made.dependency.extend(file.imports)
    by_name: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name in sorted(file.messages, key=lambda name: name.count(".")):
        outer, _, inner = name.rpartition(".")
        by_name[name] = (by_name[outer].nested_type if outer else made.message_type).add(name=inner)
    for name, values in file.enums.items():
        outer, _, inner = name.rpartition(".")
        enum = by_name[outer].enum_type.add(name=inner)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in file.messages.items():
        for field, told in fields.items():
            _add_field(file, by_name[name], (name, field), told.split())
    for name, calls in file.services.items():
        service = made.service.add(name=name)
        for call, told in calls.items():
            *kind, request, response = told.split()
            names = {"input_type": f".{file.package}.{request}", "output_type": f".{file.package}.{response}"}
            service.method.add(name=call, client_streaming=bool(kind), server_streaming=bool(kind), **names)
    return made


def _add_field(file: _File, message: descriptor_pb2.DescriptorProto, at: tuple[str, str], told: list[str]) -> None:
    number, *kinds, dtype = told
    field = message.field.add(name=at[1], number=int(number), label=_Field.LABEL_OPTIONAL)
    if "map" in kinds:
        entry = message.nested_type.add(name="".join(part.title() for part in at[1].split("_")) + "Entry")
        entry.options.map_entry = True
        _typed(file, entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL), "string")
        _typed(file, entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL), dtype)
        field.label, dtype = _Field.LABEL_REPEATED, f"{at[0]}.{entry.name}"
    elif "repeated" in kinds:
        field.label = _Field.LABEL_REPEATED
    for kind in kinds:
        if kind.startswith("oneof="):
            group = kind.removeprefix("oneof=")
            if group not in [one.name for one in message.oneof_decl]:
                message.oneof_decl.add(name=group)
            field.oneof_index = [one.name for one in message.oneof_decl].index(group)
    _typed(file, field, dtype)


def _typed(file: _File, field: descriptor_pb2.FieldDescriptorProto, dtype: str) -> None:
    if dtype in _SCALARS:
        field.type = _SCALARS[dtype]
    else:
        field.type = _Field.TYPE_ENUM if dtype in file.enums else _Field.TYPE_MESSAGE
        field.type_name = dtype if dtype.startswith(".") else f".{file.package}.{dtype}"


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, duration_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    for file in (_INFERENCE, _HEALTH, _reflection("v1"), _reflection("v1alpha"), _STATUS):
        pool.AddSerializedFile(_described(file).SerializeToString())
    return pool


POOL = _pool()


def message(name: str) -> Any:
    """The class of a message by its full name, such as ``inference.ModelInferRequest``."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


def calls(service: str) -> Iterator[tuple[str, Any, Any]]:
    """Name, request class and response class of every call of a service."""
    for method in POOL.FindServiceByName(service).methods:
        yield method.name, message(method.input_type.full_name), message(method.output_type.full_name)


def files(name: str, *, of_symbol: bool) -> list[bytes]:
    """The definition of that file name, or of that symbol, and those that it imports. KeyError: there is none."""
    found = POOL.FindFileContainingSymbol(name) if of_symbol else POOL.FindFileByName(name)
    wanted, seen = [found], []
    while wanted:
        file = wanted.pop()
        seen.append(file)
        wanted += [one for one in file.dependencies if one not in seen]
    return [file.serialized_pb for file in seen]
