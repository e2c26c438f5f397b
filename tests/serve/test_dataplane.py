"""The data plane with fakes: who answers, what is logged and counted, what fails how."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from rayplat.errors import DeadlineExceeded, InvalidInput, Overloaded, PartFailed, Unavailable
from rayplat.serve.computing import calls
from rayplat.serve.dataplane import DataPlane
from rayplat.serve.follower import AliasFollower, PinnedVersions
from rayplat.serve.log.schema import RawRecord, Record
from rayplat.serve.ports import Explanation, LoadedVersion
from rayplat.serve.request import Answer, Call, InferRequest
from rayplat.types import EndpointSpec, Explaining, Limits, Logging, Release
from tests.serve.fakes import SPEC, FakeLoader, FakeRegistry, head

GIVEN = {"distance": np.array([1.0]), "temp": np.array([2.0]), "carrier": ["UA"], "origin": ["EWR"]}


class Direct:
    """Computes at once, or fails as told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.outputs: dict[str, Any] | None = None

    async def run(self, loaded: LoadedVersion, columns: Any, rows: int, params: Any, deadline: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self.outputs or loaded.predict(columns, params)

    def admit(self, deadline: float | None) -> None:
        return None


@dataclass
class Decided:
    target: str | None = None
    role: str = "primary"
    shadows: tuple[str, ...] = ()


@dataclass
class Releasing:
    """Another variant's host that answers as told, and what was offered to shadows."""

    decided: Decided
    error: Exception | None = None
    release: Release = field(default_factory=lambda: Release(SPEC.model, 1))
    asked: list[tuple[str, str]] = field(default_factory=list)
    offered: list[tuple[str, ...]] = field(default_factory=list)

    def decide(self, request: InferRequest, call: Call) -> Decided:
        return self.decided

    async def infer(self, target: str, role: str, request: InferRequest, call: Call) -> Answer:
        self.asked.append((target, role))
        if self.error is not None:
            raise self.error
        loaded = FakeLoader().load(SPEC.model, 7, "sha256:" + "7" * 64)
        return Answer(call.request_id, head(7, 3, target), loaded, target, {"probability": np.array([0.07])}, 1.5)

    def offer(self, targets: tuple[str, ...], request: InferRequest, call: Call) -> None:
        self.offered.append(targets)


class Counts:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def answered(self, variant: str, version: int, status: int, latency_ms: float) -> None:
        assert latency_ms >= 0
        self.seen.append((variant, version, status))


class Tap:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: RawRecord) -> None:
        self.records.append(Record._make(record))


@dataclass
class Bench:
    plane: DataPlane
    computing: Direct
    counts: Counts
    tap: Tap
    loader: FakeLoader

    async def infer(self, inputs: Mapping[str, Any] = GIVEN, **request: Any) -> Answer:
        serving = await self.plane.serving(None)
        asked = InferRequest(1, dict(inputs), ("probability",), **request)
        return await self.plane.infer(asked, call(), serving)


def call(**fields: Any) -> Call:
    return Call("r1", datetime.now(UTC), deadline=time.monotonic() + 5, **fields)


async def bench(releasing: Releasing | None = None, spec: EndpointSpec | None = None) -> Bench:
    registry, loader = FakeRegistry(head(1, 1)), FakeLoader()
    follower = AliasFollower(registry, loader, SPEC.model, "champion", "r", 0.05)
    await follower.start()
    computing, counts, tap = Direct(), Counts(), Tap()
    pinned = PinnedVersions(registry, loader, SPEC.model)
    plane = DataPlane(
        spec or EndpointSpec(SPEC.model),
        (follower, pinned),
        computing,
        tap=tap,
        counts=counts,
        releasing=releasing,
    )
    return Bench(plane, computing, counts, tap, loader)


def run(scenario: Any) -> Any:
    return asyncio.run(scenario)


