"""The whole platform, started and driven by its own command: a demo that is interrupted, then one that is not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rayplat.client import Platform, owner_token
from rayplat.platform import processes, state

# Trials are what a training costs most; the figures of the real demo are `make bench-demo`'s.
QUICK = {"RAYPLAT_TRAIN__TRIALS": "0", "RAYPLAT_RAY__NUM_CPUS": "2", "COLUMNS": "200"}
DEMO_TIMEOUT_S = 600


@dataclass(frozen=True)
class Rayplat:
    """The command ``rayplat`` on one home."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rayplat.cli.main", *arguments, "--home", str(self.home)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYPLAT_"))}
        return subprocess.Popen(
            command, env={**clean, **QUICK, **self.env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: str, timeout_s: float = 120) -> Any:
        done = self.run(*arguments, "--json", timeout_s=timeout_s)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@dataclass(frozen=True)
class Live:
    """A platform on which the demo has run. ``interrupted`` is what the run that was stopped said, ``result`` the
    report of the one after it."""

    rayplat: Rayplat
    interrupted: subprocess.CompletedProcess[str]
    result: dict[str, Any]
    url: str
    token: str
    port_in_use: int

    def client(self) -> Platform:
        return Platform(self.url, token=self.token)


@pytest.fixture(scope="package")
def live() -> Iterator[Live]:
    with (
        tempfile.TemporaryDirectory(prefix="rp-e2e-", ignore_cleanup_errors=True) as folder,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        in_use = taken.getsockname()[1]
        rayplat = Rayplat(Path(folder) / "home", {"RAYPLAT_SERVE__HTTP_PORT": str(in_use)})
        try:
            interrupted = _interrupt_in_training(rayplat)
            done = rayplat.run("demo", "--requests", "520", "--json", timeout_s=DEMO_TIMEOUT_S)
            assert done.returncode == 0, done.stderr[-3000:]
            url = str(state.require(rayplat.home).serve_url)
            yield Live(rayplat, interrupted, json.loads(done.stdout), url, owner_token(rayplat.home), in_use)
        finally:
            found = state.read(rayplat.home)
            if found is not None:
                processes.end_marked(found.mark)


def _interrupt_in_training(rayplat: Rayplat) -> subprocess.CompletedProcess[str]:
    """Ctrl-C once a training runs on the workers."""
    with rayplat.start("demo", "--requests", "520") as process:
        deadline = time.monotonic() + DEMO_TIMEOUT_S
        while not _training_has_begun(rayplat.home):
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < deadline, "the demo never came to its training"
            time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _training_has_begun(home: Path) -> bool:
    return any((home / "training").glob("*/train"))
