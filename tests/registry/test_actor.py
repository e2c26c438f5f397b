"""The registry's class without Ray: the loop, the long poll and the acknowledgements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rayplat.errors import NotFound
from rayplat.registry import actor
from rayplat.registry.actor import Registry
from rayplat.types import AliasHead, PromotionState
from tests.registry.desk import ALIAS, ANN, BOB, MODEL, candidate, evidence

Story = Callable[[Registry], Coroutine[Any, Any, None]]


def play(database_url: str, story: Story) -> None:
    async def run() -> None:
        await story(Registry(database_url))

    asyncio.run(run())


async def go_live(registry: Registry, n: int, champion: int | None = None) -> AliasHead:
    version = (await registry.register_model(candidate(n), ANN)).version
    asked = await registry.request_promotion((MODEL, version, ALIAS), evidence(champion=champion), ANN)
    assert (await registry.approve(asked.promotion_id, BOB)).state is PromotionState.LIVE
    return await registry.alias(MODEL, ALIAS)


async def listening(registry: Registry, n: int) -> None:
    while (await registry.heartbeat())["listeners"] < n:
        await asyncio.sleep(0)


def test_every_listener_gets_the_new_head_and_those_of_other_aliases_go_on_waiting(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        tasks = [asyncio.create_task(registry.listen(MODEL, ALIAS, 0, 30)) for _ in range(5)]
        other = asyncio.create_task(registry.listen(MODEL, "challenger", 0, 30))
        await listening(registry, 6)
        head = await go_live(registry, 1)
        assert await asyncio.wait_for(asyncio.gather(*tasks), 5) == [head] * 5
        assert not other.done()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        assert (await registry.heartbeat())["listeners"] == 0

    play(database_url, story)


def test_a_listener_that_is_behind_is_answered_at_once_and_silence_ends_in_none(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        await go_live(registry, 1)
        head = await go_live(registry, 2, champion=1)
        assert await registry.listen(MODEL, ALIAS, 0, 30) == head
        assert await registry.listen(MODEL, ALIAS, 2, 0.01) is None
        assert await registry.listen("absent", ALIAS, 0, 0.01) is None

    play(database_url, story)


def test_the_end_of_a_poll_reads_the_record_so_a_missed_notice_costs_one_poll(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        head = await go_live(registry, 1)
        registry._heads.clear()
        assert await registry.listen(MODEL, ALIAS, 0, 0.01) == head

    play(database_url, story)


def test_a_new_incarnation_knows_the_heads(database_url: str) -> None:
    async def first(registry: Registry) -> None:
        await go_live(registry, 1)

    async def second(registry: Registry) -> None:
        head = await registry.listen(MODEL, ALIAS, 0, 30)
        assert head is not None
        assert head.version == 1
        assert (await registry.heartbeat())["aliases"] == 1

    play(database_url, first)
    play(database_url, second)


def test_the_loop_answers_while_a_write_is_held_up(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(registry: Registry) -> None:
        head = await go_live(registry, 1)
        slow = asyncio.create_task(registry._write(lambda tx: time.sleep(0.5), None))
        assert await registry.listen(MODEL, ALIAS, 0, 30) == head
        assert await registry.alias(MODEL, ALIAS) == head
        assert not slow.done()
        await slow

    play(database_url, story)


def test_replicas_that_fall_silent_are_forgotten(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(registry: Registry) -> None:
        now = time.monotonic()
        monkeypatch.setattr(actor.time, "monotonic", lambda: now)
        await registry.ack(MODEL, ALIAS, 1, "a")
        monkeypatch.setattr(actor.time, "monotonic", lambda: now + actor._ACK_LIFE_S)
        await registry.ack(MODEL, ALIAS, 2, "b")
        assert await registry.acks(MODEL, ALIAS) == {"a": 1, "b": 2}
        monkeypatch.setattr(actor.time, "monotonic", lambda: now + actor._ACK_LIFE_S + 1)
        assert await registry.acks(MODEL, ALIAS) == {"b": 2}
        assert await registry.acks(MODEL, "challenger") == {}

    play(database_url, story)


def test_aliases_of_an_unknown_model_are_not_an_empty_list(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        with pytest.raises(NotFound, match="absent"):
            await registry.aliases("absent")
        await registry.register_model(candidate(1), ANN)
        assert await registry.aliases(MODEL) == []

    play(database_url, story)
