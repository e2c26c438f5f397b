"""Serving specs on a real cluster: hosts and the pool change their ways while clients ask without pause."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from rayplat.registry.record import endpoints
from rayplat.serve.deployment import cluster, deploy
from rayplat.serve.pool import names
from rayplat.serve.pool import start as pool
from rayplat.services.serving import Serving
from rayplat.types import Autoscale, Endpoint, EndpointSpec, Limits
from tests.serve.staging import ROOT, Load, Stage, infer
from tests.serve.tiny import MODEL

pytestmark = pytest.mark.ray
ONE = EndpointSpec(MODEL)
POOLED = replace(ONE, placement="pooled")


def serving(stage: Stage) -> Serving:
    return Serving(stage.settings, stage.registry, stage.url, ROOT)


def live(stage: Stage) -> Endpoint:
    (endpoint,) = serving(stage).endpoints()
    return endpoint


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answers() -> dict[str, int]:
    """Answers of each replica so far."""
    return {one["replica"]: sum(one["answers"].values()) for one in deploy.stats(MODEL, "champion")}


def client(stage: Stage) -> httpx.Client:
    return httpx.Client(headers={"authorization": f"Bearer {stage.secret}"}, timeout=60)


def test_hosts_change_while_they_answer(stage: Stage) -> None:
    """More replicas, fewer, other limits, other CPUs: no request fails, and only what must restart does."""
    stage.promote(1)
    serving(stage).put(replace(ONE, replicas=2))
    first = live(stage)
    assert len(first.replicas) == 2
    with Load(first, stage.secret) as load:
        until(lambda: len(answers()) == 2 and min(answers().values()) > 0)  # the ingress knows both
        before = answers()
        load.until_answered(1, more=150)
        counts = [count - before[replica] for replica, count in answers().items()]
        assert min(counts) > 0.6 * max(counts), counts

        serving(stage).put(ONE)
        until(lambda: len(live(stage).replicas) == 1)
        load.until_answered(1)
        (kept,) = live(stage).replicas
        assert kept in first.replicas

        serving(stage).put(replace(ONE, public=True, limits=Limits(deadline_s=7.0)))
        load.until_answered(1)
        assert list(live(stage).replicas) == [kept]
        with httpx.Client() as stranger:
            assert infer(stranger, first.url).status_code == 200
        stage.promote(2)
        load.until_answered(2)

        serving(stage).put(replace(ONE, cpus=0.2))
        load.until_answered(2)
        until(lambda: kept not in live(stage).replicas)
        with httpx.Client() as stranger:
            assert infer(stranger, first.url).status_code == 401
        load.until_answered(2)
    assert load.failures == []
    assert stage.registry.read(endpoints.listed) == [replace(ONE, cpus=0.2)]


def test_a_host_that_went_to_sleep_answers_the_first_request(stage: Stage) -> None:
    stage.promote(1)
    scale = Autoscale(0, 1, target_ongoing=1.0, upscale_delay_s=0.0, downscale_delay_s=1.0)
    serving(stage).put(replace(ONE, autoscale=scale))
    endpoint = live(stage)
    with client(stage) as asking:
        assert infer(asking, endpoint.url).status_code == 200
        until(lambda: live(stage).replicas == {}, 60)
        answer = infer(asking, endpoint.url)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_version"] == "1"


def test_a_model_moves_into_the_pool_and_out_of_it(stage: Stage) -> None:
    """Nothing fails on the way; in the pool it follows its alias, and a worker that is killed comes back."""
    stage.promote(1)
    serving(stage).put(ONE)
    endpoint = live(stage)
    with Load(endpoint, stage.secret) as load:
        load.until_answered(1)
        serving(stage).put(POOLED)
        load.until_answered(1)
        assert deploy.endpoints(stage.url) == []
        began = time.monotonic()
        stage.promote(2)
        load.until_answered(2, more=1)
        assert time.monotonic() - began < 10
        assert (live(stage).version, live(stage).placement) == (2, "pooled")
        serving(stage).put(ONE)
        load.until_answered(2)
    assert load.failures == []
    assert [s["model"] for s in pool.states()] == []

    serving(stage).put(replace(POOLED, default=True))
    with client(stage) as asking:
        assert infer(asking, f"{stage.url}/v2/models/t%69ny").json()["model_version"] == "2"
        assert infer(asking, f"{endpoint.url}/versions/1").json()["model_version"] == "1"
        assert infer(asking, f"{stage.url}/v2/models/absent").status_code == 404
        (worker,) = names.workers(1)
        (replica,) = cluster.applications()[worker]["deployments"]["Pool"]["replicas"]
        os.kill(replica["pid"], signal.SIGKILL)
        codes = set()

        def answered() -> bool:
            codes.add(infer(asking, endpoint.url).status_code)
            return codes >= {200} and pool.states() != []

        until(answered, 60)
        assert codes <= {200, 503}
    assert deploy.flush_logs(60)
    serving(stage).remove(MODEL, "champion")
    with client(stage) as asking:
        assert infer(asking, endpoint.url).status_code == 404
