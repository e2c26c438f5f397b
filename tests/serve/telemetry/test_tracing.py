"""Traces of requests, in the SDK's own memory and at a collector's door."""

from __future__ import annotations

import asyncio
import http.server
import threading
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rayplat import settings as settings_module
from rayplat.serve.telemetry.tracing import Tracing
from rayplat.settings import TracingSettings
from tests.serve.fakes import bench

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def in_memory(sample: float = 1.0) -> tuple[Tracing, InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    return Tracing(SimpleSpanProcessor(kept), sample), kept


def test_a_request_and_its_parts_hang_below_the_caller() -> None:
    tracing, kept = in_memory()
    trace = tracing.begin(PARENT)
    assert trace is not None
    now = time.perf_counter()
    trace.step("features", now, now + 0.25, rows=3)
    trace.step("predict", now + 0.25, now + 0.5)
    trace.end(200, model="m", version=7, variant="champion")
    features, predict, request = kept.get_finished_spans()
    assert [s.name for s in (features, predict, request)] == ["features", "predict", "infer"]
    assert f"{request.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    assert {features.parent.span_id, predict.parent.span_id} == {request.context.span_id}
    assert (features.end_time - features.start_time) == pytest.approx(250e6, rel=1e-3)
    assert abs(request.start_time / 1e9 - time.time()) < 5
    assert dict(request.attributes) == {
        "http.response.status_code": 200,
        "model": "m",
        "version": 7,
        "variant": "champion",
    }
    assert trace.traceparent == f"00-{request.context.trace_id:032x}-{request.context.span_id:016x}-01"


def test_a_caller_that_does_not_trace_is_not_traced() -> None:
    tracing, _ = in_memory()
    assert tracing.begin(PARENT[:-2] + "00") is None


@pytest.mark.parametrize(
    "header", ["", "x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", PARENT.replace("00-", "ff-", 1), PARENT.upper()]
)
def test_a_broken_header_counts_as_none(header: str) -> None:
    tracing, kept = in_memory()
    trace = tracing.begin(header)
    assert trace is not None
    trace.end(503)
    (span,) = kept.get_finished_spans()
    assert span.parent is None
    assert not span.status.is_ok
    assert in_memory(0.0)[0].begin(header) is None


def test_requests_of_nobodys_trace_are_sampled() -> None:
    tracing, _ = in_memory(0.25)
    assert 150 < sum(tracing.begin(None) is not None for _ in range(1000)) < 350


def test_off_by_default() -> None:
    assert Tracing.of(TracingSettings()) is None  # type: ignore[call-arg]


def test_headers_for_the_collector_may_come_from_the_environment(tmp_path) -> None:  # type: ignore[no-untyped-def]
    environ = {"RAYPLAT_TRACING__HEADERS": '{"x-key": "secret"}'}
    found = settings_module.load(tmp_path, environ=environ).tracing
    assert found.headers["x-key"].get_secret_value() == "secret"
    assert "secret" not in repr(found)


def test_spans_arrive_at_a_collector() -> None:
    got: list[tuple[str, str | None, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, self.headers["x-key"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/v1/traces"
        tracing = Tracing.of(TracingSettings(endpoint=address, sample=1.0, headers={"x-key": "k"}, service="test"))  # type: ignore[call-arg,arg-type]
        assert tracing is not None
        trace = tracing.begin(None)
        assert trace is not None
        trace.end(200, model="m")
        tracing.close()
    finally:
        server.shutdown()
    ((path, key, body),) = got
    assert (path, key) == ("/v1/traces", "k")
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert ("service.name", "test") in {(a.key, a.value.string_value) for a in resource.resource.attributes}
    assert [s.name for scope in resource.scope_spans for s in scope.spans] == ["infer"]


def test_a_collector_that_is_away_costs_no_answer() -> None:
    tracing = Tracing.of(TracingSettings(endpoint="http://127.0.0.1:9/v1/traces", sample=1.0, timeout_s=0.2))  # type: ignore[call-arg]
    assert tracing is not None
    began = time.perf_counter()
    for _ in range(100):
        trace = tracing.begin(None)
        assert trace is not None
        trace.end(200)
    assert time.perf_counter() - began < 2


def test_a_host_traces_request_features_and_prediction() -> None:
    async def go() -> None:
        b = await bench()
        try:
            b.host.plane.tracing, kept = in_memory()
            assert (await b.client.infer(["F1"])).status == 200
            spans = {s.name: s for s in kept.get_finished_spans()}
            assert set(spans) == {"features", "predict", "infer"}
            assert spans["infer"].attributes["rayplat.version"] == "1"
            assert spans["features"].end_time <= spans["predict"].end_time <= spans["infer"].end_time
            kept.clear()
            assert (await b.client.infer(["X9"])).status == 422
            (failed,) = kept.get_finished_spans()
            assert failed.attributes["http.response.status_code"] == 422
        finally:
            await b.host.stop()

    asyncio.run(go())
