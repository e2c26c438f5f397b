"""The front of the pool: requests for models whose paths belong to no host of their own, checked and sent on.

Pooled models are answered by their worker, the others by their own hosts: those reach this place by a path that is
written otherwise (percent-encoded), or while the ingress does not know them yet. The same front answers MLflow's routes
at the root, for the default model. A request costs one hop (a Serve handle) beyond this process. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol
from urllib.parse import quote, unquote

from rayplat.errors import NotFound, PartFailed, RayplatError
from rayplat.serve.access import PREDICT, Access
from rayplat.serve.deployment import deploy
from rayplat.serve.http import relay, routes
from rayplat.serve.http.exchange import ClientGoneError, Exchange, Receive, Scope, Send
from rayplat.serve.http.routes import DEFAULT_ALIAS
from rayplat.serve.pool import placement
from rayplat.serve.pool.table import EndpointTable
from rayplat.serve.protocols import mlflow, strict_json
from rayplat.types import EndpointSpec

log = logging.getLogger(__name__)

_WATCH_S = 0.05
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_OPEN = ("/ready", "/ping", "/health", "/version")
_STREAMS = ("/infer_stream", "/generate_stream")
_ROOT = ("invocations", "ping", "version")


class Reach(Protocol):
    """Calls of other processes by the name of their Serve application. Raise `Unavailable` where one cannot be
    reached, and its own errors."""

    async def call(self, application: str, method: str, *args: Any) -> Any: ...

    def stream(self, application: str, method: str, *args: Any) -> AsyncGenerator[bytes, None]: ...


class PoolFront:
    """The ASGI application. ``workers`` are the names of the pool's applications."""

    def __init__(
        self, table: EndpointTable, access: Access, reach: Reach, workers: Sequence[str], max_body_bytes: int
    ) -> None:
        self._table, self._access, self._reach = table, access, reach
        self._workers, self._max_body_bytes = tuple(workers), max_body_bytes
        self._worker: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        written = _written(scope)
        try:
            await self._answer(exchange, scope, written, send)
        except ClientGoneError:
            return
        except RayplatError as e:
            if e.http_status >= 500:
                log.warning("%s: %s", written[:200], e)
            await _refuse(exchange, written, e)
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
        except Exception:
            log.exception("%s failed", written[:200])
            await _refuse(exchange, written, PartFailed("the answer", "an internal error, see the pool's log"))

    async def call(self, model: str, alias: str, method: str, *args: Any) -> Any:
        """A method of the host of an alias, for other processes: gRPC and variants. Raises `NotFound`."""
        spec = await self._table.get(model, alias)
        if spec.placement == "pooled":
            return await self._reach.call(self.worker(model), method, model, alias, *args)
        return await self._reach.call(deploy.app_name(model, alias), method, *args)

    async def refresh(self) -> None:
        """Read anew what is served. Raises `Unavailable` while the registry cannot be reached."""
        await self._table.refresh()

    def worker(self, model: str) -> str:
        """The application that holds a model."""
        found = self._worker.get(model)
        if found is None:
            found = placement.worker_of(model, self._workers)
            if len(self._worker) < 100_000:  # names are the record's, but who knows how many those are
                self._worker[model] = found
        return found

    # --- a request ------------------------------------------------------------------------------------

    async def _answer(self, exchange: Exchange, scope: Scope, written: str, send: Send) -> None:
        until = None if exchange.timeout_s is None else time.monotonic() + exchange.timeout_s
        if written.rstrip("/") == "/v2/models":
            await self._list(exchange)
            return
        authorization = exchange.header(b"authorization")
        spec, rest = await self._place(written, authorization)
        if not rest.endswith(_OPEN):
            await self._access.principal(authorization, PREDICT, spec.public)
        body = await exchange.read(self._max_body_bytes)
        place = (routes.prefix(spec.model, spec.alias), rest)
        left_s = None if until is None else until - time.monotonic()
        sent = relay.request(scope, place, exchange.id, body, left_s)
        packed = relay.pack(sent._replace(model=spec.model, alias=spec.alias))
        if exchange.wants_events or rest.endswith(_STREAMS):
            await self._stream(spec, packed, send)
            return
        with exchange.watched(_WATCH_S):
            answered = await self._reach.call(self._application(spec), "http", packed)
        await relay.send_on(relay.unpack(answered), send)

    async def _stream(self, spec: EndpointSpec, packed: bytes, send: Send) -> None:
        async with contextlib.aclosing(self._reach.stream(self._application(spec), "http_stream", packed)) as found:
            await relay.send_pieces(found, send)

    def _application(self, spec: EndpointSpec) -> str:
        return self.worker(spec.model) if spec.placement == "pooled" else deploy.app_name(spec.model, spec.alias)

    async def _place(self, written: str, authorization: str | None) -> tuple[EndpointSpec, str]:
        """The endpoint that a path means, and the rest of the path for its host. Who has no token is told so, and not
        what is served here."""
        try:
            found = routes.server(written)
            if found.action in _ROOT:
                return await self._table.default(), written
            if found.action != "model":
                raise NotFound("path", written[:80], "see /v2/models")
            alias, rest = _alias(found.rest)
            return await self._table.get(found.model, alias), rest
        except NotFound:
            await self._access.principal(authorization, PREDICT)
            raise

    async def _list(self, exchange: Exchange) -> None:
        await self._access.principal(exchange.header(b"authorization"), PREDICT)
        specs = await self._table.listed()
        models = [
            {"name": s.model, "alias": s.alias, "placement": s.placement, "path": routes.prefix(s.model, s.alias)}
            for s in specs
        ]
        await exchange.answer(200, strict_json.encode({"models": models}))


async def _refuse(exchange: Exchange, written: str, error: RayplatError) -> None:
    with contextlib.suppress(ClientGoneError):
        if written.endswith("/invocations"):
            status, body = mlflow.error(error)
            await exchange.answer(status, body, *exchange.headers_of(error))
        else:
            await exchange.answer_error(error)


def _written(scope: Scope) -> str:
    """The whole path as the client wrote it."""
    raw = scope.get("raw_path")
    return quote(scope["path"]) if raw is None else str(raw, "latin-1").partition("?")[0]


def _alias(rest: str) -> tuple[str, str]:
    """Which alias a path behind the model's name is for, and what is left of it: ``/versions/challenger/infer`` is
    ``/infer`` of that alias, ``/versions/7/infer`` goes to the default alias as it is."""
    parts = rest.split("/", 3)
    if len(parts) < 3 or parts[1] != "versions" or not parts[2]:
        return DEFAULT_ALIAS, rest
    named = unquote(parts[2])
    if _NUMBER.fullmatch(named) or named == DEFAULT_ALIAS:
        return DEFAULT_ALIAS, rest
    return named, f"/{parts[3]}" if len(parts) > 3 else ""
