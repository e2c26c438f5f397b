"""One host over fakes, through ASGI: what it answers, whom it lets in, which version it says answered."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import pickle
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayplat.errors import Corrupt, DeadlineExceeded, NotFound, Overloaded
from rayplat.serve.http import compression
from rayplat.serve.log import schema as log_schema
from rayplat.serve.protocols import mlflow, v2
from rayplat.serve.request import Call, InferRequest
from rayplat.types import EndpointSpec, Limits, Principal, Role
from tests.serve.fakes import SPEC, Answer, Bench, Client, FakeLoader, bench, head, until


def on_host(test: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        b = await bench(**options)
        try:
            await test(b)
        finally:
            await b.host.stop()

    asyncio.run(run())


def logged(b: Bench) -> list[dict[str, Any]]:
    return pa.concat_tables([log_schema.decode(batch) for _, _, batch in b.sink.sent]).to_pylist()


def refused(answer: Answer, status: int, code: str) -> str:
    """The reason, after checking that the refusal has the one shape."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.body
    assert set(answer.json) == {"error", "code", "args"}
    assert answer.json["code"] == code
    return str(answer.json["error"])


def test_an_answer_names_the_version_that_made_it() -> None:
    async def test(b: Bench) -> None:
        answer = await b.client.infer(["F1", "F2"], id="42")
        assert answer.status == 200
        assert answer.headers["x-rayplat-model-version"] == "1"
        assert answer.headers["x-content-type-options"] == "nosniff"
        body = answer.json
        assert (body["model_name"], body["model_version"], body["id"]) == ("flight-delay", "1", "42")
        assert body["parameters"] == {
            "alias": "champion",
            "variant": "champion",
            "generation": 1,
            "digest": f"sha256:{1:064x}",
        }
        assert body["outputs"][0]["data"] == pytest.approx([0.01, 0.01])

    on_host(test)


def test_the_request_id_is_the_clients_or_made_up() -> None:
    async def test(b: Bench) -> None:
        made_up = await b.client.infer()
        assert made_up.json["id"] == made_up.headers["x-request-id"]
        body = b'{"inputs": [{"name": "flight", "datatype": "BYTES", "shape": [1], "data": ["F1"]}]}'
        passed_on = await b.client.request("POST", "/infer", body, {"x-request-id": "trace-7"})
        assert passed_on.json["id"] == "trace-7"
        assert "x-request-id" not in passed_on.headers  # Serve echoes what it passes on

    on_host(test)


def test_features_are_read_as_of_the_requests_own_moment() -> None:
    async def test(b: Bench) -> None:
        features = b.host._follower.current.loaded.features
        await b.client.infer(parameters={"event_time": "2013-11-05T14:30:00"})
        assert features.reads[-1] == (["F1"], datetime(2013, 11, 5, 14, 30, tzinfo=UTC))  # type: ignore[attr-defined]
        before = datetime.now(UTC)
        await b.client.infer()
        assert before <= features.reads[-1][1] <= datetime.now(UTC)  # type: ignore[attr-defined]

    on_host(test)


def test_given_features_win_over_looked_up_ones() -> None:
    async def test(b: Bench) -> None:
        temp = {"name": "temp", "datatype": "FP32", "shape": [1], "data": [-3]}
        key = {"name": "flight", "datatype": "BYTES", "shape": [1], "data": ["F1"]}
        answer = await b.client.request("POST", "/infer", json.dumps({"inputs": [key, temp]}).encode())
        assert answer.status == 200
        seen = b.host._follower.current.loaded.predictor.seen[-1]  # type: ignore[attr-defined]
        assert (list(seen["temp"]), list(seen["distance"]), seen["origin"]) == ([-3.0], [100.0], ["EWR"])

    on_host(test)


