"""The model host: one replica of one served alias, as a bare ASGI application.

A request goes from top to bottom of `ModelHost._infer`: checked, features looked up, predicted, answered, logged, all
by the one version read at its start. The alias's moves happen beside it (`follower`), logging behind it (`tap`).
Nothing here knows Ray: the parts are handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat import identity
from rayplat.errors import BadRequest, PartFailed, RayplatError, Unauthenticated, Unavailable
from rayplat.serve import inputs
from rayplat.serve.follower import AliasFollower, PinnedVersions
from rayplat.serve.http import ClientGoneError, Exchange, Header, Receive, Scope, Send
from rayplat.serve.log_schema import Record
from rayplat.serve.ports import LoadedVersion, Loader, RegistryPort
from rayplat.serve.protocols import strict_json, v2
from rayplat.serve.routes import Route, route
from rayplat.serve.tap import InferenceTap
from rayplat.settings import ServeSettings
from rayplat.types import AliasHead, Role

log = logging.getLogger(__name__)

_INLINE_ROWS = 32  # smaller requests are computed on the loop: a hop to a thread costs more than they do
_DRAIN_S = 4.0  # what a stopping host may take to hand its last rows to the log


@dataclass(frozen=True)
class Parts:
    """What a host works with: the registry, the loader of versions, the log's tap (None logs nothing)."""

    registry: RegistryPort
    loader: Loader
    tap: InferenceTap | None


