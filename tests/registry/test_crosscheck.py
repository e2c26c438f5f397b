from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rayplat.artifacts.manifest import canonical
from rayplat.errors import Corrupt
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import audit, crosscheck, journal, policies, promotion_steps, promotions, schema
from rayplat.registry.record.database import Record
from rayplat.registry.upkeep import AuditWatch
from rayplat.types import AliasPolicy, AuditProblem, Tampering
from tests.registry.desk import MODEL, ROOT, Desk
from tests.registry.edits import EXCEPTIONS, edits, fill, noticed


@pytest.fixture(scope="module")
def kept(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("crosscheck") / "rayplat.db"
    shutil.copy(empty_database, file)
    record = Record(f"sqlite:///{file}")
    fill(record)
    record.close()
    return file


@pytest.fixture
def engine(kept: Path, tmp_path: Path) -> Iterator[sa.Engine]:
    for file in kept.parent.glob("rayplat.db*"):
        shutil.copy(file, tmp_path / file.name)
    made = sa.create_engine(f"sqlite:///{tmp_path / kept.name}")
    yield made
    made.dispose()


def check(engine: sa.Engine) -> list[AuditProblem]:
    with engine.connect() as connection:
        return crosscheck.check_record(connection)


def test_a_record_that_nobody_edited_is_what_its_log_says(engine: sa.Engine) -> None:
    assert check(engine) == []


@pytest.mark.services
def test_the_same_holds_on_postgresql(postgres_record_url: str) -> None:
    record = Record(postgres_record_url)
    fill(record)
    assert record.read(crosscheck.check_record) == []
    with record.engine.begin() as connection:
        connection.exec_driver_sql("update rp_alias_head set version = 1")
    assert "rp_alias_head flight-delay/champion: version is 1" in record.read(crosscheck.check_record)[0].reason
    record.close()


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("update rp_alias_head set version = 1", "rp_alias_head flight-delay/champion: version is 1, the log says 3"),
        ("update rp_alias_head set digest = 'sha256:0'", "rp_alias_head flight-delay/champion: digest"),
        ("update rp_alias_head set generation = 9", "generation is 9, the log says 4"),
        ("delete from rp_alias_head", "rp_alias_head flight-delay/champion: it is missing"),
        ("insert into rp_alias_head select model, 'scratch', generation, version, digest, moved_at, moved_by,"
         " promotion_id from rp_alias_head", "rp_alias_head flight-delay/scratch: no entry of the audit log made it"),
        ("update rp_alias_history set version = 3 where alias = 'champion' and generation = 1", "history"),
        ("update rp_alias_history set moved_by = 'eve' where generation = 3", "moved_by is 'eve'"),
        ("delete from rp_alias_history where alias = 'scratch' and generation = 2", "it is missing"),
        ("update rp_model_version set digest = 'sha256:0' where version = 1", "flight-delay/1: digest"),
        ("update rp_model_version set author = 'eve' where version = 1", "author is 'eve', the log says 'ann'"),
        ("update rp_model_version set run_id = 'x' where version = 1", "run_id"),
        ("update rp_model_version set state = 'active' where version = 2", "state is 'active', the log says 'retired'"),
        ("update rp_approval set approver = 'eve'", "rp_approval"),
        ("update rp_approval set subject_digest = 'sha256:0'", "subject_digest"),
        ("update rp_approval set decision = 'approve'", "decision is 'approve', the log says 'reject'"),
        ("delete from rp_approval", "it is missing"),
        ("update rp_promotion set requester = 'eve'", "requester is 'eve', the log says 'ann'"),
        ("update rp_promotion set version = 9", "version is 9"),
        ("update rp_promotion set state = 'approved' where state = 'rejected'", "nobody approved it"),
        ("update rp_alias_policy set policy = replace(policy, '\"protected\":false', '\"protected\":true')", "policy"),
        ("delete from rp_alias_policy", "rp_alias_policy flight-delay/scratch: it is missing"),
        ("update rp_token set role = 'admin'", "role is 'admin', the log says 'developer'"),
        ("update rp_token set principal = 'bob' where role = 'developer'", "principal is 'bob'"),
        ("update rp_token set revoked_at = null", "revoked is False, the log says True"),
        ("update rp_token set expires_at = 1 where role = 'admin'", "expires_at"),
        ("update rp_webhook set url = 'https://evil.example.com/'", "url_sha256"),
        ("update rp_webhook set events = '[]'", "events"),
        ("update rp_waiver set target = 'sha256:0'", "target is 'sha256:0'"),
        ("update rp_waiver set expires_at = null where revoked_at is null", "expires_at is None, the log says"),
        ("update rp_waiver set revoked_at = null", "revoked is False, the log says True"),
        ("insert into rp_waiver select 'w', kind, target, \"by\", reason, at, null, null, null from rp_waiver limit 1",
         "rp_waiver w: no entry of the audit log made it"),
    ],
)  # fmt: skip
def test_an_edited_row_is_named_with_what_the_log_says(engine: sa.Engine, sql: str, says: str) -> None:
    with engine.begin() as connection:
        changed: Any = connection.exec_driver_sql(sql)
        assert changed.rowcount > 0
    problems = check(engine)
    assert problems
    assert any(says in p.reason for p in problems)
    assert all(p.kind is Tampering.RECORD for p in problems)