def test_an_answer_names_its_version_is_counted_and_logged_once() -> None:
    async def scenario() -> None:
        b = await bench(spec=EndpointSpec(SPEC.model, log=Logging(redact=("origin",))))
        answer = await b.infer()
        assert (answer.loaded.version, answer.variant, answer.head.generation) == (1, "champion", 1)
        assert answer.outputs["probability"].tolist() == [np.float32(0.01)]
        assert b.counts.seen == [("champion", 1, 200)]
        (record,) = b.tap.records
        assert (record.role, record.variant, record.status, record.version) == ("primary", "champion", 200, 1)
        assert record.redact == {"origin"}
        assert record.latency_ms == answer.latency_ms > 0

    run(scenario())


def test_an_exact_version_is_pinned_and_no_release_applies_to_it() -> None:
    async def scenario() -> None:
        releasing = Releasing(Decided("challenger", "split", ("shadowed",)))
        b = await bench(releasing)
        serving = await b.plane.serving(3)
        answer = await b.plane.infer(InferRequest(1, dict(GIVEN), ()), call(), serving)
        assert (answer.loaded.version, answer.variant) == (3, "v3")
        assert releasing.asked == releasing.offered == []
        assert b.tap.records[0].role == "pinned"
        assert b.plane.versions() == [1, 3]

    run(scenario())


def test_another_variant_answers_its_share_and_logs_it_itself() -> None:
    async def scenario() -> None:
        releasing = Releasing(Decided("challenger", "split", ("shadowed",)))
        b = await bench(releasing)
        answer = await b.infer()
        assert (answer.loaded.version, answer.variant) == (7, "challenger")
        assert releasing.asked == [("challenger", "split")]
        assert releasing.offered == [("shadowed",)]
        assert b.counts.seen == [("challenger", 7, 200)]
        assert b.tap.records == []

    run(scenario())


def test_a_variant_out_of_reach_leaves_its_share_to_the_alias_and_counts_it() -> None:
    async def scenario() -> None:
        b = await bench(Releasing(Decided("challenger", "canary"), error=Unavailable("challenger", "it restarts")))
        answer = await b.infer()
        assert (answer.loaded.version, answer.variant) == (1, "champion")
        assert b.counts.seen == [("challenger", 0, 503), ("champion", 1, 200)]

    run(scenario())


def test_a_tester_who_names_a_variant_gets_no_other() -> None:
    async def scenario() -> None:
        b = await bench(Releasing(Decided("challenger", "override"), error=Unavailable("challenger", "it restarts")))
        with pytest.raises(Unavailable, match="challenger"):
            await b.infer()
        assert b.counts.seen == [("challenger", 0, 503)]

    run(scenario())


def test_a_variant_s_own_failure_is_the_answer_and_no_retry_hides_it() -> None:
    async def scenario() -> None:
        b = await bench(Releasing(Decided("challenger", "canary"), error=PartFailed("version 7", "broken")))
        with pytest.raises(PartFailed, match="broken"):
            await b.infer()
        assert b.counts.seen == [("challenger", 0, 500)]

    run(scenario())


def test_shadows_get_a_copy_of_what_the_primary_answered() -> None:
    async def scenario() -> None:
        releasing = Releasing(Decided(shadows=("challenger", "7")))
        b = await bench(releasing)
        assert (await b.infer()).variant == "champion"
        assert releasing.offered == [("challenger", "7")]

    run(scenario())


def test_failures_are_logged_with_their_status_and_shed_requests_are_not() -> None:
    async def scenario() -> None:
        b = await bench()
        b.computing.error = ValueError("secret detail")
        with pytest.raises(PartFailed) as failed:
            await b.infer()
        assert "secret detail" not in str(failed.value)
        b.computing.error = DeadlineExceeded("the model", 1.0)
        with pytest.raises(DeadlineExceeded):
            await b.infer()
        b.computing.error = Overloaded("model 'm'", "full")
        with pytest.raises(Overloaded):
            await b.infer()
        assert [record.status for record in b.tap.records] == [500, 504]
        assert all(record.outputs is None for record in b.tap.records)
        assert [status for _, _, status in b.counts.seen] == [500, 504, 429]

    run(scenario())


def test_an_output_of_ours_that_is_no_finite_number_is_never_sent() -> None:
    async def scenario() -> None:
        b = await bench()
        b.computing.outputs = {"probability": np.array([np.nan])}
        with pytest.raises(PartFailed, match="'probability' for row 0"):
            await b.infer()

    run(scenario())


