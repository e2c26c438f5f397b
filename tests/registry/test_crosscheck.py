from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rayplat import identity
from rayplat.registry import standard_webhooks
from rayplat.registry.record import aliases, crosscheck, policies, promotions, tokens, versions, waivers, webhooks
from rayplat.registry.record.database import Record
from rayplat.types import AliasPolicy, AuditProblem, Role, Tampering, TokenInfo
from tests.registry.desk import ANN, BOB, MODEL, ROOT, Desk


def busy(record: Record) -> None:
    """Something of everything that the check knows."""
    desk = Desk(record)
    for n in (1, 2, 3):
        desk.register(n)
    desk.go_live(1, 2)
    record.write(lambda tx: promotions.rollback(tx, MODEL, "champion", "it was worse", by=BOB))
    desk.go_live(3)
    free = AliasPolicy(MODEL, "scratch", False, ())
    record.write(lambda tx: policies.set(tx, free, by=ROOT))
    for version in (1, 2):
        record.write(lambda tx, v=version: aliases.set(tx, MODEL, "scratch", v, by=ANN))
    record.write(lambda tx: aliases.set(tx, MODEL, "scratch", 3, by=ANN))
    record.write(lambda tx: aliases.remove(tx, MODEL, "scratch", by=ANN))
    record.write(lambda tx: versions.retire(tx, MODEL, 2, "worse", by=ANN))
    asked = desk.request(1)
    record.write(lambda tx: promotions.reject(tx, asked.promotion_id, "not again", by=BOB))
    for name, role, by in (("owner", Role.ADMIN, None), ("ann", Role.DEVELOPER, ROOT)):
        secret, token_id = identity.new_token()
        wanted = TokenInfo(token_id, name, role, datetime.now(UTC), "")
        record.write(lambda tx, w=wanted, s=secret, b=by: tokens.create(tx, w, identity.hash_token(s), b))
    record.write(lambda tx: tokens.revoke(tx, wanted.token_id, by=ROOT))
    ends = datetime(2999, 1, 1, tzinfo=UTC)
    waived = desk.write(waivers.waive, "format", "sha256:" + "a" * 64, "replaced in June", by=BOB)
    desk.write(waivers.revoke, waived.waiver_id, "has been replaced", by=BOB)
    desk.write(waivers.waive, "format", "sha256:" + "b" * 64, "replaced in July", ends, by=BOB)
    secret = standard_webhooks.new_secret()
    record.write(lambda tx: webhooks.create(tx, "https://hooks.example.com/x", ("*",), secret, by=ROOT))


@pytest.fixture(scope="module")
def kept(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("crosscheck") / "rayplat.db"
    shutil.copy(empty_database, file)
    record = Record(f"sqlite:///{file}")
    busy(record)
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
    busy(record)
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
