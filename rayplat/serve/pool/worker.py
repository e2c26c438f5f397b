"""A pool worker: the models of one process, loaded when they are asked for, the least recently used leaving first.

Each model is a host of its own, with threads of its own, so that one that is slow or broken delays no other: loads are
bounded in number but give up their turn when they take long, and a model that does not load is refused at once until
it is tried again. Knows no Ray and no model formats.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from rayplat.errors import NotFound, Overloaded, PartFailed, RayplatError, Unavailable
from rayplat.serve.live import Host, LiveHost
from rayplat.serve.pool import memory, placement
from rayplat.serve.pool.placement import Held, Key, Limits
from rayplat.types import EndpointSpec

log = logging.getLogger(__name__)

_TURN_S = 10.0  # a load that takes longer goes on, and lets another begin
_THREADS = 64
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
_TIDY_S = 10.0  # to collect garbage holds up every model of the process (0.2 s among 300): once for all that left


@dataclass(frozen=True)
class Loading:
    """How models are loaded: ``at_once`` of them, each within ``timeout_s`` seconds; ``waiting`` requests at most wait
    for one."""

    at_once: int = 2
    timeout_s: float = 120.0
    waiting: int = 256


class EndpointRecord(Protocol):
    """The record's word on what is served how. Raises `Unavailable` while the registry cannot be reached."""

    async def endpoint(self, model: str, alias: str) -> EndpointSpec | None: ...

    async def endpoints(self) -> list[EndpointSpec]: ...


@dataclass
class _Slot:
    live: LiveHost | None = None
    loading: asyncio.Task[LiveHost] | None = None
    size_bytes: int = 0
    waiting: int = 0
    failure: RayplatError | None = None
    retry_at: float = 0.0
    retry_s: float = _FIRST_RETRY_S


