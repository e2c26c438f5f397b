"""One HTTP exchange over ASGI: read a bounded JSON body, answer JSON, answer an error in the one shape.

Knows nothing of models. A client that goes away while sending is `ClientGoneError`, which is nobody's error.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rayplat.errors import BadRequest, RayplatError, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

_BODY_S = 30.0  # a body that takes longer is not worth a slot


class ClientGoneError(ConnectionError):
    """The client closed the connection before its request was complete."""


class Exchange:
    """One request and its answer. ``path`` is what lies behind the application's route; ``id`` is the request's
    ``x-request-id``, made up where it has none (Serve passes one in and echoes it, so only a made-up one is sent)."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.method = str(scope["method"])
        self.path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
        given = self.header(b"x-request-id")
        self.id = given[:128] if given else uuid.uuid4().hex
        self._echo: list[Header] = [] if given else [(b"x-request-id", self.id.encode())]

    def header(self, name: bytes) -> str | None:
        """The last value of a request header (names are lower case), or None."""
        for key, value in reversed(self._scope["headers"]):
            if key == name:
                return str(value, "latin-1")
        return None

    async def read_json(self, limit: int) -> bytes:
        """The body of a request that says it is JSON. Refuses before buffering: `TooLarge` above ``limit`` bytes,
        `BadRequest` for another content type, a content encoding, or a body that does not arrive."""
        content_type = (self.header(b"content-type") or "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise BadRequest(f"the content type must be application/json, found {content_type[:80]!r}")
        if (self.header(b"content-encoding") or "identity").lower() != "identity":
            raise BadRequest("a content encoding is not accepted; send the JSON as it is")
        if self.header(b"inference-header-content-length") is not None:
            raise BadRequest("binary tensor data is not supported; send and accept JSON tensors")
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise TooLarge("the body", int(declared), limit)
        try:
            async with asyncio.timeout(_BODY_S):
                return await self._read(limit)
        except TimeoutError:
            raise BadRequest(f"the body did not arrive within {_BODY_S:.0f} s") from None

    async def _read(self, limit: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise TooLarge("the body", size, limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def answer(self, status: int, body: bytes, *headers: Header) -> int:
        """Send one complete JSON answer; the status sent."""
        start = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            *self._echo,
            *headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": start})
        await self._send({"type": "http.response.body", "body": body})
        return status

    async def answer_error(self, error: RayplatError, *headers: Header, status: int = 0) -> int:
        """Send ``error`` in the one shape; ``status`` overrides the class's own."""
        status = status or error.http_status
        extra = list(headers)
        if error.retryable:
            extra.append((b"retry-after", b"1"))
        if status == 401:
            extra.append((b"www-authenticate", b"Bearer"))
        return await self.answer(
            status, json.dumps({"error": str(error), "code": error.code, "args": list(error.args)}).encode(), *extra
        )
