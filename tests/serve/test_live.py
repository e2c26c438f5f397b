from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from rayplat.errors import Corrupt, Unavailable
from rayplat.serve.http import relay
from rayplat.serve.live import LiveHost
from rayplat.types import EndpointSpec, Limits
from tests.serve.pool.hosts import Workshop

SPEC = EndpointSpec("m")
OTHER = replace(SPEC, limits=Limits(queue=3))


def play(story: Callable[[Workshop, LiveHost], Awaitable[None]]) -> None:
    async def run() -> None:
        shop = Workshop(SPEC)
        live = LiveHost(shop.make, SPEC)
        await story(shop, live)
        await live.stop()
        assert all(host.stopped for host in shop.made)

    asyncio.run(asyncio.wait_for(run(), 20))


async def ask(live: LiveHost) -> str:
    sent = relay.HttpRequest("POST", "/v2/models/m", "/in%66er", b"", [], b"x")
    return (await relay.run(live, sent)).body.decode()


def test_a_host_is_replaced_while_it_answers() -> None:
    async def story(shop: Workshop, live: LiveHost) -> None:
        await live.start()
        old = shop.made[0]
        old.answering.clear()
        asking = asyncio.create_task(ask(live))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert live.busy == 1
        assert await live.configure(OTHER)
        assert not await live.configure(OTHER)
        assert await ask(live) == "m:x"
        assert live.spec == OTHER
        assert not old.stopped
        old.answering.set()
        assert await asking == "m:x"
        while not old.stopped:
            await asyncio.sleep(0)
        assert len(shop.made) == 2

    play(story)


def test_what_a_host_need_not_know_replaces_nothing() -> None:
    async def story(shop: Workshop, live: LiveHost) -> None:
        await live.start()
        assert await live.configure(replace(SPEC, replicas=3, default=True))
        assert live.spec.replicas == 3
        assert len(shop.made) == 1

    play(story)


def test_a_new_way_that_does_not_start_leaves_the_old_one() -> None:
    async def story(shop: Workshop, live: LiveHost) -> None:
        with pytest.raises(Unavailable):
            _ = live.host
        await live.start()
        shop.errors["m"] = Corrupt("the bundle", "a", "b")
        with pytest.raises(Corrupt):
            await live.configure(OTHER)
        assert live.spec == SPEC
        assert await ask(live) == "m:x"

    play(story)


def test_a_host_that_does_not_start_is_stopped() -> None:
    async def story(shop: Workshop, live: LiveHost) -> None:
        shop.errors["m"] = Corrupt("the bundle", "a", "b")
        with pytest.raises(Corrupt):
            await live.start()
        assert shop.made[0].stopped

    play(story)
