from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from rayplat.errors import Corrupt, NotFound, Overloaded, Unavailable
from rayplat.serve.http import relay
from rayplat.serve.pool import memory
from rayplat.serve.pool.placement import Key, Limits
from rayplat.serve.pool.worker import Loading, PoolWorker
from rayplat.types import EndpointSpec
from rayplat.types import Limits as RequestLimits
from tests.serve.pool.hosts import Workshop

MANY = Limits(models=100, bytes=10**9)


def pooled(*models: str, pinned: bool = False) -> list[EndpointSpec]:
    return [EndpointSpec(model, placement="pooled", pinned=pinned) for model in models]


class Pool:
    """A worker over a workshop, with a clock that is set by hand."""

    def __init__(self, shop: Workshop, limits: Limits, loading: Loading | None) -> None:
        self.now = 0.0
        self.left: list[Key] = []
        self.worker = PoolWorker(
            shop,
            shop.make,
            limits,
            loading,
            left=self.left.append,
            used_bytes=lambda: shop.used,
            clock=lambda: self.now,
        )

    async def ask(self, model: str, body: bytes = b"hi") -> bytes:
        sent = relay.HttpRequest("POST", f"/v2/models/{model}", "/infer", b"", [], body)
        return (await relay.run(await self.worker.use(model, "champion"), sent)).body

    def ready(self) -> list[str]:
        return [state["model"] for state in self.worker.states() if state["state"] == "ready"]


def play(
    shop: Workshop, story: Callable[[Pool], Awaitable[None]], limits: Limits = MANY, loading: Loading | None = None
) -> None:
    async def run() -> None:
        pool = Pool(shop, limits, loading)
        await story(pool)
        await pool.worker.stop()
        assert all(host.stopped for host in shop.made)

    asyncio.run(asyncio.wait_for(run(), 20))


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_model_is_loaded_once_however_many_ask_and_then_answers_at_once() -> None:
    shop = Workshop(*pooled("a"))

    async def story(pool: Pool) -> None:
        shop.gates["a"] = asyncio.Event()
        waiting = [asyncio.create_task(pool.ask("a", b"%d" % n)) for n in range(5)]
        await settled()
        assert pool.worker.states()[0]["state"] == "loading"
        shop.gates["a"].set()
        assert await asyncio.gather(*waiting) == [b"a:%d" % n for n in range(5)]
        assert len(shop.made) == 1
        assert await pool.ask("a") == b"a:hi"
        (state,) = pool.worker.states()
        assert (state["state"], state["version"], state["generation"], state["bytes"]) == ("ready", 1, 3, 0)
        assert pool.worker.stats()["hits"] == 1

    play(shop, story)


def test_the_least_recently_used_model_leaves_and_comes_back() -> None:
    shop = Workshop(*pooled("a", "b", "c"))

    async def story(pool: Pool) -> None:
        for model in ("a", "b", "a", "c"):
            await pool.ask(model)
        assert pool.ready() == ["a", "c"]
        await until(lambda: pool.left == [("b", "champion")])
        assert shop.of("b")[0].stopped
        assert await pool.ask("b") == b"b:hi"
        assert pool.ready() == ["b", "c"]
        assert len(shop.of("b")) == 2

    play(shop, story, Limits(models=2, bytes=10**9))


def test_memory_is_bounded_too_by_what_each_load_took() -> None:
    shop = Workshop(*pooled("small", "large", "other"))

    async def story(pool: Pool) -> None:
        for model in ("small", "large", "other"):
            shop.gates[model] = asyncio.Event()
            asking = asyncio.create_task(pool.ask(model))
            await until(lambda model=model: bool(shop.of(model)))  # type: ignore[misc]
            shop.used += 80 if model == "large" else 20
            shop.gates[model].set()
            await asking
        assert pool.ready() == ["large", "other"]
        assert pool.worker.stats()["bytes"] == 100
        assert pool.worker.stats()["evictions"] == 1

    play(shop, story, Limits(models=100, bytes=100))


