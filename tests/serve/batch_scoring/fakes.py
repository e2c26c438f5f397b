"""Models that know arithmetic, and what a job works with on a registry in this process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayplat.artifacts.store import ArtifactStore
from rayplat.data.feature_store import FeatureStore
from rayplat.data.tables import Tables
from rayplat.errors import Corrupt
from rayplat.registry.candidate import Candidate
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import decisions, versions
from rayplat.registry.record.database import Record
from rayplat.serve.batch_scoring import Backends
from rayplat.serve.ports import LoadedVersion, Loader
from rayplat.settings import Settings
from rayplat.types import Signature, TensorSpec
from tests.api.fakes import ADMIN, AUTHOR, TRAINING_SET

TWICE = Signature((TensorSpec("x", "FP64"),), (TensorSpec("y", "FP64"),), tabular=True)
DIGEST = "sha256:" + "a" * 64


@dataclass
class Twice:
    """``y`` = 2 ``x``; fails for a batch with 13 in it, gives too little for one with 17."""

    pause_s: float = 0.0
    calls: int = 0

    def predict(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        time.sleep(self.pause_s)
        self.calls += 1
        x = columns["x"]
        if (x == 13).any():
            raise ValueError("thirteen")
        return {"y": 2 * x[:-1] if (x == 17).any() else 2 * x}


@dataclass(frozen=True)
class TwiceLoader:
    pause_s: float = 0.0
    broken: bool = False

    def load(self, model: str, version: int, digest: str) -> LoadedVersion:
        if self.broken:
            raise Corrupt(f"version {version}", digest, "something else")
        return LoadedVersion(model, version, digest, Twice(self.pause_s), TWICE)


def registered(database: Path, model: str, digest: str) -> LocalRegistry:
    """A registry in ``database`` where ``champion`` of ``model`` is version 1 with this digest."""
    made = LocalRegistry(Record(f"sqlite:///{database}"))
    made.write(versions.register, Candidate(model, digest, "run1", TRAINING_SET, (), {}), by=AUTHOR)
    made.write(decisions.break_glass, model, 1, "champion", "there is no other version yet", by=ADMIN)
    return made


def backends(settings: Settings, registry: LocalRegistry, loader: Loader) -> Backends:
    tables = Tables(settings.tables_uri)
    return Backends(tables, registry, ArtifactStore.of(settings), FeatureStore(settings), loader, AUTHOR)


def numbers(rows: int) -> Any:
    import pyarrow as pa

    return pa.table({"id": np.arange(rows), "x": np.arange(rows, dtype=np.float64) + 100})
