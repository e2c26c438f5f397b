"""Hosts for pools that are tried without models: they load when they are told to, and answer with their name."""

from __future__ import annotations

import asyncio
from typing import Any

from rayplat.errors import Unavailable
from rayplat.serve.http.exchange import Receive, Scope, Send
from rayplat.types import EndpointSpec


class FakeHost:
    """``gate`` None: it starts at once; else when it is set. ``error``: it does not start."""

    def __init__(self, spec: EndpointSpec, gate: asyncio.Event | None, error: Exception | None) -> None:
        self.spec, self.gate, self.error = spec, gate, error
        self.started = self.stopped = False
        self.sick = ""
        self.answering = asyncio.Event()
        self.answering.set()

    async def start(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.started = True

    async def stop(self) -> None:
        self.stopped = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await self.answering.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]})
        await send({"type": "http.response.body", "body": f"{self.spec.model}:".encode() + body})

    async def infer_forwarded(self, packed: bytes) -> bytes:
        return self.spec.model.encode() + packed

    async def infer_remote(self, packed: bytes) -> bytes:
        return self.spec.model.encode() + packed

    async def shadow(self, packed: bytes) -> None: ...

    async def describe(self, version: int | None = None) -> bytes:
        return f"{self.spec.model} {version}".encode()

    async def flush_log(self, timeout_s: float) -> bool:
        return timeout_s > 0

    def check_health(self) -> None:
        if self.sick:
            raise RuntimeError(self.sick)

    def stats(self) -> dict[str, Any]:
        return {"version": 1, "generation": 3}

    def metrics(self) -> str:
        return ""


class Workshop:
    """The record and the maker of hosts of a worker: ``specs`` are what is served."""

    def __init__(self, *specs: EndpointSpec) -> None:
        self.specs = {(s.model, s.alias): s for s in specs}
        self.gates: dict[str, asyncio.Event] = {}
        self.errors: dict[str, Exception] = {}
        self.made: list[FakeHost] = []
        self.used = 1000
        self.down = False

    def make(self, spec: EndpointSpec) -> FakeHost:
        host = FakeHost(spec, self.gates.get(spec.model), self.errors.get(spec.model))
        self.made.append(host)
        return host

    async def endpoint(self, model: str, alias: str) -> EndpointSpec | None:
        if self.down:
            raise Unavailable("the registry", "its actor does not run")
        return self.specs.get((model, alias))

    async def endpoints(self) -> list[EndpointSpec]:
        if self.down:
            raise Unavailable("the registry", "its actor does not run")
        return list(self.specs.values())

    def of(self, model: str) -> list[FakeHost]:
        return [host for host in self.made if host.spec.model == model]
