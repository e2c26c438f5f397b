"""What an endpoint on a real cluster needs, and clients that ask it without pause."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from rayplat import actors
from rayplat.data.tables import Tables
from rayplat.platform import processes
from rayplat.registry.candidate import Candidate
from rayplat.registry.client import RegistryClient, create_token
from rayplat.registry.record import aliases, policies, versions
from rayplat.serve.log import schema as log_schema
from rayplat.serve.log.writer import InferenceLogWriter
from rayplat.settings import Settings
from rayplat.types import AliasHead, AliasPolicy, Endpoint, Principal, Role
from tests.serve.tiny import DEPARTURE, MODEL, put_bundle, put_features

ANN, ROOT = Principal("ann", Role.DEVELOPER), Principal("root", Role.ADMIN)
DISTANCE = 42
VALUES = {1: 0.2 + DISTANCE / 1000, 2: 0.5 + DISTANCE / 1000}


@dataclass
class Stage:
    """The parts that an endpoint needs, running."""

    settings: Settings
    registry: RegistryClient
    url: str
    secret: str

    def promote(self, version: int) -> AliasHead:
        return self.registry.write(aliases.set, MODEL, "champion", version, by=ANN)

    def logged(self, status: int = 200) -> list[str]:
        """The ids of the requests that were answered with ``status``, as the log has them."""
        rows = Tables(self.settings.tables_uri).read(log_schema.TABLE, columns=["request_id", "status"]).to_pylist()
        return [row["request_id"] for row in rows if row["status"] == status]


@contextmanager
def set_up(settings: Settings) -> Iterator[Stage]:
    """Registry, inference log and Serve on the cluster of this process; two versions of a model that tells its own."""
    import ray
    from ray import serve

    registry = RegistryClient.start(settings)
    writer = actors.start(actors.INFERENCE_LOG, InferenceLogWriter, settings, max_concurrency=1000)
    port = processes.free_port(18000)
    serve.start(http_options={"host": "0.0.0.0", "port": port})
    try:
        _, secret = create_token(registry, "owner", Role.ADMIN, None)
        registry.write(policies.set, AliasPolicy(MODEL, "champion", False, (), min_approvals=0), by=ROOT)
        put_features(settings)
        for n, answer in enumerate((0.2, 0.5), start=1):
            digest = put_bundle(settings, answer)
            candidate = Candidate(MODEL, digest, f"{n:032x}", "sha256:" + "5" * 64, (), {"auc": 0.7})
            registry.write(versions.register, candidate, by=ANN)
        yield Stage(settings, registry, f"http://127.0.0.1:{port}", secret)
    finally:
        serve.shutdown()
        ray.kill(writer, no_restart=True)
        ray.kill(registry.handle, no_restart=True)


@dataclass
class Load:
    """Clients that ask without pause until told to stop, and check each answer against the version it names."""

    endpoint: Endpoint
    secret: str
    answered: list[tuple[str, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    clients: int = 3
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until_answered(self, version: int, more: int = 20) -> None:
        """Wait until ``more`` further answers name ``version``."""
        seen = len(self.answered)
        deadline = time.monotonic() + 30
        while sum(found == version for _, found in self.answered[seen:]) < more:
            assert time.monotonic() < deadline, (version, self.failures[:3])
            assert not self.failures, self.failures[:3]
            time.sleep(0.02)

    def _ask(self) -> None:
        with httpx.Client(headers={"authorization": f"Bearer {self.secret}"}, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = infer(client, self.endpoint.url)
                except httpx.TransportError as e:
                    self.failures.append(f"{type(e).__name__} {e}")
                    continue
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code} {answer.text}")
                    continue
                body = answer.json()
                version = int(body["model_version"])
                if answer.headers["x-rayplat-model-version"] != str(version):
                    self.failures.append(f"header and body differ: {answer.text}")
                if body["outputs"][0]["data"] != pytest.approx([VALUES[version]], abs=1e-5):
                    self.failures.append(f"not the value of version {version}: {answer.text}")
                self.answered.append((body["id"], version))


def infer(client: httpx.Client, url: str, key: str = f"F{DISTANCE}") -> httpx.Response:
    request: dict[str, Any] = {
        "inputs": [{"name": "flight", "datatype": "BYTES", "shape": [1], "data": [key]}],
        "parameters": {"event_time": DEPARTURE.isoformat()},
    }
    return client.post(f"{url}/infer", json=request)