def test_an_edit_of_any_column_of_any_table_is_named_with_its_row(engine: sa.Engine) -> None:
    unnamed = []
    with engine.connect() as connection:
        for edit in edits():
            where = f"{edit.table.name} {edit.key(connection)}: "
            found = noticed(connection, edit)
            if not any(reason.startswith((where, "audit entry")) for reason in found):
                unnamed.append(f"{edit.name}: {found}")
    assert unnamed == []
    assert check(engine) == []


def test_what_is_not_covered_is_what_is_justified() -> None:
    columns = {f"{table}.{name}" for table, names in journal.CHANGING.items() for name in names}
    assert columns | {f"{t}.*" for t in journal.UNCOVERED - {"rp_audit"}} == EXCEPTIONS.keys()


@pytest.mark.parametrize("table", [t.name for t in journal.covered()])
def test_a_row_that_no_entry_made_is_named_in_every_table(engine: sa.Engine, table: str) -> None:
    found = schema.metadata.tables[table]
    texts = {c.name for c in found.primary_key.columns if isinstance(c.type, sa.String)}
    columns = {c.name: f"\"{c.name}\" || 'x'" if c.name in texts else f'"{c.name}"' for c in found.columns}
    columns |= {c: f"\"{c}\" || 'x'" for c in ("token_hash", "digest") if c in columns}
    with engine.begin() as connection:
        connection.exec_driver_sql(f"insert into {table} select {', '.join(columns.values())} from {table} limit 1")
    assert any(p.reason.startswith(table) and "no entry of the audit log made it" in p.reason for p in check(engine))


def test_a_record_of_the_first_release_is_not_reported_as_damaged(engine: sa.Engine) -> None:
    first = {"rp_model_version", "rp_alias_head", "rp_alias_history", "rp_promotion", "rp_approval", "rp_token"}
    with engine.begin() as connection:
        entries = connection.exec_driver_sql("select seq, detail from rp_audit").all()
        for seq, text in entries:  # as its entries were: without digests of rows
            detail = {name: value for name, value in json.loads(text).items() if name != journal.ROWS}
            connection.exec_driver_sql("update rp_audit set detail = ? where seq = ?", (json.dumps(detail), seq))
        told = {"rp_alias_policy", "rp_webhook", "rp_waiver"}  # by entries that say what is in them
        for table in journal.covered():
            if table.name not in first | told:
                connection.exec_driver_sql(f"delete from {table.name}")
    assert check(engine) == []


def test_a_key_given_to_an_entry_that_had_none_is_noticed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("update rp_audit set request_key = 'k' where seq = 1")
    with engine.connect() as connection:
        problem = audit.check(connection).problem
    assert problem is not None
    assert problem.seq == 1


def test_the_watch_says_what_it_found_and_logs_what_is_damaged(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    record = Record(str(engine.url))
    watch = AuditWatch(LocalRegistry(record))
    assert watch.outcome == "not checked yet"
    assert watch.check() == "intact"
    Desk(record).change("update rp_pin set reason = 'because'")
    again = AuditWatch(LocalRegistry(record))
    with caplog.at_level(logging.ERROR):
        assert "rp_pin version/flight-delay/1/ann" in again.check()
    assert "rp_pin" in caplog.text
    record.close()


@pytest.mark.parametrize("column", ["state", "evidence", "gates", "policy"])
def test_a_promotion_that_cannot_be_read_holds_up_no_other(
    engine: sa.Engine, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = Record(str(engine.url))
    desk = Desk(record)
    broken, other = desk.request(1), desk.request(1)
    where = f"where promotion_id = '{broken.promotion_id}'"
    desk.change(f"update rp_promotion set {column} = '[3' {where}")
    listed = [p.promotion_id for p in desk.read(promotions.listed)]
    assert other.promotion_id in listed
    assert broken.promotion_id not in listed
    assert broken.promotion_id in caplog.text
    with pytest.raises(Corrupt, match=broken.promotion_id):
        desk.read(promotions.get, broken.promotion_id)
    desk.write(policies.set, AliasPolicy(MODEL, "lab", False, ()), by=ROOT)
    desk.write(promotion_steps.tick)
    assert desk.approve(other).state.value == "live"
    record.close()


def test_an_entry_with_digests_is_canonical_json(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        texts = list(connection.execute(sa.select(schema.audit.c.detail)).scalars())
    assert [canonical(json.loads(text)).decode() for text in texts] == texts
    assert all(journal.ROWS in json.loads(text) for text in texts)
