"""From the first release's tables to today's, on SQLite and PostgreSQL; and the databases that are not opened."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from rayplat.errors import PartFailed, RayplatError, Unavailable
from rayplat.registry.migrations import versions as revisions
from rayplat.registry.record import aliases, audit, database, opening, promotions, schema, tokens, versions
from rayplat.registry.record.database import Reader, Record
from rayplat.types import VersionState
from tests.registry.conftest import create_database
from tests.registry.desk import ALIAS, MODEL, Desk, candidate

HASH = hashlib.sha256(  # as the first release took it
    b"0" * 64
    + b'{"action":"model.register","actor":"ann","at":1772323200000000,"detail":{},"seq":1,'
    + f'"subject":"{MODEL}/1"}}'.encode()
).hexdigest()
AT = 1_772_323_200_000_000
ROWS = {
    "rp_model_version": {
        "model": MODEL,
        "version": 1,
        "digest": candidate(1).digest,
        "run_id": "r" * 32,
        "author": "ann",
        "created_at": AT,
        "training_set": candidate(1).training_set,
        "pins": "[]",
        "metrics": '{"auc":0.7}',
    },
    "rp_alias_head": {
        "model": MODEL,
        "alias": ALIAS,
        "generation": 1,
        "version": 1,
        "digest": candidate(1).digest,
        "moved_at": AT,
        "moved_by": "bob",
        "promotion_id": "prm-1",
    },
    "rp_promotion": {
        "promotion_id": "prm-1",
        "model": MODEL,
        "version": 1,
        "digest": candidate(1).digest,
        "alias": ALIAS,
        "expected_generation": 0,
        "state": "live",
        "requester": "ann",
        "created_at": AT,
        "subject_digest": candidate(2).digest,
        "gates": "[]",
    },
    "rp_token": {
        "token_id": "0" * 12,
        "token_hash": "1" * 64,
        "principal": "root",
        "role": "admin",
        "created_at": AT,
        "created_by": "rayplat",
    },
    "rp_audit": {
        "seq": 1,
        "at": AT,
        "actor": "ann",
        "action": "model.register",
        "subject": f"{MODEL}/1",
        "detail": "{}",
        "prev_hash": "0" * 64,
        "hash": HASH,
    },
}


def configured(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "rayplat:registry/migrations")
    config.attributes["connection"] = connection
    return config


def to_the_first_release(url: str) -> None:
    """Put the tables of the first release, with a few rows, in place of today's."""
    engine = opening.engine(url)
    with engine.begin() as connection:
        ours = [name for name in sa.inspect(connection).get_table_names() if name.startswith("rp_")]
        for name in sorted(ours, key=lambda name: name == "rp_model_version"):  # others point at it
            connection.execute(sa.text(f"drop table {name}"))
    with engine.begin() as connection:
        command.upgrade(configured(connection), "0001")
        connection.execute(sa.text(f"drop table {schema.VERSION_TABLE}"))  # it had none
        for table, row in {**ROWS, "rp_alias_history": ROWS["rp_alias_head"]}.items():
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(sa.text(f"insert into {table} ({names}) values ({values})"), row)
    engine.dispose()


@pytest.fixture
def first_release(either_url: str) -> str:
    to_the_first_release(either_url)
    return either_url


def rows(url: str, table: str) -> list[dict[str, Any]]:
    engine = opening.engine(url)
    with engine.connect() as connection:
        found = [dict(row._mapping) for row in connection.execute(sa.text(f"select * from {table}"))]
    engine.dispose()
    return found


def revision(url: str) -> str | None:
    engine = opening.engine(url)
    with engine.connect() as connection:
        found = opening.revision(connection)
    engine.dispose()
    return found


def test_a_database_of_the_first_release_is_migrated_with_its_rows_intact(first_release: str) -> None:
    desk = Desk(Record(first_release))
    for table, row in ROWS.items():
        (found,) = rows(first_release, table)
        assert {name: found[name] for name in row} == row
    version = desk.read(versions.get, MODEL, 1)
    assert (version.format, version.statement, version.state) == ("", None, VersionState.ACTIVE)
    (head,) = desk.read(aliases.history, MODEL, ALIAS)
    assert (head.generation, head.removed) == (1, False)
    assert desk.read(promotions.get, "prm-1").requester == "ann"
    assert [t.principal for t in desk.read(tokens.listed)] == ["root"]
    assert desk.register(2).version == 2
    assert desk.move(2).generation == 2
    assert desk.read(audit.verify) == 3  # a move without an entry of its own is noted, too
    assert rows(first_release, schema.VERSION_TABLE) == [{"version_num": schema.REVISION}]
    assert rows(first_release, "rp_schema") == [{"id": 1, "version": int(schema.REVISION)}]
    assert revision(first_release) == schema.REVISION
    desk.record.close()


def test_a_migrated_database_has_the_tables_of_the_code(first_release: str) -> None:
    Record(first_release).close()
    assert differences(first_release) == []


def test_a_new_database_has_the_tables_of_the_code(either_url: str) -> None:
    assert differences(either_url) == []


def differences(url: str) -> list[Any]:
    def ours(_: Any, name: str | None, kind: str, *__: Any) -> bool:
        return kind != "table" or (str(name).startswith("rp_") and name != schema.VERSION_TABLE)

    engine = opening.engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        found: list[Any] = compare_metadata(context, schema.metadata)
    engine.dispose()
    return found


def test_mlflows_own_revision_is_left_alone(first_release: str) -> None:
    before = rows(first_release, "alembic_version")
    Record(first_release).close()
    assert rows(first_release, "alembic_version") == before
    assert len(before) == 1