def test_a_request_with_every_feature_needs_no_lookup() -> None:
    async def test(b: Bench) -> None:
        values = {"distance": [1], "temp": [None], "carrier": [None], "origin": ["EWR"]}
        kinds = {f.name: "FP32" if f.kind == "numeric" else "BYTES" for f in SPEC.features}
        inputs = [{"name": n, "datatype": kinds[n], "shape": [1], "data": v} for n, v in values.items()]
        answer = await b.client.request("POST", "/infer", json.dumps({"inputs": inputs}).encode())
        assert answer.status == 200
        assert b.host._follower.current.loaded.features.reads == []  # type: ignore[attr-defined]
        assert await b.host.flush_log()
        (row,) = logged(b)
        assert row["entity"] is None
        assert dict(row["numeric"]) == {"distance": 1.0, "temp": None}
        assert dict(row["categorical"]) == {"carrier": None, "origin": "EWR"}

    on_host(test)


def test_unknown_keys_and_missing_values() -> None:
    async def test(b: Bench) -> None:
        reason = refused(await b.client.infer(["F1", "X9"]), 422, "InvalidInput")
        assert reason.startswith("inputs.flight[1]: unknown flight 'X9'")
        reason = refused(await b.client.infer(["F1", "F-none"]), 422, "InvalidInput")
        assert reason.startswith(
            "inputs.distance[1]: the model needs it, and it is missing for 'F-none' (feature views: schedule expired"
        )
        assert (await b.client.infer(["F-bare"])).status == 200
        seen = b.host._follower.current.loaded.predictor.seen[-1]  # type: ignore[attr-defined]
        assert np.isnan(seen["temp"][0])

    on_host(test)


def test_a_large_batch_runs_beside_the_loop() -> None:
    async def test(b: Bench) -> None:
        answer = await b.client.infer([f"F{i}" for i in range(500)])
        assert len(answer.json["outputs"][0]["data"]) == 500

    on_host(test)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "BadRequest"),
        (b'{"inputs": 1, "inputs": 1}', {}, 400, "BadRequest"),
        (b"[" * 200_000, {}, 400, "BadRequest"),
        (b"{}", {"content-type": "text/plain"}, 415, "UnsupportedMediaType"),
        (b"{}", {"content-type": "text/csv"}, 415, "UnsupportedMediaType"),
        (b"{}", {"content-encoding": "gzip"}, 400, "BadRequest"),
        (b"{}", {"inference-header-content-length": "9"}, 400, "BadRequest"),
        (b"{}", {}, 422, "InvalidInput"),
        (b"", {"content-length": "99999999999"}, 413, "TooLarge"),
        ([b"x" * 600_000, b"x" * 600_000], {}, 413, "TooLarge"),
    ],
)
def test_bad_bodies_get_one_clear_error(body: Any, headers: dict[str, str], status: int, code: str) -> None:
    async def test(b: Bench) -> None:
        refused(await b.client.request("POST", "/infer", body, headers), status, code)
        assert b.host.stats()["answers"] == {str(status): 1}
        assert (await b.client.infer()).status == 200

    on_host(test, max_body_bytes=1_000_000)


def test_too_many_rows() -> None:
    async def test(b: Bench) -> None:
        refused(await b.client.infer([f"F{i}" for i in range(11)]), 413, "TooLarge")

    on_host(test, max_rows=10)


def test_a_client_that_leaves_is_no_error() -> None:
    async def test(b: Bench) -> None:
        answer = await b.client.request("POST", "/infer", [])
        assert answer.status == 499
        assert b.host.stats()["answers"] == {"499": 1}

    on_host(test)


def test_paths_and_methods() -> None:
    async def test(b: Bench) -> None:
        reason = refused(await b.client.request("GET", "/nonsense"), 404, "NotFound")
        assert "/nonsense" in reason
        reason = refused(await b.client.infer(path="/versions/challenger/infer"), 404, "NotFound")
        assert "'challenger'" in reason
        answer = await b.client.request("GET", "/infer")
        refused(answer, 405, "BadRequest")
        assert answer.headers["allow"] == "POST"
        refused(await b.client.request("DELETE", ""), 405, "BadRequest")
        assert (await b.client.infer(path="/versions/champion/infer")).status == 200
        for path in ("", "/ready", "/ping"):
            assert (await b.client.request("HEAD", path)).status == 200
        refused(await b.client.request("HEAD", "/infer"), 405, "BadRequest")

    on_host(test)


