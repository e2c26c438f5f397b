"""A real event loop under load, small and bounded: twice what a model can do, many clients at once, one alone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from rayplat.errors import Overloaded
from rayplat.serve.computing.batching import Batcher
from rayplat.serve.ports import LoadedVersion
from rayplat.types import Batching, Limits, Signature

pytestmark = pytest.mark.chaos  # real time: it needs a machine of its own

X = {"x": np.zeros(1)}


class Known:
    """Takes ``fixed_s + row_s * rows`` seconds."""

    def __init__(self, fixed_s: float, row_s: float = 0.0) -> None:
        self.fixed_s, self.row_s = fixed_s, row_s
        self.sizes: list[int] = []

    def predict(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        rows = len(columns["x"])
        self.sizes.append(rows)
        time.sleep(self.fixed_s + self.row_s * rows)
        return {"y": columns["x"]}


def loaded(model: Known, batchable: bool = True) -> LoadedVersion:
    return LoadedVersion("m", 1, "sha256:1", model, Signature((), ()), batchable=batchable, example=X)


async def offered(b: Batcher, version: LoadedVersion, rate: float, seconds: float) -> tuple[list[float], list[float]]:
    """Open loop: seconds until each answer, and until each refusal."""
    rng, answers, refusals = random.Random(5), [], []

    async def one() -> None:
        began = time.perf_counter()
        try:
            await b.run(version, X, 1, {})
            answers.append(time.perf_counter() - began)
        except Overloaded:
            refusals.append(time.perf_counter() - began)

    tasks = []
    at, end = time.perf_counter(), time.perf_counter() + seconds
    while at < end:
        at += rng.expovariate(rate)
        await asyncio.sleep(max(at - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return answers, refusals


def test_twice_the_capacity_is_refused_down_to_it_and_the_queue_stays_short() -> None:
    async def go() -> None:
        b, version = Batcher(Batching(), Limits()), loaded(Known(0.01), batchable=False)
        await asyncio.to_thread(b.measure, version)
        answers, refusals = await offered(b, version, 200, 2.0)
        assert refusals
        assert len(answers) > 100  # of about 200 that it can do
        assert max(b._sizes["batch_requests"][1:]) == 0
        assert sorted(refusals)[int(0.99 * len(refusals))] < 0.02
        # at most what waits, times its service: 13 calls of 10 ms and a machine that is busy
        assert sorted(answers)[int(0.99 * len(answers))] < 0.5
        assert b.stats()["waiting"] == 0
        assert (await b.run(version, X, 1, {}))["y"].tolist() == [0]
        b.close()

    asyncio.run(asyncio.wait_for(go(), 60))


async def closed(b: Batcher, version: LoadedVersion, clients: int, each: int) -> float:
    """Requests per second of clients that send the next one when they have an answer."""

    async def client() -> None:
        for _ in range(each):
            await b.run(version, X, 1, {})

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return clients * each / (time.perf_counter() - began)


def test_clients_that_come_back_are_computed_together_and_not_in_turn() -> None:
    async def go() -> None:
        model = Known(0.02, 0.0001)
        b, version = Batcher(Batching(), Limits()), loaded(model)
        await asyncio.to_thread(b.measure, version)
        model.sizes.clear()
        await closed(b, version, 32, 8)
        settled = model.sizes[-3:]
        assert sum(settled) / 3 > 24, model.sizes  # 32 at a time: 31 and 1 in turn would be 16
        b.close()

    asyncio.run(asyncio.wait_for(go(), 60))


def test_one_client_never_waits_for_company() -> None:
    async def go() -> None:
        model = Known(0.005)
        b, version = Batcher(Batching(), Limits()), loaded(model)
        await asyncio.to_thread(b.measure, version)
        model.sizes.clear()
        pauses: list[float] = []
        pause_s = b._returning.pause_s
        b._returning = Spy(pause_s, pauses)  # type: ignore[assignment]
        await closed(b, version, 1, 40)
        assert set(pauses) == {0.0}
        assert set(model.sizes) == {1}
        b.close()

    class Spy:
        def __init__(self, pause_s: Any, seen: list[float]) -> None:
            self._pause_s, self._seen = pause_s, seen
            self._real = pause_s.__self__

        def pause_s(self, *args: Any) -> float:
            found = float(self._pause_s(*args))
            self._seen.append(found)
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    asyncio.run(asyncio.wait_for(go(), 60))