def test_the_last_revision_is_the_one_the_code_knows() -> None:
    script = ScriptDirectory(str(Path(revisions.__file__).parents[1]))
    assert script.get_current_head() == schema.REVISION
    assert [s.revision for s in script.walk_revisions()] == [f"{n:04d}" for n in range(int(schema.REVISION), 0, -1)]


def test_alembics_own_commands_work(first_release: str) -> None:
    Record(first_release).close()
    config = Config()
    config.set_main_option("script_location", "rayplat:registry/migrations")
    config.set_main_option("sqlalchemy.url", first_release)
    command.check(config)
    command.upgrade(config, "head")


# --- what is not opened -----------------------------------------------------------------------------


def test_an_older_database_is_migrated_by_nobody_who_only_looks(first_release: str) -> None:
    for look in (lambda: Reader(first_release), lambda: Record(first_release, migrate=False)):
        with pytest.raises(PartFailed, match=r"revision 0001, this release needs 0003; .* 'rayplat up' migrates"):
            look()
    assert revision(first_release) == "0001"
    assert rows(first_release, "rp_lease") == [{"id": 1, "epoch": 0, "writes": 0}]


def test_a_database_of_a_later_release_is_refused_by_both_revisions(either_url: str) -> None:
    engine = opening.engine(either_url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"update {schema.VERSION_TABLE} set version_num = '0099'"))
    before = rows(either_url, "rp_lease")
    for look in (Reader, Record):
        with pytest.raises(PartFailed, match="schema revision 0099, this release knows 0003: use its own release"):
            look(either_url)
    assert rows(either_url, "rp_lease") == before
    engine.dispose()


def test_the_first_release_refuses_what_was_migrated(first_release: str) -> None:
    Record(first_release).close()
    ((found),) = rows(first_release, "rp_schema")
    assert found["version"] != 1  # it opened only what says 1


def test_a_migration_that_fails_changes_nothing(first_release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = opening._alembic

    def fails(connection: sa.Connection, what: str, to: str) -> None:
        real(connection, what, to)
        if what == "upgrade":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(opening, "_alembic", fails)
        with pytest.raises(KeyboardInterrupt):
            Record(first_release)
    assert revision(first_release) == "0001"
    assert len(rows(first_release, "rp_model_version")[0]) == 10
    Record(first_release).close()
    assert revision(first_release) == schema.REVISION


def test_a_database_without_our_tables_is_not_filled_by_a_reader(tmp_path: Path) -> None:
    file = tmp_path / "empty.db"
    with pytest.raises(PartFailed, match="has no tables of the registry"):
        Reader(f"sqlite:///{file}")
    with sqlite3.connect(file) as db:
        assert db.execute("select count(*) from sqlite_master").fetchone() == (0,)


@pytest.fixture
def locked(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    to_the_first_release(database_url)
    monkeypatch.setattr(opening, "_BUSY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(database.time, "sleep", lambda _: None)
    other = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("begin immediate")
    yield database_url
    other.close()


def test_a_database_that_stays_locked_is_neither_migrated_nor_opened(locked: str) -> None:
    with pytest.raises(Unavailable, match="the registry's database is not available: database is locked"):
        Record(locked)
    assert revision(locked) == "0001"


def test_a_read_only_database_is_one_clear_error(database_url: str) -> None:
    file = database_url.removeprefix("sqlite:///")
    before = rows(database_url, "rp_lease")
    with pytest.raises(Unavailable, match="attempt to write a readonly database"):
        Record(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert rows(database_url, "rp_lease") == before


def test_what_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "rayplat.db"
    file.write_bytes(b"PK\x03\x04 this is something else entirely, and long enough to be looked at" * 50)
    before = file.read_bytes()
    for look in (Reader, Record):
        with pytest.raises(Unavailable, match="file is not a database"):
            look(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_a_damaged_database_is_one_clear_error(database_url: str, tmp_path: Path) -> None:
    file = database_url.removeprefix("sqlite:///")
    size = os.path.getsize(file)
    with open(file, "r+b") as damaged:
        damaged.seek(4096)
        damaged.write(b"\xff" * (size - 4096))
    with pytest.raises(RayplatError, match=r"malformed|not a database|disk image"):
        Record(database_url)


def test_a_directory_that_is_missing_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="unable to open database file"):
        Record(f"sqlite:///{tmp_path / 'absent' / 'rayplat.db'}")
    assert not (tmp_path / "absent").exists()


@pytest.mark.services
def test_a_server_that_does_not_answer_and_a_database_that_does_not_exist(postgres_url: str) -> None:
    server = postgres_url.rpartition("/")[0]
    with pytest.raises(Unavailable, match="does not exist"):
        Record(f"{server}/absent")
    with pytest.raises(Unavailable, match="registry's database"):
        Record("postgresql://nobody@127.0.0.1:1/none")


@pytest.mark.services
def test_two_that_open_an_older_database_at_once_migrate_it_once(postgres_url: str, postgres_template: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    name = f"race_{uuid.uuid4().hex}"
    create_database(postgres_url, name, postgres_template)
    url = f"{postgres_url.rpartition('/')[0]}/{name}"
    to_the_first_release(url)
    with ThreadPoolExecutor(2) as pool:
        opened = list(pool.map(lambda _: Record(url), range(2)))
    assert sorted(r.epoch for r in opened) == [1, 2]
    assert revision(url) == schema.REVISION
    for one in opened:
        one.close()


def test_two_processes_worth_of_opening_on_sqlite(database_url: str, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    to_the_first_release(database_url)
    copy = f"sqlite:///{shutil.copy(database_url.removeprefix('sqlite:///'), tmp_path / 'race.db')}"
    with ThreadPoolExecutor(2) as pool:
        opened = list(pool.map(lambda _: Record(copy), range(2)))
    assert sorted(r.epoch for r in opened) == [1, 2]
    for one in opened:
        one.close()