def test_metadata() -> None:
    async def test(b: Bench) -> None:
        answer = await b.client.request("GET", "")
        assert (answer.status, answer.json["versions"]) == (200, ["1"])
        assert answer.headers["x-rayplat-model-version"] == "1"

    on_host(test)


def test_only_ready_answers_without_a_token() -> None:
    async def test(b: Bench) -> None:
        stranger = Client(b.host, None)
        ready = await stranger.request("GET", "/ready")
        assert (ready.status, ready.json) == (200, {"name": "flight-delay", "ready": True})
        assert (await stranger.request("GET", "/versions/3/ready")).status == 503
        for method, path in [("GET", ""), ("POST", "/infer"), ("POST", "/versions/1/infer"), ("PUT", "/infer")]:
            answer = await stranger.request(method, path)
            refused(answer, 401, "Unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"

    on_host(test)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer nonsense", "Basic abc", "Bearer rpt_000000000000_" + "0" * 64]
)
def test_wrong_tokens(header: str) -> None:
    async def test(b: Bench) -> None:
        answer = await Client(b.host, None).request("GET", "", headers={"authorization": header, "x-role": "admin"})
        refused(answer, 401, "Unauthenticated")

    on_host(test)


def test_a_checked_token_outlives_the_registry_but_not_its_revocation() -> None:
    async def test(b: Bench) -> None:
        assert (await b.client.infer()).status == 200
        b.registry.down = True
        assert (await b.client.infer()).status == 200
        other = Client(b.host, b.registry.token(Role.DEVELOPER))
        answer = await other.infer()
        refused(answer, 503, "Unavailable")
        assert answer.headers["retry-after"] == "1"
        b.registry.down = False
        b.registry.tokens.clear()
        refused(await b.client.infer(), 401, "Unauthenticated")

    on_host(test, token_cache_s=0.0)


def test_a_fresh_token_costs_no_second_call() -> None:
    async def test(b: Bench) -> None:
        for _ in range(5):
            await b.client.infer()
        assert b.registry.calls.count("authenticate") == 1

    on_host(test)


def test_an_exact_version_is_loaded_beside_once_and_the_oldest_leaves() -> None:
    async def test(b: Bench) -> None:
        answers = await asyncio.gather(*(b.client.infer(path="/versions/3/infer") for _ in range(5)))
        assert [a.json["model_version"] for a in answers] == ["3"] * 5
        assert b.loader.loads == [1, 3]
        refused(await b.client.infer(path="/versions/99/infer"), 404, "NotFound")
        for version in (4, 5, 3):
            assert (await b.client.infer(path=f"/versions/{version}/infer")).json["model_version"] == str(version)
        assert b.loader.loads == [1, 3, 4, 5, 3]
        assert (await b.client.infer()).json["model_version"] == "1"
        assert (await b.client.infer(path="/versions/1/infer")).json["model_version"] == "1"
        assert b.loader.loads == [1, 3, 4, 5, 3]
        assert await b.host.flush_log()
        assert [(row["version"], row["alias"]) for row in logged(b)][-1] == (1, "champion")

    on_host(test)


def test_a_version_that_loads_for_long_ends_at_the_deadline_and_is_there_later() -> None:
    loader = FakeLoader()

    async def test(b: Bench) -> None:
        loader.gate = threading.Event()
        began = time.monotonic()
        body = b'{"inputs":[{"name":"flight","datatype":"BYTES","shape":[1],"data":["F1"]}]}'
        answer = await b.client.request("POST", "/versions/3/infer", body, {"x-request-timeout-seconds": "0.1"})
        refused(answer, 504, "DeadlineExceeded")
        assert time.monotonic() - began < 0.5
        loader.gate.set()
        assert (await b.client.infer(path="/versions/3/infer")).json["model_version"] == "3"
        assert loader.loads == [1, 3]

    on_host(test, loader=loader)


