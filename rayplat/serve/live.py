"""A model host whose serving spec can change while it answers: the new one is made beside it, then takes its place.

Also what stands in for an alias where an exact version is served. Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from rayplat.errors import Unavailable
from rayplat.registry import endpoint_rules
from rayplat.serve.deployment import plan
from rayplat.serve.http.exchange import Receive, Scope, Send
from rayplat.serve.ports import RegistryPort
from rayplat.types import AliasHead, EndpointSpec, ModelVersion, Principal, Release

log = logging.getLogger(__name__)

_RETIRE_S = 60.0  # what an old host may take for what it has begun


class Host(Protocol):
    """What is needed of a `host.ModelHost`."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    async def infer_forwarded(self, packed: bytes) -> bytes: ...

    async def infer_remote(self, packed: bytes) -> bytes: ...

    async def shadow(self, packed: bytes) -> None: ...

    async def describe(self, version: int | None = None) -> bytes: ...

    async def flush_log(self, timeout_s: float) -> bool: ...

    def check_health(self) -> None: ...

    def stats(self) -> dict[str, Any]: ...

    def metrics(self) -> str: ...


class LiveHost:
    """One served alias of this process. ``make`` gives a host that has not been started."""

    def __init__(self, make: Callable[[EndpointSpec], Host], spec: EndpointSpec) -> None:
        self.spec = spec
        self._make = make
        self._host: Host | None = None
        self._busy: dict[int, int] = {}
        self._idle = asyncio.Event()
        self._turn = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises what the host raises that cannot start."""
        host = self._make(self.spec)
        try:
            await host.start()
        except BaseException:
            await host.stop()
            raise
        self._host = host

    async def stop(self) -> None:
        """Stop it, and what is left of those before it."""
        for task in list(self._retiring):
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._host is not None:
            host, self._host = self._host, None
            await host.stop()

    async def configure(self, spec: EndpointSpec) -> bool:
        """Serve like ``spec`` from now on; requests that have begun end as they began. Whether anything changed.

        Raises what a host raises that cannot start; the old one then goes on.
        """
        async with self._turn:
            if spec == self.spec:
                return False
            before, old = self.spec, self._host
            if old is not None and plan.changes_host(before, spec):
                new = self._make(spec)
                try:
                    await new.start()
                except BaseException:
                    await new.stop()
                    raise
                self._host = new
                task = asyncio.create_task(self._retire(old), name="retire-host")
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
            self.spec = spec
            return True

    @property
    def host(self) -> Host:
        """The one that answers. Raises `Unavailable` before `start` and after `stop`."""
        if self._host is None:
            raise Unavailable(f"model {self.spec.model!r}", "its host has not started, or is stopping")
        return self._host

    @property
    def busy(self) -> int:
        """Requests that are under way."""
        return sum(self._busy.values())

    @contextlib.contextmanager
    def using(self) -> Iterator[Host]:
        """The host that answers, kept until the end of the block."""
        host = self.host
        key = id(host)
        self._busy[key] = self._busy.get(key, 0) + 1
        try:
            yield host
        finally:
            left = self._busy[key] - 1
            if left:
                self._busy[key] = left
            else:
                del self._busy[key]
                self._idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] in ("http", "websocket"):
            with self.using() as host:
                await host(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _retire(self, host: Host) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETIRE_S):
                    while id(host) in self._busy:
                        self._idle.clear()
                        await self._idle.wait()
        finally:
            await host.stop()


class FixedVersion:
    """A registry for the host of an exact version: its "alias" ``v7`` is version 7, and never moves."""

    def __init__(self, registry: RegistryPort, version: int) -> None:
        self._registry, self._version = registry, version

    async def alias(self, model: str, alias: str) -> AliasHead:
        found = await self._registry.version(model, self._version)
        return AliasHead(model, alias, found.version, found.digest, 1, found.created_at, found.author)

    async def version(self, model: str, version: int) -> ModelVersion:
        return await self._registry.version(model, version)

    async def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None:  # noqa: ARG002
        await asyncio.sleep(timeout_s)
        return None

    async def listen_release(self, model: str, generation: int, timeout_s: float) -> Release | None:
        return await self._registry.listen_release(model, generation, timeout_s)

    async def ack(self, model: str, alias: str, generation: int, replica: str) -> None:
        await self._registry.ack(model, alias, generation, replica)

    async def authenticate(self, token_hash: str) -> Principal | None:
        return await self._registry.authenticate(token_hash)


def registry_for(spec: EndpointSpec, registry: RegistryPort) -> RegistryPort:
    """What a host of ``spec`` follows: its alias, or its exact version."""
    version = endpoint_rules.version_of(spec.alias)
    return registry if version is None else FixedVersion(registry, version)
