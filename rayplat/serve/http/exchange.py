"""One HTTP exchange over ASGI: read a bounded body, answer bytes or events, answer an error in the one shape.

Knows nothing of models. A client that goes away is `ClientGoneError`, which is nobody's error.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import pickle
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import orjson

from rayplat.errors import BadRequest, PartFailed, RayplatError, TooLarge, UnsupportedMediaType
from rayplat.serve.http import compression
from rayplat.serve.protocols import sse
from rayplat.serve.protocols.strict_json import short

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

TIMEOUT_HEADER = b"x-request-timeout-seconds"
_LARGE_BYTES = 16 << 10  # of a packed body, which may be a thousand times that
_BODY_S = 30.0  # a body that takes longer is not worth a slot
_TENSORS = ("application/json", "application/octet-stream", "")  # Triton's clients name the second, or none
_ONCE = (b"content-length", b"content-type", b"content-encoding", b"inference-header-content-length")
_SAFE = (b"x-content-type-options", b"nosniff")
_JSON = (b"content-type", b"application/json")


class ClientGoneError(ConnectionError):
    """The client closed the connection before its request was complete."""


class Exchange:
    """One request and its answer. ``path`` is what lies behind the application's route, as it was written (percent
    signs and all); ``id`` is the request's ``x-request-id``, made up where it has none (Serve passes one in and echoes
    it, so only a made-up one is sent). ``gone``: the client left while it was watched. ``counted``: somebody else has
    put the request into the metrics."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.method = str(scope["method"])
        self.path = path_of(scope)
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self._headers.get(b"x-request-id")
        direct = "rayplat.direct" in scope  # Serve, which echoes ids, is not in between
        self.id = str(given[:128], "latin-1") if given else uuid.uuid4().hex
        self._echo: tuple[Header, ...] = () if given and not direct else ((b"x-request-id", self.id.encode("latin-1")),)
        self.gone = False
        self.counted = False

    # --- what was asked -------------------------------------------------------------------------------

    def header(self, name: bytes) -> str | None:
        """The last value of a request header (names are lower case), or None."""
        value = self._headers.get(name)
        return None if value is None else str(value, "latin-1")

    def headers(self) -> dict[str, str]:
        """All headers, the last value of each."""
        return {str(name, "latin-1"): str(value, "latin-1") for name, value in self._headers.items()}

    @property
    def content_type(self) -> str:
        return self.header(b"content-type") or ""

    @property
    def header_length(self) -> int | None:
        """How many bytes of the body are JSON where raw tensors follow it. Raises `BadRequest` for no number."""
        value = self._headers.get(b"inference-header-content-length")
        if value is None:
            return None
        if not value.isdigit() or len(value) > 18:
            raise BadRequest(f"inference-header-content-length must be a number of bytes, found {short(value)}")
        return int(value)

    @property
    def wants_events(self) -> bool:
        value = self._headers.get(b"accept")
        return value is not None and b"text/event-stream" in value

    @property
    def timeout_s(self) -> float | None:
        """How long the client will wait, from ``x-request-timeout-seconds``; None for no word or nonsense."""
        value = self._headers.get(TIMEOUT_HEADER)
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            return None
        return seconds if 0 < seconds < math.inf else None

    def check_json(self) -> None:
        """Raises `UnsupportedMediaType` for a body that is said to be something else than JSON or tensors. A form is
        refused too, though ``curl -d`` says so of every body: guessing would take anything."""
        media = self.content_type.partition(";")[0].strip().lower()
        if media not in _TENSORS:
            hint = " (curl -d needs -H 'content-type: application/json')" if "form" in media else ""
            raise UnsupportedMediaType(f"the content type must be application/json, found {short(media)!r}{hint}")

    async def read_json(self, limit: int) -> bytes:
        """`read` after `check_json`."""
        self.check_json()
        return await self.read(limit)

    async def read(self, limit: int) -> bytes:
        """The body, unpacked. Raises `TooLarge` above ``limit`` bytes (of what it is unpacked to, too) before buffering
        more, and `BadRequest` for headers that contradict each other or a body that does not arrive."""
        self._check_headers()
        declared = self._headers.get(b"content-length")
        if declared is not None:
            if not declared.isdigit():
                raise BadRequest(f"content-length must be a number of bytes, found {short(declared)}")
            if len(declared) > 18 or int(declared) > limit:
                raise TooLarge("the body", int(declared[:18]), limit)
        try:
            async with asyncio.timeout(_BODY_S):
                body = await self._read(limit)
        except TimeoutError:
            raise BadRequest(f"the body did not arrive within {_BODY_S:.0f} s") from None
        if declared is not None and len(body) != int(declared):
            raise BadRequest(f"the body has {len(body)} bytes, content-length says {int(declared)}")
        encoding = self._headers.get(b"content-encoding")
        if encoding is None:
            return body
        if len(body) < _LARGE_BYTES:
            return compression.unpacked(body, encoding, limit)
        return await asyncio.to_thread(compression.unpacked, body, encoding, limit)

    def _check_headers(self) -> None:
        given = self._scope["headers"]
        if len(self._headers) != len(given):
            for name in _ONCE:
                if len({value for key, value in given if key == name}) > 1:
                    raise BadRequest(f"the header {name.decode()} is given twice and differently")
        if b"transfer-encoding" in self._headers and b"content-length" in self._headers:
            raise BadRequest("content-length and transfer-encoding contradict each other; send one of them")

    async def _read(self, limit: int) -> bytes:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body = bytes(message.get("body", b""))
            if len(body) > limit:
                raise TooLarge("the body", len(body), limit)
            return body
        chunks: list[bytes] = []
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise TooLarge("the body", size, limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)
            message = await self._receive()

    @contextlib.contextmanager
    def watched(self, after_s: float) -> Iterator[None]:
        """Cancel the present task once the client leaves; ``gone`` then says why. Watching begins after ``after_s``
        seconds, so a quick request pays for a timer only. The body must have been read."""
        task = asyncio.current_task()
        watching: list[asyncio.Task[None]] = []

        async def watch() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.gone = True
            if task is not None:
                task.cancel()

        loop = asyncio.get_running_loop()
        timer = loop.call_later(after_s, lambda: watching.append(loop.create_task(watch())))
        try:
            yield
        finally:
            timer.cancel()
            for one in watching:
                one.cancel()

    # --- what is answered -----------------------------------------------------------------------------

    async def answer(self, status: int, body: bytes, *headers: Header) -> int:
        """Send one complete answer, JSON unless ``headers`` say otherwise; the status sent."""
        accepted = self._headers.get(b"accept-encoding")
        if accepted is not None:
            coding = compression.choose(accepted, len(body))
            if coding is not None:
                body = compression.packed(body, coding)
                headers = (*headers, (b"content-encoding", coding.encode()), (b"vary", b"accept-encoding"))
        typed = any(name == b"content-type" for name, _ in headers)
        start = [
            *(() if typed else (_JSON,)),
            (b"content-length", str(len(body)).encode()),
            _SAFE,
            *self._echo,
            *headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": start})
        await self._send({"type": "http.response.body", "body": body})
        return status

    async def answer_error(self, error: RayplatError, *headers: Header, status: int = 0) -> int:
        """Send ``error`` in the one shape; ``status`` overrides the class's own."""
        status = status or error.http_status
        return await self.answer(status, error_body(error), *headers, *self.headers_of(error, status))

    def headers_of(self, error: RayplatError, status: int = 0) -> tuple[Header, ...]:
        """What an answer with ``error`` says beside its body: when to come again, or with what."""
        found: list[Header] = []
        if error.retryable:
            wait_s = math.ceil(getattr(error, "retry_after_s", 1.0))
            found.append((b"retry-after", str(max(1, wait_s)).encode()))
        if (status or error.http_status) == 401:
            found.append((b"www-authenticate", b"Bearer"))
        return tuple(found)

    async def answer_events(self, events: AsyncIterator[bytes], *headers: Header) -> int:
        """Send each of ``events`` as a server-sent event. An error before the first is raised; a later one is the last
        event. A client that leaves ends it: ``events`` is closed, and the status is 499."""
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(events, "aclose"):
                stack.push_async_callback(events.aclose)
            leaving = asyncio.ensure_future(self._left())
            stack.callback(leaving.cancel)
            first = await self._unless_left(events, leaving)
            start = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), _SAFE]
            await self._send({"type": "http.response.start", "status": 200, "headers": [*start, *self._echo, *headers]})
            event = first
            while event is not None:
                await self._send({"type": "http.response.body", "body": sse.event(event), "more_body": True})
                try:
                    event = await self._unless_left(events, leaving)
                except ClientGoneError:
                    self.gone = True
                    return 499
                except RayplatError as e:
                    await self._send(
                        {"type": "http.response.body", "body": sse.error(error_body(e)), "more_body": True}
                    )
                    event = None
            await self._send({"type": "http.response.body", "body": b""})
        return 200

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _unless_left(self, events: AsyncIterator[bytes], leaving: asyncio.Future[None]) -> bytes | None:
        """The next event, None at the end. Raises `ClientGoneError` once the client has left."""
        coming = asyncio.ensure_future(_next(events))
        try:
            await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            raise ClientGoneError
        finally:
            if not coming.done():
                coming.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await coming


