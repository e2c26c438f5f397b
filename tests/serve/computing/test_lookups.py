"""Lookups together: who waits is read with the others, and what is wrong with one is that one's trouble."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from rayplat.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from rayplat.serve.computing import lookups as module
from rayplat.serve.computing.lookups import Lookups
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.request import InferRequest
from tests.serve.fakes import FakeFeatures, FakeLoader, FakeRows, until

START = datetime(2013, 11, 1, tzinfo=UTC)


class Gated(FakeFeatures):
    """Reads begin when ``gate`` is open; ``distance`` tells the hours since the start; "bad" is no key."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.requests: list[Mapping[str, Sequence[Any]]] = []
        self.error: Exception | None = None

    def read(self, keys: Sequence[str], at: Any, request: Mapping[str, Any]) -> FakeRows:
        self.requests.append(request)
        rows = super().read(keys, at, request)
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        if "bad" in keys:
            raise InvalidInput(f"inputs.flight[{list(keys).index('bad')}]", "no key")
        moments = at if isinstance(at, list) else [at] * len(keys)
        hours = np.array([(moment - START) / timedelta(hours=1) for moment in moments])
        return replace(rows, columns={**rows.columns, "distance": hours})


def play(story: Callable[[Lookups, Gated, LoadedVersion], Awaitable[None]], most_waiting: int | None = None) -> None:
    async def run() -> None:
        features = Gated()
        lookups = Lookups(most_waiting)
        try:
            version = FakeLoader().load("flight-delay", 1, "sha256:" + "1" * 64)
            await asyncio.wait_for(story(lookups, features, replace(version, features=features)), 20)
        finally:
            features.gate.set()
            lookups.close()

    asyncio.run(run())


def ask(
    lookups: Lookups, version: LoadedVersion, *keys: str, hour: float = 0, left_s: float = 10.0, **columns: list[Any]
) -> asyncio.Task[dict[str, Any]]:
    request = InferRequest(len(keys), {}, (), entity=list(keys), columns=columns)
    return asyncio.create_task(lookups.columns(version, request, START + timedelta(hours=hour), left_s))


async def under_way(features: Gated, reads: int) -> None:
    await until(lambda: len(features.reads) == reads)


def test_who_waits_is_read_together_and_each_as_of_its_own_moment() -> None:
    async def story(lookups: Lookups, features: Gated, version: LoadedVersion) -> None:
        first = ask(lookups, version, "F1", hour=1)
        await under_way(features, 1)
        others = [ask(lookups, version, f"F{n}", f"F{n}b", hour=n) for n in range(2, 7)]
        await asyncio.sleep(0)
        features.gate.set()
        assert (await first)["distance"].tolist() == [1.0]
        assert [(await other)["distance"].tolist() for other in others] == [[n, n] for n in range(2, 7)]
        assert [len(keys) for keys, _ in features.reads] == [1, 10]

    play(story)


def test_what_is_wrong_with_one_is_told_to_that_one() -> None:
    async def story(lookups: Lookups, features: Gated, version: LoadedVersion) -> None:
        first = ask(lookups, version, "F1")
        await under_way(features, 1)
        asked = [ask(lookups, version, *keys) for keys in (["F2"], ["F3", "bad"], ["F4", "X"], ["F5"])]
        await asyncio.sleep(0)
        features.gate.set()
        await first
        assert (await asked[0])["origin"] == ["EWR"]
        with pytest.raises(InvalidInput, match=r"inputs\.flight\[1\]: no key"):
            await asked[1]
        with pytest.raises(InvalidInput, match=r"inputs\.flight\[1\]: unknown flight 'X'"):
            await asked[2]
        assert (await asked[3])["origin"] == ["EWR"]

    play(story)


def test_a_store_that_fails_fails_all_that_were_read_and_not_the_next() -> None:
    async def story(lookups: Lookups, features: Gated, version: LoadedVersion) -> None:
        features.error = Unavailable("the online store", "gone")
        features.gate.set()
        for found in await asyncio.gather(*(ask(lookups, version, "F1") for _ in range(3)), return_exceptions=True):
            assert isinstance(found, Unavailable)
        features.error = None
        assert (await ask(lookups, version, "F1"))["origin"] == ["EWR"]

    play(story)


def test_versions_and_requests_of_other_columns_are_not_mixed() -> None:
    async def story(lookups: Lookups, features: Gated, version: LoadedVersion) -> None:
        other = replace(version, version=2)
        asked = [ask(lookups, version, "F0")]
        await under_way(features, 1)
        asked += [ask(lookups, version, "F1"), ask(lookups, other, "F2"), ask(lookups, version, "F3", wind=[7.0])]
        asked += [ask(lookups, other, "F4"), ask(lookups, version, "F5", wind=[8.0])]
        await asyncio.sleep(0)
        features.gate.set()
        await asyncio.gather(*asked)
        assert [keys for keys, _ in features.reads] == [["F0"], ["F1"], ["F2", "F4"], ["F3", "F5"]]
        assert features.requests[-1] == {"wind": [7.0, 8.0]}

    play(story)


def test_many_rows_are_read_in_several_reads() -> None:
    async def story(lookups: Lookups, features: Gated, version: LoadedVersion) -> None:
        asked = [ask(lookups, version, "F0")]
        await under_way(features, 1)
        asked += [ask(lookups, version, *(f"F{i}" for i in range(rows))) for rows in (20, 20, 100, 5)]
        await asyncio.sleep(0)
        features.gate.set()
        assert [len((await one)["origin"]) for one in asked] == [1, 20, 20, 100, 5]
        assert [len(keys) for keys, _ in features.reads] == [1, 20, 20, 100, 5]

    play(story)


def test_a_read_that_takes_long_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TURN_S", 0.02)

    async def story(lookups: Lookups, features: Gated, version: LoadedVersion) -> None:
        late = ask(lookups, version, "F1", left_s=0.1)
        await under_way(features, 1)
        quick = Gated()
        quick.gate.set()
        assert (await ask(lookups, replace(version, features=quick), "F2"))["origin"] == ["EWR"]
        with pytest.raises(DeadlineExceeded, match=r"feature lookup.*0\.1"):
            await late

    play(story)


def test_more_than_may_wait_are_refused_and_who_has_gone_is_not_counted_or_read() -> None:
    async def story(lookups: Lookups, features: Gated, version: LoadedVersion) -> None:
        first = ask(lookups, version, "F0")
        await under_way(features, 1)
        waiting = [ask(lookups, version, f"F{n}") for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 requests wait"):
            await ask(lookups, version, "F3")
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        last = ask(lookups, version, "F4")
        await asyncio.sleep(0)
        features.gate.set()
        await asyncio.gather(first, waiting[1], last)
        assert [keys for keys, _ in features.reads] == [["F0"], ["F2", "F4"]]

    play(story, most_waiting=2)


def test_without_a_queue_an_idle_store_is_asked_all_the_same() -> None:
    async def story(lookups: Lookups, features: Gated, version: LoadedVersion) -> None:
        first = ask(lookups, version, "F0")
        await under_way(features, 1)
        with pytest.raises(Overloaded):
            await ask(lookups, version, "F1")
        features.gate.set()
        await first
        assert (await ask(lookups, version, "F1"))["origin"] == ["EWR"]

    play(story, most_waiting=0)
