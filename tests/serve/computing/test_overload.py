"""The batcher itself under load, on a simulated clock: twice what a model can do, many clients at once, one alone."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest

from rayplat.errors import Overloaded
from rayplat.serve.computing.batching import Batcher
from rayplat.serve.ports import LoadedVersion
from rayplat.types import Signature
from tests.serve.computing.simulated import Clock, Known

X = {"x": np.zeros(1)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def loaded(model: Known, batchable: bool = True) -> LoadedVersion:
    return LoadedVersion("m", 1, "sha256:1", model, Signature((), ()), batchable=batchable, example=X)


async def offered(b: Batcher, version: LoadedVersion, rate: float, clock: Clock) -> tuple[list[float], list[float]]:
    """Open loop, 4000 requests: seconds until each answer, and until each refusal."""
    rng = random.Random(5)
    answers: list[float] = []
    refusals: list[float] = []

    async def one() -> None:
        began = clock.now
        try:
            await b.run(version, X, 1, {})
            answers.append(clock.now - began)
        except Overloaded:
            refusals.append(clock.now - began)

    tasks = []
    for _ in range(4000):
        await asyncio.sleep(rng.expovariate(rate))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return answers, refusals


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * len(seconds))]


@pytest.mark.parametrize("service_s", [0.005, 0.02])
def test_twice_the_capacity_is_refused_down_to_it_and_the_tail_stays(clock: Clock, service_s: float) -> None:
    async def go() -> None:
        b, version = clock.batcher(), loaded(Known(clock, service_s), batchable=False)
        b.measure(version)
        normal, refused = await offered(b, version, 0.7 / service_s, clock)
        assert len(refused) < 0.005 * 4000
        answers, refusals = await offered(b, version, 2 / service_s, clock)
        assert len(answers) > 0.45 * 4000  # it can do half of them
        assert len(refusals) > 0.4 * 4000
        assert max(refusals) == 0.0
        assert p99(answers) <= 2 * p99(normal)
        assert max(b._sizes["batch_requests"][1:]) == 0
        assert b.stats()["waiting"] == 0
        assert (await b.run(version, X, 1, {}))["y"].tolist() == [0]
        b.close()

    clock.run(go())


async def closed(b: Batcher, version: LoadedVersion, clients: int, each: int) -> None:
    """Clients that send the next request about half a millisecond after each answer."""
    rng = random.Random(7)

    async def client() -> None:
        for _ in range(each):
            await b.run(version, X, 1, {})
            await asyncio.sleep(rng.uniform(1e-4, 1e-3))

    await asyncio.gather(*(client() for _ in range(clients)))


class Spy:
    """Notes every pause that was asked for; ``never`` waits for nobody."""

    def __init__(self, real: Any, never: bool = False) -> None:
        self._real, self._never = real, never
        self.seen: list[float] = []

    def pause_s(self, *args: Any) -> float:
        found = 0.0 if self._never else float(self._real.pause_s(*args))
        self.seen.append(found)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("waits", [True, False], ids=["as built", "were nobody waited for"])
def test_clients_that_come_back_are_computed_together_and_not_in_turn(clock: Clock, waits: bool) -> None:
    async def go() -> None:
        model = Known(clock, 0.02, 0.0001)
        b, version = clock.batcher(), loaded(model)
        b.measure(version)
        model.sizes.clear()
        if not waits:
            b._returning = Spy(b._returning, never=True)  # type: ignore[assignment]
        await closed(b, version, 32, 20)
        settled = model.sizes[-8:-2]  # the last clients leave one by one
        together = sum(settled) / len(settled)
        if waits:
            assert together > 24, model.sizes
        else:
            assert together < 20, model.sizes  # 31 and 1 in turn
        b.close()

    clock.run(go())


def test_one_client_never_waits_for_company(clock: Clock) -> None:
    async def go() -> None:
        model = Known(clock, 0.005)
        b, version = clock.batcher(), loaded(model)
        b.measure(version)
        model.sizes.clear()
        spy = Spy(b._returning)
        b._returning = spy  # type: ignore[assignment]
        await closed(b, version, 1, 40)
        assert spy.seen == [0.0] * 40
        assert set(model.sizes) == {1}
        b.close()

    clock.run(go())
