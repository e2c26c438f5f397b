"""A registry's record on SQLite."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rayplat.registry.record.database import Record
from tests.registry.desk import Desk


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's and the registry's tables, made once for all tests.

    MLflow's tables come from its models, as its migrations take seconds: they run where a test starts the actor.
    """
    from mlflow.store.db import utils

    file = tmp_path_factory.mktemp("registry") / "empty.db"
    engine = sa.create_engine(f"sqlite:///{file}")
    utils.Base.metadata.create_all(engine)
    engine.dispose()
    Record(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def database_url(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "rayplat.db")
    return f"sqlite:///{tmp_path / 'rayplat.db'}"


@pytest.fixture
def record(database_url: str) -> Iterator[Record]:
    opened = Record(database_url)
    yield opened
    opened.close()


@pytest.fixture
def desk(record: Record) -> Desk:
    made = Desk(record)
    for n in (1, 2, 3):
        made.register(n)
    return made
