"""All aliases of a worker followed by one long poll: what its hosts see as the registry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Protocol

from rayplat.errors import RayplatError
from rayplat.serve.pool.placement import Key
from rayplat.serve.ports import RegistryPort
from rayplat.types import AliasHead, ModelVersion, Principal, Release

log = logging.getLogger(__name__)

_GATHER_S = 0.1  # aliases that come one after the other join the poll together
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0


class ManyAliases(RegistryPort, Protocol):
    """The registry, with its long poll for many aliases."""

    async def listen_many(self, known: Mapping[Key, int], timeout_s: float) -> list[AliasHead]: ...


class SharedAliases:
    """Implements `ports.RegistryPort` for many hosts of one event loop, from `start` to `stop`. `forget` an alias that
    is no longer followed."""

    def __init__(self, registry: ManyAliases, poll_s: float) -> None:
        self._registry, self._poll_s = registry, poll_s
        self._known: dict[Key, int] = {}
        self._newest: dict[Key, AliasHead] = {}
        self._waiting: dict[Key, set[asyncio.Future[None]]] = {}
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="follow-aliases")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def check_health(self) -> None:
        """Raises when nobody follows the aliases any more."""
        if self._task is not None and self._task.done():
            raise RuntimeError("the task that follows the aliases has ended")

    def followed(self) -> list[Key]:
        return sorted(self._known)

    def forget(self, key: Key) -> None:
        """Nobody follows this alias any more."""
        self._known.pop(key, None)
        self._newest.pop(key, None)

    async def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None:
        key = (model, alias)
        if key not in self._known:
            self._known[key] = generation
            self._more.set()
        self._known[key] = max(self._known[key], generation)
        newest = self._newest.get(key)
        if newest is not None and newest.generation > generation:
            return newest
        moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(moved)
        try:
            await asyncio.wait_for(moved, timeout_s)
        except TimeoutError:
            return None
        finally:
            waiting.discard(moved)
            if not waiting:
                self._waiting.pop(key, None)
        return self._newest.get(key)

    async def alias(self, model: str, alias: str) -> AliasHead:
        return await self._registry.alias(model, alias)

    async def version(self, model: str, version: int) -> ModelVersion:
        return await self._registry.version(model, version)

    async def listen_release(self, model: str, generation: int, timeout_s: float) -> Release | None:
        return await self._registry.listen_release(model, generation, timeout_s)

    async def ack(self, model: str, alias: str, generation: int, replica: str) -> None:
        await self._registry.ack(model, alias, generation, replica)

    async def authenticate(self, token_hash: str) -> Principal | None:
        return await self._registry.authenticate(token_hash)

    # --- the poll -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                await self._step()
                retry_s = _FIRST_RETRY_S
            except RayplatError as e:
                log.warning("following %d aliases: %s", len(self._known), e)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
            except Exception:
                log.exception("following %d aliases", len(self._known))
                await asyncio.sleep(_LAST_RETRY_S)

    async def _step(self) -> None:
        """One poll, ended early when an alias joins."""
        if not self._known:
            await self._more.wait()
        self._more.clear()
        poll = asyncio.create_task(self._registry.listen_many(dict(self._known), self._poll_s))
        more = asyncio.create_task(self._more.wait())
        try:
            await asyncio.wait({poll, more}, return_when=asyncio.FIRST_COMPLETED)
            if not poll.done():
                await asyncio.wait({poll}, timeout=_GATHER_S)
            if poll.done():
                self._tell(poll.result())
        finally:
            for task in (poll, more):
                task.cancel()
            await asyncio.gather(poll, more, return_exceptions=True)

    def _tell(self, heads: list[AliasHead]) -> None:
        for head in heads:
            key = (head.model, head.alias)
            if head.generation <= self._known.get(key, head.generation):
                continue  # no longer followed, or known already
            self._known[key], self._newest[key] = head.generation, head
            for moved in self._waiting.get(key, ()):
                if not moved.done():
                    moved.set_result(None)
