"""Small synthetic training data with a known structure, and one MLflow database for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayplat.data.tables import Tables
from rayplat.settings import Settings
from rayplat.tracking import Tracking
from rayplat.types import TrainingSet

START = datetime(2013, 6, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Toy:
    """Late is likelier from B, with wind, and late in the day; ``empty`` holds only nulls."""

    features: tuple[str, ...] = ("origin", "dest", "hour", "wind", "empty")
    holdout: datetime = datetime(2013, 10, 1, tzinfo=UTC)

    def rows(self, n: int = 3000, seed: int = 0) -> pa.Table:
        """``n`` flights over five months, 1 % without a label."""
        random = np.random.default_rng(seed)
        origin, dest = random.choice(["A", "B"], n), random.choice(["X", "Y", "Z"], n)
        hour, wind = random.integers(5, 23, n), random.gamma(2.0, 5.0, n)
        logit = -3.5 + 1.5 * (origin == "B") + 0.12 * (hour - 5) + 0.08 * wind
        late = random.random(n) < 1 / (1 + np.exp(-logit))
        minutes = np.sort(random.integers(0, 150 * 24 * 60, n))
        return pa.table(
            {
                "flight": [f"F{i}" for i in range(n)],
                "event_time": pa.array([START + timedelta(minutes=int(m)) for m in minutes], pa.timestamp("us", "UTC")),
                "origin": pa.array(origin, pa.string()),
                "dest": pa.array(dest, pa.string()),
                "hour": pa.array(hour, pa.int64()),
                "wind": pa.array(wind, pa.float64(), mask=random.random(n) < 0.05),
                "empty": pa.nulls(n, pa.float32()),
                "label": pa.array(late.astype(np.int8), pa.int8(), mask=random.random(n) < 0.01),
            }
        )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As in workers: with more, torch's threads fight over two cores and small steps take many times as long."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """Runs in an SQLite file; making its tables takes MLflow some seconds, so there is one."""
    return Tracking(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")


@pytest.fixture
def tables(settings: Settings) -> Tables:
    return Tables(settings.tables_uri)


@pytest.fixture
def training_set(tables: Tables, toy: Toy) -> Callable[[pa.Table], TrainingSet]:
    """Write rows as a table and name that version as a training set."""

    def write(rows: pa.Table) -> TrainingSet:
        data = tables.create("training_set_toy", rows)
        return TrainingSet("toy", "sha256:" + "1" * 64, data, (data,), toy.features, "label", "event_time", "flight")

    return write


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "work"
