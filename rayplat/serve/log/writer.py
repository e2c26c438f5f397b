"""The one writer of the inference log: gathers the hosts' batches into few Delta commits, exactly once.

Each host epoch numbers its batches from 0. A commit takes an epoch's batches in sequence and records the last
number in the same Delta transaction, so a batch that is sent again after a crash on either side is recognised.
A batch is acknowledged (the call returns) only after its commit.

Beside that it looks after the log: what killed hosts left in spools of this machine is delivered, what they lost from
memory is counted (`hosts`), small files are joined (`log_upkeep`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rayplat import logs
from rayplat.errors import AlreadyExists, InvalidInput
from rayplat.serve.log import schema as log_schema
from rayplat.serve.log import spool
from rayplat.serve.log import upkeep as log_upkeep
from rayplat.serve.log.hosts import Hosts
from rayplat.settings import Settings

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_LOOK_S = 60.0
# A host that lives sends what is missing again within a minute: one that has not is dead, and what came after the
# missing batch must not wait for it for ever.
_GAP_S = 180.0


@dataclass
class _Waiting:
    table: pa.Table
    committed: asyncio.Future[None]


@dataclass
class _Epoch:
    """A host's batches: ``last`` is the number of the last one committed, -1 for none."""

    last: int
    waiting: dict[int, _Waiting] = field(default_factory=dict)
    gap_since: float | None = None

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

    def skip_gap(self, now: float) -> bool:
        """Go on behind a gap that has been there for too long; whether that was so."""
        if not self.waiting or self.ready():
            self.gap_since = None
        elif self.gap_since is None:
            self.gap_since = now
        elif now - self.gap_since > _GAP_S:
            self.last, self.gap_since = min(self.waiting) - 1, None
            return True
        return False


class InferenceLogWriter:
    """A plain class; the platform starts it as a named actor. All methods run on the actor's event loop."""

    def __init__(self, settings: Settings, tables: Any = None) -> None:
        logs.set_up_in_actor()
        if tables is None:
            from rayplat.data.tables import Tables

            tables = Tables(settings.tables_uri, settings.data.storage_options)
        self._tables, self._settings = tables, settings
        self._commit_s = settings.log.commit_s
        self._epochs: dict[str, _Epoch] = {}
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._hosts = Hosts()
        self._grown = False
        self._commits = self._rows = self._skipped = self._inherited = self._compactions = 0
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
            self._hosts.sent(epoch)
        await asyncio.shield(held.committed)
        if problem is not None:
            raise InvalidInput("batch", str(problem))

    async def flush(self) -> int:
        """Commit now what is waiting; the number of rows committed by this call."""
        self._start()
        return await self._commit()

    async def seen(self, epoch: str, counts: dict[str, int], closed: bool) -> None:
        """How a host stands: its counts of rows, and whether that was its last word."""
        self._start()
        self._hosts.seen(epoch, counts, closed)

    async def heartbeat(self) -> dict[str, Any]:
        """Counts since this process started, and the reason why commits fail at present, if they do."""
        self._start()
        waiting = sum(w.table.num_rows for e in self._epochs.values() for w in e.waiting.values())
        return {
            "commits": self._commits,
            "rows": self._rows,
            "batches_skipped": self._skipped,
            "rows_waiting": waiting,
            "failure": self._failure,
            "spooled_rows_delivered": self._inherited,
            "compactions": self._compactions,
            **self._hosts.counts(),
        }

    def _start(self) -> None:
        """Begin its loops, now that there is an event loop."""
        if not self._tasks:
            loops = (self._run, self._inherit, self._keep_fit)
            self._tasks = [asyncio.get_running_loop().create_task(loop()) for loop in loops]

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

    async def _inherit(self) -> None:
        """Deliver the spools that hosts of this machine left behind."""
        sink = _Own(self, asyncio.get_running_loop())
        while True:
            try:
                self._inherited += await asyncio.to_thread(spool.deliver_orphans, spool.folder(self._settings), sink)
            except Exception:
                log.exception("inference log: spools of hosts that are gone could not be looked at")
            now = asyncio.get_running_loop().time()
            for epoch, state in self._epochs.items():
                if not epoch.startswith(spool.PREFIX) and state.skip_gap(now):
                    log.warning("inference log: batches of a host that is gone are missing", extra={"epoch": epoch})
                    self._wake.set()
            await asyncio.sleep(_LOOK_S)

    async def _keep_fit(self) -> None:
        """Join small files, beside the commits: neither waits for the other."""
        while True:
            await asyncio.sleep(self._settings.log.compact_s)
            try:
                joined = await asyncio.to_thread(log_upkeep.compact, self._tables, self._settings.log.compact_files)
                self._compactions += joined
            except Exception:
                log.exception("inference log: small files could not be joined and are left for the next time")

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
                rows = sum(self._epochs[epoch].waiting[n].table.num_rows for n in chosen[epoch])
                self._hosts.committed(epoch, rows)
                self._epochs[epoch].acknowledge(last)
            self._commits += 1
            self._rows += table.num_rows
            self._failure = None
            return int(table.num_rows)

    def _append(self, table: pa.Table, transactions: list[tuple[str, int]]) -> None:
        if log_schema.TABLE not in self._tables.names():
            with contextlib.suppress(AlreadyExists):
                self._tables.create(log_schema.TABLE, log_schema.SCHEMA, partition_by=log_schema.PARTITION_BY)
        # a table of an earlier release is given the columns that it lacks, once
        self._tables.append(log_schema.TABLE, table, transactions=transactions, evolve=not self._grown)
        self._grown = True


class _Own:
    """The writer as its own `LogSink`, for a thread of its process."""

    def __init__(self, writer: InferenceLogWriter, loop: asyncio.AbstractEventLoop) -> None:
        self._writer, self._loop = writer, loop

    def write(self, batch: bytes, epoch: str, seq: int) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(self._writer.write(batch, epoch, seq), self._loop)

    def flush(self) -> None:
        asyncio.run_coroutine_threadsafe(self._writer.flush(), self._loop)

    def seen(self, epoch: str, counts: dict[str, int], closed: bool) -> None:
        asyncio.run_coroutine_threadsafe(self._writer.seen(epoch, counts, closed), self._loop)
