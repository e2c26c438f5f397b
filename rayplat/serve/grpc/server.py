"""The gRPC server: the protocol's six calls, health and reflection on one port, answered by whoever serves the model.

A call is followed from top to bottom of `Service.infer`: who asks, what the model takes (as its host describes it),
the message as a request, the host's answer, and that as a message. Knows no Ray: it is handed a forwarder.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc

from rayplat.errors import InvalidInput, NotFound, PartFailed, RayplatError
from rayplat.serve.access import Access
from rayplat.serve.grpc import codec, definition, reflection
from rayplat.serve.grpc.forwarding import DEFAULT_TIMEOUT_S, Described, Forwarder, Place, place_of
from rayplat.serve.grpc.status import status_of
from rayplat.serve.request import Answer, Call
from rayplat.types import Principal

log = logging.getLogger(__name__)

NAME = "rayplat"
EXTENSIONS = ("model_repository", "parameters")
_MAX_CALLS = 1024  # at the same time; beyond them gRPC itself answers RESOURCE_EXHAUSTED
_MESSAGE_ROOM = 1 << 16  # names, shapes and parameters around a body of the largest size
_IN_THREAD_BYTES = 1 << 18  # larger messages are read in a thread: the loop has other calls
_HEADER_BYTES = 4096

_SERVER_READY = definition.message("inference.ServerReadyResponse")
_SERVER_LIVE = definition.message("inference.ServerLiveResponse")
_SERVER_METADATA = definition.message("inference.ServerMetadataResponse")
_MODEL_READY = definition.message("inference.ModelReadyResponse")
_HEALTH = definition.message("grpc.health.v1.HealthCheckResponse")


@dataclass(frozen=True)
class Listen:
    """Where the server listens: ``host`` and ``port`` (0: any), and the largest message in bytes."""

    port: int
    host: str = "0.0.0.0"
    max_message_bytes: int = 4 << 20


@dataclass(frozen=True)
class Terms:
    """What is said and taken: the server's ``version``, rows in one request at most."""

    version: str
    max_rows: int = 10_000


