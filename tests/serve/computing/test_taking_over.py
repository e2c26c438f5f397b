"""A version that takes over with many requests at once, and nobody knows yet what it costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from rayplat.errors import Overloaded
from rayplat.serve.computing.batching import Batcher
from rayplat.serve.ports import LoadedVersion
from rayplat.types import Batching, Limits, Signature

X = {"x": np.zeros(1)}


class Known:
    """Takes ``seconds`` for a call, however many rows it has."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.sizes: list[int] = []

    def predict(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        self.sizes.append(len(columns["x"]))
        if self.seconds:
            time.sleep(self.seconds)
        return {"y": columns["x"]}


def version(number: int, model: Known, **more: Any) -> LoadedVersion:
    return LoadedVersion("m", number, f"sha256:{number}", model, Signature((), ()), **more)


async def crowd(b: Batcher, asked: LoadedVersion, clients: int = 1000) -> list[Any]:
    return await asyncio.gather(*(b.run(asked, X, 1, {}) for _ in range(clients)), return_exceptions=True)


@pytest.mark.parametrize("before_s", [0.0, 0.004], ids=["on the loop", "in a thread"])
@pytest.mark.parametrize("after_s", [0.001, 0.05])
def test_requests_that_meet_a_version_without_an_example_are_not_refused(before_s: float, after_s: float) -> None:
    async def go() -> None:
        b, old, new = Batcher(Batching(), Limits()), version(1, Known(before_s), example=X), version(2, Known(after_s))
        b.measure(old)
        await b.run(old, X, 1, {})
        assert b.stats()["inline"] is (before_s == 0)
        b.measure(new)
        answers = await crowd(b, new)
        assert [str(answer) for answer in answers if isinstance(answer, Exception)] == []
        assert b.stats()["shed"] == {}
        assert len(new.predictor.sizes) < 40  # type: ignore[attr-defined]
        b.close()

    asyncio.run(asyncio.wait_for(go(), 60))


def test_without_a_predecessor_the_number_is_the_bound() -> None:
    async def go() -> None:
        b = Batcher(Batching(), Limits())
        answers = await crowd(b, version(1, Known(0.02)))
        assert sum(isinstance(answer, Overloaded) for answer in answers) > 500
        b.close()

    asyncio.run(asyncio.wait_for(go(), 60))


@pytest.mark.parametrize(("before_s", "after_s"), [(0.0, 0.05), (0.05, 0.0)])
def test_another_cost_is_learned_by_the_first_calls(before_s: float, after_s: float) -> None:
    async def go() -> None:
        b, old, new = Batcher(Batching(), Limits()), version(1, Known(before_s), example=X), version(2, Known(after_s))
        b.measure(old)
        await b.run(old, X, 1, {})
        await b.run(new, X, 1, {})
        for _ in range(2):
            await b.run(new, X, 1, {})
        stats = b.stats()
        assert stats["inline"] is (after_s == 0)
        assert after_s * 1000 <= stats["fixed_ms"] + stats["row_ms"] < after_s * 1000 + 25
        b.close()

    asyncio.run(asyncio.wait_for(go(), 60))
