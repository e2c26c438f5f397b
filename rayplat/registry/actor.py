"""The registry as an actor: the record's single writer, its cache of alias heads, and the notifier of alias moves.

`Registry` is a plain class; `client.start` wraps `RegistryActor`. SQL runs in threads, one for writes and two for
reads, so a long poll is answered while the database waits for its disk; what comes by itself (`upkeep`, webhooks,
lineage events) has threads of its own. It loses nothing when it dies: all but acknowledgements (which hosts repeat)
is in the record, and a call carries an idempotency key, so it can be sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection

from rayplat import identity, logs
from rayplat.errors import InvalidInput, RayplatError
from rayplat.registry import lineage_server
from rayplat.registry.calls import CALLS, resolve
from rayplat.registry.dispatcher import Dispatcher
from rayplat.registry.egress import EgressRules
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import aliases, lineage, releases, tokens, versions
from rayplat.registry.record.database import Defaults, Record, Tx
from rayplat.registry.upkeep import TICK_S, AuditWatch, Upkeep, anchoring, of_record
from rayplat.registry.writer import Writer
from rayplat.settings import Settings
from rayplat.types import AliasHead, ModelVersion, Principal, Release

log = logging.getLogger(__name__)
R = TypeVar("R")

_LONGEST_POLL_S = 60.0
_ACK_LIFE_S = 300.0  # a replica that has not repeated its acknowledgement for so long is gone


class Registry:
    """One incarnation of the registry on ``database_url``. Opening it takes the epoch from the one before.

    `read` and `write` run operations of the record by name; the other methods are what model hosts call.
    """

    def __init__(self, database_url: str, defaults: Defaults | None = None) -> None:
        self._started_at = datetime.now(UTC)
        self._record = Record(database_url, on_move=self._moved, defaults=defaults)
        self._heads = {(h.model, h.alias): h for h in self._record.read(aliases.listed)}
        self._releases = {r.model: r for r in self._record.read(releases.listed)}
        self._acks: dict[tuple[str, str], dict[str, tuple[int, float]]] = {}
        self._listeners = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed, self._released = asyncio.Event(), asyncio.Event()
        self._writer = Writer(self._record)
        self._last_use = identity.LastUse()
        self._readers = ThreadPoolExecutor(2, "registry-read")
        self.local = LocalRegistry(self._record, self._writer)
        self._audit = AuditWatch(self.local)
        self._upkeep = Upkeep(of_record(self.local))
        self._keeping_up: asyncio.Task[None] | None = None
        log.info("registry open: epoch %d, %d aliases", self._record.epoch, len(self._heads))

    async def read(self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """The answer of the query called ``name`` (`calls.name_of`)."""
        query = resolve(name, "read")
        if query is tokens.authenticate:
            return await self.authenticate(*args)
        return await self._read(lambda connection: query(connection, *args, **(kwargs or {})))

    async def write(
        self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Any:
        """The result of the operation called ``name``, after its commit; the same ``key`` again has no other effect."""
        operation = resolve(name, "write")
        return await self._write(lambda tx: operation(tx, *args, **(kwargs or {})), key)

    async def packed(self, method: str, call: bytes) -> bytes:
        """One of `CALLS` with its arguments in one pickle, answered by a pickle of (whether it went well, the result
        or our error). Ray's own way, an object for each argument and a traceback for each refusal, takes longer than
        the work itself."""
        if method not in CALLS:
            raise InvalidInput("method", f"{method!r} is none of {', '.join(sorted(CALLS))}")
        try:
            found: tuple[bool, Any] = (True, await getattr(self, method)(*pickle.loads(call)))
        except RayplatError as e:
            found = (False, e.with_traceback(None))
        return pickle.dumps(found)

    # --- what model hosts ask -------------------------------------------------------------------------

    async def version(self, model: str, version: int) -> ModelVersion:
        return await self._read(lambda s: versions.get(s, model, version))

    async def alias(self, model: str, alias: str) -> AliasHead:
        return await self._read(lambda s: aliases.get(s, model, alias))

    async def authenticate(self, token_hash: str) -> Principal | None:
        """Whose token has this hash, and a note that it was used: written later, at most once a minute."""
        principal = await self._read(lambda s: tokens.authenticate(s, token_hash))
        noted = self._last_use.note(token_hash, datetime.now(UTC)) if principal is not None else {}
        if noted:
            self._writer.submit(lambda tx: tokens.used(tx, noted), None)  # nobody waits for it
        return principal

    async def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None:
        """The alias's head as soon as it is newer than ``generation``; None after ``timeout_s`` (at most 60)."""
        self._keep_up()
        deadline = time.monotonic() + min(timeout_s, _LONGEST_POLL_S)
        self._listeners += 1
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                changed, head = self._changed, self._heads.get((model, alias))
                if head is not None and head.generation > generation:
                    return head
                try:
                    await asyncio.wait_for(changed.wait(), left_s)
                except TimeoutError:
                    break
        finally:
            self._listeners -= 1
        newest = await self._read(lambda s: aliases.find(s, model, alias))  # the cache is no one's last word
        return newest if newest is not None and newest.generation > generation else None

    async def listen_release(self, model: str, generation: int, timeout_s: float) -> Release | None:
        """The model's release as soon as it is newer than ``generation``; None after ``timeout_s`` (at most 60). One
        that was never changed has generation 0, so -1 asks for whatever is in force."""
        self._keep_up()
        deadline = time.monotonic() + min(timeout_s, _LONGEST_POLL_S)
        self._listeners += 1
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                released, release = self._released, self._releases.get(model)
                if release is not None and release.generation > generation:
                    return release
                if generation < 0:
                    break
                try:
                    await asyncio.wait_for(released.wait(), left_s)
                except TimeoutError:
                    break
        finally:
            self._listeners -= 1
        newest = await self._read(lambda s: releases.get(s, model))
        return newest if newest.generation > generation else None

    async def listen_many(self, known: Mapping[tuple[str, str], int], timeout_s: float) -> list[AliasHead]:
        """`listen` for many aliases at once, by (model, alias): the heads that are newer than the generation known of
        them, as soon as there is one; none after ``timeout_s``."""
        self._keep_up()
        deadline = time.monotonic() + min(timeout_s, _LONGEST_POLL_S)
        self._listeners += 1
        try:
            while True:
                changed, left_s = self._changed, deadline - time.monotonic()
                cached = (self._heads.get(place) for place in known)
                newer = [h for h in cached if h is not None and h.generation > known[h.model, h.alias]]
                if newer:
                    return newer
                if left_s <= 0:
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), left_s)
        finally:
            self._listeners -= 1
        heads = await self._read(aliases.listed)  # as in `listen`
        return [h for h in heads if h.generation > known.get((h.model, h.alias), h.generation)]

    async def ack(self, model: str, alias: str, generation: int, replica_id: str) -> None:
        """``replica_id`` now serves ``generation``. Kept in memory: hosts repeat it with every poll."""
        self._acks.setdefault((model, alias), {})[replica_id] = (generation, time.monotonic())

    async def acks(self, model: str, alias: str) -> dict[str, int]:
        oldest = time.monotonic() - _ACK_LIFE_S
        live = {r: (g, at) for r, (g, at) in self._acks.get((model, alias), {}).items() if at >= oldest}
        self._acks[(model, alias)] = live
        return {replica: generation for replica, (generation, _) in live.items()}

    async def heartbeat(self) -> dict[str, Any]:
        return {
            "epoch": self._record.epoch,
            "is_writer": await self._read(lambda _: self._record.is_writer()),
            "database": self._record.dialect,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "aliases": len(self._heads),
            "listeners": self._listeners,
            "audit": self._audit.outcome,
        }

    # --- inside ---------------------------------------------------------------------------------------

    def upkeep(self) -> list[str]:
        """Do what is due by itself (`upkeep`); called every few seconds in a thread. The names of what was done."""
        return self._upkeep.tick()

    def _keep_up(self) -> None:
        """Begin upkeep, once there is an event loop: with the first call."""
        if self._keeping_up is None:
            self._loop = asyncio.get_running_loop()
            self._keeping_up = self._loop.create_task(self._upkeep_for_ever())

    async def _upkeep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await asyncio.to_thread(self.upkeep)

    async def _read(self, query: Callable[[Connection], R]) -> R:
        self._keep_up()
        read = functools.partial(self._record.read, query)
        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    async def _write(self, operation: Callable[[Tx], R], key: str | None) -> R:
        self._keep_up()
        return await asyncio.wrap_future(self._writer.submit(operation, key))

    def _moved(self, what: AliasHead | Release) -> None:
        """Called in the writing thread; hands over to the loop, also when the caller has stopped waiting."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._publish, what)

    def _publish(self, what: AliasHead | Release) -> None:
        if isinstance(what, Release):
            self._publish_release(what)
        else:
            self._publish_head(what)

    def _publish_release(self, release: Release) -> None:
        self._releases[release.model] = release
        self._released.set()
        self._released = asyncio.Event()
        log.info("release of %s: generation %d, by %s", release.model, release.generation, release.changed_by)

    def _publish_head(self, head: AliasHead) -> None:
        if head.removed:
            self._heads.pop((head.model, head.alias), None)
        else:
            self._heads[(head.model, head.alias)] = head
        self._changed.set()
        self._changed = asyncio.Event()
        where, by = f"{head.model}@{head.alias}", f"by {head.moved_by}, promotion {head.promotion_id}"
        what = "removed from" if head.removed else "moved to"
        log.info("%s %s version %d, generation %d, %s", where, what, head.version, head.generation, by)


class RegistryActor(Registry):
    """What runs as the actor: the registry in a process of its own, which sets up its log."""

    def __init__(self, settings: Settings) -> None:
        logs.set_up()
        egress = EgressRules.of(settings.events)
        defaults = Defaults(str(settings.artifacts_root), settings.registry.max_parity_mismatch, egress)
        super().__init__(settings.database_url, defaults)
        self._upkeep = Upkeep([*of_record(self.local), anchoring(self.local, settings), self._audit.chore()])
        self._dispatcher = Dispatcher(self.local, settings.events)
        threading.Thread(target=self._dispatch, name="registry-events", daemon=True).start()
        self.local.apply(lineage.complete)
        lineage_server.start(self.local, settings)

    def _dispatch(self) -> None:
        """Webhooks have a loop of their own: a slow receiver keeps no model host waiting."""
        asyncio.run(self._dispatcher.run(asyncio.Event()))
