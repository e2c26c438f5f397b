"""Threads that compute for one event loop, and can be left behind when a prediction never returns.

Python cannot end a thread. One that is stuck keeps its thread for ever, so another is started in its place; they are
daemons, so a process can end in spite of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Workers:
    """``work()`` is done in a thread, then ``done()`` on the loop. Called on the loop only."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: SimpleQueue[tuple[Callable[[], None], Callable[[], None]] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.threads = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """One more thread."""
        self._loop = loop
        self.threads += 1
        threading.Thread(target=self._run, name=f"{self._name}-{self.threads}", daemon=True).start()

    def submit(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """Have it done by the next free thread. ``work`` must not raise."""
        self._tasks.put((work, done))

    def retire(self) -> None:
        """One thread less, once it is free."""
        self.threads -= 1
        self._tasks.put(None)

    def close(self) -> None:
        while self.threads > 0:
            self.retire()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            work, done = task
            work()
            try:
                assert self._loop is not None
                self._loop.call_soon_threadsafe(done)
            except RuntimeError:  # the loop has ended, and nobody waits any more
                return
            del task, work, done  # or an idle thread would keep the last answer alive


async def in_own_thread(name: str, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises. It may take for ever: whoever waits may give up, the thread is left behind."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(found: T | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def run() -> None:
        found: T | None = None
        error: Exception | None = None
        try:
            found = work()
        except BaseException as e:  # noqa: BLE001 - it is raised where it is waited for
            error = raisable(e)
        try:
            loop.call_soon_threadsafe(settle, found, error)
        except RuntimeError:  # the loop has ended, and nobody waits any more
            return

    threading.Thread(target=run, name=name, daemon=True).start()
    return await answer


def raisable(error: BaseException) -> Exception:
    """``error`` as a future can hold it: no `StopIteration`, and nothing that would end the loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"it raised {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped
