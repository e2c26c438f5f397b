"""One thread that writes: operations that wait while the disk is busy share the next commit (group commit).

Each operation runs in a savepoint of its own, so one that is refused takes nothing from its neighbours, and each
caller is told only after the commit that holds its change.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from rayplat.registry.record.database import Record, Tx

R = TypeVar("R")
_MOST = 64  # operations in one commit: bounds what a caller waits for its neighbours

_Waiting = tuple[Callable[[Tx], Any], str | None, "Future[Any]"]


class Writer:
    """Writes to ``record`` in the order of `submit`."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._waiting: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="registry-write", daemon=True).start()

    def submit(self, operation: Callable[[Tx], R], key: str | None) -> Future[R]:
        """The operation's result, or its error, after the commit."""
        future: Future[R] = Future()
        self._waiting.put((operation, key, future))
        return future

    def _run(self) -> None:
        while True:
            group = [self._waiting.get()]
            while len(group) < _MOST and not self._waiting.empty():
                group.append(self._waiting.get())
            group = [w for w in group if w[2].set_running_or_notify_cancel()]
            if not group:
                continue
            try:
                results = self._record.write_all([(operation, key) for operation, key, _ in group])
            except BaseException as e:  # noqa: BLE001 - every caller gets it; the thread goes on for those after them
                results = [e] * len(group)
            for (_, _, future), result in zip(group, results, strict=True):
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)
