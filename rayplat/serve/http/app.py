"""The HTTP side of a model host: from a path and its bytes to the data plane, and back.

A request goes from top to bottom of `HttpApp._infer`. What the bytes mean is the protocols' business, what the answer
is the data plane's; here is who may ask, until when, and what an error looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from rayplat.errors import BadRequest, PartFailed, RayplatError
from rayplat.identity import hash_token
from rayplat.serve.access import PREDICT, Access
from rayplat.serve.computing.calls import Calls
from rayplat.serve.dataplane import DataPlane, Serving
from rayplat.serve.http.exchange import ClientGoneError, Exchange, Header, Receive, Scope, Send
from rayplat.serve.http.routes import Route, prefix, route
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.protocols import mlflow, openapi, strict_json, v2
from rayplat.serve.rate import RateLimit
from rayplat.serve.request import Answer, Call, InferRequest
from rayplat.serve.telemetry.metrics import CONTENT_TYPE, HostMetrics
from rayplat.settings import ServeSettings
from rayplat.types import EndpointSpec, Principal

log = logging.getLogger(__name__)
T = TypeVar("T")

TARGET_HEADER = b"x-rayplat-target"
_OPEN = frozenset({"ready", "ping", "version"})  # routes that say nothing of the model but that it is there
_LARGE_BYTES = 256 << 10  # of a body; the loop stands for about 20 ms for each megabyte of JSON
_WATCH_S = 0.05  # from then on a request is given up when its client leaves; shorter ones are not worth a task


class HttpApp:
    """The ASGI application of one model host."""

    def __init__(
        self, settings: ServeSettings, spec: EndpointSpec, plane: DataPlane, access: Access, metrics: HostMetrics
    ) -> None:
        self._settings, self._spec, self._plane = settings, spec, plane
        self._access, self._metrics = access, metrics
        self._route = prefix(spec.model, spec.alias)
        self._rate = RateLimit.of(spec.limits)
        self._reading = Calls("read", "the reading of the body", 1)  # one at a time: it takes many times its size
        self._actions: dict[str, Callable[[Exchange, Route, Principal | None], Awaitable[int]]] = {
            "infer": self._infer,
            "stream": self._stream,
            "explain": self._explain,
            "invocations": self._invocations,
            "metadata": self._metadata,
            "ready": self._ready,
            "openapi": self._openapi,
        }
        self.page: Callable[[], str] = str  # what Prometheus reads; the host sets it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        found: Route | None = None
        try:
            found = route(exchange.path, self._spec.alias)
            await self._dispatch(exchange, found)
        except ClientGoneError:
            self._metrics.refused(499)
        except RayplatError as e:
            await self._refuse(exchange, found, e)
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
            self._metrics.refused(499)
        except Exception:
            log.exception("request failed", extra=self._fields(exchange))
            await self._refuse(exchange, found, PartFailed("the answer", "an internal error, see the host's log"))

    async def _dispatch(self, exchange: Exchange, found: Route) -> None:
        principal: Principal | None = None
        if found.action not in _OPEN:
            secret = exchange.header(b"authorization")
            public = self._spec.public and found.action != "metrics"
            principal = await self._access.principal(secret, PREDICT, public)
            self.take(secret, principal)
        method = "GET" if exchange.method == "HEAD" else exchange.method  # the server leaves the body out by itself
        if method not in found.methods:
            methods = ", ".join(found.methods)
            error = BadRequest(f"the method {exchange.method[:20]} is not supported here; {methods} is")
            await exchange.answer_error(error, (b"allow", methods.encode()), status=405)
            self._metrics.refused(405)
            return
        if found.action == "ping":
            await exchange.answer(200, mlflow.PING)
        elif found.action == "version":
            await exchange.answer(200, mlflow.version(), (b"content-type", b"text/plain"))
        elif found.action == "metrics":
            await exchange.answer(200, self.page().encode(), (b"content-type", CONTENT_TYPE.encode()))
        else:
            await self._actions[found.action](exchange, found, principal)

    def close(self) -> None:
        """End its thread."""
        self._reading.close()

    def take(self, secret: str | None, principal: Principal | None) -> None:
        """Count the request against its token's limit, whichever way it came. Raises `Overloaded`."""
        if self._rate is None:
            return
        if principal is None or secret is None:
            self._rate.take(None)
        else:
            self._rate.take(hash_token(secret), principal.name)

    # --- inference ------------------------------------------------------------------------------------

    async def _infer(self, exchange: Exchange, found: Route, principal: Principal | None) -> int:
        call = self._call(exchange, principal)
        self._plane.admit(call)
        request, serving = await self._asked(exchange, found, call)
        if exchange.wants_events:
            return await self._events(exchange, request, call, serving)
        answer = await self._answered(exchange, request, call, serving)
        content, headers = v2.response(answer, request)
        return await exchange.answer(200, content, *headers, *_named(answer))

    async def _invocations(self, exchange: Exchange, found: Route, principal: Principal | None) -> int:
        call = self._call(exchange, principal)
        self._plane.admit(call)
        body = await exchange.read(self._settings.max_body_bytes)
        serving = await self._plane.serving(found.version, call.deadline)
        kind, signature = exchange.content_type, serving.loaded.signature
        request = await self._read(body, call, partial(mlflow.parse, body, kind, signature, self._settings.max_rows))
        _note(request, call)
        answer = await self._answered(exchange, request, call, serving)
        return await exchange.answer(200, mlflow.response(answer, request), *_named(answer))

    async def _stream(self, exchange: Exchange, found: Route, principal: Principal | None) -> int:
        call = self._call(exchange, principal)
        request, serving = await self._asked(exchange, found, call)
        return await self._events(exchange, request, call, serving)

    async def _asked(self, exchange: Exchange, found: Route, call: Call) -> tuple[v2.Request, Serving]:
        """The request of protocol v2, and the version it was parsed for."""
        exchange.check_json()
        body = await exchange.read(self._settings.max_body_bytes)
        length = exchange.header_length
        if found.version is not None and self._plane.held(found.version) is None:  # its load is under the limit, too
            present = await self._plane.serving(None)
            wanted = partial(v2.timeout_s, body, present.loaded.signature, length)
            _limit(call, await self._read(body, call, wanted))
        serving = await self._plane.serving(found.version, call.deadline)
        parse = partial(v2.parse, body, serving.loaded.signature, self._settings.max_rows, length)
        request = await self._read(body, call, parse)
        _note(request, call)
        return request, serving

    async def _read(self, body: bytes, call: Call, parse: Callable[[], T]) -> T:
        """What ``parse`` makes of ``body``. A large one beside the loop: JSON is decoded under the interpreter's lock
        wherever that is done, but what is made of it, and other formats, let other requests in between."""
        if len(body) < _LARGE_BYTES:
            return parse()
        return await self._reading.run(parse, self._left_s(call))

    def _left_s(self, call: Call) -> float:
        return self._spec.limits.deadline_s if call.deadline is None else max(call.deadline - time.monotonic(), 0.001)

    async def _events(self, exchange: Exchange, request: v2.Request, call: Call, serving: Serving) -> int:
        async def events() -> AsyncIterator[bytes]:
            async with contextlib.aclosing(self._plane.stream(request, call, serving)) as answers:
                async for answer in answers:
                    yield v2.response(answer, None)[0]

        return await exchange.answer_events(events(), *_version(serving.loaded))

    async def _explain(self, exchange: Exchange, found: Route, principal: Principal | None) -> int:
        call = self._call(exchange, principal)
        request, serving = await self._asked(exchange, found, call)
        with exchange.watched(_WATCH_S):
            explanation = await self._plane.explain(request, call, serving)
        content = v2.explanation(serving.loaded, serving.head, call.request_id, explanation)
        return await exchange.answer(200, content, *_version(serving.loaded))

    async def _answered(self, exchange: Exchange, request: InferRequest, call: Call, serving: Serving) -> Answer:
        exchange.counted = True  # by the data plane, from here on
        with exchange.watched(_WATCH_S):
            return await self._plane.infer(request, call, serving)

    def _call(self, exchange: Exchange, principal: Principal | None) -> Call:
        now = time.monotonic()
        wanted_s = exchange.timeout_s
        limit_s = self._spec.limits.deadline_s
        releasing = self._plane.releasing
        return Call(
            request_id=exchange.id,
            received_at=datetime.now(UTC),
            principal=principal,
            target=exchange.header(TARGET_HEADER) if releasing else None,
            deadline=now + (limit_s if wanted_s is None else min(wanted_s, limit_s)),
            headers=exchange.headers() if releasing is not None and releasing.release.generation else {},
            traceparent=exchange.header(b"traceparent"),
        )

    # --- about the model ------------------------------------------------------------------------------

    async def _metadata(self, exchange: Exchange, found: Route, _: Principal | None) -> int:
        serving = await self._plane.serving(found.version)
        body = strict_json.encode(v2.metadata(serving.loaded, self._plane.versions()))
        return await exchange.answer(200, body, *_version(serving.loaded))

    async def _ready(self, exchange: Exchange, found: Route, _: Principal | None) -> int:
        ready = found.version is None or self._plane.held(found.version) is not None
        return await exchange.answer(200 if ready else 503, v2.ready(self._spec.model, ready))

    async def _openapi(self, exchange: Exchange, found: Route, _: Principal | None) -> int:
        serving = await self._plane.serving(found.version)
        document = openapi.document(serving.loaded, self._route, self._spec.alias, public=self._spec.public)
        return await exchange.answer(200, document)

    @property
    def rate_limited(self) -> int:
        """Requests refused because their token sent too many."""
        return self._rate.refused if self._rate is not None else 0

    # --- refusals -------------------------------------------------------------------------------------

    async def _refuse(self, exchange: Exchange, found: Route | None, error: RayplatError) -> None:
        """Answer with ``error``, in the shape of the protocol that was spoken, and count it."""
        status = error.http_status
        if status >= 500:
            log.error("request failed: %s", error, extra=self._fields(exchange))
        if found is not None and found.action == "invocations":
            status, body = mlflow.error(error)
            with contextlib.suppress(ClientGoneError):
                await exchange.answer(status, body, *exchange.headers_of(error))
        else:
            with contextlib.suppress(ClientGoneError):
                await exchange.answer_error(error)
        if not exchange.counted:
            self._metrics.refused(status)

    def _fields(self, exchange: Exchange) -> dict[str, Any]:
        return {"model": self._spec.model, "alias": self._spec.alias, "request_id": exchange.id}


def _note(request: InferRequest, call: Call) -> None:
    """What the body says about the call: its id, which names the request from here on, and a time limit."""
    if request.id is not None:
        call.request_id = request.id
    _limit(call, getattr(request, "timeout_s", None))


def _limit(call: Call, timeout_s: float | None) -> None:
    if timeout_s is not None and call.deadline is not None:
        call.deadline = min(call.deadline, time.monotonic() + timeout_s)


def _version(loaded: LoadedVersion) -> tuple[Header, ...]:
    return ((b"x-rayplat-model-version", str(loaded.version).encode()),)


def _named(answer: Answer) -> tuple[Header, ...]:
    return (
        (b"x-rayplat-model-version", str(answer.loaded.version).encode()),
        (b"x-rayplat-variant", answer.variant.encode()),
    )
