"""The inference log's end in a model host: answered requests go into a bounded buffer and leave it in a thread.

`InferenceTap.record` never blocks or raises; what does not fit is dropped and counted. The thread turns records into
Arrow batches numbered per host epoch and keeps at most two unacknowledged at the writer; what a dead writer has not
acknowledged is sent again, and the writer skips what it has already committed, so a row that was not dropped is stored
exactly once. Where rows wait is the buffer's matter: in memory (`MemoryBuffer`) or on disk (`spool.SpoolBuffer`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rayplat import actors
from rayplat.errors import InvalidInput, Unavailable
from rayplat.serve.log import schema as log_schema
from rayplat.serve.log.sampling import Sample
from rayplat.serve.log.schema import RawRecord, Record
from rayplat.settings import LogSettings
from rayplat.types import Logging

log = logging.getLogger(__name__)

BATCH_ROWS = 16_384
_EARLY_ROWS = 1_000  # a batch leaves before its time once it holds this many
_IN_FLIGHT = 2
_RESEND_S = 60.0  # a writer that is silent for so long is asked again; it recognises what it already has
_BACKOFF_S = 0.5
_ORPHANS_S = 60.0
_REPORT_S = 5.0  # how often the writer hears what this host has recorded, dropped and got acknowledged


class LogSink(Protocol):
    """The way to the writer. The future completes once the batch is committed."""

    def write(self, batch: bytes, epoch: str, seq: int) -> Future[None]: ...

    def flush(self) -> None:
        """Ask the writer to commit now rather than when its time comes."""

    def seen(self, epoch: str, counts: dict[str, int], closed: bool) -> None:
        """Tell the writer how a host stands, so that rows lost with a killed one are noticed."""


@dataclass
class Batch:
    """Rows on their way to the writer: an Arrow stream of ``rows`` rows with a number."""

    seq: int
    rows: int
    stream: bytes


class Buffer(Protocol):
    """Where records wait. ``add`` is called from one thread (the host's loop), the rest from the tap's thread."""

    epoch: str

    @property
    def recorded(self) -> int: ...

    @property
    def dropped(self) -> int: ...

    def add(self, record: RawRecord) -> None: ...

    def take(self, room: bool) -> Batch | None:
        """What is due every round, and the next batch if there is ``room`` for one."""
        ...

    def done(self, batch: Batch) -> None:
        """The writer has it, or will never take it."""

    def close(self) -> None: ...


class InferenceTap:
    """One per replica. ``record(record)`` from the host's loop, everything else happens in a daemon thread.

    ``spool`` is the folder for hosts whose log is declared with durability ``spool``. Raises `Unavailable` where it
    cannot be written.
    """

    record: Callable[[RawRecord], None]
    """Keep one request for the log. Never blocks on the writer, never raises; drops and counts what does not fit."""

    def __init__(
        self,
        sink: LogSink,
        settings: LogSettings,
        replica: str,
        declared: Logging | None = None,
        spool: Path | None = None,
    ) -> None:
        declared = declared or Logging()
        self._sink, self._settings, self._replica = sink, settings, replica
        self._wake = threading.Event()
        if declared.durability == "spool":
            from rayplat.serve.log.spool import SpoolBuffer

            if spool is None:
                raise InvalidInput("log.durability", "spool needs a folder of this machine")
            self._buffer: Buffer = SpoolBuffer(spool, settings, Sample(declared.sample), replica)
        else:
            self._buffer = MemoryBuffer(settings, Sample(declared.sample), replica, self._wake)
        self.record = self._buffer.add
        self.epoch = self._buffer.epoch
        self._sent: deque[tuple[Batch, _Sending]] = deque()
        self._committed = self._refused = 0
        self._asked = self._answered = 0
        self._settled = threading.Condition()
        self._reported = time.monotonic()
        self._flushing = self._closing = False
        self._stopped = threading.Event()
        log_schema.warm_up()
        self._thread = threading.Thread(target=self._run, name="inference-tap", daemon=True)
        self._thread.start()
        if spool is not None:
            threading.Thread(target=self._inherit, args=(spool,), name="spool-heir", daemon=True).start()

    def stats(self) -> dict[str, int]:
        """Rows since the start: recorded, committed, dropped, and still on their way."""
        committed, dropped = self._committed, self._buffer.dropped + self._refused
        recorded = self._buffer.recorded
        return {
            "recorded": recorded,
            "committed": committed,
            "dropped": dropped,
            "waiting": max(recorded - committed - dropped, 0),
        }

    def flush(self, timeout_s: float) -> bool:
        """Send and commit everything recorded so far; False when that took longer than ``timeout_s``."""
        with self._settled:
            self._asked += 1
            mine = self._asked
            self._flushing = True
            self._wake.set()
            done = self._settled.wait_for(lambda: self._answered >= mine, timeout_s)
            self._flushing = self._answered < self._asked and done
        return done

    def close(self, timeout_s: float) -> bool:
        """`flush`, then end the thread. Rows in memory that could not be delivered in time are lost, and counted as
        such; spooled ones stay on disk for whoever comes next."""
        done = self.flush(timeout_s)
        self._closing = True
        self._stopped.set()
        self._wake.set()
        self._thread.join(1.0)
        if not done:
            log.warning("inference log: not everything was delivered at shutdown", extra=self.stats())
        self._buffer.close()
        self._tell(closed=done)
        return done

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(0.02 if self._flushing else self._settings.flush_s)
            self._wake.clear()
            try:
                self.step()
            except Exception:
                log.exception("inference log: a round failed")
                time.sleep(_BACKOFF_S)

    def step(self) -> None:
        """One round: collect acknowledgements, send again what was lost, send what is buffered if there is room."""
        asked = self._asked
        self._collect()
        room = len(self._sent) < _IN_FLIGHT
        batch = self._buffer.take(room)
        if batch is not None:
            self._sent.append((batch, _Sending(self._deliver(batch), time.monotonic())))
        if self._flushing and self._sent:
            with contextlib.suppress(Exception):  # the writer may be restarting: the next round asks again
                self._sink.flush()
        if not self._sent and batch is None:
            with self._settled:
                self._answered = asked
                self._settled.notify_all()
        if time.monotonic() - self._reported > _REPORT_S:
            self._tell(closed=False)

    def _inherit(self, root: Path) -> None:
        """Deliver what killed hosts of this machine left in their spools: now, and every so often."""
        from rayplat.serve.log.spool import deliver_orphans

        while not self._closing:
            try:
                deliver_orphans(root, self._sink)
            except Exception:
                log.exception("inference log: spools of hosts that are gone could not be looked at")
            self._stopped.wait(_ORPHANS_S)

    def _tell(self, *, closed: bool) -> None:
        self._reported = time.monotonic()
        with contextlib.suppress(Exception):  # nothing depends on it, and it is said again
            self._sink.seen(self.epoch, self.stats(), closed)

    def _deliver(self, batch: Batch) -> Future[None]:
        try:
            return self._sink.write(batch.stream, self.epoch, batch.seq)
        except Exception as e:  # noqa: BLE001 - whatever it is, the batch is sent again
            failed: Future[None] = Future()
            failed.set_exception(e)
            return failed

    def _collect(self) -> None:
        while self._sent:
            batch, sending = self._sent[0]
            try:
                sending.acknowledged.result(timeout=0)
            except FutureTimeout:
                if time.monotonic() - sending.since > _RESEND_S:
                    self._send_again("it is silent")
                return
            except InvalidInput as e:  # refused for good: sending it again would block the log for ever
                log.error("inference log: the writer refused %s rows: %s", batch.rows, e)
                self._refused += batch.rows
            except Exception as e:  # noqa: BLE001 - Ray raises many classes for a lost actor
                time.sleep(_BACKOFF_S)
                self._send_again(str(e).partition("\n")[0])
                return
            else:
                self._committed += batch.rows
            self._buffer.done(batch)
            self._sent.popleft()

    def _send_again(self, reason: str) -> None:
        """Everything unacknowledged, in order: the writer commits an epoch's batches in sequence."""
        log.warning("inference log: writer lost (%s), sending %s batches again", reason, len(self._sent))
        for batch, sending in self._sent:
            sending.acknowledged = self._deliver(batch)
            sending.since = time.monotonic()


@dataclass
class _Sending:
    acknowledged: Future[None]
    since: float


class MemoryBuffer:
    """Records in memory: an append for the request. Two counters that only one thread writes each take the place of a
    lock: the loop's (``_in``, ``_overflowed``) and the tap's thread's (``_out``, …)."""

    def __init__(self, settings: LogSettings, sample: Sample, replica: str, wake: threading.Event) -> None:
        self.epoch = uuid.uuid4().hex
        self._limit, self._sample, self._replica, self._wake = settings.buffer_rows, sample, replica, wake
        self._incoming: deque[RawRecord] = deque()
        self._in = self._overflowed = 0
        self._attention = min(_EARLY_ROWS, self._limit)  # the count of rows at which the loop looks up again
        self._backlog: deque[Record] = deque()
        self._backlog_rows = self._out = self._left_out = self._dropped = 0
        self._seq = 0

    @property
    def recorded(self) -> int:
        return self._in - self._left_out

    @property
    def dropped(self) -> int:
        return self._overflowed + self._dropped

    def add(self, record: RawRecord) -> None:
        self._incoming.append(record)
        self._in += record[1]
        if self._in >= self._attention:
            self._attend()

    def _attend(self) -> None:
        """On the loop, now and then: wake the thread, and drop the oldest where it does not keep up."""
        pending = self._in - self._overflowed - self._out
        while pending > self._limit and len(self._incoming) > 1:
            rows = self._incoming.popleft()[1]
            self._overflowed += rows
            pending -= rows
        if pending >= _EARLY_ROWS:
            self._wake.set()
        self._attention = self._in + max(1, min(_EARLY_ROWS, self._limit - pending))

    def take(self, room: bool) -> Batch | None:
        self._drain()
        while room and self._backlog:
            records: list[Record] = []
            rows = 0
            while self._backlog and rows < BATCH_ROWS:
                record = self._backlog.popleft()
                rows += record.rows
                records.append(record)
            self._backlog_rows -= rows
            stream, bad = encoded(records, self._replica)
            self._dropped += bad
            if rows > bad:
                self._seq += 1
                return Batch(self._seq - 1, rows - bad, stream)
        return None

    def _drain(self) -> None:
        """Bring what came in into the backlog, as far as it is in the sample; drop the oldest beyond the limit."""
        for _ in range(len(self._incoming)):
            try:
                record = Record._make(self._incoming.popleft())
            except IndexError:  # the loop dropped it meanwhile
                break
            self._out += record.rows
            if self._sample.holds(record.request_id):
                self._backlog.append(record)
                self._backlog_rows += record.rows
            else:
                self._left_out += record.rows
        while self._backlog_rows > self._limit and len(self._backlog) > 1:
            self._dropped += self._backlog[0].rows
            self._backlog_rows -= self._backlog.popleft().rows

    def done(self, batch: Batch) -> None:
        """Nothing is kept of it."""

    def close(self) -> None:
        """Nothing to close."""


def encoded(records: list[Record], replica: str) -> tuple[bytes, int]:
    """The Arrow stream of ``records``, and how many rows could not be encoded and are not in it."""
    try:
        return log_schema.encode(records, replica), 0
    except Exception:  # noqa: BLE001 - one model's odd value must not cost the others theirs
        sound = [record for record in records if _is_sound(record, replica)]
    bad = sum(record.rows for record in records) - sum(record.rows for record in sound)
    return log_schema.encode(sound, replica), bad


def _is_sound(record: Record, replica: str) -> bool:
    try:
        log_schema.encode([record], replica)
    except Exception:
        log.exception("inference log: %s rows of version %s cannot be encoded", record.rows, record.version)
        return False
    return True


class ActorSink:
    """The writer actor as a `LogSink`. Looks the actor up again when its handle is dead."""

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, batch: bytes, epoch: str, seq: int) -> Future[None]:
        future: Future[None] = self._actor().write.remote(batch, epoch, seq).future()
        future.add_done_callback(self._forget_dead)
        return future

    def flush(self) -> None:
        self._actor().flush.remote()

    def seen(self, epoch: str, counts: dict[str, int], closed: bool) -> None:
        self._actor().seen.remote(epoch, counts, closed)

    def _actor(self) -> Any:
        if self._handle is None:
            self._handle = actors.find(actors.INFERENCE_LOG)
            if self._handle is None:
                raise Unavailable("the inference log's writer", "its actor does not run")
        return self._handle

    def _forget_dead(self, future: Future[None]) -> None:
        if not future.cancelled() and future.exception() is not None:
            self._handle = None
