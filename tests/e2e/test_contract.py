"""The client's contract on the live platform: over HTTP here, in process in a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from rayplat import Platform
from tests.api.contract import ClientContract
from tests.e2e.conftest import Live

pytestmark = pytest.mark.e2e


class TestRemote(ClientContract):
    @pytest.fixture
    def platform(self, live: Live) -> Any:
        return live.client()

    @pytest.fixture
    def model(self) -> str:
        return "flight-delay"


class TestInProcess(ClientContract):
    """Collected in a process of its own, since this one may be connected to another cluster."""

    __test__ = os.environ.get("CONTRACT_HOME") is not None

    @pytest.fixture(scope="class")
    def platform(self) -> Any:
        return Platform(home=os.environ["CONTRACT_HOME"])

    @pytest.fixture
    def model(self) -> str:
        return "flight-delay"


def test_in_process(live: Live) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYPLAT_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::TestInProcess"],
        env={**env, "CONTRACT_HOME": str(live.rayplat.home)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
