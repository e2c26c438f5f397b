"""Calls beside the loop: what they give, and what is left of those that never return."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rayplat.errors import DeadlineExceeded, Unavailable
from rayplat.serve.computing import calls as module
from rayplat.serve.computing.calls import Calls
from tests.serve.fakes import until


def on(test: Callable[[Calls], Awaitable[None]], most: int = 1) -> None:
    async def run() -> None:
        calls = Calls("test", "the test", most)
        try:
            await asyncio.wait_for(test(calls), 20)
        finally:
            calls.close()

    asyncio.run(run())


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that nobody waits for is given up after a twentieth of a second."""
    monkeypatch.setattr(module, "_STUCK_S", 0.05)
    monkeypatch.setattr(module, "_LOOK_S", 0.01)


@pytest.fixture
def gate() -> Any:
    gate = threading.Event()
    yield gate
    gate.set()


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


class Panic(BaseException):
    """What native code raises, beside Exception."""


def test_results_and_errors_come_from_another_thread() -> None:
    async def test(calls: Calls) -> None:
        assert await calls.run(threading.get_ident, 5) != threading.get_ident()
        assert await calls.run(lambda: None, 5) is None
        for error in (KeyError("a"), TimeoutError("the store's own")):
            with pytest.raises(type(error)):
                await calls.run(raising(error), 5)

    on(test)


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError(), Panic()]
)
def test_what_would_end_a_thread_or_the_loop_is_an_error_of_the_call(error: BaseException) -> None:
    async def test(calls: Calls) -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"it raised {type(error).__name__}"):
                await calls.run(raising(error), 5)
        assert await calls.run(lambda: 1, 5) == 1

    on(test)


def test_at_most_so_many_at_once(gate: threading.Event) -> None:
    async def test(calls: Calls) -> None:
        begun: list[int] = []

        def work(i: int) -> int:
            begun.append(i)
            gate.wait(20)
            return i

        waiting = [asyncio.create_task(calls.run(lambda i=i: work(i), 10)) for i in range(5)]  # type: ignore[misc]
        await until(lambda: len(begun) == 2)
        late = asyncio.create_task(calls.run(lambda: work(9), 0.01))
        with pytest.raises(DeadlineExceeded, match=r"the test did not answer within 0.01 s"):
            await late
        waiting[4].cancel()
        gate.set()
        assert await asyncio.gather(*waiting[:4]) == [0, 1, 2, 3]
        assert sorted(begun) == [0, 1, 2, 3]

    on(test, most=2)


@pytest.mark.usefixtures("hasty")
def test_one_that_hangs_costs_no_other_its_turn_and_too_many_are_refused(gate: threading.Event) -> None:
    async def test(calls: Calls) -> None:
        for stuck in (1, 2, 3):
            with pytest.raises(DeadlineExceeded):
                await calls.run(lambda: gate.wait(20), 0.01)
            assert await calls.run(lambda: 7, 5) == 7
            assert calls.stuck == stuck
        hanging = asyncio.create_task(calls.run(lambda: gate.wait(20), 0.1))
        behind = asyncio.create_task(calls.run(lambda: 7, 10))
        with pytest.raises(DeadlineExceeded):
            await hanging
        with pytest.raises(Unavailable, match="the test is not available: 4 earlier ones have not returned"):
            await behind
        with pytest.raises(Unavailable, match="4 earlier ones"):
            await calls.run(lambda: 7, 5)
        gate.set()
        await until(lambda: calls.stuck == 0)
        assert await calls.run(lambda: 7, 5) == 7

    on(test)


@pytest.mark.usefixtures("hasty")
def test_one_that_is_slow_lets_the_others_pass_and_still_answers(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(module, "_LONG_S", 0.1)

    async def test(calls: Calls) -> None:
        slow = asyncio.create_task(calls.run(lambda: gate.wait(20), 10))
        await asyncio.sleep(0)
        assert await calls.run(lambda: 7, 5) == 7
        assert calls.stuck == 1
        gate.set()
        assert await slow is True
        assert calls.stuck == 0

    on(test)


def test_what_nobody_waits_for_is_done_too() -> None:
    async def test(calls: Calls) -> None:
        done: list[int] = []
        calls.later(raising(ValueError("generator already executing")))
        calls.later(lambda: done.append(1))
        await until(lambda: done == [1])

    on(test)


def test_closed_is_refused(gate: threading.Event) -> None:
    async def test(calls: Calls) -> None:
        running = asyncio.create_task(calls.run(lambda: gate.wait(20), 10))
        behind = asyncio.create_task(calls.run(lambda: 1, 10))
        await asyncio.sleep(0)
        calls.close()
        with pytest.raises(Unavailable, match="stopping"):
            await behind
        with pytest.raises(Unavailable, match="stopping"):
            await calls.run(lambda: 1, 5)
        gate.set()
        assert await running is True

    on(test)


def test_a_process_ends_in_spite_of_them() -> None:
    program = """
import asyncio, threading
from rayplat.errors import DeadlineExceeded
from rayplat.serve.computing.calls import Calls

async def main():
    calls = Calls("test", "the test", 1)
    try:
        await calls.run(threading.Event().wait, 0.01)
    except DeadlineExceeded:
        print("late")

asyncio.run(main())
"""
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (0, "late\n"), ended.stderr
    assert time.monotonic() - began < 25
