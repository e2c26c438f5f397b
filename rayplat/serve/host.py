"""The model host: what one replica has around one served alias, and what other processes may ask of it.

It follows the alias (`follower`), computes (`dataplane`), and answers HTTP (`asgi`). Nothing here knows Ray: the parts
that reach outside are handed in, so a pool makes many hosts in one process and a test runs one under any ASGI server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import time
from dataclasses import dataclass
from typing import Any, Protocol

from rayplat.errors import PartFailed, RayplatError
from rayplat.serve.access import Access
from rayplat.serve.computing.batching import Batcher
from rayplat.serve.dataplane import SHADOW, Counting, DataPlane, Releasing, relabelled
from rayplat.serve.follower import AliasFollower, PinnedVersions
from rayplat.serve.http.app import HttpApp
from rayplat.serve.http.exchange import Receive, Scope, Send
from rayplat.serve.log.tap import InferenceTap
from rayplat.serve.ports import Loader, RegistryPort
from rayplat.serve.release import forwarding
from rayplat.serve.telemetry.metrics import HostMetrics
from rayplat.serve.telemetry.tracing import Tracing
from rayplat.settings import ServeSettings
from rayplat.types import EndpointSpec

log = logging.getLogger(__name__)

_DRAIN_S = 4.0  # what a stopping host may take to hand its last rows to the log


class Release(Releasing, Protocol):
    """Release control with a life of its own: it follows the registry and talks to other hosts."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def stats(self) -> dict[str, Any]: ...

    def counting(self, then: Counting | None) -> Counting: ...


@dataclass(frozen=True)
class Parts:
    """What a host works with. ``tap`` None logs nothing; ``releasing`` None answers everything itself; ``access`` is
    made from the settings where a process has no common one."""

    registry: RegistryPort
    loader: Loader
    tap: InferenceTap | None = None
    releasing: Release | None = None
    access: Access | None = None
    tracing: Tracing | None = None