class PoolWorker:
    """Holds the models of ``mine``. ``make`` gives a host that has not been started, ``left`` is told of an alias that
    is no longer held. Belongs to one event loop."""

    def __init__(
        self,
        record: EndpointRecord,
        make: Callable[[EndpointSpec], Host],
        limits: Limits,
        loading: Loading | None = None,
        *,
        left: Callable[[Key], None] = lambda key: None,
        used_bytes: Callable[[], int] = memory.resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record, self._make, self._limits = record, make, limits
        self._loading = loading or Loading()
        self._left, self._used_bytes, self._clock = left, used_bytes, clock
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()
        self._turns = asyncio.Semaphore(self._loading.at_once)
        self._loads = 0
        self._tidies = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.counts = {"hits": 0, "loads": 0, "failures": 0, "evictions": 0, "put_out": 0}

    def start(self, pinned: Iterable[Key] = ()) -> None:
        """Begin; ``pinned`` models are loaded in the background."""
        executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="pool")  # a load that hangs keeps its thread
        asyncio.get_running_loop().set_default_executor(executor)
        for key in pinned:
            self._spawn(self._warm(key), f"warm-{key[0]}")

    async def stop(self) -> None:
        """Stop every host; what they answered goes to the log."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        live = [slot.live for slot in self._slots.values() if slot.live is not None]
        self._slots.clear()
        await asyncio.gather(*(host.stop() for host in live), return_exceptions=True)

    # --- requests -------------------------------------------------------------------------------------

    async def use(self, model: str, alias: str) -> LiveHost:
        """The host of a pooled alias, loaded now if need be (once, however many requests wait).

        Raises `NotFound` for what is not served here, `Unavailable` for a model that did not load (with the reason, at
        once, until it is tried again), `Overloaded` where too many wait for it.
        """
        key = (model, alias)
        slot = self._slots.get(key)
        if slot is not None and slot.live is not None:
            self._slots.move_to_end(key)
            self.counts["hits"] += 1
            return slot.live
        return await self._loaded(key, slot)

    # --- what is held ---------------------------------------------------------------------------------

    async def load(self, model: str, alias: str) -> None:
        """Hold the model from now on: it is ready when this returns. Raises what keeps it from loading; a failure that
        is remembered is tried again."""
        slot = self._slots.get((model, alias))
        if slot is not None:
            slot.retry_at = 0.0
        await self.use(model, alias)

    async def configure(self, spec: EndpointSpec) -> bool:
        """Serve it like ``spec`` from now on; false where it is not held (it is read when it is loaded)."""
        slot = self._slots.get((spec.model, spec.alias))
        if slot is None:
            return False
        slot.retry_at = 0.0
        if slot.live is None:
            return False
        await slot.live.configure(spec)
        return True

    async def drop(self, model: str, alias: str) -> bool:
        """Hold it no longer: requests that are under way end first. False where it was not held."""
        slot = self._slots.pop((model, alias), None)
        if slot is None:
            return False
        if slot.loading is not None:
            slot.loading.cancel()
        if slot.live is not None:
            await self._let_go((model, alias), slot.live)
        return True

    def states(self) -> list[dict[str, Any]]:
        """Every model that is held, loading or failed, by name: ``model``, ``alias``, ``state`` (``ready``, ``loading``
        or ``failed``), ``reason``, ``bytes``, ``version`` and ``generation``."""
        return [self._state(key, slot) for key, slot in sorted(self._slots.items())]

    def hosts(self) -> list[LiveHost]:
        """The hosts that answer now."""
        return [slot.live for slot in self._slots.values() if slot.live is not None]

    def stats(self) -> dict[str, Any]:
        ready = sum(slot.live is not None for slot in self._slots.values())
        size = sum(slot.size_bytes for slot in self._slots.values())
        return {**self.counts, "models": ready, "bytes": size, "resident_bytes": self._used_bytes()}

    def check_health(self) -> None:
        """Put out models whose threads are stuck; the others go on. Raises when so many threads hang that only a new
        process helps."""
        for key, slot in list(self._slots.items()):
            if slot.live is not None:
                try:
                    slot.live.host.check_health()
                except RuntimeError as e:
                    self._put_out(key, slot, slot.live, e)
        stuck = self._loads + self.counts["put_out"]
        if stuck >= _THREADS // 2:
            raise RuntimeError(f"{stuck} models hold threads that do not end: only a new process helps")

    def _put_out(self, key: Key, slot: _Slot, live: LiveHost, error: RuntimeError) -> None:
        log.error("model %s/%s is put out: %s", *key, error)
        slot.live, slot.size_bytes = None, 0
        slot.failure, slot.retry_at = PartFailed(f"model {key[0]!r}", str(error)), self._clock() + _LAST_RETRY_S
        self.counts["put_out"] += 1
        self._spawn(self._let_go(key, live), f"leave-{key[0]}")

    # --- loading --------------------------------------------------------------------------------------

    async def _loaded(self, key: Key, slot: _Slot | None) -> LiveHost:
        slot = slot or self._slots.setdefault(key, _Slot())
        left_s = slot.retry_at - self._clock()
        if slot.failure is not None and left_s > 0:
            raise Unavailable(f"model {key[0]!r}", f"it did not load: {slot.failure}; next try in {left_s:.0f} s")
        if slot.waiting >= self._loading.waiting:
            raise Overloaded(f"model {key[0]!r}", f"{slot.waiting} requests wait for it to load")
        task = slot.loading
        if task is None:
            task = slot.loading = self._spawn(self._load(key, slot), f"load-{key[0]}")
        slot.waiting += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable(f"model {key[0]!r}", "it was put out while it was loading") from None
            raise
        finally:
            slot.waiting -= 1

    async def _load(self, key: Key, slot: _Slot) -> LiveHost:
        self._loads += 1
        try:
            live, size = await self._started(key)
        except NotFound:
            self._forget(key, slot)
            raise
        except Exception as e:
            raise self._failed(key, slot, e) from e
        finally:
            self._loads -= 1
            slot.loading = None
        if self._slots.get(key) is not slot:  # it was dropped meanwhile
            await live.stop()
            raise Unavailable(f"model {key[0]!r}", "it was put out while it was loading")
        slot.live, slot.size_bytes, slot.failure, slot.retry_s = live, size, None, _FIRST_RETRY_S
        self._slots.move_to_end(key)
        self.counts["loads"] += 1
        self._make_room()
        return live

    async def _started(self, key: Key) -> tuple[LiveHost, int]:
        spec = await self._record.endpoint(*key)
        if spec is None or spec.placement != "pooled":
            raise NotFound("pooled model", "/".join(key), "`rayplat serve list` shows what is served")
        live = LiveHost(self._make, spec)
        await self._turns.acquire()
        turn = _Turn(self._turns)
        others, before = self._loads, self._used_bytes()
        try:
            async with asyncio.timeout(self._loading.timeout_s):
                await live.start()
        except TimeoutError:
            raise PartFailed(f"model {key[0]!r}", f"it did not load within {self._loading.timeout_s:g} s") from None
        finally:
            turn.end()
        grown = max(self._used_bytes() - before, 0)
        return live, grown // max(others, self._loads, 1)  # what loads beside it took is not its own

    def _failed(self, key: Key, slot: _Slot, error: Exception) -> RayplatError:
        if not isinstance(error, RayplatError):
            log.error("model %s did not load", key[0], exc_info=error)
            error = PartFailed(f"model {key[0]!r}", f"{type(error).__name__}: {error}"[:500])
        slot.failure, slot.retry_at = error, self._clock() + slot.retry_s
        slot.retry_s = min(slot.retry_s * 2, _LAST_RETRY_S)
        self.counts["failures"] += 1
        log.warning("model %s/%s did not load: %s", *key, error)
        return Unavailable(f"model {key[0]!r}", f"it did not load: {error}")

    def _make_room(self) -> None:
        held = [
            Held(key, slot.size_bytes, slot.live.spec.pinned, bool(slot.live.busy))
            for key, slot in self._slots.items()
            if slot.live is not None
        ]
        for key in placement.to_leave(held, self._limits):
            slot = self._slots.pop(key)
            self.counts["evictions"] += 1
            if slot.live is not None:
                self._spawn(self._let_go(key, slot.live), f"leave-{key[0]}")

    async def _let_go(self, key: Key, live: LiveHost) -> None:
        await live.stop()
        if key not in self._slots:
            self._left(key)
        if not self._tidies:
            self._tidies = True
            self._spawn(self._tidy(), "tidy")

    async def _tidy(self) -> None:
        await asyncio.sleep(_TIDY_S)
        self._tidies = False
        await asyncio.to_thread(memory.give_back)

    async def _warm(self, key: Key) -> None:
        try:
            await self.use(*key)
        except RayplatError as e:
            log.warning("model %s/%s is pinned and did not load: %s", *key, e)

    def _forget(self, key: Key, slot: _Slot) -> None:
        if self._slots.get(key) is slot:
            del self._slots[key]

    def _state(self, key: Key, slot: _Slot) -> dict[str, Any]:
        found: dict[str, Any] = {"model": key[0], "alias": key[1], "bytes": slot.size_bytes, "reason": ""}
        if slot.live is not None:
            stats = slot.live.host.stats()
            return {**found, "state": "ready", "version": stats.get("version"), "generation": stats.get("generation")}
        failed = slot.failure is not None and slot.loading is None
        return {**found, "state": "failed" if failed else "loading", "reason": str(slot.failure or "")}

    def _spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its waiters have it; where nobody waits it is in the log already


class _Turn:
    """One of the loads that may run at once; it ends by itself when it takes long."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns: asyncio.Semaphore | None = turns
        self._timer = asyncio.get_running_loop().call_later(_TURN_S, self.end)

    def end(self) -> None:
        turns, self._turns = self._turns, None
        self._timer.cancel()
        if turns is not None:
            turns.release()
