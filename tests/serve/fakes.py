"""Written fakes of what a host needs, and a client that speaks ASGI to it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np

from rayplat import identity
from rayplat.errors import NotFound, Unavailable
from rayplat.serve import signatures
from rayplat.serve.host import ModelHost, Parts
from rayplat.serve.log.tap import InferenceTap
from rayplat.serve.ports import LoadedVersion
from rayplat.settings import ServeSettings
from rayplat.types import (
    AliasHead,
    EndpointSpec,
    FeatureSpec,
    ModelSpec,
    ModelVersion,
    Principal,
    Release,
    Role,
)

SPEC = ModelSpec(
    model="flight-delay",
    entity="flight",
    features=(
        FeatureSpec("distance", "numeric", nullable=False),
        FeatureSpec("temp", "numeric"),
        FeatureSpec("carrier", "categorical"),
        FeatureSpec("origin", "categorical", nullable=False),
    ),
    views={"schedule": "sha256:" + "1" * 64, "weather": "sha256:" + "2" * 64},
)
START = datetime(2013, 11, 1, tzinfo=UTC)


def head(version: int, generation: int, alias: str = "champion") -> AliasHead:
    return AliasHead(SPEC.model, alias, version, f"sha256:{version:064x}", generation, START, "someone")


class FakeRegistry:
    """One model, one alias. ``down`` makes every call fail the way a dead actor does."""

    def __init__(self, first: AliasHead, versions: int = 9) -> None:
        self.head = first
        self.versions = versions
        self.tokens: dict[str, Principal] = {}
        self.acks: dict[str, int] = {}
        self.calls: list[str] = []
        self.down = False
        self.release = Release(first.model)
        self._moved = asyncio.Event()
        self._released = asyncio.Event()

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if self.down:
            raise Unavailable("the registry", "its actor is restarting or gone")

    def token(self, role: Role = Role.VIEWER) -> str:
        secret, _ = identity.new_token()
        self.tokens[identity.hash_token(secret)] = Principal("someone", role)
        return secret

    def move(self, version: int) -> AliasHead:
        self.head = head(version, self.head.generation + 1, self.head.alias)
        self._moved.set()
        return self.head

    async def alias(self, model: str, alias: str) -> AliasHead:
        self._called("alias")
        if (model, alias) != (self.head.model, self.head.alias):
            raise NotFound("alias", alias)
        return self.head

    async def version(self, model: str, version: int) -> ModelVersion:
        self._called("version")
        if not 1 <= version <= self.versions:
            raise NotFound("model version", f"{model} {version}")
        return ModelVersion(model, version, f"sha256:{version:064x}", "run", "someone", START, "set", (), {})

    async def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None:
        self._called("listen")
        try:
            async with asyncio.timeout(timeout_s):
                while self.head.generation <= generation:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return None
        return self.head

    def put_release(self, release: Release) -> None:
        self.release = release
        self._released.set()

    async def listen_release(self, model: str, generation: int, timeout_s: float) -> Release | None:
        self._called("listen_release")
        try:
            async with asyncio.timeout(timeout_s):
                while self.release.generation <= generation:
                    self._released.clear()
                    await self._released.wait()
        except TimeoutError:
            return None
        return self.release

    async def ack(self, model: str, alias: str, generation: int, replica: str) -> None:
        self._called("ack")
        self.acks[replica] = generation

    async def authenticate(self, token_hash: str) -> Principal | None:
        self._called("authenticate")
        return self.tokens.get(token_hash)


class FakeModel:
    """Answers with its own version divided by 100, so that an answer tells who made it."""

    def __init__(self, version: int, spec: ModelSpec = SPEC) -> None:
        self.spec = spec
        self.value = version / 100
        self.seen: list[dict[str, Any]] = []

    def predict(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        assert sorted(columns) == sorted(f.name for f in self.spec.features)
        self.seen.append(dict(columns))
        rows = len(next(iter(columns.values())))
        return {name: np.full(rows, self.value, dtype=np.float32) for name in self.spec.outputs}


@dataclass(frozen=True)
class FakeRows:
    columns: dict[str, Any]
    found: list[bool]
    status: dict[str, list[str]]


class FakeFeatures:
    """Knows keys that begin with ``F``. ``F-bare`` has a schedule and no weather, ``F-none`` has neither."""

    request_columns: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.reads: list[tuple[list[str], datetime]] = []

    def read(self, keys: Sequence[str], at: datetime, request: Mapping[str, Any]) -> FakeRows:
        self.reads.append((list(keys), at))
        bare = [key in ("F-bare", "F-none") for key in keys]
        none = [key == "F-none" for key in keys]
        return FakeRows(
            columns={
                "distance": np.array([np.nan if n else 100.0 for n in none]),
                "temp": np.array([np.nan if b else 5.5 for b in bare]),
                "carrier": [None if n else "UA" for n in none],
                "origin": [None if n else "EWR" for n in none],
            },
            found=[key.startswith("F") for key in keys],
            status={
                "schedule": ["expired" if n else "present" for n in none],
                "weather": ["missing" if b else "present" for b in bare],
            },
        )


class FakeLoader:
    """Loads fake models at once, or when ``gate`` opens; versions in ``broken`` do not load."""

    def __init__(self) -> None:
        self.loads: list[int] = []
        self.broken: dict[int, Exception] = {}
        self.gate: threading.Event | None = None
        self.spec = SPEC
        self.value: float | None = None

    def load(self, model: str, version: int, digest: str) -> LoadedVersion:
        self.loads.append(version)
        if self.gate is not None:
            assert self.gate.wait(5)
        if version in self.broken:
            raise self.broken[version]
        predictor = FakeModel(version, self.spec)
        if self.value is not None:
            predictor.value = self.value
        features = FakeFeatures()
        signature = signatures.of_spec(self.spec, features.request_columns)
        return LoadedVersion(model, version, digest, predictor, signature, features, self.spec)


class FakeSink:
    """A writer that keeps what it is sent; it acknowledges by itself while ``prompt``, else in `commit`."""

    def __init__(self, prompt: bool = True) -> None:
        self.prompt = prompt
        self.sent: list[tuple[str, int, bytes]] = []
        self.waiting: list[Future[None]] = []
        self.flushes = 0

    def write(self, batch: bytes, epoch: str, seq: int) -> Future[None]:
        self.sent.append((epoch, seq, batch))
        future: Future[None] = Future()
        if self.prompt:
            future.set_result(None)
        else:
            self.waiting.append(future)
        return future

    def flush(self) -> None:
        self.flushes += 1

    def finish(self, error: Exception | None = None) -> None:
        for future in self.waiting:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self.waiting.clear()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Sends requests to a host through ASGI, with a token unless told otherwise."""

    host: ModelHost
    token: str | None
    root_path: str = f"/v2/models/{SPEC.model}"

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {"content-type": "application/json"} if method == "POST" else {}
        if self.token is not None:
            sent["authorization"] = f"Bearer {self.token}"
        sent |= headers or {}
        chunks = [body] if isinstance(body, bytes) else list(body)
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": chunk, "more_body": i < len(chunks) - 1} for i, chunk in enumerate(chunks)
        ]
        answers: list[Any] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            if chunks:
                await asyncio.Event().wait()  # it waits for its answer, however long that takes
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            answers.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": self.root_path + path,
            "root_path": self.root_path,
            "headers": [(k.encode(), v.encode()) for k, v in sent.items()],
        }
        await self.host(scope, receive, send)
        if not answers:
            return Answer(499, {}, b"")
        start, *rest = answers
        return Answer(
            start["status"],
            {key.decode(): value.decode() for key, value in start["headers"]},
            b"".join(message["body"] for message in rest),
        )

    async def infer(self, keys: Sequence[Any] = ("F1",), path: str = "/infer", **extra: Any) -> Answer:
        request = {
            "inputs": [{"name": "flight", "datatype": "BYTES", "shape": [len(keys)], "data": list(keys)}],
            **extra,
        }
        return await self.request("POST", path, json.dumps(request).encode())


@dataclass
class Bench:
    """A started host over fakes."""

    registry: FakeRegistry
    loader: FakeLoader
    sink: FakeSink
    tap: InferenceTap
    host: ModelHost
    client: Client
    stopped: bool = field(default=False)


async def bench(
    alias: str = "champion",
    *,
    poll_s: float = 0.05,
    loader: FakeLoader | None = None,
    spec: EndpointSpec | None = None,
    releasing: Any = None,
    **serve: Any,
) -> Bench:
    """A host of version 1 at generation 1. Stop it with ``host.stop()``."""
    from rayplat.settings import LogSettings

    registry, sink = FakeRegistry(head(1, 1, alias)), FakeSink()
    loader = loader or FakeLoader()
    tap = InferenceTap(sink, LogSettings(flush_s=0.01), "replica-1")
    settings = ServeSettings(poll_s=poll_s, **serve)
    parts = Parts(registry, loader, tap, releasing)
    host = ModelHost(settings, spec or EndpointSpec(SPEC.model, alias), "replica-1", parts)
    await host.start()
    return Bench(registry, loader, sink, tap, host, Client(host, registry.token()))


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    """Return once ``condition()`` is true; fail after ``timeout_s``."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
