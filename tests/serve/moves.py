"""Many alias moves of one host in a row, and what is left of them: models, threads, tasks, memory."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rayplat.serve.host import ModelHost
from rayplat.serve.pool import memory
from rayplat.serve.ports import LoadedVersion, Loader
from tests.serve.fakes import FakeRegistry


@dataclass(frozen=True)
class Left:
    """After so many moves: loaded versions that are still held, live threads and tasks, resident bytes."""

    moves: int
    loaded: int
    threads: int
    tasks: int
    resident_bytes: int


class Watched:
    """A loader that knows which of the versions it loaded are still there."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._given: list[weakref.ref[LoadedVersion]] = []

    def load(self, model: str, version: int, digest: str) -> LoadedVersion:
        loaded = self._loader.load(model, version, digest)
        self._given = [ref for ref in self._given if ref() is not None] + [weakref.ref(loaded)]
        return loaded

    def held(self) -> int:
        return sum(ref() is not None for ref in self._given)


async def move_and_measure(
    host: ModelHost,
    registry: FakeRegistry,
    watched: Watched,
    at: Sequence[int],
    *,
    versions: int = 3,
    ask: Callable[[], Awaitable[None]] | None = None,
) -> list[Left]:
    """Move the alias of ``host`` (started) ``at[-1]`` times, through ``versions`` in turn so that each move loads anew;
    what is left after each number of moves in ``at``. ``ask`` is called between moves."""
    found = []
    for n in range(1, at[-1] + 1):
        moved = registry.move(n % versions + 1)
        while registry.acks.get("replica-1", 0) < moved.generation:
            await asyncio.sleep(0)
        if ask is not None:
            await ask()
        if n in at:
            gc.collect()
            memory.give_back()
            tasks = len(asyncio.all_tasks())
            found.append(Left(n, watched.held(), threading.active_count(), tasks, memory.resident_bytes()))
            registry.calls.clear()
    assert host.stats()["swaps"] == at[-1]
    return found