class ModelHost:
    """Serves ``model`` at ``alias``. `start` before the first request, `stop` after the last."""

    def __init__(self, settings: ServeSettings, model: str, alias: str, replica: str, parts: Parts) -> None:
        self._settings, self._model, self._alias, self._replica = settings, model, alias, replica
        self._registry, self._tap = parts.registry, parts.tap
        self._follower = AliasFollower(parts.registry, parts.loader, model, alias, replica, settings.poll_s)
        self._pinned = PinnedVersions(parts.registry, parts.loader, model)
        self._tokens = identity.TokenCache(settings.token_cache_s)
        self._batches = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._answers: Counter[int] = Counter()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the alias's version and begin to follow it. Raises NotFound for an unknown alias."""
        await self._follower.start()
        self._following = asyncio.create_task(self._follower.run(), name="follow-alias")

    async def stop(self) -> None:
        """Stop following and hand the last rows to the log."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        if self._tap is not None:
            await asyncio.to_thread(self._tap.close, _DRAIN_S)
        self._batches.shutdown(wait=False)

    def check_health(self) -> None:
        """Raises when this replica can no longer follow its alias; Serve then replaces it."""
        if self._following is not None and self._following.done():
            raise RuntimeError("the task that follows the alias has ended")

    def stats(self) -> dict[str, Any]:
        """Counts since the start, for `rayplat status` and metrics."""
        current = self._follower.current
        return {
            "model": self._model,
            "alias": self._alias,
            "replica": self._replica,
            "version": current.loaded.version,
            "generation": current.head.generation,
            "answers": {str(status): count for status, count in sorted(self._answers.items())},
            "swaps": self._follower.swaps,
            "failure": self._follower.failure,
            "log": self._tap.stats() if self._tap is not None else None,
        }

    async def flush_log(self, timeout_s: float = 10.0) -> bool:
        """Wait until every request answered so far is committed to the log; False after ``timeout_s``."""
        return self._tap is None or await asyncio.to_thread(self._tap.flush, timeout_s)

    # --- requests ---------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            exchange = Exchange(scope, receive, send)
            self._answers[await self._answer(exchange)] += 1

    async def _answer(self, exchange: Exchange) -> int:
        fields = {"model": self._model, "alias": self._alias, "request_id": exchange.id}
        try:
            return await self._dispatch(exchange)
        except ClientGoneError:
            return 499
        except RayplatError as e:
            if e.http_status >= 500:
                log.error("request failed: %s", e, extra=fields)
            return await exchange.answer_error(e)
        except Exception:
            log.exception("request failed", extra=fields)
            return await exchange.answer_error(PartFailed("the answer", "an internal error, see the host's log"))

    async def _dispatch(self, exchange: Exchange) -> int:
        found = route(exchange.path, self._alias)
        allowed = exchange.method in found.methods
        if found.action == "ready" and allowed:
            return await self._ready(exchange, found)
        await self._authorize(exchange)
        if not allowed:
            methods = ", ".join(found.methods)
            error = BadRequest(f"the method {exchange.method[:20]} is not supported here; {methods} is")
            return await exchange.answer_error(error, (b"allow", methods.encode()), status=405)
        if found.action == "metadata":
            return await self._metadata(exchange, found)
        return await self._infer(exchange, found)

    async def _infer(self, exchange: Exchange, found: Route) -> int:
        received_at, began = datetime.now(UTC), time.perf_counter()
        body = await exchange.read_json(self._settings.max_body_bytes)
        head, loaded = await self._version(found)
        request = v2.parse(body, loaded.spec, self._settings.max_rows, loaded.request_columns)
        at = request.event_time or received_at
        if request.rows <= _INLINE_ROWS:
            columns, outputs = _predict(loaded, request, at)
        else:
            loop = asyncio.get_running_loop()
            columns, outputs = await loop.run_in_executor(self._batches, _predict, loaded, request, at)
        request_id = request.id or exchange.id
        answer = v2.response(
            loaded.spec,
            loaded.version,
            request_id,
            {name: outputs[name] for name in request.outputs},
            alias=head.alias,
            generation=head.generation,
            digest=loaded.digest,
        )
        numeric, categorical = _by_kind(loaded, columns)
        record = Record(
            request_id=request_id,
            rows=request.rows,
            received_at=received_at,
            event_time=at,
            head=head,
            version=loaded.version,
            entity=request.entity,
            numeric=numeric,
            categorical=categorical,
            prediction=outputs[loaded.spec.outputs[0]],
            latency_ms=(time.perf_counter() - began) * 1000,
        )
        status = await exchange.answer(200, answer, _version_header(loaded))
        if self._tap is not None:
            self._tap.record(record)
        return status

    async def _version(self, found: Route) -> tuple[AliasHead, LoadedVersion]:
        """The version that answers, read once: the alias's own, or the exact one the path names."""
        current = self._follower.current
        if found.version is None:
            return current.head, current.loaded
        return current.head, self._held(found.version) or await self._pinned.get(found.version)

    def _held(self, version: int) -> LoadedVersion | None:
        for serving in (self._follower.current, self._follower.previous):
            if serving is not None and serving.loaded.version == version:
                return serving.loaded
        return self._pinned.find(version)

    async def _metadata(self, exchange: Exchange, found: Route) -> int:
        _, loaded = await self._version(found)
        previous = self._follower.previous
        versions = {loaded.version, self._follower.current.loaded.version, *self._pinned.held()}
        versions |= {previous.loaded.version} if previous else set()
        body = strict_json.encode(v2.metadata(loaded.spec, sorted(versions), loaded.request_columns))
        return await exchange.answer(200, body, _version_header(loaded))

    async def _ready(self, exchange: Exchange, found: Route) -> int:
        ready = found.version is None or self._held(found.version) is not None
        return await exchange.answer(200 if ready else 503, strict_json.encode({"name": self._model, "ready": ready}))

    async def _authorize(self, exchange: Exchange) -> None:
        secret = identity.bearer(exchange.header(b"authorization"))
        principal = self._tokens.get(secret)
        if principal is None:
            try:
                principal = await self._registry.authenticate(identity.hash_token(secret))
                self._tokens.put(secret, principal)
            except Unavailable:
                principal = self._tokens.stale(secret)
                if principal is None:
                    raise
        if principal is None:
            raise Unauthenticated("the token is not known, or it has been revoked or has expired")
        identity.require(principal, Role.VIEWER)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _predict(
    loaded: LoadedVersion, request: v2.InferRequest, at: datetime
) -> tuple[dict[str, Any], Mapping[str, npt.NDArray[np.float32]]]:
    """The model's columns and its outputs. Raises `PartFailed` for an output that is no finite number."""
    columns = inputs.columns(loaded, request, at)
    outputs = loaded.predictor.predict(columns)
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            part = f"version {loaded.version} of model {loaded.model!r}"
            raise PartFailed(part, f"its output {name!r} for row {row} is no finite number")
    return columns, outputs


def _by_kind(loaded: LoadedVersion, columns: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    numeric = {f.name: columns[f.name] for f in loaded.spec.features if f.kind == "numeric"}
    return numeric, {name: values for name, values in columns.items() if name not in numeric}


def _version_header(loaded: LoadedVersion) -> Header:
    return b"x-rayplat-model-version", str(loaded.version).encode()
