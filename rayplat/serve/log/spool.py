"""Durability ``spool``: a row is in a file of this machine before its request is answered, so that a killed host loses
none of what it answered.

Each host has a folder (its epoch) of segments; a segment is one batch for the writer and its name is the batch's
number, so what is found after a kill is sent under the same number again and stored exactly once. A held lock file
says that the host lives; whoever gets the lock of another's spool (a host that starts, the writer) delivers it.

A row is written to the file by the request itself: from there on only a crash of the machine can lose it, and the
thread's fsync bounds that to ``spool_fsync_s``. A disk that is full or fails costs rows, which are counted, never the
request. The layout of a segment is in `segments`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rayplat.errors import Unavailable
from rayplat.serve.log import segments
from rayplat.serve.log.sampling import Sample
from rayplat.serve.log.schema import RawRecord, Record
from rayplat.serve.log.tap import BATCH_ROWS, Batch, LogSink, encoded
from rayplat.settings import LogSettings, Settings

log = logging.getLogger(__name__)

PREFIX = "spool-"  # of an epoch: the writer waits for its missing batches, because they are not lost
_SEGMENT_BYTES = 16 << 20
_WARN_S = 60.0
_PATIENCE_S = 60.0
_SUFFIX, _LOCK = ".rows", ".lock"


def folder(settings: Settings) -> Path:
    """Where the spools of this machine's hosts lie."""
    return settings.home / "spool" / "inference_log"


@dataclass
class _Segment:
    """``records`` are those in the file while memory has room for them, so that it need not be read back."""

    seq: int
    path: Path
    descriptor: int
    size_bytes: int
    rows: int = 0
    records: list[Record] | None = field(default_factory=list)
    synced_bytes: int = 0