def path_of(scope: Scope) -> str:
    """The path behind the application's route as the client wrote it, still percent-encoded."""
    root = scope.get("root_path", "")
    raw = scope.get("raw_path")
    if raw is not None:
        written = str(raw, "latin-1").partition("?")[0]
        if written.startswith(root):
            return written[len(root) :]
    return str(scope["path"]).removeprefix(root)


def error_body(error: RayplatError) -> bytes:
    """``error`` in the one shape."""
    said = {"error": str(error), "code": error.code, "args": list(error.args)}
    try:
        return orjson.dumps(said, default=str)
    except TypeError:  # text with half a character in it
        said = {"error": short(str(error)), "code": error.code, "args": [short(arg) for arg in error.args]}
        return orjson.dumps(said)


async def forwarded(app: Callable[[Scope, Receive, Send], Awaitable[None]], packed: bytes) -> bytes:
    """A whole HTTP request through ``app`` within the process: ``packed`` is a pickle of (method, path behind the
    route, headers, body), the answer one of (status, headers, body)."""
    method, path, headers, body = pickle.loads(packed)
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()  # the client is another process, which waits
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": list(headers)}
    await app(scope, receive, send)
    if not sent:
        raise PartFailed("the answer", "the host gave none")
    status, said = sent[0]["status"], [(bytes(key), bytes(value)) for key, value in sent[0]["headers"]]
    return pickle.dumps((status, said, b"".join(message.get("body", b"") for message in sent[1:])))


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(events)
    except StopAsyncIteration:
        return None
