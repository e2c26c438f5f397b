"""A forwarder without hosts, and a server of it in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from rayplat import identity
from rayplat.errors import NotFound, RayplatError
from rayplat.serve.access import Access
from rayplat.serve.grpc.forwarding import Described, Place
from rayplat.serve.grpc.server import Listen, Service, Terms, build
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.request import Answer, Call, InferRequest
from rayplat.types import AliasHead, EndpointSpec, Principal, Role, Signature, TensorSpec
from rayplat.types.signature import DATATYPES

START = datetime(2013, 11, 1, tzinfo=UTC)
NUMPY = {"BOOL": "bool", "BYTES": "object", **{n: n.lower() for n in DATATYPES if "INT" in n}}
NUMPY |= {"FP16": "float16", "FP32": "float32", "FP64": "float64"}


def echo(datatype: str, rank: int = 1) -> Signature:
    """One input, and an output that is the same."""
    shape = (-1,) * rank
    return Signature((TensorSpec("x", datatype, shape),), (TensorSpec("y", datatype, shape),))


class _Nobody:
    def predict(self, columns: Any) -> Any:
        raise AssertionError("nothing is computed here")


def loaded(model: str, signature: Signature, version: int = 3) -> LoadedVersion:
    return LoadedVersion(model, version, "sha256:" + "1" * 64, _Nobody(), signature, platform="test_echo")


@dataclass
class FakeForwarder:
    """Models by name, each answering its first input as every output. ``error`` is raised instead; ``hang`` waits."""

    models: dict[str, Described] = field(default_factory=dict)
    error: RayplatError | Exception | None = None
    hang: bool = False
    seen: list[tuple[Place, InferRequest, Call]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    described: int = 0
    stale: dict[str, Described] = field(default_factory=dict)

    def add(self, model: str, signature: Signature, *, public: bool = False) -> None:
        self.models[model] = Described(loaded(model, signature), (2, 3), EndpointSpec(model, public=public))

    async def describe(self, place: Place, fresh: bool = False) -> Described:
        self.described += 1
        if place.model not in self.models or place.alias != "champion":
            raise NotFound("served model", f"{place.model}/{place.alias}")
        return self.models[place.model] if fresh else self.stale.get(place.model, self.models[place.model])

    async def infer(self, place: Place, request: InferRequest, call: Call) -> Answer:
        self.seen.append((place, request, call))
        if self.hang:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.error is not None:
            raise self.error
        version = self.models[place.model].loaded
        head = AliasHead(place.model, "champion", version.version, version.digest, 9, START, "someone")
        first = np.asarray(next(iter(request.inputs.values()), np.zeros(request.rows, np.float32)))
        return Answer(call.request_id, head, version, "champion", dict.fromkeys(request.outputs, first), 0.1)


class Tokens:
    """The registry's part of the check."""

    def __init__(self) -> None:
        self.known: dict[str, Principal] = {}

    def new(self, role: Role = Role.VIEWER) -> str:
        secret, _ = identity.new_token()
        self.known[identity.hash_token(secret)] = Principal("someone", role)
        return secret

    async def authenticate(self, token_hash: str) -> Principal | None:
        return self.known.get(token_hash)


@dataclass
class Running:
    forwarder: FakeForwarder
    service: Service
    tokens: Tokens
    token: str
    port: int

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@contextmanager
def running(max_message_bytes: int = 4 << 20) -> Iterator[Running]:
    """A server over a fake forwarder, on a free port."""
    forwarder, tokens = FakeForwarder(), Tokens()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[Any, Service, int]:
        service = Service(forwarder, Access(tokens, 5.0), Terms("1.2.3", max_rows=100))
        server, port = build(service, Listen(0, "127.0.0.1", max_message_bytes))
        await server.start()
        return server, service, port

    server, service, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield Running(forwarder, service, tokens, tokens.new(), port)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
