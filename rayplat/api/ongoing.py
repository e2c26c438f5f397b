"""Calls that outlast an HTTP request: the work goes on, and the same call again joins it instead of starting it twice.

The ingress ends a request when `rayplat.serve.deployment.flags` says so; a backfill may take longer. Knows nothing of
verbs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from rayplat.errors import StillRunning

PATIENCE_S = 40.0  # the ingress waits 60 s for an answer
MOST = 16  # under way at a time; more wait for their turn
KEPT_S = 60.0  # a result that nobody has fetched yet


class Ongoing:
    """The work under way, by key. Safe to call from several threads."""

    def __init__(self, patience_s: float = PATIENCE_S, kept_s: float = KEPT_S) -> None:
        self._patience_s, self._kept_s = patience_s, kept_s
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(MOST, "long-call")
        self._running: dict[str, tuple[Future[Any], list[float]]] = {}

    def run(self, key: str, what: str, work: Callable[[], Any]) -> Any:
        """What ``work`` returns or raises; `StillRunning` where that takes longer than a request may. A call with the
        ``key`` of work that is under way, or that has just ended unseen, gets the result of that."""
        with self._lock:
            self._forget()
            found = self._running.get(key)
            if found is None:
                found = self._running[key] = (self._threads.submit(work), [])
                found[0].add_done_callback(partial(_note_end, found[1]))
        future = found[0]
        try:
            result = future.result(self._patience_s)
        except TimeoutError:
            if not future.done():
                raise StillRunning(what) from None
            self._take(key, future)
            raise
        except BaseException:
            self._take(key, future)
            raise
        self._take(key, future)
        return result

    def _take(self, key: str, future: Future[Any]) -> None:
        with self._lock:
            if key in self._running and self._running[key][0] is future:
                del self._running[key]

    def _forget(self) -> None:
        now = time.monotonic()
        for key, (_, ended) in list(self._running.items()):
            if ended and now - ended[0] > self._kept_s:
                del self._running[key]


def _note_end(ended: list[float], _: Future[Any]) -> None:
    ended.append(time.monotonic())
