"""The gRPC server as a platform actor: a loop in a thread of its own, so that it listens once it is there, also
after Ray has restarted it.

The next free port is taken where the wanted one is in use, which can differ from node to node: `heartbeat` says which.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from rayplat import logs
from rayplat.errors import PartFailed
from rayplat.serve.access import Access
from rayplat.serve.grpc.forwarding import HandleForwarder
from rayplat.serve.grpc.server import Listen, Service, Terms, build
from rayplat.serve.pool import names
from rayplat.serve.registry_link import RegistryLink
from rayplat.settings import Settings
from rayplat.version import __version__

log = logging.getLogger(__name__)

_PORTS = 50  # that are tried
_START_S = 30.0
_GRACE_S = 5.0


class GrpcServer:
    """A plain class; the platform starts it as a named actor. Raises `PartFailed` where no port is free."""

    def __init__(self, settings: Settings, port: int) -> None:
        logs.set_up_in_actor()
        self._settings = settings
        self._service: Service | None = None
        self._server: Any = None
        self._port = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True).start()
        self._wait(self._start(port), _START_S)

    def heartbeat(self) -> dict[str, Any]:
        """The port it listens on, and calls since the start by their status code."""
        answers = self._service.answers if self._service is not None else {}
        return {"port": self._port, **{code.lower(): count for code, count in sorted(answers.items())}}

    def stop(self) -> None:
        """Take no more calls; those that run may end within a few seconds."""
        if self._service is not None:
            self._service.ready = False
        self._wait(self._server.stop(_GRACE_S), _GRACE_S + 5)

    async def _start(self, wanted: int) -> None:
        serve = self._settings.serve
        access = Access(RegistryLink(), serve.token_cache_s)
        service = Service(HandleForwarder(names.FRONT), access, Terms(__version__, serve.max_rows))
        self._server, self._port = _bound(service, wanted, serve.max_body_bytes)
        await self._server.start()
        self._service = service
        log.info("gRPC listens", extra={"port": self._port})

    def _wait(self, work: Any, timeout_s: float) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)


def _bound(service: Service, wanted: int, max_message_bytes: int) -> tuple[Any, int]:
    """A server on the first port from ``wanted`` on that can be bound."""
    for port in range(wanted, wanted + _PORTS):
        try:
            return build(service, Listen(port, max_message_bytes=max_message_bytes))
        except PartFailed:
            log.info("port %d is in use", port)
    raise PartFailed("the gRPC server", f"none of the ports {wanted} to {wanted + _PORTS - 1} is free")
