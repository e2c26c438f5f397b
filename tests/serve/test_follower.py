"""An alias that moves: what answers before, during and after, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import replace

import pytest

from rayplat.errors import Corrupt
from rayplat.serve.follower import AliasFollower, PinnedVersions
from rayplat.types import FeatureSpec
from tests.serve.fakes import SPEC, Bench, FakeLoader, FakeRegistry, bench, head, until


def follower(registry: FakeRegistry, loader: FakeLoader, poll_s: float = 0.01) -> AliasFollower:
    return AliasFollower(registry, loader, SPEC.model, "champion", "replica-1", poll_s)


def test_a_move_loads_beside_swaps_and_acknowledges() -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        f = follower(registry, loader)
        await f.start()
        assert (f.current.loaded.version, registry.acks) == (1, {"replica-1": 1})
        registry.move(2)
        await f.step()
        assert (f.current.loaded.version, f.current.head.generation) == (2, 2)
        assert f.previous is not None
        assert f.previous.loaded.version == 1
        assert (registry.acks, f.swaps) == ({"replica-1": 2}, 1)

    asyncio.run(run())


def test_a_rollback_uses_the_version_that_is_still_there() -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        f = follower(registry, loader)
        await f.start()
        for version in (2, 1, 2):
            registry.move(version)
            await f.step()
            assert f.current.loaded.version == version
        assert loader.loads == [1, 2]
        assert registry.acks == {"replica-1": 4}

    asyncio.run(run())


@pytest.mark.parametrize("way_out", [1, 3])
def test_a_load_that_never_ends_holds_up_neither_a_rollback_nor_the_next_version(way_out: int) -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        f = follower(registry, loader)
        await f.start()
        hanging = loader.gate = threading.Event()
        registry.move(2)
        step = asyncio.create_task(f.step())
        await until(lambda: loader.loads == [1, 2])
        loader.gate = None
        registry.move(way_out)
        await step
        assert (f.current.loaded.version, f.current.head.generation, f.failure) == (way_out, 3, None)
        assert registry.acks == {"replica-1": 3}
        hanging.set()

    asyncio.run(run())


def test_a_slow_load_survives_the_registry_s_absence() -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        f = follower(registry, loader)
        await f.start()
        loader.gate = threading.Event()
        registry.move(2)
        step = asyncio.create_task(f.step())
        await until(lambda: loader.loads == [1, 2])
        registry.down = True
        registry.calls.clear()
        await until(lambda: "listen" in registry.calls)
        loader.gate.set()
        await step
        assert (f.current.loaded.version, f.failure) == (2, None)

    asyncio.run(run())


def test_an_exact_version_does_not_wait_for_ever_for_another_one_s_load(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        pinned = PinnedVersions(registry, loader, SPEC.model)
        monkeypatch.setattr("rayplat.serve.follower._PATIENCE_S", 0.05)
        hanging = loader.gate = threading.Event()
        first = asyncio.create_task(pinned.get(2))
        await until(lambda: loader.loads == [2])
        loader.gate = None
        assert (await pinned.get(3)).version == 3
        hanging.set()
        assert (await first).version == 2
        assert pinned.held() == [3, 2]

    asyncio.run(run())


def test_a_head_that_moves_on_the_same_version_changes_the_generation_only() -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        f = follower(registry, loader)
        await f.start()
        loaded = f.current.loaded
        registry.move(1)
        await f.step()
        assert f.current.loaded is loaded
        assert (f.current.head.generation, loader.loads) == (2, [1])

    asyncio.run(run())


def test_an_older_generation_is_never_followed() -> None:
    async def run() -> None:
        registry = FakeRegistry(head(2, 5))
        f = follower(registry, FakeLoader())
        await f.start()
        registry.head = head(1, 4)
        await f.step()
        assert f.current.loaded.version == 2

    asyncio.run(run())


def test_a_version_that_does_not_load_keeps_the_old_one_and_is_tried_again() -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        loader.broken[2] = Corrupt("the bundle", "sha256:a", "sha256:b")
        f = follower(registry, loader)
        await f.start()
        registry.move(2)
        await f.step()
        assert f.current.loaded.version == 1
        assert f.failure is not None
        assert "version 2: the bundle is damaged" in f.failure
        assert registry.acks == {"replica-1": 1}
        del loader.broken[2]
        await f.step()
        assert (f.current.loaded.version, f.failure, registry.acks) == (2, None, {"replica-1": 2})

    asyncio.run(run())


def test_a_load_that_raises_what_no_future_can_hold_is_a_failed_load() -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        loader.broken[2] = StopIteration()
        f = follower(registry, loader)
        await f.start()
        registry.move(2)
        async with asyncio.timeout(5):
            await f.step()
        assert (f.current.loaded.version, str(f.failure)) == (1, "generation 2, version 2: it raised StopIteration")

    asyncio.run(run())


def test_a_version_with_another_signature_is_refused_and_the_way_back_is_free() -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        f = follower(registry, loader)
        await f.start()
        loader.spec = replace(SPEC, features=(*SPEC.features, FeatureSpec("delay", "numeric")))
        registry.move(2)  # one more feature, which is looked up
        await f.step()
        assert (f.current.loaded.version, f.failure) == (2, None)
        f.previous, loader.spec = None, SPEC
        registry.move(1)
        await f.step()
        assert (f.current.loaded.version, f.failure) == (1, None)
        loader.spec = replace(SPEC, entity="plane")
        registry.move(3)
        await f.step()
        assert f.current.loaded.version == 1
        assert "version 3 takes other requests than version 1" in str(f.failure)

    asyncio.run(run())


def test_a_better_version_ends_a_failure_at_once() -> None:
    async def run() -> None:
        registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
        loader.broken[2] = Corrupt("the bundle", "sha256:a", "sha256:b")
        f = follower(registry, loader)
        await f.start()
        registry.move(2)
        await f.step()
        registry.move(3)
        await f.step()
        assert (f.current.loaded.version, f.failure) == (3, None)

    asyncio.run(run())


def test_following_survives_the_registrys_absence() -> None:
    async def run() -> None:
        b = await bench()
        b.registry.down = True
        b.registry.acks.clear()
        await until(lambda: b.registry.calls.count("listen") >= 3)
        assert (await b.client.infer()).status in (200, 503)
        b.registry.down = False
        b.registry.move(2)
        await until(lambda: b.host.stats()["version"] == 2)
        await until(lambda: b.registry.acks == {"replica-1": 2})
        await b.host.stop()

    asyncio.run(run())


def test_no_request_fails_and_each_names_its_maker_while_the_alias_moves() -> None:
    """Eight clients ask without pause through twenty moves; an answer is the value of the version it names."""

    async def client(b: Bench, stop: asyncio.Event, seen: Counter[str]) -> None:
        keys = [f"F{i}" for i in range(40)]
        while not stop.is_set():
            for asked in (keys[:1], keys):
                answer = await b.client.infer(asked)
                assert answer.status == 200, answer.body
                version = answer.json["model_version"]
                assert answer.headers["x-rayplat-model-version"] == version
                assert answer.json["parameters"]["digest"] == f"sha256:{int(version):064x}"
                assert {round(value * 100) for value in answer.json["outputs"][0]["data"]} == {int(version)}
                seen[version] += 1
                await asyncio.sleep(0)

    async def run() -> None:
        b = await bench()
        stop, seen = asyncio.Event(), Counter[str]()
        clients = [asyncio.create_task(client(b, stop, seen)) for _ in range(8)]
        for version in [2, 3, 1, 4, 5] * 4:
            moved = b.registry.move(version)
            await until(lambda moved=moved: b.registry.acks["replica-1"] == moved.generation)  # type: ignore[misc]
        stop.set()
        await asyncio.gather(*clients)
        assert await b.host.flush_log()
        await b.host.stop()
        assert set(seen) == {"1", "2", "3", "4", "5"}
        assert b.host.stats()["answers"] == {"200": seen.total()}

    asyncio.run(run())


def test_requests_are_answered_by_the_old_version_while_the_new_one_loads() -> None:
    async def run() -> None:
        b = await bench()
        b.loader.gate = threading.Event()
        b.registry.move(2)
        await until(lambda: b.loader.loads == [1, 2])
        assert (await b.client.infer()).json["model_version"] == "1"
        assert b.registry.acks == {"replica-1": 1}
        b.loader.gate.set()
        await until(lambda: b.host.stats()["version"] == 2)
        assert (await b.client.infer()).json["model_version"] == "2"
        await b.host.stop()

    asyncio.run(run())
