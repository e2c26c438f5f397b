"""Keeps a host on the version its alias points at: load beside, swap one reference, acknowledge, keep the old one.

The registry pushes (a long poll); silence ends after ``poll_s`` and is asked again, so a missed notice costs at
most that. A version that does not load, or that the requests of the served one would not fit, leaves the old one
serving, with the reason kept, and is tried again. A load that takes long, or never ends, holds up no newer head.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from rayplat.errors import NotFound, PartFailed, RayplatError, SchemaMismatch, Unavailable
from rayplat.serve import signatures
from rayplat.serve.computing.workers import in_own_thread
from rayplat.serve.ports import LoadedVersion, Loader, RegistryPort
from rayplat.types import AliasHead

log = logging.getLogger(__name__)

_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 30.0
_SLOW_S = 0.25  # a load that takes longer is watched for a newer head
_PATIENCE_S = 5.0  # how long an exact version waits for the load of another before it is loaded beside it


@dataclass(frozen=True)
class Serving:
    """What answers now: the alias's head and the version loaded for it. Replaced as a whole, never changed."""

    head: AliasHead
    loaded: LoadedVersion


class AliasFollower:
    """Follows one alias for one replica. `start` loads the first version; `run` is the endless task. ``measure`` is
    shown each version once it is loaded, before it answers.

    ``current`` is read once per request; everything of that request comes from the value read.
    """

    def __init__(
        self,
        registry: RegistryPort,
        loader: Loader,
        model: str,
        alias: str,
        replica: str,
        poll_s: float,
        measure: Callable[[LoadedVersion], None] | None = None,
    ) -> None:
        self._registry, self._loader, self._measure = registry, loader, measure
        self._model, self._alias, self._replica = model, alias, replica
        self._poll_s = poll_s
        self._retry_s = _FIRST_RETRY_S
        self._current: Serving | None = None
        self.previous: Serving | None = None
        self._failed: AliasHead | None = None
        self.failure: str | None = None
        self.swaps = 0
        self.lag_s = self.load_s = 0.0  # of the last move: from the registry's commit to the swap, and the load in it

    @property
    def current(self) -> Serving:
        if self._current is None:
            raise Unavailable(f"model {self._model!r}", "its first version is still loading")
        return self._current

    async def start(self) -> None:
        """Load what the alias points at. Waits for a registry that is down; raises NotFound for an unknown alias,
        or the reason why the version cannot be used."""
        while True:
            try:
                head = await self._registry.alias(self._model, self._alias)
                break
            except Unavailable as e:
                log.warning("model %s waits for the registry: %s", self._model, e)
                await self._pause()
        self._retry_s = _FIRST_RETRY_S
        self._current = Serving(head, await asyncio.to_thread(self._load, head))
        log.info("serving", extra=self._fields(head))
        await self._acknowledge()

    async def run(self) -> None:
        """Follow the alias for ever. Ends only by cancellation."""
        while True:
            try:
                await self.step()
            except RayplatError as e:
                log.warning("following %s of model %s: %s", self._alias, self._model, e)
                await self._pause()
            except Exception:
                log.exception("following %s of model %s", self._alias, self._model)
                await self._pause()

    async def step(self) -> None:
        """One round: wait for a newer head (at most ``poll_s``), move to it, acknowledge. After a failed load the
        wait is for something newer than what failed, and its end is the next attempt."""
        failed = self._failed
        known = failed or self.current.head
        timeout_s = self._retry_s if failed else self._poll_s
        head = await self._registry.listen(self._model, self._alias, known.generation, timeout_s)
        if failed and head is None:
            self._retry_s = min(self._retry_s * 2, _LAST_RETRY_S)
            head = failed
        if head is not None and head.generation > self.current.head.generation:
            await self._move(head)
        if self._failed is None:
            self._retry_s = _FIRST_RETRY_S
        await self._acknowledge()

    async def _move(self, head: AliasHead) -> None:
        old = self.current
        began = time.perf_counter()
        try:
            while isinstance(loaded := await self._loaded_or_newer(head), AliasHead):
                log.warning("a newer head takes the place of one that still loads", extra=self._fields(head))
                head, began = loaded, time.perf_counter()
            _same_requests(loaded, old.loaded)
        except Exception as e:
            if self._failed is not head:  # else it is the next try, and failed again
                trace = not isinstance(e, RayplatError)
                said = "version not loaded, the old one goes on serving: %s"
                log.error(said, e, exc_info=trace, extra=self._fields(head))
            self._failed = head
            self.failure = f"generation {head.generation}, version {head.version}: {e}"
            return
        self._current = Serving(head, loaded)
        if loaded is not old.loaded:
            self.previous = old
        self._failed = self.failure = None
        self.swaps += 1
        self.load_s = time.perf_counter() - began
        self.lag_s = max((datetime.now(UTC) - head.moved_at).total_seconds(), 0.0)
        log.info("alias moved", extra={**self._fields(head), "from_version": old.loaded.version})

    async def _loaded_or_newer(self, head: AliasHead) -> LoadedVersion | AliasHead:
        """The version of ``head``; or the head that took its place while that was loading."""
        for held in (self.current, self.previous):
            if held is not None and (held.loaded.version, held.loaded.digest) == (head.version, head.digest):
                return held.loaded
        loading = asyncio.create_task(in_own_thread("load", partial(self._load, head)))
        try:
            await asyncio.wait({loading}, timeout=_SLOW_S)
            while not loading.done():
                newer = asyncio.create_task(self._newer(head))
                try:
                    await asyncio.wait({loading, newer}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    newer.cancel()
                if not loading.done() and (found := newer.result()) is not None:
                    return found
            return loading.result()
        finally:
            loading.cancel()

    async def _newer(self, head: AliasHead) -> AliasHead | None:
        """A newer head than ``head``, within one wait."""
        try:
            found = await self._registry.listen(self._model, self._alias, head.generation, self._poll_s)
        except RayplatError:
            await asyncio.sleep(_LAST_RETRY_S)
            return None
        return found if found is not None and found.generation > head.generation else None

    def _load(self, head: AliasHead) -> LoadedVersion:
        loaded = _opened(self._loader, self._model, head.version, head.digest)
        if self._measure is not None:
            self._measure(loaded)
        return loaded

    async def _acknowledge(self) -> None:
        """Tell the registry what is live. It keeps this in memory only, so it is told again in every round."""
        try:
            await self._registry.ack(self._model, self._alias, self.current.head.generation, self._replica)
        except (Unavailable, NotFound) as e:
            log.debug("acknowledgement not delivered: %s", e)

    async def _pause(self) -> None:
        await asyncio.sleep(self._retry_s)
        self._retry_s = min(self._retry_s * 2, _LAST_RETRY_S)

    def _fields(self, head: AliasHead) -> dict[str, object]:
        return {"model": head.model, "alias": head.alias, "version": head.version, "generation": head.generation}


def _opened(loader: Loader, model: str, version: int, digest: str) -> LoadedVersion:
    """The version, loaded. Code of its own that would end the process (``sys.exit``) fails its load only."""
    try:
        return loader.load(model, version, digest)
    except Exception:
        raise
    except BaseException as e:
        reason = f"its code raised {type(e).__name__} while it was loaded"
        raise PartFailed(f"version {version} of model {model!r}", reason) from e


def _same_requests(new: LoadedVersion, old: LoadedVersion) -> None:
    """Refuse a version that requests to the present one would not fit. The way back to an older version is free where
    the way forward was: a version that takes more inputs than the last one can be rolled back."""
    problems = () if new is old else signatures.compatible(new.signature, old.signature)
    if problems and not (new.version < old.version and not signatures.compatible(old.signature, new.signature)):
        reason = f"version {new.version} takes other requests than version {old.version}: {'; '.join(problems)}"
        raise SchemaMismatch("signature", f"{reason}; serve it at another alias, or create this endpoint anew")


class PinnedVersions:
    """Exact versions loaded on demand beside the alias's own, the least recently used leaving first."""

    def __init__(self, registry: RegistryPort, loader: Loader, model: str, capacity: int = 2) -> None:
        self._registry, self._loader, self._model, self._capacity = registry, loader, model, capacity
        self._loaded: dict[int, LoadedVersion] = {}
        self._loading: dict[int, asyncio.Task[LoadedVersion]] = {}
        self._turn = asyncio.Lock()  # one load at a time: requests for many versions must not fill the memory

    def find(self, version: int) -> LoadedVersion | None:
        """The version if it is loaded; it counts as used."""
        loaded = self._loaded.pop(version, None)
        if loaded is not None:
            self._loaded[version] = loaded
        return loaded

    def held(self) -> list[int]:
        return list(self._loaded)

    async def get(self, version: int) -> LoadedVersion:
        """The version, loaded now if need be (once, however many requests wait). Raises NotFound."""
        loaded = self.find(version)
        if loaded is not None:
            return loaded
        task = self._loading.get(version)
        if task is None:
            task = asyncio.create_task(self._load(version))
            self._loading[version] = task
            task.add_done_callback(lambda _: self._loading.pop(version, None))
        return await asyncio.shield(task)

    async def _load(self, version: int) -> LoadedVersion:
        known = await self._registry.version(self._model, version)
        mine = True
        try:
            await asyncio.wait_for(self._turn.acquire(), _PATIENCE_S)
        except TimeoutError:  # the one before it may never end
            mine = False
        try:
            work = partial(_opened, self._loader, self._model, version, known.digest)
            loaded = await in_own_thread("load", work)
            self._loaded[version] = loaded
            while len(self._loaded) > self._capacity:
                self._loaded.pop(next(iter(self._loaded)))
        finally:
            if mine:
                self._turn.release()
        return loaded
