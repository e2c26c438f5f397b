"""Starting and stopping: what is in the way is named, and nothing is left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplat.platform import processes, state
from tests.e2e.conftest import Live, Rayplat

pytestmark = pytest.mark.e2e


@pytest.fixture
def broken() -> Iterator[Rayplat]:
    """A platform whose Ray head cannot start: MLflow's server, which starts first, is running by then."""
    with tempfile.TemporaryDirectory(prefix="rp-e2e-") as folder:
        rayplat = Rayplat(Path(folder) / "home", {"RAYPLAT_RAY__OBJECT_STORE_BYTES": "1000"})
        yield rayplat
        processes.end(processes.of_home(rayplat.home))


def test_a_part_that_fails_is_named_and_the_rest_is_stopped(broken: Rayplat) -> None:
    done = broken.run("up", timeout_s=180)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert "the Ray head failed" in lines[0]
    assert "object store" in lines[0].lower()
    assert state.read(broken.home) is None
    assert processes.of_home(broken.home) == []


def test_a_port_in_use_is_passed_over(live: Live) -> None:
    assert not live.url.endswith(f":{live.port_in_use}")
    assert live.rayplat.run("status").returncode == 0