def test_pinned_and_busy_models_stay() -> None:
    shop = Workshop(*pooled("pinned", pinned=True), *pooled("busy", "idle", "new"))

    async def story(pool: Pool) -> None:
        for model in ("pinned", "busy", "idle"):
            await pool.ask(model)
        shop.of("busy")[0].answering.clear()
        asking = asyncio.create_task(pool.ask("busy"))
        await settled()
        await pool.ask("new")
        assert pool.ready() == ["busy", "new", "pinned"]
        shop.of("busy")[0].answering.set()
        assert await asking == b"busy:hi"

    play(shop, story, Limits(models=3, bytes=10**9))


def test_pinned_models_are_loaded_at_the_start_and_one_that_fails_is_only_noted() -> None:
    shop = Workshop(*pooled("a", "bad", pinned=True))
    shop.errors["bad"] = Corrupt("the bundle", "sha256:1", "sha256:2")

    async def story(pool: Pool) -> None:
        pool.worker.start([("a", "champion"), ("bad", "champion"), ("gone", "champion")])
        await until(lambda: pool.ready() == ["a"] and pool.worker.counts["failures"] == 1)

    play(shop, story)


def test_a_model_that_does_not_load_is_refused_at_once_until_its_next_try() -> None:
    shop = Workshop(*pooled("bad", "good"))
    shop.errors["bad"] = Corrupt("the bundle", "sha256:1", "sha256:2")

    async def story(pool: Pool) -> None:
        with pytest.raises(Unavailable, match="did not load: the bundle is damaged"):
            await pool.ask("bad")
        with pytest.raises(Unavailable, match="next try in 1 s"):
            await pool.ask("bad")
        assert len(shop.of("bad")) == 1
        assert await pool.ask("good") == b"good:hi"
        pool.now += 1.01
        with pytest.raises(Unavailable):
            await pool.ask("bad")
        pool.now += 1.01
        with pytest.raises(Unavailable, match="next try in 1 s"):  # it waits twice as long now
            await pool.ask("bad")
        assert len(shop.of("bad")) == 2
        (state,) = (s for s in pool.worker.states() if s["model"] == "bad")
        assert (state["state"], "damaged" in state["reason"]) == ("failed", True)
        del shop.errors["bad"]
        await pool.worker.load("bad", "champion")  # somebody asks for it: no more waiting
        assert await pool.ask("bad") == b"bad:hi"

    play(shop, story)


def test_a_load_that_hangs_ends_and_delays_no_other_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplat.serve.pool.worker._TURN_S", 0.01)
    shop = Workshop(*pooled("stuck1", "stuck2", "good", "held"))

    async def story(pool: Pool) -> None:
        await pool.ask("held")
        shop.gates |= {"stuck1": asyncio.Event(), "stuck2": asyncio.Event()}
        stuck = [asyncio.create_task(pool.ask(model)) for model in ("stuck1", "stuck2")]
        await settled()
        assert await pool.ask("held") == b"held:hi"
        assert await pool.ask("good") == b"good:hi"
        for task in stuck:
            with pytest.raises(Unavailable, match=r"did not load within 0\.2 s"):
                await task

    play(shop, story, loading=Loading(at_once=2, timeout_s=0.2))


def test_loads_are_bounded_in_number() -> None:
    names = [f"m{n}" for n in range(6)]
    shop = Workshop(*pooled(*names))

    async def story(pool: Pool) -> None:
        shop.gates |= {name: asyncio.Event() for name in names}
        asking = [asyncio.create_task(pool.ask(name)) for name in names]
        await settled()
        assert len(shop.made) == 2
        for name in names:
            shop.gates[name].set()
        await asyncio.gather(*asking)
        assert len(shop.made) == 6

    play(shop, story, loading=Loading(at_once=2))


def test_too_many_that_wait_for_one_model_are_refused() -> None:
    shop = Workshop(*pooled("a"))

    async def story(pool: Pool) -> None:
        shop.gates["a"] = asyncio.Event()
        waiting = [asyncio.create_task(pool.ask("a")) for _ in range(2)]
        await settled()
        with pytest.raises(Overloaded, match="2 requests wait"):
            await pool.ask("a")
        shop.gates["a"].set()
        await asyncio.gather(*waiting)

    play(shop, story, loading=Loading(waiting=2))


