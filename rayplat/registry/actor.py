"""The registry as an actor: the record's single writer, its cache of alias heads, and the notifier of alias moves.

`Registry` is a plain class; `client.start` wraps `RegistryActor`. SQL runs in threads, one for writes and two for
reads, so a long poll is answered while the database waits for its disk. It loses nothing when it dies: all but
acknowledgements (which hosts repeat) is in the record, and a call carries an idempotency key, so it can be sent again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection

from rayplat import logs
from rayplat.registry.candidate import Candidate
from rayplat.registry.gates import GatePolicy
from rayplat.registry.record import aliases, audit, mlflow_rows, promotions, tokens, versions
from rayplat.registry.record.database import Record, Tx
from rayplat.types import (
    AliasHead,
    AuditEntry,
    Evidence,
    ModelVersion,
    Principal,
    Promotion,
    PromotionState,
    TokenInfo,
)

log = logging.getLogger(__name__)
R = TypeVar("R")

_LONGEST_POLL_S = 60.0
_ACK_LIFE_S = 300.0  # a replica that has not repeated its acknowledgement for so long is gone


class Registry:
    """One incarnation of the registry on ``database_url``. Opening it takes the epoch from the one before.

    Methods mirror `client.RegistryClient`, which documents them; mutations take an idempotency ``key``.
    """

    def __init__(self, database_url: str, policy: GatePolicy | None = None) -> None:
        self._policy = policy or GatePolicy()
        self._started_at = datetime.now(UTC)
        self._record = Record(database_url, on_move=self._moved)
        self._heads = {(h.model, h.alias): h for h in self._record.read(aliases.listed)}
        self._acks: dict[tuple[str, str], dict[str, tuple[int, float]]] = {}
        self._listeners = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._writer = ThreadPoolExecutor(1, "registry-write")
        self._readers = ThreadPoolExecutor(2, "registry-read")
        self._writer.submit(mlflow_rows.warm)
        log.info("registry open: epoch %d, %d aliases", self._record.epoch, len(self._heads))

    # --- versions and aliases -------------------------------------------------------------------------

    async def register_model(self, candidate: Candidate, author: Principal, key: str | None = None) -> ModelVersion:
        return await self._write(lambda tx: versions.register(tx, candidate, author), key)

    async def models(self) -> list[str]:
        return await self._read(versions.models)

    async def versions(self, model: str) -> list[ModelVersion]:
        return await self._read(lambda s: versions.listed(s, model))

    async def version(self, model: str, version: int) -> ModelVersion:
        return await self._read(lambda s: versions.get(s, model, version))

    async def alias(self, model: str, alias: str) -> AliasHead:
        return await self._read(lambda s: aliases.get(s, model, alias))

    async def aliases(self, model: str) -> list[AliasHead]:
        return await self._read(lambda s: (versions.listed(s, model), aliases.listed(s, model))[1])

    async def history(self, model: str, alias: str) -> list[AliasHead]:
        return await self._read(lambda s: aliases.history(s, model, alias))

    # --- promotions -----------------------------------------------------------------------------------

    async def request_promotion(
        self,
        wanted: tuple[str, int, str],
        evidence: Evidence | None,
        requester: Principal,
        key: str | None = None,
    ) -> Promotion:
        return await self._write(lambda tx: promotions.request(tx, self._policy, wanted, evidence, requester), key)

    async def approve(
        self, promotion_id: str, approver: Principal, subject_digest: str | None = None, key: str | None = None
    ) -> Promotion:
        return await self._write(lambda tx: promotions.approve(tx, promotion_id, approver, subject_digest), key)

    async def reject(self, promotion_id: str, approver: Principal, reason: str, key: str | None = None) -> Promotion:
        return await self._write(lambda tx: promotions.reject(tx, promotion_id, approver, reason), key)

    async def rollback(
        self, alias: tuple[str, str], approver: Principal, reason: str, key: str | None = None
    ) -> AliasHead:
        return await self._write(lambda tx: promotions.rollback(tx, alias, approver, reason), key)

    async def promotions(self, model: str | None = None, state: PromotionState | None = None) -> list[Promotion]:
        return await self._read(lambda s: promotions.listed(s, model, state))

    async def promotion(self, promotion_id: str) -> Promotion:
        return await self._read(lambda s: promotions.get(s, promotion_id))

    async def audit(self, limit: int = 100) -> list[AuditEntry]:
        return await self._read(lambda s: audit.listed(s, limit))

    async def verify_audit(self) -> int:
        return await self._read(audit.verify)

    # --- tokens ---------------------------------------------------------------------------------------

    async def create_token(
        self, info: TokenInfo, token_hash: str, by: Principal | None, key: str | None = None
    ) -> TokenInfo:
        return await self._write(lambda tx: tokens.create(tx, info, token_hash, by), key)

    async def revoke_token(self, token_id: str, by: Principal, key: str | None = None) -> TokenInfo:
        return await self._write(lambda tx: tokens.revoke(tx, token_id, by), key)

    async def tokens(self) -> list[TokenInfo]:
        return await self._read(tokens.listed)

    async def authenticate(self, token_hash: str) -> Principal | None:
        return await self._read(lambda s: tokens.authenticate(s, token_hash))

    # --- who serves what ------------------------------------------------------------------------------

    async def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None:
        """The alias's head as soon as it is newer than ``generation``; None after ``timeout_s`` (at most 60)."""
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
        }

    # --- inside ---------------------------------------------------------------------------------------

    async def _read(self, query: Callable[[Connection], R]) -> R:
        read = functools.partial(self._record.read, query)
        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    async def _write(self, operation: Callable[[Tx], R], key: str | None) -> R:
        self._loop = asyncio.get_running_loop()
        write = functools.partial(self._record.write, operation, key)
        return await self._loop.run_in_executor(self._writer, write)

    def _moved(self, head: AliasHead) -> None:
        """Called in the writing thread; hands over to the loop, also when the caller has stopped waiting."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._publish, head)

    def _publish(self, head: AliasHead) -> None:
        self._heads[(head.model, head.alias)] = head
        self._changed.set()
        self._changed = asyncio.Event()
        where, by = f"{head.model}@{head.alias}", f"by {head.moved_by}, promotion {head.promotion_id}"
        log.info("%s moved to version %d, generation %d, %s", where, head.version, head.generation, by)


class RegistryActor(Registry):
    """What runs as the actor: the registry in a process of its own, which sets up its log."""

    def __init__(self, database_url: str, policy: GatePolicy | None = None) -> None:
        logs.set_up()
        super().__init__(database_url, policy)
