"""One replica of a model host's Serve application: the real parts around a `ModelHost`, and its control methods."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

from rayplat.errors import RayplatError
from rayplat.serve.host import ModelHost, Parts, Release
from rayplat.serve.http import relay
from rayplat.serve.http.routes import DEFAULT_ALIAS, prefix
from rayplat.serve.live import LiveHost, registry_for
from rayplat.serve.registry_link import RegistryLink
from rayplat.serve.telemetry.tracing import Tracing
from rayplat.settings import Settings
from rayplat.types import EndpointSpec

log = logging.getLogger(__name__)


class Replica:
    """The class that Serve starts. Methods are called by handle: one of them for each, or all at once."""

    def __init__(self, settings: Settings, spec: EndpointSpec) -> None:
        from ray import serve

        from rayplat import logs
        from rayplat.serve.loader import VersionLoader

        logs.set_up_in_replica()
        self._settings, self._spec = settings, spec
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._link, self._loader = RegistryLink(), VersionLoader(settings)
        self._tracing = Tracing.of(settings.tracing)
        self._live: LiveHost

    async def __serve_build_asgi_app__(self) -> Any:
        """Called by Serve after the constructor; the replica takes requests once this has returned."""
        spec = await self._newest()
        self._live = LiveHost(self._host, spec)
        await self._live.start()
        self._take_requests(spec)
        return self._live

    async def configure(self, spec: EndpointSpec) -> bool:
        """Serve like ``spec`` from now on, without a pause."""
        changed = await self._live.configure(spec)
        self._take_requests(spec)
        return changed

    async def infer_forwarded(self, packed: bytes) -> bytes:
        with self._live.using() as host:
            return await host.infer_forwarded(packed)

    async def infer_remote(self, packed: bytes) -> bytes:
        with self._live.using() as host:
            return await host.infer_remote(packed)

    async def shadow(self, packed: bytes) -> None:
        with self._live.using() as host:
            await host.shadow(packed)

    async def describe(self, version: int | None = None) -> bytes:
        return await self._live.host.describe(version)

    async def stats(self) -> dict[str, Any]:
        return self._live.host.stats()

    async def metrics(self) -> str:
        return self._live.host.metrics()

    async def flush_log(self, timeout_s: float) -> bool:
        return await self._live.host.flush_log(timeout_s)

    async def http(self, packed: bytes) -> bytes:
        """A client's HTTP request that came to another process, whole (`serve.relay`)."""
        return await relay.answer(self._live, relay.unpack_request(packed))

    async def http_stream(self, packed: bytes) -> AsyncGenerator[bytes, None]:
        """The same for an answer that comes in pieces."""
        async with contextlib.aclosing(relay.pieces(self._live, relay.unpack_request(packed))) as found:
            async for piece in found:
                yield piece

    async def check_health(self) -> None:
        self._live.host.check_health()

    async def _newest(self) -> EndpointSpec:
        """The record's word on how this alias is served: it may have changed since Serve was told."""
        try:
            return await self._link.endpoint(self._spec.model, self._spec.alias) or self._spec
        except RayplatError as e:
            log.warning("%s starts as it was deployed: %s", self._spec.model, e)
            return self._spec

    def _host(self, spec: EndpointSpec) -> ModelHost:
        from rayplat.serve.log import spool
        from rayplat.serve.log.tap import ActorSink, InferenceTap

        settings = self._settings
        tap = InferenceTap(ActorSink(), settings.log, self._replica, spec.log, spool.folder(settings))
        registry, releasing = registry_for(spec, self._link), self._releasing(spec)
        parts = Parts(registry, self._loader, tap, releasing, tracing=self._tracing)
        return ModelHost(settings.serve, spec, self._replica, parts)

    def _releasing(self, spec: EndpointSpec) -> Release | None:
        """Release control belongs to the default alias: it is that one's requests that are divided."""
        if spec.alias != DEFAULT_ALIAS:
            return None
        from rayplat.serve.release.releasing import ReleaseControl

        return ReleaseControl(self._link, spec.model, spec.alias, self._settings.serve.poll_s)

    def _take_requests(self, spec: EndpointSpec) -> None:
        """Requests come by the short way, except where Serve has to count them."""
        from rayplat.serve.http import ingress

        if spec.autoscale is None:
            ingress.take(prefix(spec.model, spec.alias), self._live)
        else:
            ingress.give_back()