def test_an_output_that_is_missing_is_a_failure_in_counts_and_log() -> None:
    async def scenario() -> None:
        b = await bench()
        b.computing.outputs = {"score": np.array([0.5])}
        with pytest.raises(PartFailed, match="no output 'probability', only 'score'"):
            await b.infer()
        assert [record.status for record in b.tap.records] == [500]
        assert [status for _, _, status in b.counts.seen] == [500]

    run(scenario())


def test_keys_are_looked_up_and_given_values_override() -> None:
    async def scenario() -> None:
        b = await bench()
        await b.infer({"temp": np.array([-1.0])}, entity=["F1"])
        assert b.tap.records[0].inputs["distance"].tolist() == [100.0]
        assert b.tap.records[0].inputs["temp"].tolist() == [-1.0]
        with pytest.raises(InvalidInput, match=r"inputs\.flight\[0\].*unknown flight 'X9'"):
            await b.infer({}, entity=["X9"])

    run(scenario())


def test_a_lookup_that_hangs_ends_with_the_deadline_and_holds_up_nobody() -> None:
    async def scenario() -> None:
        b = await bench()
        serving = await b.plane.serving(None)

        class Slow:
            request_columns: Mapping[str, str] = {}

            def read(self, *_: Any) -> Any:
                time.sleep(0.3)

        slow = replace(serving, loaded=replace(serving.loaded, features=Slow()))
        late = replace(call(), deadline=time.monotonic() + 0.02)
        with pytest.raises(DeadlineExceeded, match="feature lookup"):
            await b.plane.infer(InferRequest(1, {}, (), entity=["F1"]), late, slow)
        assert (await b.infer()).loaded.version == 1

    run(scenario())


def test_a_stream_gives_every_piece_and_stops_with_its_reader() -> None:
    async def scenario() -> None:
        b = await bench()
        closed: list[bool] = []

        class Words:
            def stream(self, columns: Any, params: Any) -> Iterator[Mapping[str, Any]]:
                try:
                    for word in ("a", "b", "c"):
                        yield {"text": [word]}
                finally:
                    closed.append(True)

        serving = await b.plane.serving(None)
        with pytest.raises(InvalidInput, match="gives no stream"):
            _ = [a async for a in b.plane.stream(InferRequest(1, dict(GIVEN), ()), call(), serving)]
        streaming = replace(serving, loaded=replace(serving.loaded, streamer=Words()))
        request = InferRequest(1, dict(GIVEN), ())
        found = [a.outputs["text"].tolist() async for a in b.plane.stream(request, call(), streaming)]
        assert found == [["a"], ["b"], ["c"]]
        reader = b.plane.stream(request, call(), streaming)
        await anext(reader)
        await reader.aclose()
        async with asyncio.timeout(5):
            while len(closed) < 2:
                await asyncio.sleep(0.005)
        assert [record.status for record in b.tap.records] == [200, 499]

    run(scenario())


def test_a_stream_that_hangs_ends_with_the_deadline_and_holds_up_no_lookup() -> None:
    async def scenario() -> None:
        b = await bench(spec=EndpointSpec(SPEC.model, limits=Limits(deadline_s=0.05)))
        gate = threading.Event()

        class Hangs:
            def __init__(self, after: int) -> None:
                self.after = after

            def stream(self, columns: Any, params: Any) -> Iterator[Mapping[str, Any]]:
                for _ in range(self.after):
                    yield {"text": ["a"]}
                gate.wait(20)

        async def ended(after: int) -> None:
            loaded = replace(serving.loaded, streamer=Hangs(after))
            late = replace(call(), deadline=time.monotonic() + 0.1)
            reader = b.plane.stream(InferRequest(1, dict(GIVEN), ()), late, replace(serving, loaded=loaded))
            with pytest.raises(DeadlineExceeded, match="the stream of model"):
                _ = [piece async for piece in reader]

        serving = await b.plane.serving(None)
        began = time.monotonic()
        await asyncio.gather(*(ended(after) for after in (0, 1, 0, 1, 0, 0)))
        assert time.monotonic() - began < 2
        assert {record.status for record in b.tap.records} == {504}
        request = InferRequest(1, {}, ("probability",), entity=["F1"])
        assert (await b.plane.infer(request, call(), serving)).loaded.version == 1
        gate.set()

    run(scenario())


