"""A registry's record on SQLite."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplat.registry.record.database import Record
from tests.registry.desk import Desk


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's and the registry's tables, made once: MLflow's migrations take seconds."""
    file = tmp_path_factory.mktemp("registry") / "empty.db"
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
