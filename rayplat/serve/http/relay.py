"""A whole HTTP request that is answered in another process: packed here, run against that process's ASGI application,
and its answer sent on. What it means is known only there.

A request of one process to another costs one hop (a Serve handle). Answers that come in pieces are sent on piece by
piece.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

from rayplat.errors import RayplatError
from rayplat.serve.http.exchange import TIMEOUT_HEADER, Receive, Scope, Send

Headers = Sequence[tuple[bytes, bytes]]
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"})
_NOT_SENT_ON = _HOP_BY_HOP | {b"content-length", b"content-encoding", b"x-request-id"}


class HttpRequest(NamedTuple):
    """``root`` is where the application is, ``rest`` the path behind it as the client wrote it (percent-encoded).
    ``direct``: nobody in between puts the request's id on the answer. ``model`` and ``alias`` say whom it is for, to a
    process that holds many: each argument of a call to another process costs, so they travel in this one."""

    method: str
    root: str
    rest: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    direct: bool = True
    model: str = ""
    alias: str = ""


class HttpAnswer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Application(Protocol):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


def request(
    scope: Scope, place: tuple[str, str], request_id: str, body: bytes, left_s: float | None = None
) -> HttpRequest:
    """The request of ``scope`` as it is sent on: to ``place`` (root and rest), with its body as it was read and
    unpacked, under the id it has here. ``left_s``: how long the client still waits, where it has said so."""
    headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_SENT_ON]
    if left_s is not None:
        headers = [(name, value) for name, value in headers if name != TIMEOUT_HEADER]
        headers.append((TIMEOUT_HEADER, f"{max(left_s, 0.001):.6f}".encode()))
    headers.append((b"content-length", str(len(body)).encode()))
    headers.append((b"x-request-id", request_id.encode("latin-1")))
    query = bytes(scope.get("query_string", b""))
    return HttpRequest(str(scope["method"]), *place, query, headers, body, "rayplat.direct" in scope)


def pack(request: HttpRequest) -> bytes:
    return pickle.dumps(tuple(request))


def unpack_request(packed: bytes) -> HttpRequest:
    return HttpRequest(*pickle.loads(packed))


async def answer(app: Application, sent: HttpRequest) -> bytes:
    """The application's whole answer, for `unpack`."""
    return pickle.dumps((True, tuple(await run(app, sent))))


def failed(error: RayplatError) -> bytes:
    """What stands for the answer of a process that has none, for `unpack`."""
    return pickle.dumps((False, error.with_traceback(None)))


def unpack(packed: bytes) -> HttpAnswer:
    """The answer. Raises the error of a process that had none."""
    went_well, found = pickle.loads(packed)
    if not went_well:
        raise found
    return HttpAnswer(*found)


async def run(app: Application, sent: HttpRequest) -> HttpAnswer:
    """The application's answer to ``sent``, put together."""
    answered = _Answered()
    await app(_scope(sent), _Body(sent.body), answered)
    return HttpAnswer(answered.status, answered.headers, b"".join(answered.body))


async def pieces(app: Application, sent: HttpRequest) -> AsyncGenerator[bytes, None]:
    """The application's answer in pieces: status and headers, and then the parts of its body, as they come.

    Closing it ends the application's work as a client that leaves does.
    """
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(16)

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await queue.put(pickle.dumps((True, (message["status"], list(message["headers"])))))
        elif message.get("body"):
            await queue.put(message["body"])

    async def work() -> None:
        try:
            await app(_scope(sent), _Body(sent.body), send)
        finally:
            await queue.put(None)

    task = asyncio.create_task(work(), name="forwarded-stream")
    try:
        while (piece := await queue.get()) is not None:
            yield piece
        await task
    finally:
        task.cancel()


async def send_on(answered: HttpAnswer, send: Send) -> int:
    """Send the answer to the client; its status."""
    await send({"type": "http.response.start", "status": answered.status, "headers": answered.headers})
    await send({"type": "http.response.body", "body": answered.body})
    return answered.status


async def send_pieces(found: AsyncGenerator[bytes, None], send: Send) -> int:
    """Send what `pieces` gives to the client; the status. Raises the error of a process that had no answer."""
    went_well, start = pickle.loads(await anext(found))
    if not went_well:
        raise start
    status, headers = start
    await send({"type": "http.response.start", "status": status, "headers": headers})
    async for piece in found:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
    return int(status)


def _scope(sent: HttpRequest) -> dict[str, Any]:
    written = sent.root + sent.rest
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": sent.method,
        "scheme": "http",
        "path": unquote(written),
        "raw_path": written.encode(),
        "root_path": sent.root,
        "query_string": sent.query,
        "headers": sent.headers,
    }
    if sent.direct:
        scope["rayplat.direct"] = True
    return scope


class _Body:
    """ASGI's ``receive`` for a body that is there as a whole. Then it is silent: the client has not left."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._body is None:
            await asyncio.Event().wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Answered:
    """ASGI's ``send`` that keeps what it is given."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        elif message.get("body"):
            self.body.append(message["body"])