def test_explanations_have_a_budget() -> None:
    async def scenario() -> None:
        b = await bench(spec=EndpointSpec(SPEC.model, explain=Explaining(max_evaluations=7, max_rows=1)))

        class Why:
            def explain(self, columns: Any, output: str, max_evaluations: int) -> Explanation:
                return Explanation(output, "exact", {"temp": np.array([1.0])}, np.array([0.0]), max_evaluations)

        serving = await b.plane.serving(None)
        request = InferRequest(1, dict(GIVEN), ("probability",))
        with pytest.raises(InvalidInput, match="cannot be explained"):
            await b.plane.explain(request, call(), serving)
        explained = replace(serving, loaded=replace(serving.loaded, explainer=Why()))
        assert (await b.plane.explain(request, call(), explained)).evaluations == 7
        with pytest.raises(InvalidInput, match="at most 1"):
            await b.plane.explain(replace(request, rows=2), call(), explained)

    run(scenario())


class Why:
    """Explains with ``act``, and then truly."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def explain(self, columns: Any, output: str, max_evaluations: int) -> Explanation:
        self.act()
        return Explanation(output, "exact", {"temp": np.array([1.0])}, np.array([0.0]), max_evaluations)


async def explained(b: Bench, act: Callable[[], Any], within_s: float = 5) -> Explanation:
    serving = await b.plane.serving(None)
    serving = replace(serving, loaded=replace(serving.loaded, explainer=Why(act)))
    until = replace(call(), deadline=time.monotonic() + within_s)
    return await b.plane.explain(InferRequest(1, dict(GIVEN), ("probability",)), until, serving)


def test_an_explanation_that_hangs_costs_no_other_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_STUCK_S", 0.05)
    gate = threading.Event()

    async def scenario() -> None:
        b = await bench()
        for _ in range(3):
            with pytest.raises(DeadlineExceeded, match="the explanation did not answer within"):
                await explained(b, lambda: gate.wait(20), 0.02)
            assert (await explained(b, lambda: None)).method == "exact"
        with pytest.raises(DeadlineExceeded):
            await explained(b, lambda: gate.wait(20), 0.02)
        with pytest.raises(Unavailable, match="the explanation is not available: 4 earlier ones have not returned"):
            await explained(b, lambda: None)
        assert (await b.infer()).loaded.version == 1
        b.plane.close()

    try:
        run(scenario())
    finally:
        gate.set()


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(1), TimeoutError("secret")])
def test_an_explanation_that_fails_names_the_version_and_no_detail(error: BaseException) -> None:
    def act() -> None:
        raise error

    async def scenario() -> None:
        b = await bench()
        with pytest.raises(PartFailed, match=r"version 1 of model 'flight-delay'.*its explanation failed") as failed:
            await explained(b, act)
        assert "secret" not in str(failed.value)
        assert (await explained(b, lambda: None)).method == "exact"

    run(scenario())


def test_lookups_that_hang_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_STUCK_S", 0.05)
    gate = threading.Event()

    class Hangs:
        request_columns: Mapping[str, str] = {}

        def read(self, *_: Any) -> Any:
            gate.wait(20)

    async def scenario() -> None:
        b = await bench()
        serving = await b.plane.serving(None)
        hanging = replace(serving, loaded=replace(serving.loaded, features=Hangs()))
        late = replace(call(), deadline=time.monotonic() + 0.02)
        request = InferRequest(1, {}, (), entity=["F1"])
        found = await asyncio.gather(*(b.plane.infer(request, late, hanging) for _ in range(4)), return_exceptions=True)
        assert [type(e) for e in found] == [DeadlineExceeded] * 4
        answer = await b.plane.infer(request, call(), serving)
        assert answer.loaded.version == 1

    try:
        run(scenario())
    finally:
        gate.set()
