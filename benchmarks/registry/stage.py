"""A registry actor on a cluster of its own, on SQLite with every commit synced, and clients that move aliases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rayplat import actors
from rayplat import settings as settings_module
from rayplat.platform.state import prepare_home
from rayplat.registry.candidate import Candidate
from rayplat.registry.client import RegistryClient
from rayplat.registry.record import aliases, policies, versions
from rayplat.types import AliasHead, AliasPolicy, Principal, Role

MODEL = "bench"
ANN, ROOT = Principal("ann", Role.DEVELOPER), Principal("root", Role.ADMIN)


@dataclass(frozen=True)
class Stage:
    """``client`` is one client; `another` gives more, each as a process of its own would have it."""

    client: RegistryClient

    def another(self) -> RegistryClient:
        return RegistryClient.connect()


def move(client: RegistryClient, alias: str, n: int, expected: int | None = None) -> AliasHead:
    """The ``n``-th move of ``alias``, between two versions; committed when it returns."""
    return client.write(aliases.set, MODEL, alias, 1 + n % 2, expected, by=ANN)


@contextmanager
def running(work: Path) -> Iterator[Stage]:
    """A registry with two versions of one model, whose aliases anyone may move. Ends with its cluster."""
    import ray

    home = work / "home"
    prepare_home(home)
    ray.init(num_cpus=2, resources={actors.RESOURCE: 1}, include_dashboard=False, log_to_driver=False)
    try:
        client = RegistryClient.start(settings_module.load(home, environ={}))
        client.write(policies.set, AliasPolicy(MODEL, "*", False, (), min_approvals=0), by=ROOT)
        for n in (1, 2):
            client.write(versions.register, Candidate(MODEL, f"sha256:{n:064x}", f"run{n}", "bench", (), {}), by=ANN)
        move(client, "warm", 0)
        yield Stage(client)
    finally:
        ray.shutdown()


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
