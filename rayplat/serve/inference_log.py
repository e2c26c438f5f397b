"""The one writer of the inference log: gathers the hosts' batches into few Delta commits, exactly once.

Each host epoch numbers its batches from 0. A commit takes an epoch's batches in sequence and records the last
number in the same Delta transaction, so a batch that is sent again after a crash on either side is recognised.
A batch is acknowledged (the call returns) only after its commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rayplat import logs
from rayplat.errors import AlreadyExists, InvalidInput
from rayplat.serve import log_schema
from rayplat.settings import Settings

log = logging.getLogger(__name__)

_RETRY_S = 1.0


@dataclass
class _Waiting:
    table: pa.Table
    committed: asyncio.Future[None]


@dataclass
class _Epoch:
    """A host's batches: ``last`` is the number of the last one committed, -1 for none."""

    last: int
    waiting: dict[int, _Waiting] = field(default_factory=dict)

    def ready(self) -> list[int]:
        """The waiting numbers that follow ``last`` without a gap."""
        found: list[int] = []
        while self.last + len(found) + 1 in self.waiting:
            found.append(self.last + len(found) + 1)
        return found

    def acknowledge(self, last: int) -> None:
        """Everything up to ``last`` is in the table: its writers may return."""
        self.last = max(self.last, last)
        for n in [n for n in self.waiting if n <= self.last]:
            self.waiting.pop(n).committed.set_result(None)


class InferenceLogWriter:
    """A plain class; the platform starts it as a named actor. All methods run on the actor's event loop."""

    def __init__(self, settings: Settings, tables: Any = None) -> None:
        logs.set_up_in_actor()
        if tables is None:
            from rayplat.data.tables import Tables

            tables = Tables(settings.tables_uri, settings.data.storage_options)
        self._tables = tables
        self._commit_s = settings.log.commit_s
        self._epochs: dict[str, _Epoch] = {}
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._commits = self._rows = self._skipped = 0
        self._failure: str | None = None

    async def write(self, batch: bytes, epoch: str, seq: int) -> None:
        """Store a batch; returns once it is committed. A batch that was committed before returns at once.

        Raises `InvalidInput` for bytes that are no rows of the log (the number counts as used).
        """
        self._start()
        known = await self._epoch(epoch)
        if seq <= known.last:
            self._skipped += 1
            return
        held = known.waiting.get(seq)
        problem: ValueError | None = None
        if held is None:
            try:
                table = log_schema.decode(batch)
            except ValueError as e:
                problem, table = e, log_schema.SCHEMA.empty_table()
            held = known.waiting[seq] = _Waiting(table, asyncio.get_running_loop().create_future())
            self._wake.set()
        await asyncio.shield(held.committed)
        if problem is not None:
            raise InvalidInput("batch", str(problem))

    async def flush(self) -> int:
        """Commit now what is waiting; the number of rows committed by this call."""
        self._start()
        return await self._commit()

    async def heartbeat(self) -> dict[str, Any]:
        """Counts since this process started, and the reason why commits fail at present, if they do."""
        waiting = sum(w.table.num_rows for e in self._epochs.values() for w in e.waiting.values())
        return {
            "commits": self._commits,
            "rows": self._rows,
            "batches_skipped": self._skipped,
            "rows_waiting": waiting,
            "failure": self._failure,
        }

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._commit_s)
            self._wake.clear()
            try:
                await self._commit()
            except Exception as e:
                self._failure = str(e)
                log.exception("inference log: the commit failed and is tried again")
                self._wake.set()
                await asyncio.sleep(_RETRY_S)

    async def _epoch(self, epoch: str) -> _Epoch:
        async with self._lock:
            if epoch not in self._epochs:
                last = await asyncio.to_thread(self._last_committed, epoch)
                self._epochs[epoch] = _Epoch(-1 if last is None else last)
            return self._epochs[epoch]

    def _last_committed(self, epoch: str) -> int | None:
        if log_schema.TABLE not in self._tables.names():
            return None
        last: int | None = self._tables.transaction_version(log_schema.TABLE, epoch)
        return last

    async def _commit(self) -> int:
        async with self._lock:
            chosen = {epoch: numbers for epoch, state in self._epochs.items() if (numbers := state.ready())}
            if not chosen:
                return 0
            held = [self._epochs[epoch].waiting[n] for epoch, numbers in chosen.items() for n in numbers]
            table = pa.concat_tables([w.table for w in held])
            transactions = [(epoch, numbers[-1]) for epoch, numbers in chosen.items()]
            try:
                await asyncio.to_thread(self._append, table, transactions)
            except Exception:
                # It may be in the table all the same: the answer was lost, or another writer was faster. Only what
                # the table does not have is tried again.
                for epoch in chosen:
                    last = await asyncio.to_thread(self._last_committed, epoch)
                    self._epochs[epoch].acknowledge(-1 if last is None else last)
                raise
            for epoch, last in transactions:
                self._epochs[epoch].acknowledge(last)
            self._commits += 1
            self._rows += table.num_rows
            self._failure = None
            return int(table.num_rows)

    def _append(self, table: pa.Table, transactions: list[tuple[str, int]]) -> None:
        if log_schema.TABLE not in self._tables.names():
            with contextlib.suppress(AlreadyExists):
                self._tables.create(log_schema.TABLE, log_schema.SCHEMA, partition_by=log_schema.PARTITION_BY)
        self._tables.append(log_schema.TABLE, table, transactions=transactions)
