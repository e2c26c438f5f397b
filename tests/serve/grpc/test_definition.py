"""Our definition is the protocol's, and lives beside a client library's own."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool
from tritonclient.grpc import service_pb2

from rayplat.serve.grpc import definition

MESSAGES = [
    f"{call}{side}"
    for call in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
    for side in ("Request", "Response")
] + ["InferParameter", "InferTensorContents"]


def _fields(descriptor: object) -> dict[str, tuple[object, ...]]:
    found = {}
    for field in descriptor.fields:  # type: ignore[attr-defined]
        inner = _fields(field.message_type) if field.message_type is not None else None
        group = field.containing_oneof.name if field.containing_oneof is not None else None
        found[field.name] = (field.number, field.type, field.is_repeated, group, inner)
    return found


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_has_the_fields_that_clients_know(name: str) -> None:
    theirs = _fields(service_pb2.DESCRIPTOR.message_types_by_name[name])
    assert _fields(definition.message(f"inference.{name}").DESCRIPTOR) == theirs


def test_nothing_of_ours_is_in_the_pool_that_client_libraries_use() -> None:
    theirs = descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
    assert theirs is service_pb2.ModelInferRequest.DESCRIPTOR
    assert definition.POOL is not descriptor_pool.Default()


def test_a_client_s_bytes_are_read_and_ours_are_read_by_it() -> None:
    sent = service_pb2.ModelInferRequest(model_name="m", id="é", raw_input_contents=[b"\0\1"])
    sent.parameters["n"].int64_param = -1
    ours = definition.message("inference.ModelInferRequest").FromString(sent.SerializeToString())
    assert (ours.model_name, ours.id, ours.parameters["n"].int64_param) == ("m", "é", -1)
    assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()) == sent


def test_an_unknown_definition_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        definition.files("nowhere.proto", of_symbol=False)
