"""A registry's record: on SQLite for most tests, on PostgreSQL too for those that ask for ``either``."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplat.registry.record.database import Record
from tests.registry.desk import FREE, Desk


@pytest.fixture
def database_url(empty_database: Path, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A database with all tables, and with the versions of `desk` for a test that has one."""
    found = request.getfixturevalue("three_versions") if "desk" in request.fixturenames else empty_database
    shutil.copy(found, tmp_path / "rayplat.db")
    return f"sqlite:///{tmp_path / 'rayplat.db'}"


@pytest.fixture(scope="session")
def three_versions(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file in which ann has registered three versions. Copy it."""
    file = tmp_path_factory.mktemp("record") / "three.db"
    shutil.copy(empty_database, file)
    record = Record(f"sqlite:///{file}")
    for n in (1, 2, 3):
        Desk(record).register(n)
    record.close()
    return file


@pytest.fixture
def record(database_url: str) -> Iterator[Record]:
    opened = Record(database_url)
    yield opened
    opened.close()


@pytest.fixture
def desk(record: Record) -> Desk:
    """A desk with three versions and nothing else."""
    return Desk(record)


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> str:
    """The name of a database with all tables; PostgreSQL copies it in a moment."""
    name = "record_template"
    create_database(postgres_url, name)
    Record(f"{postgres_url.rpartition('/')[0]}/{name}").close()
    return name


@pytest.fixture(scope="session")
def postgres_three_versions(postgres_url: str, postgres_template: str) -> str:
    """The name of a database in which ann has registered three versions, to be copied."""
    name = "record_three_versions"
    create_database(postgres_url, name, postgres_template)
    record = Record(f"{postgres_url.rpartition('/')[0]}/{name}")
    for n in (1, 2, 3):
        Desk(record).register(n)
    record.close()
    return name


@pytest.fixture
def postgres_record_url(postgres_url: str, request: pytest.FixtureRequest) -> str:
    """A database with all tables, and with the versions of `desk` for a test that has one."""
    template = "postgres_three_versions" if "desk" in request.fixturenames else "postgres_template"
    name = f"record_{uuid.uuid4().hex}"
    create_database(postgres_url, name, request.getfixturevalue(template))
    return f"{postgres_url.rpartition('/')[0]}/{name}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def either_url(request: pytest.FixtureRequest) -> str:
    """A database with all tables: of SQLite, and of a real PostgreSQL server."""
    name = {"sqlite": "database_url", "postgresql": "postgres_record_url"}[request.param]
    return str(request.getfixturevalue(name))


@pytest.fixture
def either(either_url: str) -> Iterator[Desk]:
    """A desk on either database, with three versions and the free alias ``nightly``."""
    record = Record(either_url)
    made = Desk(record)
    made.free(FREE)
    for n in (1, 2, 3):
        made.register(n)
    yield made
    record.close()


def create_database(server_url: str, name: str, template: str = "template0") -> None:
    import psycopg

    with psycopg.connect(server_url, autocommit=True) as db:
        db.execute(f'create database "{name}" template "{template}"')
