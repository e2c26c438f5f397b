from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import pytest

from rayplat.errors import NotFound, Unavailable
from rayplat.serve.pool import aliases
from rayplat.serve.pool.aliases import SharedAliases
from rayplat.serve.pool.placement import Key
from rayplat.types import AliasHead, ModelVersion, Principal, Release

AT = datetime(2026, 1, 1, tzinfo=UTC)


class ManyRegistry:
    """Heads by (model, alias), and which polls were asked."""

    def __init__(self) -> None:
        self.heads: dict[Key, AliasHead] = {}
        self.polls: list[dict[Key, int]] = []
        self.moved = asyncio.Event()
        self.failing = False

    def move(self, model: str, generation: int) -> AliasHead:
        head = AliasHead(model, "champion", generation, "sha256:" + "0" * 64, generation, AT, "ann")
        self.heads[model, "champion"] = head
        self.moved.set()
        return head

    async def alias(self, model: str, alias: str) -> AliasHead:
        return self.heads[model, alias]

    async def version(self, model: str, version: int) -> ModelVersion:
        raise NotFound("model version", f"{model}/{version}")

    async def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None:
        raise AssertionError("one poll is for all")

    async def listen_release(self, model: str, generation: int, timeout_s: float) -> Release | None:
        return None

    async def ack(self, model: str, alias: str, generation: int, replica: str) -> None: ...

    async def authenticate(self, token_hash: str) -> Principal | None:
        return None

    async def listen_many(self, known: Mapping[Key, int], timeout_s: float) -> list[AliasHead]:
        self.polls.append(dict(known))
        while True:
            if self.failing:
                raise Unavailable("the registry", "its actor is restarting or gone")
            newer = [self.heads[k] for k in known if k in self.heads and self.heads[k].generation > known[k]]
            if newer:
                return newer
            self.moved.clear()
            try:
                await asyncio.wait_for(self.moved.wait(), timeout_s)
            except TimeoutError:
                return []


def play(story: Callable[[ManyRegistry, SharedAliases], Awaitable[None]], poll_s: float = 5.0) -> None:
    async def run() -> None:
        registry = ManyRegistry()
        shared = SharedAliases(registry, poll_s)
        shared.start()
        await story(registry, shared)
        shared.check_health()
        await shared.stop()

    asyncio.run(asyncio.wait_for(run(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def listen(shared: SharedAliases, model: str, generation: int = 1) -> asyncio.Task[AliasHead | None]:
    return asyncio.create_task(shared.listen(model, "champion", generation, 5))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "_GATHER_S", 0.01)


def test_many_hosts_wait_by_one_poll_and_each_hears_of_its_own_alias() -> None:
    async def story(registry: ManyRegistry, shared: SharedAliases) -> None:
        waiting = {f"m{n}": listen(shared, f"m{n}") for n in range(50)}
        await until(lambda: bool(registry.polls) and len(registry.polls[-1]) == 50)
        assert len(registry.polls) < 5
        head = registry.move("m7", 2)
        assert await asyncio.wait_for(waiting.pop("m7"), 2) == head
        assert not any(task.done() for task in waiting.values())
        assert await shared.listen("m7", "champion", 1, 5) == head  # whoever is behind is answered at once
        for task in waiting.values():
            task.cancel()
        assert len(shared.followed()) == 50

    play(story)


def test_an_alias_that_joins_is_followed_without_waiting_for_the_poll_to_end() -> None:
    async def story(registry: ManyRegistry, shared: SharedAliases) -> None:
        first = listen(shared, "a")
        await until(lambda: len(registry.polls) == 1)
        registry.move("b", 2)
        assert await asyncio.wait_for(listen(shared, "b"), 2) == registry.heads["b", "champion"]
        head = registry.move("a", 5)
        assert await asyncio.wait_for(first, 2) == head

    play(story)


def test_a_registry_that_is_down_costs_a_pause_and_nothing_else() -> None:
    async def story(registry: ManyRegistry, shared: SharedAliases) -> None:
        registry.failing = True
        waiting = listen(shared, "a")
        await until(lambda: bool(registry.polls))
        registry.failing = False
        head = registry.move("a", 2)
        assert await asyncio.wait_for(waiting, 5) == head

    play(story)


def test_silence_ends_in_none_and_who_left_is_forgotten() -> None:
    async def story(registry: ManyRegistry, shared: SharedAliases) -> None:
        assert await shared.listen("a", "champion", 1, 0.02) is None
        shared.forget(("a", "champion"))
        assert shared.followed() == []
        registry.move("a", 9)
        waiting = listen(shared, "b")
        await until(lambda: bool(registry.polls) and list(registry.polls[-1]) == [("b", "champion")])
        waiting.cancel()
        assert (await shared.alias("a", "champion")).generation == 9

    play(story, poll_s=0.05)