@pytest.mark.parametrize("size", [0, 400_000])
def test_a_time_limit_in_the_body_covers_the_load_of_the_version(size: int) -> None:
    loader = FakeLoader()

    async def test(b: Bench) -> None:
        loader.gate = threading.Event()
        began = time.monotonic()
        said = {"timeout": 100_000, "note": "x" * size}
        reason = refused(await b.client.infer(path="/versions/3/infer", parameters=said), 504, "DeadlineExceeded")
        assert reason.startswith("the load of version 3 did not answer within 0.")
        assert time.monotonic() - began < 2
        loader.gate.set()
        for odd in ({"timeout": "soon"}, {"timeout": -1}, ["timeout"], "timeout"):
            refused(await b.client.infer(path="/versions/3/infer", parameters=odd), 422, "InvalidInput")
        assert (await b.client.infer(path="/versions/3/infer", parameters=said)).status == 200

    on_host(test, loader=loader)


def test_large_bodies_are_read_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            threads.append(threading.current_thread().name.partition("-")[0])
            return function(*args)

        return noted

    monkeypatch.setattr(v2, "parse", noting(v2.parse))
    monkeypatch.setattr(mlflow, "parse", noting(mlflow.parse))
    monkeypatch.setattr(compression, "unpacked", noting(compression.unpacked))

    async def test(b: Bench) -> None:
        large = [f"F{i}-{'x' * 50}" for i in range(9_000)]
        assert (await b.client.infer()).status == 200
        assert (await b.client.infer(large)).status == 200
        assert threads == ["MainThread", "read"]
        body = json.dumps({"dataframe_split": {"columns": ["flight"], "data": [[key] for key in large]}}).encode()
        assert (await b.client.request("POST", "/invocations", body)).status == 200
        assert threads[2:] == ["read"]
        packed = gzip.compress(body)
        answer = await b.client.request("POST", "/invocations", packed, {"content-encoding": "gzip"})
        assert answer.status == 200
        assert threads[3:] == ["asyncio_0", "read"]  # the loop's own thread is none of them
        reason = refused(await b.client.infer([*large[:-1], 7]), 422, "InvalidInput")
        assert reason.startswith("inputs.flight[8999]")

    on_host(test)


def test_a_version_that_does_not_load_is_an_error_of_that_request_only() -> None:
    loader = FakeLoader()
    loader.broken[4] = Corrupt("the bundle", "sha256:a", "sha256:b")

    async def test(b: Bench) -> None:
        refused(await b.client.infer(path="/versions/4/infer"), 500, "Corrupt")
        assert (await b.client.infer()).status == 200

    on_host(test, loader=loader)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_version_that_would_end_the_process_when_it_is_loaded_does_not(error: BaseException) -> None:
    loader = FakeLoader()
    loader.broken[4] = error  # type: ignore[assignment]

    async def test(b: Bench) -> None:
        reason = refused(await b.client.infer(path="/versions/4/infer"), 500, "PartFailed")
        assert f"its code raised {type(error).__name__} while it was loaded" in reason
        b.registry.move(4)
        await until(lambda: b.host.stats()["failure"] is not None)
        b.host.check_health()
        assert (await b.client.infer()).json["model_version"] == "1"

    on_host(test, loader=loader)


def test_a_prediction_that_is_no_number_is_an_error_never_json() -> None:
    loader = FakeLoader()
    loader.value = float("nan")

    async def test(b: Bench) -> None:
        reason = refused(await b.client.infer(), 500, "PartFailed")
        assert "'probability' for row 0 is no finite number" in reason
        assert await b.host.flush_log()
        (row,) = logged(b)
        assert (row["status"], row["prediction"], row["version"]) == (500, None, 1)

    on_host(test, loader=loader)


