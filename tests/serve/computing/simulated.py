"""A batcher on a clock of its own: a second passes when nothing is left to do before it, whatever the machine does."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayplat.serve.computing import batching
from rayplat.serve.computing.batching import Batcher
from rayplat.types import Batching, Limits


class _Selector(selectors.DefaultSelector):
    """Never waits: time goes on instead."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is going to happen")
        self._clock.now += max(timeout, 0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock_ = clock
        super().__init__(_Selector(clock))

    def time(self) -> float:
        return self._clock_.now


class _Worker:
    """In place of `Workers`: a call's outputs are there once the seconds are over that its model said it takes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.threads = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.threads += 1

    def submit(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        began = self._clock.computed
        work()
        asyncio.get_running_loop().call_later(self._clock.computed - began, done)

    def close(self) -> None:
        self.threads = 0


class Clock:
    """``now`` on the loop, and the seconds that models have ``computed``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.computed = 0.0
        clocks = SimpleNamespace(monotonic=lambda: self.now, perf_counter=lambda: self.computed)
        monkeypatch.setattr(batching, "time", clocks)

    def batcher(self, limits: Limits | None = None) -> Batcher:
        b = Batcher(Batching(), limits or Limits())
        b._workers = cast("Any", _Worker(self))
        return b

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=lambda: _Loop(self)) as runner:
            runner.run(test)


class Known:
    """Takes ``fixed_s + row_s * rows`` seconds of the clock."""

    def __init__(self, clock: Clock, fixed_s: float, row_s: float = 0.0) -> None:
        self._clock, self.fixed_s, self.row_s = clock, fixed_s, row_s
        self.sizes: list[int] = []

    def predict(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        rows = len(columns["x"])
        self.sizes.append(rows)
        self._clock.computed += self.fixed_s + self.row_s * rows
        return {"y": columns["x"]}
