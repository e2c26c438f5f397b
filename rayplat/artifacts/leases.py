"""How publishing and garbage collection keep out of each other's way, on a medium that only stores named bytes.

Each side first writes its mark and then looks for the other's (Dekker's rule), so at least one of the two sees the
other, whoever was first:

- A publisher writes a lease, then looks for a sweep. It finds one: it withdraws the lease and waits. Otherwise it
  uploads, renewing the lease, writes the record of its upload, and at last looks at its own clock: had the lease run
  out before that record was written, it begins again under a new lease, where what is still there costs nothing.
- A sweep writes its marker, then looks for leases that have not run out. While there are any it waits, then gives up.
  Otherwise it asks what is reachable: every upload that has ended is on record. Its marker's life is fixed, and
  nothing is deleted in the last part of it.

Clocks may differ by ``skew_s``: each side takes the other's mark to live that much longer.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from rayplat.artifacts.manifest import canonical, check_digest
from rayplat.artifacts.places.place import LEASES, SWEEPS, UPLOADS, Found, Place
from rayplat.errors import Conflict, InvalidInput, NotFound, RayplatError, Unavailable

log = logging.getLogger(__name__)
R = TypeVar("R")

_ATTEMPTS = 5
_MARK_BYTES = 4096
Keep = Callable[[], None]


@dataclass(frozen=True)
class Timing:
    """Clock and spans, in seconds. ``margin_s`` is longer than one request to the medium can take with its retries."""

    lease_s: float = 900.0
    sweep_s: float = 240.0
    margin_s: float = 90.0
    skew_s: float = 30.0
    patience_s: float = 600.0  # how long a publisher waits for sweeps
    courtesy_s: float = 30.0  # how long a sweep waits for publishers
    now: Callable[[], float] = time.time
    wait: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Upload:
    """The record of a publication: when it ended, in seconds since 1970."""

    digest: str
    at: float


class Lapsed(Exception):
    """A lease ran out before its work was done."""


class Lease:
    """One publisher's lease. `keep` is cheap: it writes only when a third of the time is gone."""

    def __init__(self, place: Place, timing: Timing) -> None:
        self._place, self._timing = place, timing
        self._name = LEASES + secrets.token_hex(8)
        self._until = timing.now() + timing.lease_s
        _mark(place, self._name, self._until)

    def keep(self) -> None:
        """Raises `Lapsed` when the lease has run out: garbage collection may have run since."""
        now = self._timing.now()
        if now < self._until and self._until - now < self._timing.lease_s * 2 / 3:
            until = now + self._timing.lease_s
            _mark(self._place, self._name, until)
            now = self._timing.now()  # the renewal counts only if it was written before the old time was up
            if now < self._until:
                self._until = until
        if now >= self._until:
            raise Lapsed

    def end(self) -> None:
        with suppress(RayplatError):  # it runs out by itself
            self._place.delete(self._name)


def publish(place: Place, timing: Timing, kind: str, put: Callable[[Keep], tuple[str, R]]) -> R:
    """Run ``put(keep)``, which makes objects exist and returns (digest, result), so that no sweep deletes any of them.

    Raises `Unavailable` when a sweep does not end, or the work takes longer than its lease again and again.
    """
    for _ in range(_ATTEMPTS):
        lease = _lease(place, timing)
        try:
            digest, result = put(lease.keep)
            record = {"at": int(timing.now() * 1000), "kind": kind}
            place.write(UPLOADS + digest.removeprefix("sha256:"), canonical(record))
            lease.keep()
            return result
        except Lapsed:
            log.warning("an upload outlived its lease and is checked again")
        finally:
            lease.end()
    raise Unavailable("the artifact store", "the upload stood still for longer than its lease each time; repeat it")


def _lease(place: Place, timing: Timing) -> Lease:
    until, pause = timing.now() + timing.patience_s, 0.05
    while True:
        lease = Lease(place, timing)
        try:
            sweeping = _live(place, SWEEPS, timing)
        except BaseException:
            lease.end()
            raise
        if not sweeping:
            return lease
        lease.end()
        if timing.now() > until:
            raise Unavailable("the artifact store", "garbage is being collected; repeat the call when it has ended")
        timing.wait(pause)
        pause = min(2 * pause, 2.0)


class Sweep:
    """The marker of one garbage collection; see `sweeping`."""

    def __init__(self, place: Place, timing: Timing) -> None:
        self._timing = timing
        self.name = SWEEPS + secrets.token_hex(8)
        self._until = timing.now() + timing.sweep_s
        _mark(place, self.name, self._until)

    def alive(self) -> bool:
        """Whether there is time to delete something more."""
        return self._timing.now() < self._until - self._timing.margin_s


@contextmanager
def sweeping(place: Place, timing: Timing) -> Iterator[Sweep]:
    """A sweep without any publisher beside it. Raises `Conflict` when another sweep is going on, `Unavailable` while
    uploads are in progress."""
    sweep = Sweep(place, timing)
    try:
        if set(_live(place, SWEEPS, timing)) - {sweep.name}:
            raise Conflict("garbage is already being collected from this store; wait for its end, then run it again")
        until, pause = timing.now() + timing.courtesy_s, 0.05
        while leases := _live(place, LEASES, timing):
            if timing.now() > until or not sweep.alive():
                reason = f"{len(leases)} uploads are in progress (or died within the last {timing.lease_s:.0f} s)"
                raise Unavailable("garbage collection", f"{reason}; nothing was deleted, run it again later")
            timing.wait(pause)
            pause = min(2 * pause, 2.0)
        yield sweep
    finally:
        with suppress(RayplatError):
            place.delete(sweep.name)


def uploads(place: Place) -> list[Upload]:
    """All records of publications. One that cannot be read counts from when it was written."""
    found = []
    for entry in place.list(UPLOADS):
        digest = "sha256:" + entry.name.removeprefix(UPLOADS)
        with suppress(NotFound, InvalidInput):  # gone by now, or none of ours
            at = _number(place, entry, "at")
            found.append(Upload(check_digest("upload", digest), entry.modified if at is None else at / 1000))
    return found


def dead_marks(place: Place, timing: Timing) -> list[str]:
    """Names of leases and sweeps that ran out long ago: their processes are gone."""
    ended = timing.now() - timing.skew_s - timing.lease_s
    return [e.name for prefix in (LEASES, SWEEPS) for e in place.list(prefix) if _until(place, e, timing) < ended]


def _mark(place: Place, name: str, until: float) -> None:
    place.write(name, canonical({"until": math.ceil(until * 1000)}), durable=False)


def _live(place: Place, prefix: str, timing: Timing) -> list[str]:
    found = [(entry.name, _until(place, entry, timing)) for entry in place.list(prefix)]
    return [name for name, until in found if timing.now() < until + timing.skew_s]


def _until(place: Place, entry: Found, timing: Timing) -> float:
    """When a mark runs out; 0 when it is gone. One that cannot be read counts from when it was written."""
    try:
        until = _number(place, entry, "until")
    except NotFound:
        return 0.0
    return entry.modified + max(timing.lease_s, timing.sweep_s) if until is None else until / 1000


def _number(place: Place, entry: Found, key: str) -> int | None:
    try:
        with closing(place.open(entry.name)) as file:
            value = json.loads(file.read(_MARK_BYTES))[key]
    except NotFound:
        raise
    except (RayplatError, ValueError, KeyError, TypeError) as e:
        if isinstance(e, Unavailable):
            raise
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
