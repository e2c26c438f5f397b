"""How soon watchers hear of an alias move: 32 long polls on the registry actor, in processes of their own.

A watcher waits as a model host does: it awaits ``listen`` with the generation it has, and asks again when it has dealt
with the answer, for which it takes 30 ms here (a host loads the version). A delay
begins with the move's own time in the record, taken when its transaction began, so it includes the commit with the disk
synced, and ends when the watcher has the new head; all on one machine's clock. Six moves come a second. The actor is
the platform's, on a cluster of one node; the database is SQLite.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import Row, row
from rayplat import actors
from rayplat import settings as settings_module
from rayplat.registry.calls import answer, packed
from rayplat.registry.client import RegistryClient
from rayplat.registry.record import aliases, policies, versions
from rayplat.types import AliasPolicy
from tests.registry.desk import ANN, MODEL, ROOT, candidate

COMMAND = "make bench-registry"
ALIAS = "watched"
WATCHERS, PROCESSES = 32, 4
_BETWEEN_S = 0.15
_POLL_S, _DEALING_S = 30.0, 0.03


class Watchers:
    """Some watchers in one process: an actor beside the registry."""

    async def watch(self, handle: Any, count: int, generation: int, last: int) -> list[list[tuple[int, float]]]:
        """For each watcher the generations it got, up to ``last``, with the seconds since the move began."""
        return await asyncio.gather(*(self._one(handle, generation, last) for _ in range(count)))

    async def ready(self) -> bool:
        return True

    async def _one(self, handle: Any, generation: int, last: int) -> list[tuple[int, float]]:
        got: list[tuple[int, float]] = []
        while generation < last:
            head = answer(await handle.packed.remote("listen", packed(MODEL, ALIAS, generation, _POLL_S)))
            if head is not None:
                got.append((head.generation, time.time() - head.moved_at.timestamp()))
                generation = head.generation
                await asyncio.sleep(_DEALING_S)
        return got


def measure(work: Path, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Delays in milliseconds over all watchers and moves, and what was missed."""
    import ray

    moves = 20 if quick else 200
    ray.init(num_cpus=2, resources={actors.RESOURCE: 1}, include_dashboard=False, log_to_driver=False)
    try:
        client = RegistryClient.start(settings_module.load(work, environ={}))
        for n in (1, 2):
            client.write(versions.register, candidate(n), by=ANN)
        client.write(policies.set, AliasPolicy(MODEL, ALIAS, False, ()), by=ROOT)
        first = client.write(aliases.set, MODEL, ALIAS, 1, by=ANN).generation
        groups = [ray.remote(Watchers).options(num_cpus=0).remote() for _ in range(PROCESSES)]
        ray.get([group.ready.remote() for group in groups])
        last = first + moves
        waiting = [g.watch.remote(client.handle, WATCHERS // PROCESSES, first, last) for g in groups]
        while client.heartbeat()["listeners"] < WATCHERS:
            time.sleep(0.01)
        acknowledged = _move(client, moves)
        got = [one for group in ray.get(waiting, timeout=120) for one in group]
    finally:
        ray.shutdown()
    delays = np.array([delay for one in got for _, delay in one]) * 1000
    raw = {
        "watchers": len(got),
        "moves": moves,
        "delays": len(delays),
        "delay_ms": {name: float(np.percentile(delays, p)) for name, p in (("p50", 50), ("p99", 99), ("max", 100))},
        "move_ms": {name: float(np.percentile(acknowledged, p)) for name, p in (("p50", 50), ("p99", 99))},
        "heard_every_move": sum(len(one) == moves for one in got),
        "heard_the_last": sum(one[-1][0] == last for one in got),
    }
    return _rows(raw), raw


def _move(client: RegistryClient, moves: int) -> list[float]:
    """Move the alias to and fro; milliseconds until each move was acknowledged."""
    took = []
    for n in range(moves):
        began = time.perf_counter()
        client.write(aliases.set, MODEL, ALIAS, 2 - n % 2, by=ANN)
        took.append((time.perf_counter() - began) * 1000)
        time.sleep(_BETWEEN_S)
    return took


def _rows(raw: dict[str, Any]) -> list[Row]:
    what = f"{raw['watchers']} watchers, {raw['moves']} moves"
    return [
        row(f"{what}: delay from the move's begin to a watcher, p99", raw["delay_ms"]["p99"], "ms", "<= 50", COMMAND),
        row(f"{what}: the same, p50", raw["delay_ms"]["p50"], "ms", None, COMMAND),
        row("watchers that did not hear the last move", WATCHERS - raw["heard_the_last"], "watchers", "= 0", COMMAND),
    ]
