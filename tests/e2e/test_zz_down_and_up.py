"""Stopping and starting again: the last tests on the live platform, for they take it down."""

from __future__ import annotations

import pytest

from rayplat import Platform
from rayplat.platform import processes, state
from tests.e2e.conftest import Live

pytestmark = pytest.mark.e2e
MODEL = "flight-delay"


def test_down_ends_everything_and_up_finds_all_of_it(live: Live) -> None:
    client = live.client()
    key = client.tables.head("flights", limit=1)[0]["flight"]
    head, tables = client.aliases.get(MODEL, "champion"), client.tables.list()
    asked = [client.predict(MODEL, [key]).request_id for _ in range(20)]
    mark = state.require(live.rayplat.home).mark

    done = live.rayplat.run("down")
    assert done.returncode == 0, done.stderr
    assert processes.marked(mark) == []
    assert live.rayplat.run("down").returncode == 1

    started = live.rayplat.json("up", timeout_s=300)["started"]
    assert "endpoints" in started
    again = Platform(str(state.require(live.rayplat.home).serve_url), token=live.token)
    assert again.aliases.get(MODEL, "champion") == head
    before = {t.name: t.latest.version for t in tables if t.name != "inference_log"}
    assert {t.name: t.latest.version for t in again.tables.list() if t.name in before} == before
    assert again.predict(MODEL, [key]).version == head.version
    rows = again.tables.head("inference_log", limit=10_000)
    logged = [row["request_id"] for row in rows if row["request_id"] in set(asked)]
    assert sorted(logged) == sorted(asked)  # answered just before `down`: none lost, none twice
