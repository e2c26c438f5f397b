"""Release control in a host, without Ray: following, other variants, and what happens when one cannot be reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from rayplat.errors import DeadlineExceeded, InvalidInput, Overloaded, PartFailed, Unavailable
from rayplat.serve.release import forwarding
from rayplat.serve.release.follower import ReleaseFollower
from rayplat.serve.release.releasing import ReleaseControl
from rayplat.serve.release.variants import Variants
from rayplat.serve.request import Answer, Call, InferRequest
from rayplat.types import Canary, CanaryState, Release, Shadow, Share, Split
from tests.serve.fakes import SPEC, Bench, FakeRegistry, bench, head, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = SPEC.model
SPLIT = Split((Share("champion", 50), Share("challenger", 50)), salt="s", sticky="entity")


def request(*keys: str) -> InferRequest:
    return InferRequest(len(keys), {}, ("probability",), entity=list(keys), params={"a": 1})


def call(left_s: float | None = 5.0) -> Call:
    deadline = None if left_s is None else time.monotonic() + left_s
    return Call("r-1", NOW, deadline=deadline, headers={"authorization": "secret"})


class Hosts:
    """Stands for other hosts: `Send` to started fakes, by variant. ``down`` ones cannot be reached."""

    def __init__(self, **hosts: Bench) -> None:
        self.hosts, self.down, self.calls = hosts, set[str](), list[tuple[str, str]]()
        self.error: Exception | None = None

    async def __call__(self, variant: str, method: str, arguments: tuple[Any, ...], timeout_s: float) -> bytes:
        self.calls.append((variant, method))
        if self.error is not None:
            raise self.error
        if variant in self.down or variant not in self.hosts:
            raise Unavailable(f"the host of {MODEL}/{variant}", "it has stopped")
        found: bytes = await getattr(self.hosts[variant].host, method)(*arguments)
        return found


def play(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


# --- what travels -----------------------------------------------------------------------------------


def test_a_request_travels_with_its_time_left_and_without_its_secrets() -> None:
    packed = forwarding.pack_request(request("F1"), call(5.0), "split", (3, "sha256:3"))
    assert b"secret" not in packed
    there, its_call, role, known = forwarding.unpack_request(packed)
    assert there == request("F1")
    assert (its_call.request_id, its_call.received_at, its_call.headers) == ("r-1", NOW, {})
    assert its_call.deadline is not None
    assert 4 < its_call.deadline - time.monotonic() <= 5
    assert (role, known) == ("split", (3, "sha256:3"))
    assert forwarding.unpack_request(forwarding.pack_request(request("F1"), call(None), "x", None))[1].deadline is None


def test_copies_travel_in_columns_and_arrive_each_for_itself() -> None:
    def made(i: int, rows: int, **more: Any) -> forwarding.Copy:
        inputs: dict[str, Any] = {"x": np.full(rows, i, np.float64), "name": [f"n{i}"] * rows, **more}
        return InferRequest(rows, inputs, (), id=f"id-{i}", entity=[f"F{i}"] * rows), Call(f"r-{i}", NOW)

    copies = [made(i, 1 + i % 3) for i in range(7)]
    copies += [made(7, 2, grid=np.ones((2, 3))), made(8, 1, grid=np.ones((1, 4))), made(9, 1, x=np.array([9]))]
    paused: list[int] = []
    arrived = forwarding.unpack_copies(forwarding.pack_copies(copies, lambda: paused.append(1)))
    assert sorted(c.request_id for _, c in arrived) == sorted(c.request_id for _, c in copies)
    by_id = {c.request_id: r for r, c in arrived}
    for sent, its_call in copies:
        got = by_id[its_call.request_id]
        assert (got.rows, got.id, got.entity, list(got.inputs)) == (sent.rows, sent.id, sent.entity, list(sent.inputs))
        for name, values in sent.inputs.items():
            assert np.array_equal(np.asarray(got.inputs[name]), np.asarray(values))
            if isinstance(values, np.ndarray):
                assert got.inputs[name].dtype == values.dtype
    assert paused


# --- other variants ---------------------------------------------------------------------------------


def test_another_variants_answer_is_named_as_what_it_is() -> None:
    async def story() -> None:
        other = await bench("challenger")
        other.registry.move(2)
        await until(lambda: other.host.stats()["version"] == 2)
        hosts = Hosts(challenger=other)
        variants = Variants(MODEL, hosts)
        for _ in range(2):  # the second answer comes without the description
            answer = await variants.infer("challenger", "split", request("F1", "F2"), call())
            assert (answer.variant, answer.loaded.version, answer.head.alias) == ("challenger", 2, "challenger")
            assert np.allclose(answer.outputs["probability"], 0.02)
            assert answer.latency_ms > 0
        assert variants.stats() == {"forwarded": {"challenger": 2}, "unreached": {}, "gone": []}
        other.registry.move(3)
        await until(lambda: other.host.stats()["version"] == 3)
        answer = await variants.infer("challenger", "split", request("F1"), call())
        assert (answer.loaded.version, answer.loaded.digest) == (3, f"sha256:{3:064x}")
        await other.host.stop()

    play(story)


def test_a_host_that_is_gone_costs_one_request_its_time_and_is_found_again() -> None:
    async def story() -> None:
        other = await bench("challenger")
        hosts = Hosts(challenger=other)
        hosts.down.add("challenger")
        variants = Variants(MODEL, hosts)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await variants.infer("challenger", "split", request("F1"), call())
        assert hosts.calls == [("challenger", "infer_forwarded")]
        assert variants.stats() == {
            "forwarded": {"challenger": 1}, "unreached": {"challenger": 5}, "gone": ["challenger"]
        }  # fmt: skip
        hosts.down.clear()
        await until(lambda: not variants.stats()["gone"])
        assert (await variants.infer("challenger", "split", request("F1"), call())).variant == "challenger"
        variants.stop()
        await other.host.stop()

    play(story)


@pytest.mark.parametrize(
    "error", [Overloaded("the host", "busy", 2.0), DeadlineExceeded("the host", 1.0), PartFailed("the model", "x")]
)
def test_what_a_host_that_answers_says_is_passed_on(error: Exception) -> None:
    async def story() -> None:
        hosts = Hosts()
        hosts.error = error
        variants = Variants(MODEL, hosts)
        with pytest.raises(type(error)):
            await variants.infer("challenger", "split", request("F1"), call())
        assert variants.stats()["gone"] == []

    play(story)


def test_an_error_of_the_variant_is_its_own() -> None:
    async def story() -> None:
        other = await bench("challenger")
        variants = Variants(MODEL, Hosts(challenger=other))
        with pytest.raises(InvalidInput, match="unknown flight 'absent'"):
            await variants.infer("challenger", "split", request("absent"), call())
        await other.host.stop()

    play(story)


# --- following --------------------------------------------------------------------------------------


def follower(registry: FakeRegistry, reached: list[str], down: set[str]) -> ReleaseFollower:
    async def reach(name: str) -> None:
        reached.append(name)
        if name in down:
            raise Unavailable(f"the host of {MODEL}/{name}", "none of its replicas took the request")

    return ReleaseFollower(registry, MODEL, "champion", 0.02, reach=reach)


def test_a_release_is_taken_as_a_whole_and_its_new_targets_are_looked_at() -> None:
    async def story() -> None:
        registry, reached = FakeRegistry(head(1, 1)), list[str]()
        f = follower(registry, reached, set())
        await f.start()
        assert f.release == Release(MODEL)
        first = Release(MODEL, 1, split=SPLIT, shadows=(Shadow("7"),))
        registry.put_release(first)
        await f.step()
        assert f.release is first
        assert sorted(reached) == ["challenger", "v7"]
        registry.put_release(Release(MODEL, 2, split=SPLIT))
        await f.step()
        assert f.release.generation == 2
        assert len(reached) == 2  # nothing new in it

    play(story)


def test_a_target_that_cannot_be_reached_leaves_the_old_release_in_force_until_it_can() -> None:
    async def story() -> None:
        registry, reached, down = FakeRegistry(head(1, 1)), list[str](), {"v7"}
        f = follower(registry, reached, down)
        first = Release(MODEL, 1, split=SPLIT)
        registry.put_release(first)
        await f.start()
        assert f.release is first
        registry.put_release(Release(MODEL, 2, split=SPLIT, shadows=(Shadow("7"),)))
        await f.step()
        assert f.release is first
        assert f.failure is not None
        assert "generation 2: the host of flight-delay/v7 is not available" in f.failure
        down.clear()
        await f.step()
        assert (f.release.generation, f.failure) == (2, None)

    play(story)


def test_taking_something_back_is_never_held_up() -> None:
    async def story() -> None:
        registry, reached, down = FakeRegistry(head(1, 1)), list[str](), set[str]()
        f = follower(registry, reached, down)
        canary = Canary("challenger", steps=(0.5,))
        registry.put_release(Release(MODEL, 1, canary=canary, shadows=(Shadow("7"),)))
        await f.start()
        down |= {"challenger", "v7"}
        registry.put_release(
            Release(MODEL, 2, canary=Canary("challenger", steps=(0.5,), state=CanaryState.ROLLED_BACK))
        )
        await f.step()
        assert f.release.generation == 2

    play(story)


def test_a_registry_that_is_down_leaves_what_is_there() -> None:
    async def story() -> None:
        registry, reached = FakeRegistry(head(1, 1)), list[str]()
        registry.down = True
        f = follower(registry, reached, set())
        await f.start()
        assert f.release == Release(MODEL)
        registry.down = False
        first = Release(MODEL, 1, split=SPLIT)
        registry.put_release(first)
        following = asyncio.create_task(f.run())
        await until(lambda: f.release is first)
        registry.down = True
        await asyncio.sleep(0.1)
        assert f.release is first
        registry.down = False
        registry.put_release(Release(MODEL, 2))
        await until(lambda: f.release.generation == 2)
        following.cancel()

    play(story)


# --- all of it in a host ----------------------------------------------------------------------------


def test_a_host_divides_its_requests_and_answers_for_a_variant_that_is_gone() -> None:
    async def story() -> None:
        other = await bench("challenger")
        other.registry.move(2)
        await until(lambda: other.host.stats()["version"] == 2)
        hosts = Hosts(challenger=other)
        registry = FakeRegistry(head(1, 1))
        control = ReleaseControl(registry, MODEL, "champion", 0.05, variants=Variants(MODEL, hosts))
        registry.put_release(Release(MODEL, 1, split=SPLIT))
        mine = await bench(releasing=control)
        assert control.release.generation == 1
        answers = {f"F{i}": await mine.client.infer([f"F{i}"]) for i in range(40)}
        assert {a.status for a in answers.values()} == {200}
        variants = {key: a.headers["x-rayplat-variant"] for key, a in answers.items()}
        assert set(variants.values()) == {"champion", "challenger"}
        again = {key: (await mine.client.infer([key])).headers["x-rayplat-variant"] for key in answers}
        assert again == variants
        stats = mine.host.stats()["release"]
        assert stats["generation"] == 1
        assert sum(v["requests"] for v in stats["variants"].values()) == 80
        hosts.down.add("challenger")
        fallen = [await mine.client.infer([key]) for key in answers]
        assert {a.status for a in fallen} == {200}
        assert {a.headers["x-rayplat-variant"] for a in fallen} == {"champion"}
        stats = mine.host.stats()["release"]
        assert stats["variants"]["challenger"]["errors"] == list(variants.values()).count("challenger")
        await mine.host.stop()
        await other.host.stop()

    play(story)


def test_a_testers_header_chooses_among_what_the_release_names() -> None:
    async def story() -> None:
        other = await bench("challenger")
        registry = FakeRegistry(head(1, 1))
        variants = Variants(MODEL, Hosts(challenger=other))
        control = ReleaseControl(registry, MODEL, "champion", 0.05, variants=variants)
        registry.put_release(Release(MODEL, 1, canary=Canary("challenger", state=CanaryState.ROLLED_BACK)))
        mine = await bench(releasing=control)

        async def asked(target: str) -> Any:
            body = b'{"inputs": [{"name": "flight", "datatype": "BYTES", "shape": [1], "data": ["F1"]}]}'
            return await mine.client.request("POST", "/infer", body, {"x-rayplat-target": target})

        assert (await asked("challenger")).headers["x-rayplat-variant"] == "challenger"
        assert (await asked("champion")).headers["x-rayplat-variant"] == "champion"
        refused = await asked("v9")
        assert refused.status == 422
        assert "'v9' is no target of this model's release; it names champion, challenger" in refused.json["error"]
        assert (await mine.client.infer()).headers["x-rayplat-variant"] == "champion"
        await mine.host.stop()
        await other.host.stop()

    play(story)


def test_an_answer_can_be_packed_without_what_computes() -> None:
    async def story() -> None:
        other = await bench("challenger")
        packed = await other.host.infer_forwarded(forwarding.pack_request(request("F1"), call(), "split", None))
        answer = forwarding.unpack_answer(packed, None)
        assert isinstance(answer, Answer)
        assert answer.loaded.features is None
        with pytest.raises(RuntimeError, match="loaded in another process"):
            answer.loaded.predictor.predict({})
        await other.host.stop()

    play(story)
