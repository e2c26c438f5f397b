"""A platform of its own for a benchmark of serving, driven by its own command and client, and ended with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.serve import tiny
from benchmarks.serve.peers import Target, ask
from rayplat.client import Platform, owner_token
from rayplat.platform import processes, state
from rayplat.serve.deployment import spec
from rayplat.types import EndpointSpec, Role

_DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Stage:
    """A running platform. Every alias is free to move: what is measured is serving, not promotion."""

    home: Path
    url: str
    token: str
    client: Platform

    def register(self, model: str, folder: Path) -> int:
        """The version that the model in ``folder`` became."""
        put = self.client.artifacts.put(folder, "model")
        return self.client.models.register(model, put.digest, "bench", _DIGEST).version

    def waive(self, digest: str) -> None:
        """Permit a model that runs code when it is loaded, as an approver other than its author does after a look."""
        name = f"reviewer-{digest[-8:]}"
        token = self.client.tokens.create(name, Role.APPROVER).secret
        reviewer = Platform(self.url, token=token)
        reviewer.waivers.create(digest, "a model of the benchmark, whose code is in this repository")

    def serve(self, *specs: EndpointSpec) -> None:
        """Serve aliases as ``specs`` say; they are ready when this returns."""
        failed = self.client.endpoints.apply(spec.dump(specs)).failed
        if failed:
            raise SystemExit("\n".join(f"{f.model}/{f.alias}: {f.detail}" for f in failed))

    def target(self, model: str, path: str = "/infer", body: bytes = tiny.OPEN_INFERENCE) -> Target:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        return Target(f"{self.url}/v2/models/{model}{path}", body, headers)

    def wait(self, target: Target, timeout_s: float = 60.0) -> None:
        """Return once ``target`` answers."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                ask(target)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def kill_host(model: str, alias: str) -> None:
    """End every host process of a served alias with SIGKILL. Raises where there is none."""
    name = f"ServeReplica:{model}--{alias}".encode()
    found = [p.pid for p in measure.processes() if name in (measure.PROC / str(p.pid) / "cmdline").read_bytes()]
    if not found:
        raise SystemExit(f"no host of {model}/{alias} runs")
    for pid in found:
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(work: Path, settings: Mapping[str, str] | None = None) -> Iterator[Stage]:
    """A platform in ``work``; ``settings`` are ``RAYPLAT_<GROUP>__<FIELD>`` variables."""
    home = work / "home"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYPLAT_"))}
    env = {**clean, "RAYPLAT_RAY__NUM_CPUS": "2", **(settings or {})}
    command = [sys.executable, "-m", "rayplat.cli.main", "up", "--home", str(home)]
    try:
        subprocess.run(command, env=env, check=True, stdout=sys.stderr, timeout=300)
        url, token = str(state.require(home).serve_url), owner_token(home)
        client = Platform(url, token=token)
        client.policies.set("*", "*", protected=False, gates=(), min_approvals=0)
        yield Stage(home, url, token, client)
    finally:
        found = state.read(home)
        if found is not None:
            processes.end_marked(found.mark)
