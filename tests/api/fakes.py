"""A real registry on a copied SQLite database, seeded; and a tracking store in memory, which `contract.py` keeps
honest: it also runs on the real one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayplat.errors import NotFound
from rayplat.registry.candidate import Candidate
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import aliases, versions
from rayplat.registry.record.database import Defaults, Record
from rayplat.types import AliasHead, Principal, Role, RunInfo

NOW = datetime(2013, 11, 1, 10, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "b" * 64
TRAINING_SET = "sha256:" + "d" * 64
AUTHOR = Principal("ada", Role.DEVELOPER)


def registry(database: Path, *digests: str, defaults: Defaults | None = None) -> LocalRegistry:
    """Model ``m`` with one version for each digest, made by ada; ``champion`` points at the first."""
    record = Record(f"sqlite:///{database}", defaults=defaults)
    made = LocalRegistry(record)
    for n, digest in enumerate(digests, 1):
        made.write(versions.register, Candidate("m", digest, f"run{n}", TRAINING_SET, (), {"auc": 0.7}), by=AUTHOR)
    head = AliasHead("m", "champion", 1, digests[0], 0, NOW, "grace")
    record.write(lambda tx: aliases.move(tx, head, 0))
    return made


class FakeTracking:
    def runs(self, experiment: str | None = None, limit: int = 50) -> list[RunInfo]:
        return [RunInfo("r1", "e", "n", "FINISHED", NOW, None, {"lr": "0.1"}, {"auc": None}, {})]

    def get(self, run_id: str) -> RunInfo:
        raise NotFound("run", run_id)

    def compare(self, run_ids: list[str]) -> dict[str, dict[str, Any]]:
        return {"lr": dict.fromkeys(run_ids, "0.1")}
