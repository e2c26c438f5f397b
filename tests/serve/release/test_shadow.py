"""Copies for shadows: what is sent, what is dropped, and that a shadow in trouble is nobody else's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from rayplat.errors import Unavailable
from rayplat.serve.release import forwarding, shadow
from rayplat.serve.release.shadow import Shadows
from rayplat.serve.request import Call, InferRequest
from rayplat.serve.routing.decide import variant
from rayplat.types import Release, Shadow
from tests.serve.fakes import bench, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def copy(i: int) -> tuple[InferRequest, Call]:
    return InferRequest(1, {"x": np.array([float(i)])}, ()), Call(f"r-{i}", NOW)


class Targets:
    """Hosts of shadows: what each was sent. ``hanging`` ones never answer, ``broken`` ones raise."""

    def __init__(self) -> None:
        self.got: dict[str, list[str]] = defaultdict(list)
        self.batches: dict[str, int] = defaultdict(int)
        self.hanging, self.broken = set[str](), set[str]()
        self.threads: set[str] = set()

    async def send(self, name: str, method: str, arguments: tuple[Any, ...], timeout_s: float) -> bytes:
        assert method == "shadow"
        self.threads.add(threading.current_thread().name)
        if name in self.hanging:
            await asyncio.sleep(timeout_s)
        if name in self.broken:
            raise Unavailable(f"the host of {name}", "it has stopped")
        self.batches[name] += 1
        self.got[name] += [call.request_id for _, call in forwarding.unpack_copies(arguments[0])]
        return b""

    def shadows(self, every_s: float = 0.01) -> Shadows:
        return Shadows("m", lambda model: self.send, every_s)


def wait(condition: Any, timeout_s: float = 5.0) -> None:
    asyncio.run(until(condition, timeout_s))


def test_every_copy_arrives_once_in_batches_from_another_thread() -> None:
    targets = Targets()
    shadows = targets.shadows()
    for i in range(1000):
        shadows.offer(("one", "other") if i % 2 else ("one",), *copy(i))
    wait(lambda: len(targets.got["one"]) == 1000 and len(targets.got["other"]) == 500)
    assert targets.got["one"] == [f"r-{i}" for i in range(1000)]
    assert targets.batches["one"] < 20
    assert targets.threads == {"shadows"}
    wait(lambda: shadows.stats()["one"]["sent"] == 1000)
    assert shadows.stats()["one"] == {"sent": 1000, "dropped": 0, "waiting": 0, "failure": None}
    shadows.stop()


def test_a_shadow_that_hangs_loses_its_copies_and_another_gets_all_of_its_own() -> None:
    targets = Targets()
    targets.hanging.add("slow")
    shadows = targets.shadows()
    shadows.obey(Release("m", 1, shadows=(Shadow("slow", max_pending=10), Shadow("quick"))), variant)
    for i in range(300):
        shadows.offer(("slow", "quick"), *copy(i))
        time.sleep(0.0005)
    wait(lambda: len(targets.got["quick"]) == 300)
    wait(lambda: sum(shadows.stats()["slow"][name] for name in ("dropped", "waiting")) > 200)
    found = shadows.stats()["slow"]
    assert found["waiting"] <= 10
    assert found["sent"] == 0
    shadows.stop()


def test_a_shadow_that_is_gone_is_left_alone_for_growing_pauses_and_found_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shadow, "_FIRST_PAUSE_S", 0.05)
    targets = Targets()
    targets.broken.add("one")
    shadows = targets.shadows()
    shadows.offer(("one",), *copy(0))
    wait(lambda: shadows.stats().get("one", {}).get("dropped") == 1)
    assert "it has stopped" in shadows.stats()["one"]["failure"]
    targets.broken.clear()
    shadows.offer(("one",), *copy(1))
    wait(lambda: targets.got["one"] == ["r-1"])
    wait(lambda: shadows.stats()["one"] == {"sent": 1, "dropped": 1, "waiting": 0, "failure": None})
    shadows.stop()


def test_a_flood_is_bounded_at_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = Targets()
    shadows = targets.shadows(every_s=0.2)
    for i in range(20_000):
        shadows.offer(("one",), *copy(i))
    wait(lambda: shadows.stats().get("one", {}).get("sent", 0) > 0)
    found = shadows.stats()
    assert found["*"]["dropped"] >= 20_000 - 2 * 8192 - 256
    assert found["one"]["waiting"] <= 1024
    shadows.stop()


def test_large_requests_are_bounded_by_their_size() -> None:
    targets = Targets()
    targets.hanging.add("one")
    shadows = targets.shadows()
    large = InferRequest(1, {"x": np.zeros(1 << 20)}, ())  # 8 MiB
    for i in range(40):
        shadows.offer(("one",), large, Call(f"r-{i}", NOW))
    wait(lambda: shadows.stats().get("one", {}).get("dropped", 0) >= 20)
    shadows.stop()


def test_no_thread_without_a_copy_and_none_after_the_end() -> None:
    targets = Targets()
    shadows = targets.shadows()
    shadows.stop()
    assert shadows._thread is None
    shadows = targets.shadows()
    shadows.offer(("one",), *copy(0))
    thread = shadows._thread
    assert thread is not None
    assert thread.daemon
    shadows.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_a_shadows_host_computes_and_logs_each_copy_under_its_role() -> None:
    async def story() -> None:
        other = await bench("challenger")
        good = InferRequest(1, {}, ("probability",), entity=["F1"])
        copies = [(good, Call("r-1", NOW)), (InferRequest(1, {}, (), entity=["absent"]), Call("r-2", NOW))]
        await other.host.shadow(forwarding.pack_copies([*copies, (good, Call("r-3", NOW))]))
        assert await other.host.flush_log()
        import pyarrow as pa

        rows = [row for _, _, batch in other.sink.sent for row in pa.ipc.open_stream(batch).read_all().to_pylist()]
        found = {row["request_id"]: (row["role"], row["status"], row["variant"]) for row in rows}
        assert found["r-1"] == found["r-3"] == ("shadow", 200, "challenger")
        assert found["r-2"] == ("shadow", 422, "challenger")
        await other.host.stop()

    asyncio.run(story())
