"""Everything that serves is killed in turn, again and again, while clients ask: nobody gets an answer of another
version than it names, only the requests of a killed replica fail, and the log has each answer once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from rayplat import actors
from rayplat.data.tables import Tables
from rayplat.errors import Unavailable
from rayplat.registry.record import releases
from rayplat.serve.deployment import cluster, deploy
from rayplat.serve.log import schema as log_schema
from rayplat.services.serving import Serving
from rayplat.settings import Settings
from rayplat.types import EndpointSpec, Logging, Shadow
from tests.serve.staging import ANN, ROOT, Load, Stage, set_up
from tests.serve.tiny import MODEL

pytestmark = pytest.mark.ray

ROUNDS = 5
SPOOLED = Logging(durability="spool")


@pytest.fixture
def stage(ray_cluster: str, settings: Settings) -> Iterator[Stage]:
    with set_up(settings) as made:
        yield made


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def pids(alias: str) -> set[int]:
    deployments = cluster.applications()[deploy.app_name(MODEL, alias)]["deployments"]
    return {replica["pid"] for one in deployments.values() for replica in one["replicas"] if replica.get("pid")}


def answering(alias: str) -> int:
    try:
        return len(deploy.stats(MODEL, alias))
    except Unavailable:
        return 0


def kill_one(alias: str, replicas: int) -> None:
    """Returns when another process has taken its place and answers."""
    before = pids(alias)
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(pids(alias) - {killed}) == replicas == answering(alias))


def promote(stage: Stage, version: int) -> None:
    """As soon as the registry is back."""

    def moved() -> bool:
        try:
            stage.promote(version)
        except Unavailable:
            return False
        return True

    until(moved)


def kill(actor: str) -> None:
    import ray

    ray.kill(actors.find(actor), no_restart=False)


def logged(stage: Stage) -> Counter[str]:
    """How often the log has each request, but for the shadow's copies."""
    columns = ["request_id", "role"]
    rows = Tables(stage.settings.tables_uri).read(log_schema.TABLE, columns=columns).to_pylist()
    return Counter(row["request_id"] for row in rows if row["role"] != "shadow")


def test_whatever_is_killed_every_answer_is_right_and_logged_once(stage: Stage) -> None:
    stage.promote(1)
    serving = Serving(stage.settings, stage.registry, stage.url, ROOT)
    serving.put(replace(EndpointSpec(MODEL), replicas=2, log=SPOOLED))
    serving.put(EndpointSpec(MODEL, "v2"))
    now = stage.registry.read(releases.get, MODEL)
    stage.registry.write(releases.put, replace(now, shadows=(Shadow("2"),)), now.generation, by=ANN)
    (endpoint,) = [found for found in serving.endpoints() if found.alias == "champion"]
    lost: Counter[str] = Counter()
    with Load(endpoint, stage.secret) as load:
        for n in range(ROUNDS):
            before, after = 1 + n % 2, 2 - n % 2
            load.until_answered(before)
            kill(actors.REGISTRY)
            load.until_answered(before)
            promote(stage, after)
            load.until_answered(after, more=100)
            kill(actors.INFERENCE_LOG)
            load.until_answered(after, more=100)
            kill_one("v2", 1)  # the shadow
            load.until_answered(after, more=100)
            assert load.failures == []

            kill_one("champion", 2)
            lost.update(failure.split()[0] for failure in load.failures)
            load.failures.clear()
            load.until_answered(after, more=100)
    assert load.failures == []
    assert set(lost) <= {"502", "503", "RemoteProtocolError", "ReadError"}, lost
    assert lost.total() <= ROUNDS * load.clients, lost  # what the killed replica was answering
    assert deploy.flush_logs(60)
    until(lambda: {request_id for request_id, _ in load.answered} <= logged(stage).keys())  # what spools still hold too
    found = logged(stage)
    assert {request_id: found[request_id] for request_id, _ in load.answered if found[request_id] != 1} == {}