class SpoolBuffer:
    """A `Buffer` on disk. Raises `Unavailable` where ``root`` cannot be written."""

    def __init__(self, root: Path, settings: LogSettings, sample: Sample, replica: str) -> None:
        self._settings, self._sample, self._replica = settings, sample, replica
        self._lock = threading.Lock()  # held by the loop for one write, by the thread to change segments
        self._recorded = self._dropped = self._unreadable = 0
        self._closed: deque[_Segment] = deque()
        self._taken: dict[int, _Segment] = {}
        self._bytes = 0  # of all segments that are not delivered
        self._warned = -_WARN_S
        self._synced = time.monotonic()
        try:
            self._home, self._held = _claim(root)
            self._current = self._open(0)
        except OSError as e:
            raise Unavailable("the spool of the inference log", f"{root} cannot be written: {e}") from e
        self.epoch = self._home.name

    @property
    def recorded(self) -> int:
        return self._recorded

    @property
    def dropped(self) -> int:
        return self._dropped + self._unreadable

    def add(self, record: RawRecord) -> None:
        self._keep(Record._make(record))

    def _keep(self, record: Record) -> None:
        if not self._sample.holds(record.request_id):
            return
        self._recorded += record.rows
        try:
            frame = segments.frame(record)
            with self._lock:
                self._write(frame, record)
        except Exception as e:  # noqa: BLE001 - whatever the disk or a value does, the request is answered
            self._dropped += record.rows
            self._warn(e)

    def _write(self, frame: bytes, record: Record) -> None:
        if self._bytes + len(frame) > self._settings.spool_bytes:
            raise OSError(f"the spool holds its {self._settings.spool_bytes} bytes: the writer does not keep up")
        segment = self._current
        if segment.rows >= BATCH_ROWS or segment.size_bytes >= _SEGMENT_BYTES:
            segment = self._next_segment()
        written = os.write(segment.descriptor, frame)
        if written < len(frame):  # the disk is full: what stands there is cut off, the next row must begin cleanly
            os.ftruncate(segment.descriptor, segment.size_bytes)
            raise OSError("no space left for the spool of the inference log")
        segment.size_bytes += written
        self._bytes += written
        segment.rows += record.rows
        if segment.records is not None:
            segment.records.append(record)

    def _next_segment(self) -> _Segment:
        fresh = self._open(self._current.seq + 1)
        self._closed.append(self._current)
        self._current = fresh
        return fresh

    def _warn(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned >= _WARN_S:
            self._warned = now
            log.error("inference log: rows cannot be spooled and are dropped: %s", error)

    def _open(self, seq: int) -> _Segment:
        path = self._home / f"{seq:010d}{_SUFFIX}"
        head = segments.header(self._replica)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            if os.write(descriptor, head) < len(head):
                raise OSError(f"no space left for {path}")
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return _Segment(seq, path, descriptor, len(head))

    # --- the tap's thread -------------------------------------------------------------------------

    def take(self, room: bool) -> Batch | None:
        if room and not self._closed and self._current.rows:
            with self._lock:
                self._next_segment()
        self._spare_memory()
        if time.monotonic() - self._synced >= self._settings.spool_fsync_s:
            self._synced = time.monotonic()
            for segment in [*self._closed, self._current, *self._taken.values()]:
                _sync(segment)
        return self._batch(self._closed.popleft()) if room and self._closed else None

    def _spare_memory(self) -> None:
        held = 0
        for segment in list(self._closed):
            held += segment.rows
            if held > self._settings.buffer_rows:
                segment.records = None

    def _batch(self, segment: _Segment) -> Batch:
        self._taken[segment.seq] = segment
        records = segment.records
        if records is None:
            records, _ = segments.read(segment.path)
        stream, bad = encoded(records, self._replica)
        lost = bad + segment.rows - sum(record.rows for record in records)
        self._unreadable += lost
        segment.records = None
        return Batch(segment.seq, segment.rows - lost, stream)

    def done(self, batch: Batch) -> None:
        segment = self._taken.pop(batch.seq)
        os.close(segment.descriptor)
        segment.path.unlink(missing_ok=True)
        with self._lock:
            self._bytes -= segment.size_bytes

    def close(self) -> None:
        """What is delivered leaves no trace; the rest stays for whoever takes it over."""
        left = [*self._taken.values(), *self._closed]
        with self._lock:
            if self._current.rows:
                left.append(self._current)
            else:
                os.close(self._current.descriptor)
                self._current.path.unlink(missing_ok=True)
        for segment in left:
            _sync(segment)
            os.close(segment.descriptor)
        self._held.release(remove=not left)


def _sync(segment: _Segment) -> None:
    if segment.synced_bytes < segment.size_bytes:
        segment.synced_bytes, size = segment.size_bytes, segment.size_bytes
        with contextlib.suppress(OSError):  # a disk that fails shows at the next write
            os.fsync(segment.descriptor)
        segment.synced_bytes = size


# --- who owns a spool -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """The lock of one spool; it goes with the process, however that ends."""

    home: Path
    descriptor: int

    def release(self, *, remove: bool) -> None:
        """Let go; ``remove`` the folder and the lock file too, in an order that leaves nothing half there."""
        if remove:
            with contextlib.suppress(OSError):
                self.home.rmdir()
                _lock_of(self.home).unlink(missing_ok=True)
        os.close(self.descriptor)


def _lock_of(home: Path) -> Path:
    return home.with_name(home.name + _LOCK)


def _claim(root: Path) -> tuple[Path, _Held]:
    """A new spool's folder. Its lock is held before it is there, so nobody takes it for a dead host's."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        home = root / f"{PREFIX}{uuid.uuid4().hex}"
        held = _try(home, os.O_CREAT)
        if held is not None:
            home.mkdir(mode=0o700)
            return home, held


def _try(home: Path, flags: int) -> _Held | None:
    """The lock of a spool, or None while somebody else has it (or had it, and took it away)."""
    lock = _lock_of(home)
    try:
        descriptor = os.open(lock, os.O_RDWR | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == os.stat(lock).st_ino:
            return _Held(home, descriptor)
    except OSError:
        pass
    os.close(descriptor)
    return None


class Orphan:
    """The spool of a host that is gone, held by whoever delivers it."""

    def __init__(self, held: _Held) -> None:
        self.epoch = held.home.name
        self._held = held
        self._unreadable: set[int] = set()

    def numbers(self) -> list[int]:
        """The batches that are still there, in order."""
        return sorted(int(path.stem) for path in self._held.home.glob(f"*{_SUFFIX}"))

    def batch(self, seq: int) -> Batch:
        """One of them, without a row that was cut off in the middle. A file that cannot be read at all is an empty
        batch, because the ones after it wait for its number."""
        try:
            records, replica = segments.read(self._path(seq))
        except ValueError as e:
            log.error("inference log: a spooled segment cannot be read and is set aside: %s", e)
            self._unreadable.add(seq)
            records, replica = [], ""
        stream, bad = encoded(records, replica)
        return Batch(seq, sum(record.rows for record in records) - bad, stream)

    def delivered(self, seq: int) -> None:
        """The writer has it."""
        path = self._path(seq)
        if seq in self._unreadable:
            path.replace(self._held.home.with_suffix(f".{seq}.unreadable"))
        path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go; the folder goes too where everything is delivered."""
        self._held.release(remove=not self.numbers())

    def _path(self, seq: int) -> Path:
        return self._held.home / f"{seq:010d}{_SUFFIX}"


def orphans(root: Path) -> Iterator[Orphan]:
    """Spools under ``root`` whose hosts are gone, one after the other. `Orphan.release` each."""
    if not root.is_dir():
        return
    for home in sorted(root.iterdir()):
        if not (home.is_dir() and home.name.startswith(PREFIX)):
            continue
        held = _try(home, 0)
        if held is None:
            continue
        if home.is_dir():
            yield Orphan(held)
        else:
            os.close(held.descriptor)


def deliver_orphans(root: Path, sink: LogSink) -> int:
    """Hand every orphan's batches to the writer, each under its own number; how many rows that were. What the writer
    has already is recognised there. A batch that it does not take stays for the next time."""
    rows = 0
    for orphan in orphans(root):
        try:
            for seq in orphan.numbers():
                batch = orphan.batch(seq)
                acknowledged = sink.write(batch.stream, orphan.epoch, seq)
                sink.flush()
                acknowledged.result(_PATIENCE_S)
                orphan.delivered(seq)
                rows += batch.rows
        except Exception as e:  # noqa: BLE001 - the writer may be restarting, in any of many ways
            log.warning("inference log: the spool %s is not delivered yet: %s", orphan.epoch, str(e).partition("\n")[0])
        finally:
            orphan.release()
    if rows:
        log.info("inference log: %s rows of hosts that are gone were delivered", rows)
    return rows
