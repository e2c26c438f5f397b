"""Requests on their way to the application that serves them, over handles that are written here."""

from __future__ import annotations

import asyncio
import pickle
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from rayplat import settings as settings_module
from rayplat.errors import DeadlineExceeded, NotFound, Overloaded, RayplatError, Unavailable
from rayplat.serve.grpc import definition
from rayplat.serve.grpc.actor import GrpcServer
from rayplat.serve.grpc.forwarding import HandleForwarder, Place, place_of
from rayplat.serve.request import Answer, Call, InferRequest
from rayplat.types import AliasHead, EndpointSpec
from tests.serve.grpc.fakes import START, echo, loaded

VERSION = loaded("m", echo("FP32"))


class Response:
    def __init__(self, result: Any) -> None:
        self._result, self.cancelled = result, False

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if isinstance(self._result, BaseException):
            raise self._result
        if self._result is None:
            await asyncio.sleep(3600)
        return pickle.dumps(self._result)


@dataclass
class Handle:
    """An application that answers ``result`` (an error is raised by the call, None hangs)."""

    result: Any = None
    calls: list[tuple[dict[str, Any], tuple[Any, ...]]] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    _options: dict[str, Any] = field(default_factory=dict)

    def options(self, **options: Any) -> Handle:
        self._options = options
        return self

    def remote(self, *arguments: Any) -> Response:
        self.calls.append((self._options, arguments))
        result = self.result
        if self._options["method_name"].startswith("describe") and not isinstance(result, BaseException):
            result = (True, (VERSION, [3], EndpointSpec("m")))
        self.responses.append(Response(result))
        return self.responses[-1]


def _answer() -> Answer:
    head = AliasHead("m", "champion", 3, VERSION.digest, 1, START, "x")
    return Answer("r", head, VERSION, "champion", {"y": np.ones(1, np.float32)})


def _call(timeout_s: float = 5.0) -> Call:
    return Call("r", START, deadline=time.monotonic() + timeout_s)


def _request(rows: int = 1) -> InferRequest:
    return InferRequest(rows, {"x": np.ones(rows, np.float32)}, ("y",))


def _infer(forwarder: HandleForwarder, place: Place, rows: int = 1, timeout_s: float = 5.0) -> Answer:
    return asyncio.run(forwarder.infer(place, _request(rows), _call(timeout_s)))


@pytest.mark.parametrize(
    ("version", "place"),
    [
        ("", Place("m")),
        ("7", Place("m", version=7)),
        ("challenger", Place("m", "challenger")),
        ("v7", Place("m", "v7")),
        ("٣", Place("m", "٣")),
        ("9" * 30, Place("m", "9" * 30)),
    ],
)
def test_the_version_field_is_an_alias_or_an_exact_number(version: str, place: Place) -> None:
    assert place_of("m", version) == place


def test_a_request_goes_to_the_application_of_its_alias_with_its_exact_version() -> None:
    handle = Handle((True, _answer()))
    apps = {"m--champion": handle}
    forwarder = HandleForwarder(find=apps.get)
    assert _infer(forwarder, Place("m", version=7)).request_id == "r"
    options, (packed,) = handle.calls[0]
    assert options == {"method_name": "infer_remote"}
    request, call, version = pickle.loads(packed)
    assert (request.rows, call.request_id, version) == (1, "r", 7)


def test_a_large_request_goes_through_the_object_store() -> None:
    handle = Handle((True, _answer()))
    _infer(HandleForwarder(find={"m--champion": handle}.get), Place("m"), rows=400_000)
    assert handle.calls[0][0]["_by_reference"] is True


def test_what_no_application_serves_is_asked_of_the_pool() -> None:
    pool = Handle((True, _answer()))
    forwarder = HandleForwarder("pool", {"pool": pool}.get)
    _infer(forwarder, Place("m", "challenger"))
    options, arguments = pool.calls[0]
    assert options["method_name"] == "infer_remote_pooled"
    assert arguments[:2] == ("m", "challenger")
    described = asyncio.run(forwarder.describe(Place("m")))
    assert described.loaded.version == 3
    assert pool.calls[-1][1] == ("m", "champion", None)