class Service:
    """The calls of the protocol over a ``forwarder``. ``answers`` counts calls by their status code."""

    def __init__(self, forwarder: Forwarder, access: Access, terms: Terms) -> None:
        self._forwarder, self._access, self._terms = forwarder, access, terms
        self.answers: Counter[str] = Counter()
        self.ready = True

    async def server_live(self, request: Any, context: Any) -> Any:  # noqa: ARG002 - one signature for all calls
        return _SERVER_LIVE(live=True)

    async def server_ready(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        return _SERVER_READY(ready=self.ready)

    async def server_metadata(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        return _SERVER_METADATA(name=NAME, version=self._terms.version, extensions=EXTENSIONS)

    async def model_ready(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """Whether a prediction would be answered now; of an exact version, whether it is loaded."""
        place = place_of(request.name, request.version)
        try:
            described = await self._forwarder.describe(Place(place.model, place.alias), fresh=True)
        except RayplatError:
            return _MODEL_READY(ready=False)
        return _MODEL_READY(ready=place.version is None or place.version in described.versions)

    async def model_metadata(self, request: Any, context: Any) -> Any:
        place = place_of(request.name, request.version)
        await self._caller(place, context)
        described = await self._forwarder.describe(place, fresh=True)
        return codec.metadata(described.loaded, described.versions)

    async def infer(self, request: Any, context: Any) -> Any:
        place = place_of(request.model_name, request.model_version)
        received_at = datetime.now(UTC)
        principal = await self._caller(place, context)
        parsed = await self._parsed(place, request)
        headers = _headers(context)
        call = Call(
            request_id=parsed.id or headers.get("x-request-id") or codec.new_id(),
            received_at=received_at,
            principal=principal,
            target=headers.get("x-rayplat-target") if place.version is None else None,
            deadline=time.monotonic() + min(_left_s(context), parsed.timeout_s or math.inf),
            headers=headers,
            traceparent=headers.get("traceparent"),
        )
        answer = await self._forwarder.infer(place, parsed, call)
        context.set_trailing_metadata(_told(answer))
        return codec.response(answer, place.model, raw=bool(request.raw_input_contents))

    async def health(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        if request.service not in ("", definition.SERVICE):
            raise NotFound("service", request.service[:80])
        return _HEALTH(status=1 if self.ready else 2)

    async def _caller(self, place: Place, context: Any) -> Principal | None:
        """Who asks. A model is not even looked for on behalf of an unknown token."""

        async def public() -> bool:
            try:
                return (await self._forwarder.describe(place)).spec.public
            except NotFound:  # an outsider is not told which models there are
                return False

        return await self._access.principal(_headers(context).get("authorization"), public=public)

    async def _parsed(self, place: Place, request: Any) -> codec.Request:
        """The message by the model's signature. What does not fit the signature as it was known is tried once more
        with the present one: the alias may have moved."""
        described = await self._forwarder.describe(place)
        try:
            return await self._read(request, described)
        except InvalidInput:
            present = await self._forwarder.describe(place, fresh=True)
            if present.loaded.signature == described.loaded.signature:
                raise
            return await self._read(request, present)

    async def _read(self, request: Any, described: Described) -> codec.Request:
        arguments = (request, described.loaded.signature, self._terms.max_rows)
        if request.ByteSize() > _IN_THREAD_BYTES:
            return await asyncio.to_thread(codec.parse, *arguments)
        return codec.parse(*arguments)


def build(service: Service, listen: Listen) -> tuple[Any, int]:
    """A server that answers with ``service``, and the port it is bound to; `grpc.aio.Server.start` begins. To be
    called on the event loop that it runs on. Raises `PartFailed` where the port cannot be bound."""
    options = [
        ("grpc.max_receive_message_length", listen.max_message_bytes + _MESSAGE_ROOM),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # two servers on one port would share its calls without a word
        ("grpc.max_concurrent_streams", _MAX_CALLS),
        ("grpc.keepalive_time_ms", 60_000),  # a client that went away silently is noticed
        ("grpc.max_connection_idle_ms", 600_000),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_CALLS)
    six = {
        "ServerLive": service.server_live,
        "ServerReady": service.server_ready,
        "ModelReady": service.model_ready,
        "ServerMetadata": service.server_metadata,
        "ModelMetadata": service.model_metadata,
        "ModelInfer": service.infer,
    }
    server.add_generic_rpc_handlers(
        (
            _handlers(definition.SERVICE, six, service.answers),
            _handlers(definition.HEALTH, {"Check": service.health}, Counter()),
            *(reflection.handler(name) for name in definition.REFLECTION),
        )
    )
    try:
        port = server.add_insecure_port(f"{listen.host}:{listen.port}")
    except RuntimeError as e:
        raise PartFailed("the gRPC server", f"port {listen.port} cannot be bound: {e}") from e
    return server, int(port)


Method = Callable[[Any, Any], Awaitable[Any]]


def _handlers(service: str, methods: Mapping[str, Method], answers: Counter[str]) -> Any:
    return grpc.method_handlers_generic_handler(
        service,
        {
            name: grpc.unary_unary_rpc_method_handler(
                _guarded(methods[name], answers),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, request, response in definition.calls(service)
        },
    )


def _guarded(method: Method, answers: Counter[str]) -> Method:
    """``method`` with its errors as statuses; nothing of what went wrong inside reaches the client."""

    async def guarded(request: Any, context: Any) -> Any:
        try:
            answer = await method(request, context)
        except RayplatError as e:
            error = e
        except asyncio.CancelledError:
            answers["CANCELLED"] += 1
            raise
        except Exception:
            log.exception("a gRPC call failed")
            error = PartFailed("the answer", "an internal error, see the server's log")
        else:
            answers["OK"] += 1
            return answer
        status = status_of(error)
        answers[status.code.name] += 1
        if error.http_status >= 500:
            log.error("a gRPC call failed: %s", error)
        return await context.abort(status.code, status.text, trailing_metadata=status.metadata)

    return guarded


def _headers(context: Any) -> dict[str, str]:
    """The call's text metadata; of a name that comes twice the last value counts."""
    given = context.invocation_metadata() or ()
    return {key: value for key, value in given if isinstance(value, str) and len(value) <= _HEADER_BYTES}


def _left_s(context: Any) -> float:
    """What is left of the client's deadline; without one, our own."""
    left_s = context.time_remaining()
    return DEFAULT_TIMEOUT_S if left_s is None else float(left_s)


def _told(answer: Answer) -> tuple[tuple[str, str], ...]:
    """What HTTP says in headers. Metadata is ASCII: an id with other characters is in the message alone."""
    told = {
        "x-request-id": answer.request_id,
        "x-rayplat-model-version": str(answer.loaded.version),
        "x-rayplat-variant": answer.variant,
    }
    return tuple((key, value) for key, value in told.items() if value.isascii() and value.isprintable())
