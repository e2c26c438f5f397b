"""gRPC server reflection: a client without our definition asks for it (grpcurl, Postman). Two names are in use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from rayplat.serve.grpc import definition


def handler(service: str) -> Any:
    """The handlers of one reflection service."""
    ((name, request, response),) = definition.calls(service)

    async def info(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: ARG001 - gRPC's signature
        async for asked in requests:
            yield _answer(asked, response(valid_host=asked.host, original_request=asked))

    method = grpc.stream_stream_rpc_method_handler(
        info, request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )
    return grpc.method_handlers_generic_handler(service, {name: method})


def _answer(asked: Any, answer: Any) -> Any:
    kind = asked.WhichOneof("message_request")
    if kind == "list_services":
        for service in (definition.SERVICE, definition.HEALTH, *definition.REFLECTION):
            answer.list_services_response.service.add(name=service)
        return answer
    try:
        if kind not in ("file_by_filename", "file_containing_symbol"):
            raise KeyError(kind)
        found = definition.files(getattr(asked, kind), of_symbol=kind == "file_containing_symbol")
        answer.file_descriptor_response.file_descriptor_proto.extend(found)
    except KeyError:
        answer.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
        answer.error_response.error_message = "there is no such definition here"
    return answer
