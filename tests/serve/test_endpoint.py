"""A served alias on a real cluster: registry actor, model host behind HAProxy, inference log in Delta."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from rayplat import actors
from rayplat.errors import NotFound, PartFailed, Unschedulable
from rayplat.serve.deployment import deploy
from rayplat.types import EndpointSpec
from tests.serve.staging import Load, Stage, infer
from tests.serve.tiny import MODEL

pytestmark = pytest.mark.ray


def refuses_an_unknown_alias(stage: Stage) -> None:
    with pytest.raises(PartFailed, match=r"the endpoint tiny--champion failed: alias .* does not exist"):
        deploy.deploy(stage.settings, EndpointSpec(MODEL), stage.url)
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
        deploy.deploy(stage.settings, EndpointSpec(MODEL), stage.url)
    assert time.monotonic() - began < 10
    ray.kill(hog)


def test_a_served_alias_from_deployment_to_removal(stage: Stage) -> None:
    """Moves, a rollback, a killed writer and the removal itself: no request fails, and the log has each one once."""
    import ray

    refuses_an_unknown_alias(stage)
    stage.promote(1)
    endpoint = deploy.deploy(stage.settings, EndpointSpec(MODEL), stage.url)
    assert (endpoint.version, endpoint.generation, endpoint.status) == (1, 1, "running")
    assert deploy.deploy(stage.settings, EndpointSpec(MODEL), stage.url).replicas == endpoint.replicas

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
    assert stage.logged(422) == [unknown.headers["x-request-id"]]
    with pytest.raises(NotFound):
        deploy.remove(MODEL, "champion")
    refuses_what_has_no_room(stage)