def test_a_client_that_leaves_stops_no_load() -> None:
    shop = Workshop(*pooled("a"))

    async def story(pool: Pool) -> None:
        shop.gates["a"] = asyncio.Event()
        leaving = asyncio.create_task(pool.ask("a"))
        await settled()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        shop.gates["a"].set()
        assert await pool.ask("a") == b"a:hi"
        assert len(shop.made) == 1

    play(shop, story)


def test_what_is_not_pooled_is_not_found() -> None:
    shop = Workshop(EndpointSpec("own"))

    async def story(pool: Pool) -> None:
        for model in ("own", "absent"):
            with pytest.raises(NotFound, match="pooled model"):
                await pool.ask(model)
        shop.down = True
        with pytest.raises(Unavailable, match="did not load: the registry"):
            await pool.ask("own")
        assert pool.ready() == []

    play(shop, story)


def test_a_model_can_be_put_out_held_or_loading() -> None:
    shop = Workshop(*pooled("a", "b"))

    async def story(pool: Pool) -> None:
        await pool.ask("a")
        shop.gates["b"] = asyncio.Event()
        asking = asyncio.create_task(pool.ask("b"))
        await settled()
        assert await pool.worker.drop("a", "champion")
        assert await pool.worker.drop("b", "champion")
        assert not await pool.worker.drop("a", "champion")
        with pytest.raises(Unavailable, match="put out while it was loading"):
            await asking
        assert pool.worker.states() == []
        assert pool.left == [("a", "champion")]

    play(shop, story)


def test_garbage_is_collected_once_for_all_models_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplat.serve.pool.worker._TIDY_S", 0.02)
    collected: list[int] = []
    shop = Workshop(*pooled("a", "b", "c"))

    async def story(pool: Pool) -> None:
        monkeypatch.setattr(memory, "give_back", lambda: collected.append(len(pool.left)))
        for model in "abc":
            await pool.ask(model)
            await pool.worker.drop(model, "champion")
        await until(lambda: bool(collected))
        assert collected == [3]
        await pool.ask("a")
        await pool.worker.drop("a", "champion")
        await until(lambda: len(collected) == 2)

    play(shop, story)


def test_a_held_model_is_reconfigured_and_requests_end_where_they_began() -> None:
    (spec,) = pooled("a")
    shop = Workshop(spec)

    async def story(pool: Pool) -> None:
        await pool.ask("a")
        old = shop.of("a")[0]
        old.answering.clear()
        asking = asyncio.create_task(pool.ask("a", b"old"))
        await settled()
        assert await pool.worker.configure(replace(spec, limits=RequestLimits(queue=5)))
        assert len(shop.of("a")) == 2
        assert await pool.ask("a") == b"a:hi"
        assert not old.stopped
        old.answering.set()
        assert await asking == b"a:old"
        await until(lambda: old.stopped)
        assert not await pool.worker.configure(EndpointSpec("absent", placement="pooled"))

    play(shop, story)


def test_many_loads_that_never_end_make_it_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplat.serve.pool.worker._THREADS", 4)
    shop = Workshop(*pooled("a", "b"))

    async def story(pool: Pool) -> None:
        shop.gates |= {"a": asyncio.Event(), "b": asyncio.Event()}
        pool.worker.check_health()
        asking = [asyncio.create_task(pool.ask(model)) for model in ("a", "b")]
        await settled()
        with pytest.raises(RuntimeError, match="2 models hold threads that do not end"):
            pool.worker.check_health()
        for gate in shop.gates.values():
            gate.set()
        await asyncio.gather(*asking)

    play(shop, story)


def test_a_model_whose_threads_are_stuck_is_put_out_alone() -> None:
    shop = Workshop(*pooled("stuck", "good"))

    async def story(pool: Pool) -> None:
        for model in ("stuck", "good"):
            await pool.ask(model)
        shop.of("stuck")[0].sick = "4 predictions have not returned"
        pool.worker.check_health()
        with pytest.raises(Unavailable, match="4 predictions have not returned; next try in 60 s"):
            await pool.ask("stuck")
        assert await pool.ask("good") == b"good:hi"
        await until(lambda: shop.of("stuck")[0].stopped)
        pool.now += 61
        assert await pool.ask("stuck") == b"stuck:hi"

    play(shop, story)
