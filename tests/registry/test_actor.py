"""The registry's class without Ray: the loop, the long poll, the acknowledgements and the upkeep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from rayplat import identity
from rayplat.errors import Forbidden, InvalidInput, NotFound, StaleGeneration
from rayplat.registry import actor
from rayplat.registry.actor import Registry
from rayplat.registry.calls import name_of
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import aliases, audit, drift, policies, promotion_steps, releases, tokens, versions
from rayplat.registry.record.database import Record
from rayplat.registry.upkeep import Chore, Upkeep, of_record
from rayplat.registry.writer import Writer
from rayplat.types import AliasHead, AliasPolicy, Release, Role, Shadow, TokenInfo
from tests.registry.desk import ALIAS, ANN, FREE, MODEL, ROOT, Desk, candidate

Story = Callable[[Registry], Coroutine[Any, Any, None]]


def play(database_url: str, story: Story) -> None:
    async def run() -> None:
        await story(Registry(database_url))

    asyncio.run(run())


async def read(registry: Registry, query: Callable[..., Any], *args: Any) -> Any:
    return await registry.read(name_of(query, "read"), args)


async def write(
    registry: Registry, operation: Callable[..., Any], *args: Any, key: str | None = None, **kwargs: Any
) -> Any:
    return await registry.write(name_of(operation, "write"), args, kwargs, key)


async def move(registry: Registry, n: int) -> AliasHead:
    """Register version ``n`` and point the alias at it."""
    await write(registry, policies.set, AliasPolicy("*", ALIAS, False, (), min_approvals=0), by=ROOT)
    version = (await write(registry, versions.register, candidate(n), by=ANN)).version
    head: AliasHead = await write(registry, aliases.set, MODEL, ALIAS, version, by=ANN)
    return head


async def listening(registry: Registry, n: int) -> None:
    while (await registry.heartbeat())["listeners"] < n:
        await asyncio.sleep(0)


def test_every_listener_gets_the_new_head_and_those_of_other_aliases_go_on_waiting(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        tasks = [asyncio.create_task(registry.listen(MODEL, ALIAS, 0, 30)) for _ in range(5)]
        other = asyncio.create_task(registry.listen(MODEL, "challenger", 0, 30))
        await listening(registry, 6)
        head = await move(registry, 1)
        assert await asyncio.wait_for(asyncio.gather(*tasks), 5) == [head] * 5
        assert not other.done()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        assert (await registry.heartbeat())["listeners"] == 0

    play(database_url, story)


def test_a_listener_that_is_behind_is_answered_at_once_and_silence_ends_in_none(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        await move(registry, 1)
        head = await move(registry, 2)
        assert await registry.listen(MODEL, ALIAS, 0, 30) == head
        assert await registry.listen(MODEL, ALIAS, 2, 0.01) is None
        assert await registry.listen("absent", ALIAS, 0, 0.01) is None

    play(database_url, story)


def test_one_poll_waits_for_any_of_many_aliases(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        known = {(MODEL, ALIAS): 0, (MODEL, "challenger"): 0}
        waiting = asyncio.create_task(registry.listen_many(known, 30))
        await listening(registry, 1)
        head = await move(registry, 1)
        assert await asyncio.wait_for(waiting, 5) == [head]
        assert await registry.listen_many(known, 30) == [head]
        assert await registry.listen_many({(MODEL, ALIAS): 1}, 0.01) == []
        registry._heads.clear()
        assert await registry.listen_many(known, 0.01) == [head]
        assert (await registry.heartbeat())["listeners"] == 0

    play(database_url, story)


def test_a_release_reaches_everyone_who_listens_for_its_model(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        await move(registry, 1)
        await move(registry, 2)
        assert await registry.listen_release(MODEL, -1, 30) == Release(MODEL)  # what is in force, at once
        assert await registry.listen_release(MODEL, 0, 0.01) is None
        tasks = [asyncio.create_task(registry.listen_release(MODEL, 0, 30)) for _ in range(3)]
        other = asyncio.create_task(registry.listen_release("other", 0, 30))
        await listening(registry, 4)
        wanted = Release(MODEL, shadows=(Shadow("1"),))
        made = await write(registry, releases.put, wanted, 0, by=ANN)
        assert await asyncio.wait_for(asyncio.gather(*tasks), 5) == [made] * 3
        assert not other.done()
        other.cancel()
        assert await registry.listen_release(MODEL, 0, 30) == made
        registry._releases.clear()
        assert await registry.listen_release(MODEL, 0, 0.01) == made  # a missed notice costs one poll
        again = Registry(database_url)
        assert await again.listen_release(MODEL, 0, 30) == made

    play(database_url, story)


def test_the_end_of_a_poll_reads_the_record_so_a_missed_notice_costs_one_poll(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        head = await move(registry, 1)
        registry._heads.clear()
        assert await registry.listen(MODEL, ALIAS, 0, 0.01) == head

    play(database_url, story)


def test_a_removed_alias_is_no_longer_told_and_its_return_is(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        await move(registry, 1)
        gone = await write(registry, aliases.remove, MODEL, ALIAS, by=ANN)
        assert await registry.listen(MODEL, ALIAS, 0, 0.01) is None
        waiting = asyncio.create_task(registry.listen(MODEL, ALIAS, gone.generation, 30))
        await listening(registry, 1)
        head = await move(registry, 2)
        assert head.generation == 3
        assert await asyncio.wait_for(waiting, 5) == head

    play(database_url, story)


def test_a_new_incarnation_knows_the_heads(database_url: str) -> None:
    async def first(registry: Registry) -> None:
        await move(registry, 1)

    async def second(registry: Registry) -> None:
        head = await registry.listen(MODEL, ALIAS, 0, 30)
        assert head is not None
        assert head.version == 1
        assert (await registry.heartbeat())["aliases"] == 1

    play(database_url, first)
    play(database_url, second)


def test_the_loop_answers_while_a_write_is_held_up(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        head = await move(registry, 1)
        slow = asyncio.create_task(registry._write(lambda tx: time.sleep(0.5), None))
        assert await registry.listen(MODEL, ALIAS, 0, 30) == head
        assert await registry.alias(MODEL, ALIAS) == head
        assert not slow.done()
        await slow

    play(database_url, story)


def test_operations_come_by_name_and_once_for_each_key(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        await move(registry, 1)
        twice = [await write(registry, aliases.set, MODEL, ALIAS, 1, by=ANN, key="k") for _ in range(2)]
        assert [h.generation for h in twice] == [2, 2]
        assert await read(registry, aliases.of_model, MODEL) == [twice[0]]
        with pytest.raises(StaleGeneration):
            await write(registry, aliases.set, MODEL, ALIAS, 1, 7, by=ANN)
        with pytest.raises(NotFound, match="absent"):
            await read(registry, aliases.of_model, "absent")
        for call in (registry.read, registry.write):
            with pytest.raises(InvalidInput, match="is no operation"):
                await call("os:system", ("true",))

    play(database_url, story)


def test_replicas_that_fall_silent_are_forgotten(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(registry: Registry) -> None:
        now = 1000.0  # such that adding and taking away a life is exact
        monkeypatch.setattr(actor.time, "monotonic", lambda: now)
        await registry.ack(MODEL, ALIAS, 1, "a")
        monkeypatch.setattr(actor.time, "monotonic", lambda: now + actor._ACK_LIFE_S)
        await registry.ack(MODEL, ALIAS, 2, "b")
        assert await registry.acks(MODEL, ALIAS) == {"a": 1, "b": 2}
        monkeypatch.setattr(actor.time, "monotonic", lambda: now + actor._ACK_LIFE_S + 1)
        assert await registry.acks(MODEL, ALIAS) == {"b": 2}
        assert await registry.acks(MODEL, "challenger") == {}

    play(database_url, story)


# --- upkeep -----------------------------------------------------------------------------------------


def test_each_chore_has_its_time_and_a_failing_one_stops_none(caplog: pytest.LogCaptureFixture) -> None:
    now, seen = [0.0], []

    def fails() -> None:
        raise OSError("the disk is full")

    chores = [Chore("fails", 5, fails), Chore("often", 5, lambda: seen.append(now[0])), Chore("seldom", 30, list)]
    upkeep = Upkeep(chores, clock=lambda: now[0])
    done = []
    for second in (0, 4, 5, 9, 10, 30):
        now[0] = second
        done.append(upkeep.tick())
    assert done == [
        ["fails", "often", "seldom"],
        [],
        ["fails", "often"],
        [],
        ["fails", "often"],
        ["fails", "often", "seldom"],
    ]
    assert seen == [0, 5, 10, 30]
    assert caplog.text.count("OSError: the disk is full") == 4


def test_drift_of_mlflows_rows_is_set_back(desk: Desk) -> None:
    desk.move(1)
    assert desk.change("update registered_model_aliases set version = 2") == 1
    Upkeep(of_record(LocalRegistry(desk.record, Writer(desk.record)))).tick()
    assert desk.read(drift.find) == ()
    newest = desk.read(audit.listed, 1)[0]
    assert (newest.actor, newest.action) == ("rayplat", "alias.drift")


def test_promotions_are_looked_at_when_one_is_open(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(promotion_steps, "tick", lambda tx: looked.append(tx) or [])
    registry = LocalRegistry(desk.record)
    promoting = of_record(registry)[0]
    promoting.run()
    assert looked == []
    desk.request(1)
    promoting.run()
    assert len(looked) == 1


def test_the_last_use_of_a_token_is_noted(record: Record) -> None:
    secret, token_id = identity.new_token()
    wanted = TokenInfo(token_id, "owner", Role.ADMIN, datetime.now(UTC), "")
    Desk(record).write(tokens.create, wanted, identity.hash_token(secret), by=None)

    async def run() -> None:
        registry = Registry(str(record.engine.url))
        assert await registry.authenticate("0" * 64) is None
        assert await read(registry, tokens.authenticate, identity.hash_token(secret)) is not None
        await registry._write(lambda tx: None, None)  # what was submitted before is written
        (info,) = await read(registry, tokens.listed)
        assert info.last_used_at is not None

    asyncio.run(run())


def test_upkeep_begins_with_the_first_call(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "TICK_S", 0.01)

    async def story(registry: Registry) -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        registry._upkeep = Upkeep([Chore("told", 0, lambda: loop.call_soon_threadsafe(done.set))])
        assert await registry.listen(MODEL, ALIAS, 0, 0.001) is None
        await asyncio.wait_for(done.wait(), 10)

    play(database_url, story)


def test_a_protected_alias_is_not_set(database_url: str) -> None:
    async def story(registry: Registry) -> None:
        await move(registry, 1)
        with pytest.raises(Forbidden, match="is protected"):
            await write(registry, aliases.set, MODEL, FREE, 1, by=ROOT)

    play(database_url, story)