class ModelHost:
    """Serves ``spec.model`` at ``spec.alias``. `start` before the first request, `stop` after the last."""

    def __init__(self, settings: ServeSettings, spec: EndpointSpec, replica: str, parts: Parts) -> None:
        self._spec, self._replica, self._parts = spec, replica, parts
        self._batcher = Batcher(spec.batching, spec.limits)
        self._follower = AliasFollower(
            parts.registry, parts.loader, spec.model, spec.alias, replica, settings.poll_s, self._batcher.measure
        )
        pinned = PinnedVersions(parts.registry, parts.loader, spec.model)
        self._metrics = HostMetrics(spec.model, spec.alias)
        self.plane = DataPlane(
            spec,
            (self._follower, pinned),
            self._batcher,
            tap=parts.tap,
            counts=self._metrics if parts.releasing is None else parts.releasing.counting(self._metrics),
            releasing=parts.releasing,
        )
        self.plane.tracing = parts.tracing
        access = parts.access or Access(parts.registry, settings.token_cache_s)
        self._app = HttpApp(settings, spec, self.plane, access, self._metrics)
        self._app.page = self.metrics
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the alias's version and begin to follow it. Raises NotFound for an unknown alias."""
        await self._follower.start()
        self._following = asyncio.create_task(self._follower.run(), name="follow-alias")
        if self._parts.releasing is not None:
            await self._parts.releasing.start()

    async def stop(self) -> None:
        """Stop following and hand the last rows to the log."""
        if self._parts.releasing is not None:
            await self._parts.releasing.stop()
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        if self._parts.tap is not None:
            await asyncio.to_thread(self._parts.tap.close, _DRAIN_S)
        self._batcher.close()
        self.plane.close()
        self._app.close()

    def check_health(self) -> None:
        """Raises when this replica can no longer follow its alias or compute; Serve then replaces it."""
        if self._following is not None and self._following.done():
            raise RuntimeError("the task that follows the alias has ended")
        self._batcher.check_health()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":  # there are none here: 403 to the handshake
            await receive()
            await send({"type": "websocket.close"})

    # --- what other processes ask, by handle ----------------------------------------------------------

    async def infer_forwarded(self, packed: bytes) -> bytes:
        """The answer to a request that came to another process (`forwarding`), which has checked who asks."""
        request, call, role, known = forwarding.unpack_request(packed)
        try:
            return forwarding.pack_answer(await self.plane.infer_as(role, request, call), known)
        except RayplatError as e:
            return forwarding.pack_error(e)
        except Exception:
            log.exception("a forwarded request failed", extra={"model": self._spec.model, "alias": self._spec.alias})
            return forwarding.pack_error(PartFailed("the answer", "an internal error, see the host's log"))

    async def infer_remote(self, packed: bytes) -> bytes:
        """The answer to a client's request that came to the gRPC server: ``packed`` is a pickle of (request, call,
        exact version or None). It goes the way of a request that came here; the server has checked who asks."""
        request, call, version = pickle.loads(packed)
        call = forwarding.within(call, self._spec.limits.deadline_s)
        try:
            self._app.take(call.headers.get("authorization"), call.principal)
            serving = await self.plane.serving(version, call.deadline)
            return pickle.dumps((True, relabelled(await self.plane.infer(request, call, serving))))
        except RayplatError as e:
            return pickle.dumps((False, e.with_traceback(None)))
        except Exception:
            log.exception("a remote request failed", extra={"model": self._spec.model, "alias": self._spec.alias})
            return pickle.dumps((False, PartFailed("the answer", "an internal error, see the host's log")))

    async def shadow(self, packed: bytes) -> None:
        """Compute copies of other hosts' requests, one after the other, for the log only.

        Spread over the time until the next ones come: all at once they would hold a core for long, which the primary's
        host may share."""
        copies = forwarding.unpack_copies(packed)
        each_s = 0.8 * forwarding.COPIES_EVERY_S / max(len(copies), 1)
        for request, call in copies:
            began = time.perf_counter()
            fresh = forwarding.within(call, self._spec.limits.deadline_s)
            with contextlib.suppress(RayplatError):  # it is in the log, with its status
                await self.plane.infer_as(SHADOW, request, fresh)
            left_s = each_s - (time.perf_counter() - began)
            if left_s > 0:
                await asyncio.sleep(left_s)

    async def describe(self, version: int | None = None) -> bytes:
        """A pickle of (True, (`LoadedVersion` without what computes, every loaded version, how it is served)) or
        (False, our error)."""
        try:
            serving = await self.plane.serving(version)
            return pickle.dumps((True, (serving.loaded.described(), self.plane.versions(), self._spec)))
        except RayplatError as e:
            return pickle.dumps((False, e.with_traceback(None)))

    def stats(self) -> dict[str, Any]:
        """Counts since the start, for `rayplat status`, the release controller and metrics."""
        current = self._follower.current
        return {
            "model": self._spec.model,
            "alias": self._spec.alias,
            "replica": self._replica,
            "version": current.loaded.version,
            "generation": current.head.generation,
            "answers": self._metrics.statuses(),
            "variants": self._metrics.variants(),
            "swaps": self._follower.swaps,
            "lag_s": self._follower.lag_s,
            "load_s": self._follower.load_s,
            "failure": self._follower.failure,
            "queue": self._batcher.stats(),
            "rate_limited": self._app.rate_limited,
            "release": self._parts.releasing.stats() if self._parts.releasing is not None else None,
            "log": self._parts.tap.stats() if self._parts.tap is not None else None,
        }

    def metrics(self) -> str:
        """The same in Prometheus's text format."""
        return self._metrics.text(self.stats())

    async def flush_log(self, timeout_s: float = 10.0) -> bool:
        """Wait until every request answered so far is committed to the log; False after ``timeout_s``."""
        return self._parts.tap is None or await asyncio.to_thread(self._parts.tap.flush, timeout_s)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return
