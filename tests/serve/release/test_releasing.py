"""Release control on a real cluster: two hosts, a split between them, one of them lost, a shadow, a canary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rayplat.data.tables import Tables
from rayplat.registry.record import releases
from rayplat.serve.deployment import deploy
from rayplat.serve.log import schema as log_schema
from rayplat.serve.release.controller import ReleaseController, _gathered, _Registry
from rayplat.types import Canary, CanaryState, EndpointSpec, Release, Shadow, Share, Split
from tests.serve.staging import ANN, Load, Stage
from tests.serve.tiny import MODEL

pytestmark = pytest.mark.ray

SPLIT = Split((Share("champion", 50), Share("2", 50)), salt="test")


def put(stage: Stage, **said: Any) -> Release:
    now = stage.registry.read(releases.get, MODEL)
    return stage.registry.write(releases.put, replace(now, **said), now.generation, by=ANN)


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, deploy.stats(MODEL, "champion")
        time.sleep(0.05)


def released() -> dict[str, Any]:
    (host,) = deploy.stats(MODEL, "champion")
    found: dict[str, Any] = host["release"]
    return found


def test_a_release_from_split_to_canary(stage: Stage) -> None:
    """No request fails, whatever becomes of the other variant's host; answers name who made them."""
    stage.promote(1)
    endpoint = deploy.deploy(stage.settings, EndpointSpec(MODEL), stage.url)
    with Load(endpoint, stage.secret) as load:
        load.until_answered(1)

        put(stage, split=SPLIT)  # there is no host of version 2 yet: the old release stays in force
        until(lambda: "tiny/v2" in str(released()["failure"]))
        load.until_answered(1)
        deploy.deploy(stage.settings, EndpointSpec(MODEL, "v2"), stage.url)
        load.until_answered(2)
        load.until_answered(1)

        deploy.remove(MODEL, "v2")  # its share is answered by the champion, and says so
        until(lambda: released()["gone"] == ["v2"])
        load.until_answered(1, more=60)
        deploy.deploy(stage.settings, EndpointSpec(MODEL, "v2"), stage.url)
        load.until_answered(2)

        put(stage, split=None, shadows=(Shadow("2"),))
        until(lambda: released()["shadows"].get("v2", {}).get("sent", 0) > 50)

        put(stage, shadows=(), canary=Canary("2", steps=(0.3, 1.0), hold_s=0.5, min_requests=20, max_p99_ratio=None))
        controller = ReleaseController(_Registry(), _gathered)
        until(lambda: [r.canary.state for r in controller.tick() if r.canary is not None] == [CanaryState.DONE])
        load.until_answered(2, more=60)
        put(stage, canary=None)
        load.until_answered(1)
    assert load.failures == []
    assert deploy.flush_logs(60)
    rows = Tables(stage.settings.tables_uri).read(
        log_schema.TABLE, columns=["request_id", "version", "role", "variant", "status"]
    )
    found = rows.to_pylist()
    answered = dict(load.answered)
    primaries = {row["request_id"]: row["version"] for row in found if row["role"] != "shadow"}
    assert {request_id: primaries[request_id] for request_id in answered} == answered
    shadows = {row["request_id"]: row for row in found if row["role"] == "shadow"}
    assert len(shadows) > 50
    assert {(row["version"], row["variant"], row["status"]) for row in shadows.values()} == {(2, "v2", 200)}
    assert {primaries[request_id] for request_id in shadows} == {1}
    assert {row["role"] for row in found} == {"primary", "split", "canary", "shadow"}
