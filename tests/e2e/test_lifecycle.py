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
    """A platform whose database cannot be opened."""
    with tempfile.TemporaryDirectory(prefix="rp-e2e-") as folder:
        url = f"sqlite:///{folder}"  # a folder is no database
        rayplat = Rayplat(Path(folder) / "home", {"RAYPLAT_REGISTRY__DATABASE_URL": url})
        yield rayplat
        processes.end(processes.of_home(rayplat.home))


def test_a_part_that_fails_is_named_and_the_rest_is_stopped(broken: Rayplat) -> None:
    before = {p.pid for p in processes.psutil.process_iter() if "raylet" in p.name()}
    done = broken.run("up", timeout_s=180)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert "the MLflow server did not start" in lines[0]
    assert "unable to open database file" in lines[0]
    assert state.read(broken.home) is None
    assert {p.pid for p in processes.psutil.process_iter() if "raylet" in p.name()} == before


def test_a_port_in_use_is_passed_over(live: Live) -> None:
    assert not live.url.endswith(f":{live.port_in_use}")
    assert live.rayplat.run("status").returncode == 0
