"""A model host under uvicorn, without Ray: what any HTTP client meets, at the model's route and at the root."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import uvicorn

from rayplat.errors import NotFound
from rayplat.serve import signatures
from rayplat.serve.host import ModelHost, Parts
from rayplat.serve.http.exchange import Exchange, Receive, Scope, Send
from rayplat.serve.http.routes import server
from rayplat.serve.ports import Explanation, LoadedVersion
from rayplat.serve.protocols import v2
from rayplat.settings import ServeSettings
from rayplat.types import EndpointSpec, Signature
from tests.serve.fakes import SPEC, FakeFeatures, FakeModel, FakeRegistry, head

Predict = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


class Scripted:
    """A model that computes with a function, explains with zeros and streams one value at a time."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._predict(columns, {})

    def predict_with(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._predict(columns, params)

    def stream(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        for name, values in self._predict(columns, params).items():
            for value in np.asarray(values):
                yield {name: np.asarray([value])}

    def explain(self, columns: Mapping[str, Any], output: str, max_evaluations: int) -> Explanation:
        rows = len(next(iter(columns.values())))
        return Explanation(output, "permutation", {name: np.zeros(rows) for name in columns}, np.zeros(rows), 1)


class OneLoader:
    """Loads the same version for every number."""

    def __init__(self, make: Callable[[str, int, str], LoadedVersion]) -> None:
        self._make = make

    def load(self, model: str, version: int, digest: str) -> LoadedVersion:
        return self._make(model, version, digest)


def of_function(signature: Signature, predict: Predict) -> Callable[[str, int, str], LoadedVersion]:
    """Every version is ``predict``."""
    scripted = Scripted(predict)

    def make(model: str, version: int, digest: str) -> LoadedVersion:
        return LoadedVersion(
            model, version, digest, scripted, signature, params=scripted, streamer=scripted, explainer=scripted
        )

    return make


def looked_up(model: str, version: int, digest: str) -> LoadedVersion:
    """The fakes' model, whose features are looked up by key."""
    scripted = Scripted(lambda columns, params: FakeModel(version).predict(columns))
    signature = signatures.of_spec(SPEC)
    return LoadedVersion(model, version, digest, scripted, signature, FakeFeatures(), SPEC, explainer=scripted)


class Front:
    """What stands in front of a host: its route, MLflow's routes at the root, and the server's own."""

    def __init__(self, host: ModelHost, route: str) -> None:
        self._host, self._route = host, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._host(scope, receive, send)
        elif scope["path"] == self._route or scope["path"].startswith(f"{self._route}/"):
            await self._host({**scope, "root_path": self._route, "rayplat.direct": True}, receive, send)
        elif scope["path"] in ("/invocations", "/ping", "/health", "/version"):
            await self._host({**scope, "rayplat.direct": True}, receive, send)
        else:
            exchange = Exchange(scope, receive, send)
            bodies = {"live": b'{"live":true}', "ready": b'{"ready":true}'}
            bodies["metadata"] = orjson.dumps(v2.server_metadata("1"))
            try:
                await exchange.answer(200, bodies[server(exchange.path).action])
            except (KeyError, NotFound):
                await exchange.answer_error(NotFound("endpoint", exchange.path))


@contextlib.contextmanager
def served(make: Callable[[str, int, str], LoadedVersion], *, public: bool = True, **serve: Any) -> Iterator[str]:
    """``host:port`` of a server of the fakes' model name."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    holder: list[Any] = []

    async def run() -> None:
        registry = FakeRegistry(head(1, 1))
        spec = EndpointSpec(SPEC.model, public=public)
        host = ModelHost(ServeSettings(**serve), spec, "replica-1", Parts(registry, OneLoader(make)))
        await host.start()
        front = Front(host, f"/v2/models/{SPEC.model}")
        config = uvicorn.Config(front, port=0, log_level="error", access_log=False, lifespan="off")
        uvicorn_server = uvicorn.Server(config)
        holder.append(uvicorn_server)
        task = asyncio.create_task(uvicorn_server.serve())
        while not uvicorn_server.started:
            await asyncio.sleep(0.01)
        holder.append(uvicorn_server.servers[0].sockets[0].getsockname()[1])
        holder.append(registry.token())
        started.set()
        await task
        await host.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert started.wait(20)
    try:
        yield f"127.0.0.1:{holder[1]}"
    finally:
        holder[0].should_exit = True
        thread.join(10)
        loop.close()
