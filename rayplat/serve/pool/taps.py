"""The inference log's taps of a worker: one for each way of logging, whatever the number of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rayplat.serve.log.schema import RawRecord
from rayplat.serve.log.tap import InferenceTap
from rayplat.types import Logging


class SharedTaps:
    """``make`` gives the tap for a `Logging` that names no fields (what is redacted is said in each record)."""

    def __init__(self, make: Callable[[Logging], InferenceTap]) -> None:
        self._make = make
        self._taps: dict[Logging, InferenceTap] = {}

    def of(self, declared: Logging) -> BorrowedTap:
        """The tap for a model that logs like ``declared``."""
        key = replace(declared, redact=())
        if key not in self._taps:
            self._taps[key] = self._make(key)
        return BorrowedTap(self._taps[key])

    def flush(self, timeout_s: float) -> bool:
        """Send and commit everything; false when that took too long."""
        done = [tap.flush(timeout_s) for tap in list(self._taps.values())]  # every one, whatever the others say
        return all(done)

    def close(self, timeout_s: float) -> bool:
        done = [tap.close(timeout_s) for tap in list(self._taps.values())]
        return all(done)


class BorrowedTap:
    """A tap as one model's host has it: to close it is the worker's business."""

    def __init__(self, tap: InferenceTap) -> None:
        self._tap = tap
        self.record: Callable[[RawRecord], None] = tap.record

    def stats(self) -> dict[str, int]:
        """Of all models that log like this one."""
        return self._tap.stats()

    def flush(self, timeout_s: float) -> bool:
        return self._tap.flush(timeout_s)

    def close(self, timeout_s: float) -> bool:
        return timeout_s >= 0