def test_the_log_holds_exactly_the_requests_answered() -> None:
    async def test(b: Bench) -> None:
        await b.client.infer(["F1", "F2"], id="a", parameters={"event_time": "2013-11-05T14:30:00Z"})
        await b.client.infer(["X1"], id="b")
        await b.client.infer(["F3"], id="c")
        assert await b.host.flush_log()
        rows = sorted(logged(b), key=lambda r: (r["request_id"], r["row"]))
        assert [(r["request_id"], r["row"], r["entity"]) for r in rows] == [
            ("a", 0, "F1"),
            ("a", 1, "F2"),
            ("b", 0, "X1"),
            ("c", 0, "F3"),
        ]
        assert [(r["status"], r["prediction"] is None) for r in rows[-2:]] == [(422, True), (200, False)]
        first = rows[0]
        assert first["event_time"] == datetime(2013, 11, 5, 14, 30, tzinfo=UTC)
        assert (first["model"], first["version"], first["alias"], first["generation"]) == (
            "flight-delay",
            1,
            "champion",
            1,
        )
        assert (first["replica"], first["date"]) == ("replica-1", first["received_at"].date())
        assert (dict(first["numeric"]), dict(first["categorical"])) == (
            {"distance": 100.0, "temp": 5.5},
            {"carrier": "UA", "origin": "EWR"},
        )
        assert first["prediction"] == pytest.approx(0.01)
        assert first["latency_ms"] > 0
        assert b.host.stats()["answers"] == {"200": 2, "422": 1}

    on_host(test)


def test_an_unknown_alias_does_not_start() -> None:
    async def run() -> None:
        b = await bench()
        await b.host.stop()
        b.registry.head = head(1, 1, "other")
        with pytest.raises(NotFound, match="alias 'champion' does not exist"):
            await b.host.start()

    asyncio.run(run())


def test_a_host_waits_for_a_registry_that_is_down() -> None:
    async def run() -> None:
        b = await bench()
        await b.host.stop()
        b.registry.down = True
        starting = asyncio.create_task(b.host.start())
        await until(lambda: b.registry.calls[-1] == "alias")
        b.registry.down = False
        await asyncio.wait_for(starting, 5)
        await b.host.stop()

    asyncio.run(run())


def test_a_host_that_no_longer_follows_is_unhealthy() -> None:
    async def test(b: Bench) -> None:
        b.host.check_health()
        assert b.host._following is not None
        b.host._following.cancel()
        await until(b.host._following.done)
        with pytest.raises(RuntimeError, match="follows the alias"):
            b.host.check_health()

    on_host(test)


def test_lifespan_shutdown_hands_the_last_rows_over() -> None:
    async def run() -> None:
        b = await bench()
        await b.client.infer(["F1"])
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await b.host({"type": "lifespan"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert len(logged(b)) == 1

    asyncio.run(run())


def test_what_comes_by_grpc_is_under_the_same_rate_limit_and_deadline() -> None:
    spec = EndpointSpec(SPEC.model, limits=Limits(deadline_s=0.3, rate=0.001, burst=2))
    loader = FakeLoader()

    async def test(b: Bench) -> None:
        assert (await b.client.infer()).status == 200

        async def remote(version: int | None = None) -> Any:
            request = InferRequest(1, {}, ("probability",), entity=["F1"])
            headers = {"authorization": f"Bearer {b.client.token}"}
            call = Call("r", datetime.now(UTC), Principal("someone", Role.VIEWER), None, math.inf, headers)
            return pickle.loads(await b.host.infer_remote(pickle.dumps((request, call, version))))

        loader.gate = threading.Event()
        began = time.monotonic()
        went_well, found = await remote(3)
        loader.gate.set()
        assert (went_well, type(found)) == (False, DeadlineExceeded)
        assert time.monotonic() - began < 1
        went_well, found = await remote()
        assert (went_well, type(found)) == (False, Overloaded)
        assert (await b.client.infer()).status == 429

    on_host(test, spec=spec, loader=loader)