@pytest.mark.parametrize("place", [Place("m"), Place("No such name!"), Place("m", "٣"), Place("m", "v7")])
def test_what_nobody_serves_is_not_found(place: Place) -> None:
    with pytest.raises(NotFound):
        _infer(HandleForwarder(find=lambda name: None), place)


def test_an_application_is_looked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    clock = [100.0]
    monkeypatch.setattr("rayplat.serve.grpc.forwarding.time.monotonic", lambda: clock[0])
    handle, apps = Handle((True, _answer())), {}

    def find(name: str) -> Any:
        asked.append(name)
        return apps.get(name)

    forwarder = HandleForwarder(find=find)
    for _ in range(3):
        with pytest.raises(NotFound):
            _infer(forwarder, Place("m"))
    assert len(asked) == 1
    apps["m--champion"] = handle
    clock[0] += 2
    for _ in range(3):
        asyncio.run(forwarder.describe(Place("m")))
    assert len(asked) == 2
    assert len(handle.calls) == 1  # what is described is kept for a while
    asyncio.run(forwarder.describe(Place("m"), fresh=True))
    assert len(handle.calls) == 2


def test_errors_of_hosts_come_back_and_those_of_ray_become_ours() -> None:
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError, RayServeException

    cases: list[tuple[Any, type[RayplatError]]] = [
        ((False, NotFound("model version", "9")), NotFound),
        (BackPressureError(4, 4), Overloaded),
        (RayServeException("gone"), Unavailable),
        (RayActorError(), Unavailable),
    ]
    for result, kind in cases:
        with pytest.raises(kind):
            _infer(HandleForwarder(find={"m--champion": Handle(result)}.get), Place("m"))


def test_a_deadline_arrives_by_the_other_machine_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle((True, _answer()))
    _infer(HandleForwarder(find={"m--champion": handle}.get), Place("m"), timeout_s=5.0)
    ((_, (packed,)),) = handle.calls
    there = time.monotonic() - 1e6  # the other machine was started later
    monkeypatch.setattr("rayplat.serve.request.time", SimpleNamespace(monotonic=lambda: there))
    _, call, _ = pickle.loads(packed)
    assert there + 4.0 < call.deadline <= there + 5.0
    sent = (call.request_id, call.received_at, call.principal, call.target, call.headers, call.traceparent)
    assert sent == ("r", START, None, None, {}, None)
    endless = replace(call, deadline=None, headers={"a": "b"}, traceparent="00-1", target="v7")
    assert pickle.loads(pickle.dumps(endless)) == endless


def test_a_call_ends_with_its_deadline_and_its_client() -> None:
    handle = Handle(None)
    forwarder = HandleForwarder(find={"m--champion": handle}.get)
    with pytest.raises(DeadlineExceeded):
        _infer(forwarder, Place("m"), timeout_s=0.05)
    assert handle.responses[-1].cancelled

    async def leave() -> None:
        task = asyncio.create_task(forwarder.infer(Place("m"), _request(), _call()))
        while len(handle.responses) < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert handle.responses[-1].cancelled


def test_the_actor_takes_the_next_port_and_says_which(tmp_path: Any) -> None:
    settings = settings_module.load(tmp_path)
    first = GrpcServer(settings, 18_201)
    second = GrpcServer(settings, first.heartbeat()["port"])
    try:
        port = second.heartbeat()["port"]
        assert port != first.heartbeat()["port"]
        request, response = (definition.message(f"inference.ServerLive{k}") for k in ("Request", "Response"))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(
                f"/{definition.SERVICE}/ServerLive", request.SerializeToString, response.FromString
            )
            assert call(request(), timeout=10).live
        assert second.heartbeat()["ok"] == 1
    finally:
        first.stop()
        second.stop()
