"""Computing with a model: who is computed together, who waits, who is refused, and what a bad model does to others."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rayplat.errors import DeadlineExceeded, InvalidInput, Overloaded, PartFailed, SchemaMismatch, Unavailable
from rayplat.serve.computing.batching import Batcher
from rayplat.serve.ports import LoadedVersion
from rayplat.types import Batching, Limits, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP64"),), (TensorSpec("y", "FP64"),))


class Model:
    """Gives x + 1 for each row. ``gate`` holds calls back; values below 0 are refused, NaN breaks it."""

    def __init__(self, gate: threading.Event | None = None, seconds: float = 0.0) -> None:
        self.gate, self.seconds = gate, seconds
        self.calls: list[list[float]] = []
        self.threads: set[str] = set()

    def predict(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        values = np.asarray(columns["x"], dtype=np.float64)
        self.calls.append(values.ravel().tolist())
        self.threads.add(threading.current_thread().name)
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.seconds:
            time.sleep(self.seconds)
        if (values < 0).any():
            raise SchemaMismatch("x", "must not be negative")
        if np.isnan(values).any():
            raise ZeroDivisionError("a bug")
        return {"y": values.reshape(len(values), -1)[:, 0] + 1}

    def predict_with(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"y": self.predict(columns)["y"] + params["plus"]}


def version(model: Any, number: int = 1, batchable: bool = True, **more: Any) -> LoadedVersion:
    params = model if isinstance(model, Model) else None
    return LoadedVersion("m", number, f"sha256:{number}", model, SIGNATURE, batchable=batchable, params=params, **more)


def x(*values: float) -> dict[str, Any]:
    return {"x": np.array(values)}


def on_loop(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def ask(b: Batcher, loaded: LoadedVersion, *values: float, within: float | None = None, **params: Any) -> Any:
    deadline = None if within is None else time.monotonic() + within
    return asyncio.create_task(b.run(loaded, x(*values), len(values), params, deadline))  # type: ignore[arg-type]


async def busy(b: Batcher, loaded: LoadedVersion, within: float | None = None) -> Any:
    """A request that holds the model."""
    calls = len(loaded.predictor.calls)  # type: ignore[attr-defined]
    first = ask(b, loaded, 0, within=within)
    await until(lambda: len(loaded.predictor.calls) > calls)  # type: ignore[attr-defined]
    return first


def test_requests_that_wait_are_computed_together_and_each_gets_its_own_rows() -> None:
    async def test() -> None:
        b, model = Batcher(Batching(), Limits()), Model(threading.Event())
        loaded = version(model)
        first = await busy(b, loaded)
        others = [ask(b, loaded, i, i + 0.5) for i in range(1, 6)]
        await until(lambda: b.stats()["waiting"] == 5)
        model.gate.set()  # type: ignore[union-attr]
        assert (await first)["y"].tolist() == [1]
        assert [(await o)["y"].tolist() for o in others] == [[i + 1, i + 1.5] for i in range(1, 6)]
        assert [len(call) for call in model.calls] == [1, 10]
        assert b.stats()["batch_requests_sum"] == 6
        assert b.stats()["waiting"] == b.stats()["waiting_rows"] == b.stats()["running"] == 0
        b.close()

    on_loop(test)


def test_only_what_is_alike_is_joined() -> None:
    async def test() -> None:
        gate = threading.Event()
        b, one, two, whole = Batcher(Batching(), Limits()), Model(gate), Model(gate), Model(gate)
        v1, v2, v3 = version(one), version(two, 2), version(whole, 3, batchable=False)
        first = await busy(b, v1)
        rows = asyncio.create_task(b.run(v1, {"x": np.array([[5.0, 6.0]])}, 1, {}))  # type: ignore[arg-type]
        tasks = [ask(b, v1, 1), ask(b, v1, 2, plus=1), ask(b, v1, 3, plus=1), ask(b, v1, 4, plus=2), ask(b, v2, 7)]
        alone = [ask(b, v3, 8), ask(b, v3, 9)]
        await until(lambda: b.stats()["waiting"] == 8)
        gate.set()
        found = [float((await task)["y"][0]) for task in (*tasks, rows, *alone, first)]
        assert found == [2, 4, 5, 7, 8, 6, 9, 10, 1]
        assert sorted(map(tuple, one.calls)) == [(0,), (1,), (2, 3), (4,), (5, 6)]
        assert (two.calls, whole.calls) == ([[7]], [[8], [9]])
        b.close()

    on_loop(test)


def test_a_batch_has_at_most_so_many_rows_and_a_larger_request_goes_alone() -> None:
    async def test() -> None:
        b, model = Batcher(Batching(max_rows=4), Limits()), Model(threading.Event())
        loaded = version(model)
        tasks = [await busy(b, loaded)]
        tasks += [ask(b, loaded, 1, 2, 3), ask(b, loaded, 4, 5), ask(b, loaded, *range(6)), ask(b, loaded, 6)]
        await until(lambda: b.stats()["waiting"] == 4)
        model.gate.set()  # type: ignore[union-attr]
        await asyncio.gather(*tasks)
        assert [len(call) for call in model.calls] == [1, 3, 2, 6, 1]
        b.close()

    on_loop(test)


def test_a_model_with_its_own_code_joins_where_its_spec_says_how_many() -> None:
    async def test() -> None:
        b, model = Batcher(Batching(max_rows=64), Limits()), Model(threading.Event())
        loaded = version(model, batchable=False)
        tasks = [await busy(b, loaded), ask(b, loaded, 1), ask(b, loaded, 2)]
        await until(lambda: b.stats()["waiting"] == 2)
        model.gate.set()  # type: ignore[union-attr]
        await asyncio.gather(*tasks)
        assert model.calls[1:] == [[1, 2]]
        assert not any("MainThread" in thread for thread in model.threads)
        b.close()

    on_loop(test)


def test_one_requests_bad_values_do_not_fail_its_batch_mates() -> None:
    async def test() -> None:
        b, model = Batcher(Batching(), Limits()), Model(threading.Event())
        loaded = version(model)
        first = await busy(b, loaded)
        good = [ask(b, loaded, i) for i in range(6)]
        bad = [ask(b, loaded, -1), ask(b, loaded, float("nan"))]
        good += [ask(b, loaded, 6)]
        await until(lambda: b.stats()["waiting"] == 9)
        model.gate.set()  # type: ignore[union-attr]
        assert [(await g)["y"].tolist() for g in good] == [[i + 1] for i in range(7)]
        with pytest.raises(SchemaMismatch, match="must not be negative"):
            await bad[0]
        with pytest.raises(PartFailed, match=r"version 1 of model 'm'.*the model failed \(ZeroDivisionError\)"):
            await bad[1]
        await first
        b.close()

    on_loop(test)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"y": np.zeros(3)}, "output 'y' has 3 rows for 2 rows of inputs"),
        ({"y": np.zeros(2), "z": np.zeros((1, 2))}, "output 'z' has 1 rows"),
        ({"y": np.float64(1)}, "output 'y' has one value"),
    ],
)
@pytest.mark.parametrize("inline", [True, False])
def test_a_wrong_number_of_rows_names_version_and_output(outputs: Any, text: str, inline: bool) -> None:
    class Wrong:
        def predict(self, columns: Mapping[str, Any]) -> Any:
            return outputs if len(columns["x"]) == 2 else {"y": columns["x"]}

    async def test() -> None:
        b = Batcher(Batching(), Limits())
        loaded = version(Wrong(), 7, example=x(1) if inline else None)
        b.measure(loaded)
        assert b.stats()["inline"] is False  # nothing has been asked
        with pytest.raises(PartFailed, match="version 7 of model 'm'.*" + text):
            await b.run(loaded, x(1, 2), 2, {})
        assert (await b.run(loaded, x(1), 1, {}))["y"].tolist() == [1]  # healthy afterwards
        b.check_health()
        b.close()

    on_loop(test)


def test_an_expired_deadline_leaves_the_queue_and_is_not_computed() -> None:
    async def test() -> None:
        b, model = Batcher(Batching(), Limits(deadline_s=0.03)), Model(threading.Event())
        loaded = version(model)
        first = await busy(b, loaded, within=30)
        late = ask(b, loaded, 5)
        with pytest.raises(DeadlineExceeded, match=r"model 'm' did not answer within 0.03 s"):
            await late
        assert b.stats()["waiting"] == b.stats()["waiting_rows"] == 0
        model.gate.set()  # type: ignore[union-attr]
        await first
        assert model.calls == [[0]]
        b.close()

    on_loop(test)


@pytest.mark.parametrize("ago_s", [0.0, 2.2e-5, 3.0])
@pytest.mark.parametrize("known", ["inline", "in a thread", "unknown"])
def test_a_deadline_that_is_past_is_no_overload(ago_s: float, known: str) -> None:
    async def test() -> None:
        b, model, held = Batcher(Batching(), Limits()), Model(), Model(threading.Event())
        loaded = version(model, batchable=known == "inline", example=None if known == "unknown" else x(1))
        b.measure(loaded)
        model.calls.clear()
        with pytest.raises(DeadlineExceeded, match="model 'm' did not answer within 0 s"):
            await ask(b, loaded, 5, within=-ago_s)
        first = await busy(b, version(held, 2))
        waits = ask(b, version(held, 2), 6)
        await until(lambda: b.stats()["waiting"] == 1)
        with pytest.raises(DeadlineExceeded):
            await ask(b, loaded, 5, within=-ago_s)
        with pytest.raises(DeadlineExceeded):
            b.admit(time.monotonic() - ago_s)
        assert (model.calls, b.stats()["shed"], b.stats()["waiting"]) == ([], {}, 1)
        held.gate.set()  # type: ignore[union-attr]
        await asyncio.gather(first, waits)
        b.close()

    on_loop(test)


def test_a_client_that_leaves_is_not_computed() -> None:
    async def test() -> None:
        b, model = Batcher(Batching(), Limits()), Model(threading.Event())
        loaded = version(model)
        first = await busy(b, loaded)
        gone, stays = ask(b, loaded, 5), ask(b, loaded, 6)
        await until(lambda: b.stats()["waiting"] == 2)
        gone.cancel()
        await until(lambda: b.stats()["waiting"] == 1)
        model.gate.set()  # type: ignore[union-attr]
        await asyncio.gather(first, stays)
        assert model.calls == [[0], [6]]
        b.close()

    on_loop(test)


def test_a_prediction_that_never_returns_costs_its_own_request_only() -> None:
    async def test() -> None:
        b, stuck, good = Batcher(Batching(), Limits(deadline_s=5)), Model(threading.Event()), Model()
        hanging, loaded = version(stuck, batchable=False), version(good, 2, batchable=False)
        b.measure(version(Model(), batchable=False, example=x(1)))  # its usual time is known
        with pytest.raises(DeadlineExceeded):
            await b.run(hanging, x(1), 1, {}, time.monotonic() + 0.05)
        waits = ask(b, loaded, 2)  # behind it
        assert (await waits)["y"].tolist() == [3]
        assert (b.stats()["stuck"], b.stats()["running"]) == (1, 0)
        b.check_health()
        stuck.gate.set()  # type: ignore[union-attr]
        await until(lambda: b.stats()["stuck"] == 0)
        assert (await b.run(loaded, x(4), 1, {}))["y"].tolist() == [5]
        b.close()

    on_loop(test)


def test_too_many_stuck_threads_make_the_host_unhealthy_and_refuse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplat.serve.computing.batching._STUCK_S", 0.02)

    async def test() -> None:
        b, model = Batcher(Batching(), Limits(deadline_s=0.05)), Model(threading.Event())
        loaded = version(model, batchable=False)
        tasks = [ask(b, loaded, i) for i in range(4)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(e) for e in found} <= {DeadlineExceeded, Unavailable}
        while b.stats()["stuck"] < 4:
            with pytest.raises((DeadlineExceeded, Unavailable)):
                await b.run(loaded, x(1), 1, {})
            await asyncio.sleep(0.02)
        with pytest.raises(RuntimeError, match="have not returned"):
            b.check_health()
        with pytest.raises(Unavailable, match="the host is being replaced"):
            await b.run(loaded, x(1), 1, {})
        model.gate.set()  # type: ignore[union-attr]
        await until(lambda: b.stats()["stuck"] == 0)
        b.check_health()
        b.close()

    on_loop(test)


def test_a_quick_model_is_computed_on_the_loop_and_an_unknown_one_in_a_thread() -> None:
    async def test() -> None:
        b, model, main = Batcher(Batching(), Limits()), Model(), threading.current_thread().name
        loaded = version(model, example=x(1))
        await b.run(loaded, x(1), 1, {})
        assert main not in model.threads
        b.measure(loaded)
        model.threads.clear()
        for _ in range(3):
            await b.run(loaded, x(1), 1, {})
        assert model.threads == {main}
        assert b.stats()["inline"] is True
        slow, strange = version(Model(seconds=0.002), 2, example=x(1)), version(Model(), 3, False, example=x(1))
        for other in (slow, strange):
            b.measure(other)
            other.predictor.threads.clear()  # type: ignore[attr-defined]
            await b.run(other, x(1), 1, {})
            assert main not in other.predictor.threads  # type: ignore[attr-defined]
        b.close()

    on_loop(test)


def test_a_quick_model_that_becomes_slow_stalls_the_loop_once_and_may_come_back() -> None:
    async def test() -> None:
        b, model, main = Batcher(Batching(), Limits()), Model(), threading.current_thread().name
        loaded = version(model, example=x(1))
        b.measure(loaded)
        model.seconds = 0.1
        await b.run(loaded, x(1), 1, {})
        assert main in model.threads
        model.threads.clear()
        model.gate, model.seconds = threading.Event(), 0
        with pytest.raises(DeadlineExceeded):
            await ask(b, loaded, 1, within=0.05)
        assert main not in model.threads
        model.gate.set()
        async with asyncio.timeout(10):
            while main not in model.threads:
                await b.run(loaded, x(1), 1, {})
        b.close()

    on_loop(test)


def test_a_slow_model_leaves_the_loop_free() -> None:
    async def test() -> None:
        b, model = Batcher(Batching(), Limits()), Model(seconds=0.2)
        task = ask(b, version(model), 1)
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100
        b.close()

    on_loop(test)


def test_requests_of_one_turn_of_the_loop_share_a_call_once_there_is_company(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(0.0, 1e-4)  # every call takes 0.1 ms, however busy the machine is
    clock = SimpleNamespace(perf_counter=lambda: next(ticks), monotonic=time.monotonic)
    monkeypatch.setattr("rayplat.serve.computing.turns.time", clock)
    monkeypatch.setattr("rayplat.serve.computing.batching.time", clock)

    async def test() -> None:
        b, model = Batcher(Batching(), Limits()), Model()
        loaded = version(model, example=x(1))
        b.measure(loaded)
        for _ in range(60):
            await asyncio.gather(*(ask(b, loaded, i) for i in range(8)))
        calls = len(model.calls)
        found = await asyncio.gather(*(ask(b, loaded, i) for i in range(7)), ask(b, loaded, -1), return_exceptions=True)
        assert [y["y"].tolist() for y in found[:7]] == [[i + 1] for i in range(7)]
        assert isinstance(found[7], SchemaMismatch)
        assert len(model.calls[calls]) == 8
        b.close()

    on_loop(test)


def test_a_full_queue_is_refused_at_once_with_the_time_to_come_back() -> None:
    async def test() -> None:
        b, model = Batcher(Batching(), Limits(queue=2)), Model(threading.Event())
        loaded = version(model, batchable=False)
        first = await busy(b, loaded)
        waiting = [ask(b, loaded, 1), ask(b, loaded, 2)]
        await until(lambda: b.stats()["waiting"] == 2)
        with pytest.raises(Overloaded, match="2 requests wait already") as refusal:
            await b.run(loaded, x(3), 1, {})
        assert refusal.value.retry_after_s > 0
        with pytest.raises(Overloaded):
            b.admit()
        assert b.stats()["shed"] == {"queue": 2}
        model.gate.set()  # type: ignore[union-attr]
        await asyncio.gather(first, *waiting)
        b.admit()
        assert (await b.run(loaded, x(3), 1, {}))["y"].tolist() == [4]
        b.close()

    on_loop(test)


def test_a_fixed_window_waits_for_others_and_ends_early_when_full() -> None:
    async def test() -> None:
        b, model = Batcher(Batching(max_rows=4, window_ms=5_000), Limits()), Model()
        loaded = version(model)
        tasks = [ask(b, loaded, i) for i in range(4)]
        await asyncio.gather(*tasks)
        assert model.calls == [[0, 1, 2, 3]]
        short = Batcher(Batching(window_ms=20), Limits())
        began = time.monotonic()
        await asyncio.gather(ask(short, loaded, 1), ask(short, loaded, 2))
        assert time.monotonic() - began >= 0.019
        assert model.calls[-1] == [1, 2]
        b.close()
        short.close()

    on_loop(test)


def test_text_and_missing_columns_are_joined_or_computed_apart() -> None:
    class Text:
        def __init__(self) -> None:
            self.rows: list[int] = []
            self.gate = threading.Event()

        def predict(self, columns: Mapping[str, Any]) -> Any:
            self.rows.append(len(columns["t"]))
            assert self.gate.wait(10)
            return {"y": np.array([len(t or "") for t in columns["t"]])}

    async def test() -> None:
        b, model = Batcher(Batching(), Limits()), Text()
        loaded = version(model)

        def one(*texts: str | None) -> Any:
            return asyncio.create_task(b.run(loaded, {"t": list(texts)}, len(texts), {}))  # type: ignore[arg-type]

        tasks = [one("a")]
        await until(lambda: model.rows)
        tasks += [one("bb", None), one("ccc")]
        await until(lambda: b.stats()["waiting"] == 2)
        model.gate.set()
        assert [(await task)["y"].tolist() for task in tasks] == [[1], [2, 0], [3]]
        assert model.rows == [1, 3]
        b.close()

    on_loop(test)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
def test_a_model_that_ends_the_process_fails_only_its_request(error: BaseException) -> None:
    class Exits:
        def predict(self, columns: Mapping[str, Any]) -> Any:
            raise error

    async def test() -> None:
        b = Batcher(Batching(), Limits())
        with pytest.raises(PartFailed, match=type(error).__name__):
            await b.run(version(Exits()), x(1), 1, {})
        with pytest.raises(InvalidInput):
            await b.run(version(Model()), x(-1), 1, {})
        b.close()

    on_loop(test)
