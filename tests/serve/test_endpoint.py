"""A served alias on a real cluster: registry actor, model host behind HAProxy, inference log in Delta."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from rayplat import actors
from rayplat.data.tables import Tables
from rayplat.errors import NotFound, PartFailed, Unschedulable
from rayplat.platform import processes
from rayplat.registry.candidate import Candidate
from rayplat.registry.client import RegistryClient, create_token
from rayplat.registry.record import aliases, policies, versions
from rayplat.serve import deploy, log_schema
from rayplat.serve.inference_log import InferenceLogWriter
from rayplat.settings import Settings
from rayplat.types import AliasHead, AliasPolicy, Endpoint, Principal, Role
from tests.serve.tiny import DEPARTURE, MODEL, put_bundle, put_features

pytestmark = pytest.mark.ray

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

    def logged(self) -> list[str]:
        table = Tables(self.settings.tables_uri).read(log_schema.TABLE, columns=["request_id"])
        found: list[str] = table.column("request_id").to_pylist()
        return found


@pytest.fixture
def stage(ray_cluster: str, settings: Settings) -> Iterator[Stage]:
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
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]
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
                answer = infer(client, self.endpoint.url)
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


def refuses_an_unknown_alias(stage: Stage) -> None:
    with pytest.raises(PartFailed, match=r"the endpoint tiny--champion did not start: alias .* does not exist"):
        deploy.deploy(stage.settings, MODEL, "champion", stage.url)
    assert deploy.endpoints(stage.url) == []


class Hog:
    def hold(self) -> bool:
        return True


def refuses_what_has_no_room(stage: Stage) -> None:
    import ray

    hog: Any = ray.remote(num_cpus=2)(Hog).remote()
    ray.get(hog.hold.remote())
    began = time.monotonic()
    with pytest.raises(Unschedulable, match=r"a host reserves 0.1 CPU, at most 0 of 2 are free .* held by Hog \(2\)"):
        deploy.deploy(stage.settings, MODEL, "champion", stage.url)
    assert time.monotonic() - began < 10
    ray.kill(hog)


def test_a_served_alias_from_deployment_to_removal(stage: Stage) -> None:
    """Moves, a rollback, a killed writer and the removal itself: no request fails, and the log has each one once."""
    import ray

    refuses_an_unknown_alias(stage)
    stage.promote(1)
    endpoint = deploy.deploy(stage.settings, MODEL, "champion", stage.url)
    assert (endpoint.version, endpoint.generation, endpoint.status) == (1, 1, "running")
    assert deploy.deploy(stage.settings, MODEL, "champion", stage.url).replicas == endpoint.replicas

    with httpx.Client() as stranger:
        assert stranger.get(f"{endpoint.url}/ready").json() == {"name": MODEL, "ready": True}
        assert stranger.get(endpoint.url).status_code == 401
        assert infer(stranger, endpoint.url).status_code == 401

    with Load(endpoint, stage.secret) as load:
        load.until_answered(1)
        moved = stage.promote(2)
        load.until_answered(2)
        ray.kill(actors.find(actors.INFERENCE_LOG), no_restart=False)
        load.until_answered(2)
        stage.promote(1)
        load.until_answered(1)
    assert load.failures == []
    assert moved.generation == 2
    (live,) = deploy.endpoints(stage.url)
    assert (live.version, live.generation) == (1, 3)

    assert deploy.flush_logs(60)
    assert sorted(stage.logged()) == sorted(request_id for request_id, _ in load.answered)

    with httpx.Client(headers={"authorization": f"Bearer {stage.secret}"}) as client:
        unknown = infer(client, endpoint.url, "F-nowhere")
        assert (unknown.status_code, unknown.json()["code"]) == (422, "InvalidInput")
        too_large = client.post(
            f"{endpoint.url}/infer", content=b"x" * (5 << 20), headers={"content-type": "application/json"}
        )
        assert (too_large.status_code, too_large.json()["code"]) == (413, "TooLarge")
        pinned = infer(client, f"{endpoint.url}/versions/2")
        assert pinned.json()["model_version"] == "2"
        last = [infer(client, endpoint.url).json()["id"] for _ in range(20)]
    (counts,) = deploy.stats(MODEL, "champion")
    assert counts["answers"]["422"] == 1
    assert (counts["swaps"], counts["log"]["dropped"]) == (2, 0)

    deploy.remove(MODEL, "champion")
    assert deploy.endpoints(stage.url) == []
    assert set(last) <= set(stage.logged())
    assert len(stage.logged()) == len(load.answered) + 1 + len(last)
    with pytest.raises(NotFound):
        deploy.remove(MODEL, "champion")
    refuses_what_has_no_room(stage)
