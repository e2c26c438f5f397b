"""The inference log's end in a model host: answered requests go into a bounded buffer and leave it in a thread.

`InferenceTap.record` costs the request an append and never blocks or raises; when the buffer is full the oldest rows
are dropped and counted. The thread turns records into Arrow batches numbered per host epoch and keeps at most two
unacknowledged at the writer; what a dead writer has not acknowledged is sent again, and the writer skips what it
has already committed, so a row that was not dropped is stored exactly once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Protocol

from rayplat import actors
from rayplat.errors import InvalidInput, Unavailable
from rayplat.serve import log_schema
from rayplat.serve.log_schema import Record
from rayplat.settings import LogSettings

log = logging.getLogger(__name__)

_EARLY_ROWS = 1_000  # a batch leaves before its time once it holds this many
_BATCH_ROWS = 16_384
_IN_FLIGHT = 2
_RESEND_S = 60.0  # a writer that is silent for so long is asked again; it recognises what it already has
_BACKOFF_S = 0.5


class LogSink(Protocol):
    """The way to the writer. The future completes once the batch is committed."""

    def write(self, batch: bytes, epoch: str, seq: int) -> Future[None]: ...

    def flush(self) -> None:
        """Ask the writer to commit now rather than when its time comes."""


@dataclass
class _Sent:
    seq: int
    rows: int
    batch: bytes
    acknowledged: Future[None]
    since: float


class InferenceTap:
    """One per replica. ``record`` from the event loop, everything else happens in a daemon thread."""

    def __init__(self, sink: LogSink, settings: LogSettings, replica: str) -> None:
        self._sink, self._settings, self._replica = sink, settings, replica
        self.epoch = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._buffer: deque[Record] = deque()
        self._buffered = 0
        self._sent: deque[_Sent] = deque()
        self._seq = 0
        self._recorded = self._dropped = self._committed = 0
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._flushing = self._closing = False
        log_schema.warm_up()
        self._thread = threading.Thread(target=self._run, name="inference-tap", daemon=True)
        self._thread.start()

    def record(self, record: Record) -> None:
        """Keep one answered request for the log. Drops the oldest when full; never blocks, never raises."""
        with self._lock:
            self._buffer.append(record)
            self._buffered += record.rows
            self._recorded += record.rows
            self._idle.clear()
            while self._buffered > self._settings.buffer_rows and len(self._buffer) > 1:
                oldest = self._buffer.popleft()
                self._buffered -= oldest.rows
                self._dropped += oldest.rows
        if self._buffered >= _EARLY_ROWS:
            self._wake.set()

    def stats(self) -> dict[str, int]:
        """Rows since the start: recorded, committed, dropped, and still on their way."""
        with self._lock:
            waiting = self._recorded - self._committed - self._dropped
            return {
                "recorded": self._recorded,
                "committed": self._committed,
                "dropped": self._dropped,
                "waiting": waiting,
            }

    def flush(self, timeout_s: float) -> bool:
        """Send and commit everything recorded so far; False when that took longer than ``timeout_s``."""
        self._flushing = True
        self._wake.set()
        done = self._idle.wait(timeout_s)
        self._flushing = False
        return done

    def close(self, timeout_s: float) -> bool:
        """`flush`, then end the thread. Rows that could not be delivered in time are lost, and counted as such."""
        done = self.flush(timeout_s)
        self._closing = True
        self._wake.set()
        self._thread.join(1.0)
        if not done:
            log.warning("inference log: rows lost at shutdown", extra=self.stats())
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
        self._collect()
        if len(self._sent) < _IN_FLIGHT:
            records = self._take()
            if records:
                self._send(records)
        if self._flushing and self._sent:
            with contextlib.suppress(Exception):  # the writer may be restarting: the next round asks again
                self._sink.flush()
        with self._lock:
            if not self._buffer and not self._sent:
                self._idle.set()

    def _take(self) -> list[Record]:
        records: list[Record] = []
        rows = 0
        with self._lock:
            while self._buffer and rows < _BATCH_ROWS:
                record = self._buffer.popleft()
                rows += record.rows
                records.append(record)
            self._buffered -= rows
        return records

    def _send(self, records: list[Record]) -> None:
        rows = sum(record.rows for record in records)
        try:
            batch = log_schema.encode(records, self._replica)
        except Exception:
            log.exception("inference log: %s rows could not be encoded and are dropped", rows)
            self._drop(rows)
            return
        self._sent.append(_Sent(self._seq, rows, batch, self._deliver(batch, self._seq), time.monotonic()))
        self._seq += 1

    def _deliver(self, batch: bytes, seq: int) -> Future[None]:
        try:
            return self._sink.write(batch, self.epoch, seq)
        except Exception as e:  # noqa: BLE001 - whatever it is, the batch is sent again
            failed: Future[None] = Future()
            failed.set_exception(e)
            return failed

    def _collect(self) -> None:
        while self._sent:
            oldest = self._sent[0]
            try:
                oldest.acknowledged.result(timeout=0)
            except FutureTimeout:
                if time.monotonic() - oldest.since > _RESEND_S:
                    self._send_again("it is silent")
                return
            except InvalidInput as e:  # refused for good: sending it again would block the log for ever
                log.error("inference log: the writer refused %s rows: %s", oldest.rows, e)
                self._drop(oldest.rows)
            except Exception as e:  # noqa: BLE001 - Ray raises many classes for a lost actor
                time.sleep(_BACKOFF_S)
                self._send_again(str(e).partition("\n")[0])
                return
            else:
                with self._lock:
                    self._committed += oldest.rows
            self._sent.popleft()

    def _send_again(self, reason: str) -> None:
        """Everything unacknowledged, in order: the writer commits an epoch's batches in sequence."""
        log.warning("inference log: writer lost (%s), sending %s batches again", reason, len(self._sent))
        for sent in self._sent:
            sent.acknowledged = self._deliver(sent.batch, sent.seq)
            sent.since = time.monotonic()

    def _drop(self, rows: int) -> None:
        with self._lock:
            self._dropped += rows


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

    def _actor(self) -> Any:
        if self._handle is None:
            self._handle = actors.find(actors.INFERENCE_LOG)
            if self._handle is None:
                raise Unavailable("the inference log's writer", "its actor does not run")
        return self._handle

    def _forget_dead(self, future: Future[None]) -> None:
        if not future.cancelled() and future.exception() is not None:
            self._handle = None
