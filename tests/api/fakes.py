"""A real registry on a copied SQLite database, seeded; and a tracking store in memory, which `contract.py` keeps
honest: it also runs on the real one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rayplat.errors import NotFound
from rayplat.registry.candidate import Candidate
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import decisions, endpoints, versions
from rayplat.registry.record.database import Defaults, Record
from rayplat.serve.access import Access
from rayplat.serve.pool.front import PoolFront
from rayplat.serve.pool.table import EndpointTable
from rayplat.services.models import Models
from rayplat.services.verbs import Context
from rayplat.types import EndpointSpec, Principal, Role, RunInfo
from tests.serve.pool.reach import FakeReach

NOW = datetime(2013, 11, 1, 10, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
TRAINING_SET = "sha256:" + "d" * 64
AUTHOR = Principal("ada", Role.DEVELOPER)
ADMIN = Principal("grace", Role.ADMIN)


def registry(database: Path, *digests: str, defaults: Defaults | None = None) -> LocalRegistry:
    """Model ``m`` with one version for each digest, made by ada; ``champion`` points at the first."""
    made = LocalRegistry(Record(f"sqlite:///{database}", defaults=defaults))
    for n, digest in enumerate(digests, 1):
        made.write(versions.register, Candidate("m", digest, f"run{n}", TRAINING_SET, (), {"auc": 0.7}), by=AUTHOR)
    if digests:
        point(made, 1)
    return made


def seed(context: Context, registry: LocalRegistry, folder: Path) -> None:
    """Model ``m`` with two signed versions of safetensors in the store, made by ada; ``champion`` is the first."""
    models = Models(replace(context, principal=AUTHOR))
    for n in (1, 2):
        tree = folder / f"model-{n}"
        tree.mkdir()
        save_file({"w": np.full(4, n, np.float32)}, tree / "model.safetensors")
        digest = context.artifacts.put_tree(tree, "model").digest
        models.register("m", digest, f"run{n}", TRAINING_SET, (), {"auc": 0.7})
    point(registry, 1)


def point(registry: LocalRegistry, version: int) -> None:
    """Let ``champion`` of ``m`` be a version without evidence, in the one way that the audit log knows."""
    registry.write(decisions.break_glass, "m", version, "champion", "there is no other version yet", by=ADMIN)


class FakeTracking:
    def runs(self, experiment: str | None = None, limit: int = 50) -> list[RunInfo]:
        return [RunInfo("r1", "e", "n", "FINISHED", NOW, None, {"lr": "0.1"}, {"auc": None}, {})]

    def get(self, run_id: str) -> RunInfo:
        raise NotFound("run", run_id)

    def compare(self, run_ids: list[str]) -> dict[str, dict[str, Any]]:
        return {"lr": dict.fromkeys(run_ids, "0.1")}


def front(record: LocalRegistry, tokens: dict[str, Principal]) -> PoolFront:
    """The front of the pool over ``record``, for the holders of ``tokens`` (by their hash); no host answers."""

    class Link:
        async def endpoint(self, model: str, alias: str) -> EndpointSpec | None:
            return record.read(endpoints.find, model, alias)

        async def endpoints(self) -> list[EndpointSpec]:
            return record.read(endpoints.listed)

        async def authenticate(self, token_hash: str) -> Principal | None:
            return tokens.get(token_hash)

    link = Link()
    return PoolFront(EndpointTable(link, 0.1), Access(link, 5.0), FakeReach(), ["rayplat-pool-0"], 1 << 20)
