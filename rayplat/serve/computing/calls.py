"""Blocking calls beside the event loop, each with a time limit: lookups, streams, explanations, large bodies.

A call that does not return keeps its thread for ever (`workers`): it is left behind and another thread takes its place,
a few times. Then new calls are refused at once, until one of those returns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from rayplat.errors import DeadlineExceeded, Unavailable
from rayplat.serve.computing.workers import Workers, raisable

log = logging.getLogger(__name__)
T = TypeVar("T")

_MOST_STUCK = 3  # threads left behind that are replaced
_STUCK_S, _LONG_S = 1.0, 5.0  # with nobody waiting for it any more; with others waiting behind it
_LOOK_S = 0.25


class _Call:
    __slots__ = ("answer", "began", "error", "left", "result", "stuck", "watch", "work")

    def __init__(self, work: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        self.work: Callable[[], Any] | None = work
        self.answer = answer
        self.began = 0.0
        self.left = self.stuck = False  # left: nobody waits for it
        self.watch: asyncio.TimerHandle | None = None
        self.result: Any = None
        self.error: Exception | None = None

    def __call__(self) -> None:
        work, self.work = self.work, None  # what it holds ends in its thread
        assert work is not None
        try:
            self.result = work()
        except BaseException as e:  # noqa: BLE001 - native code that panics raises no Exception, and would end the thread
            self.error = raisable(e)


class Calls:
    """At most ``most`` calls of one kind at the same time; ``what`` names one in errors. Belongs to one event loop."""

    def __init__(self, name: str, what: str, most: int) -> None:
        self._what, self._most = what, most
        self._workers = Workers(name)
        self._waiting: OrderedDict[_Call, None] = OrderedDict()
        self._running: set[_Call] = set()
        self._closed = False
        self.stuck = 0

    async def run(self, work: Callable[[], T], left_s: float) -> T:
        """What ``work`` returns or raises. Raises `DeadlineExceeded` after ``left_s`` seconds, and `Unavailable` while
        too many earlier calls have not returned."""
        if self._closed or self._slots() <= 0:
            raise self._refusal()
        loop = asyncio.get_running_loop()
        call = _Call(work, loop.create_future())
        self._enter(call)
        timer = loop.call_later(left_s, self._expire, call, left_s)
        try:
            found: T = await call.answer
            return found
        finally:
            timer.cancel()
            call.left = True
            self._waiting.pop(call, None)

    def later(self, work: Callable[[], Any]) -> None:
        """Have it done when there is room; nobody waits for it, and what it raises is lost."""
        if not self._closed and self._slots() > 0:
            call = _Call(work, asyncio.get_running_loop().create_future())
            call.left = True
            self._enter(call)

    def close(self) -> None:
        """End its threads once they are done, and refuse what waits."""
        self._closed = True
        self._refuse_waiting()
        self._workers.close()

    def _slots(self) -> int:
        return self._most - max(self.stuck - _MOST_STUCK, 0)

    def _refusal(self) -> Unavailable:
        reason = "its host is stopping" if self._closed else f"{self.stuck} earlier ones have not returned"
        return Unavailable(self._what, reason)

    def _refuse_waiting(self) -> None:
        while self._waiting:
            call, _ = self._waiting.popitem()
            if not call.left and not call.answer.done():
                call.answer.set_exception(self._refusal())

    def _enter(self, call: _Call) -> None:
        self._waiting[call] = None
        self._dispatch()

    def _expire(self, call: _Call, left_s: float) -> None:
        if not call.answer.done():
            call.answer.set_exception(DeadlineExceeded(self._what, round(left_s, 3)))

    def _dispatch(self) -> None:
        while self._waiting and len(self._running) < self._slots():
            loop = asyncio.get_running_loop()
            call, _ = self._waiting.popitem(last=False)
            if call.answer.done():  # too late, or its client has gone
                continue
            self._running.add(call)
            while self._workers.threads < len(self._running) + self.stuck:
                self._workers.start(loop)
            call.began = time.monotonic()
            call.watch = loop.call_later(_STUCK_S, self._suspect, call)
            self._workers.submit(call, lambda call=call: self._done(call))  # type: ignore[misc]

    def _done(self, call: _Call) -> None:
        if call.watch is not None:
            call.watch.cancel()
        if call.stuck:
            self.stuck -= 1
            self._workers.retire()
        else:
            self._running.discard(call)
        if not call.left and not call.answer.done():
            if call.error is not None:
                call.answer.set_exception(call.error)
            else:
                call.answer.set_result(call.result)
        self._dispatch()

    def _suspect(self, call: _Call) -> None:
        """A call takes long: once nobody waits for it, or others wait behind it too long, its thread is given up."""
        took_s = time.monotonic() - call.began
        if not call.left and (took_s < _LONG_S or not self._waiting):
            call.watch = asyncio.get_running_loop().call_later(_LOOK_S, self._suspect, call)
            return
        call.stuck, call.watch = True, None
        self._running.discard(call)
        self.stuck += 1
        log.error("%s has not returned in %.1f s, its thread is replaced", self._what, took_s)
        if self._slots() <= 0:
            self._refuse_waiting()
        self._dispatch()
