from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rayplat.errors import (
    Conflict,
    Corrupt,
    Forbidden,
    InvalidInput,
    InvalidName,
    NotFound,
    PartFailed,
    StaleGeneration,
    Unavailable,
)
from rayplat.registry.gates import GatePolicy
from rayplat.registry.record import aliases, audit, database, mlflow_rows, promotions, versions
from rayplat.registry.record.database import Record
from rayplat.types import AliasHead, PromotionState
from tests.registry.desk import ALIAS, ANN, BOB, EVE, HOLDOUT, MODEL, PIN, ROOT, Desk, candidate, evidence


def head(record: Record, alias: str = ALIAS) -> AliasHead | None:
    return record.read(lambda s: aliases.find(s, MODEL, alias))


def state(record: Record, promotion_id: str) -> PromotionState:
    return record.read(lambda s: promotions.get(s, promotion_id)).state


def mlflow(record: Record, question: str) -> list[tuple[Any, ...]]:
    return record.read(lambda s: [tuple(row) for row in s.execute(sa.text(question))])


MLFLOW_ALIASES = "select name, alias, version from registered_model_aliases"


# --- versions ---------------------------------------------------------------------------------------


def test_a_version_keeps_everything_it_was_registered_with_and_shows_in_mlflow(desk: Desk) -> None:
    version = desk.record.read(lambda s: versions.get(s, MODEL, 2))
    assert (version.model, version.version, version.digest) == (MODEL, 2, candidate(2).digest)
    assert (version.author, version.run_id, version.training_set) == ("ann", f"{2:032x}", HOLDOUT)
    assert version.pins == (PIN,)
    assert version.metrics == {"auc": 0.7, "rows": 5000.0}
    assert version.created_at.tzinfo is not None
    rows = mlflow(desk.record, "select version, source, run_id, status, current_stage, user_id from model_versions")
    assert rows[1] == (2, f"rayplat://artifacts/{version.digest}", f"{2:032x}", "READY", "None", "ann")
    tags = mlflow(desk.record, "select key, value from model_version_tags where version = 2")
    assert ("rayplat.digest", version.digest) in tags


def test_the_same_digest_is_the_same_version(desk: Desk) -> None:
    again = desk.record.write(lambda tx: versions.register(tx, replace(candidate(2), run_id="other"), ROOT))
    assert again == desk.record.read(lambda s: versions.get(s, MODEL, 2))
    assert [v.version for v in desk.record.read(lambda s: versions.listed(s, MODEL))] == [3, 2, 1]
    other = desk.record.write(lambda tx: versions.register(tx, candidate(2, model="other"), ANN))
    assert other.version == 1
    assert desk.record.read(versions.models) == [MODEL, "other"]


def test_numbers_go_on_after_versions_that_mlflow_gave(record: Record) -> None:
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(str(record._engine.url))
    store.create_registered_model(MODEL)
    store.create_model_version(MODEL, "s3://bucket/model")
    assert Desk(record).register(1).version == 2
    assert [v.version for v in store.search_model_versions(f"name='{MODEL}'")] == [2, 1]
    Desk(record).go_live(2)
    assert store.get_model_version_by_alias(MODEL, ALIAS).version == 2
    store._dispose_engine()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": "Flight Delay"}, "model"),
        ({"digest": "sha256:1"}, "digest"),
        ({"baseline": "none"}, "baseline"),
        ({"run_id": ""}, "run_id"),
        ({"training_set": None}, "training_set"),
        ({"pins": ("flights",)}, "pins"),
        ({"metrics": {"auc": float("nan")}}, "metrics"),
        ({"metrics": {"auc": "0.7"}}, "metrics"),
    ],
)
def test_a_bad_candidate_is_refused_by_field_and_leaves_nothing(
    record: Record, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as e:
        record.write(lambda tx: versions.register(tx, replace(candidate(1), **change), ANN))
    assert e.value.field == field
    assert record.read(versions.models) == []
    assert record.read(lambda s: audit.listed(s, 10)) == []


def test_what_is_unknown_is_named(desk: Desk) -> None:
    for query, message in (
        (lambda s: versions.listed(s, "absent"), "model 'absent' does not exist"),
        (lambda s: versions.get(s, "absent", 1), "model 'absent' does not exist"),
        (lambda s: versions.get(s, MODEL, 9), "model version 'flight-delay/9' does not exist; the newest are 3, 2, 1"),
        (lambda s: aliases.get(s, MODEL, ALIAS), "aliases of this model: none yet"),
        (lambda s: aliases.history(s, MODEL, ALIAS), "alias 'flight-delay@champion' does not exist"),
        (lambda s: promotions.get(s, "prm-1"), "promotion 'prm-1' does not exist"),
    ):
        with pytest.raises(NotFound, match=message):
            desk.record.read(query)


# --- promotions and alias moves ---------------------------------------------------------------------


def test_an_approved_promotion_moves_head_history_and_mlflow_together(desk: Desk) -> None:
    asked = desk.request(1)
    assert (asked.state, asked.expected_generation, asked.requester) == (PromotionState.AWAITING_APPROVAL, 0, "ann")
    assert head(desk.record) is None
    live = desk.approve(asked)
    assert live.state is PromotionState.LIVE
    assert [(a.approver, a.decision, a.subject_digest) for a in live.approvals] == [
        ("bob", "approve", asked.subject_digest)
    ]
    now = head(desk.record)
    assert now is not None
    assert (now.version, now.generation, now.moved_by, now.promotion_id) == (1, 1, "bob", asked.promotion_id)
    assert now.digest == candidate(1).digest
    assert mlflow(desk.record, MLFLOW_ALIASES) == [(MODEL, ALIAS, 1)]


def test_history_is_kept_and_the_promotion_before_is_superseded(desk: Desk) -> None:
    first, second = desk.go_live(1, 2)
    assert state(desk.record, first.promotion_id) is PromotionState.SUPERSEDED
    assert state(desk.record, second.promotion_id) is PromotionState.LIVE
    history = desk.record.read(lambda s: aliases.history(s, MODEL, ALIAS))
    assert [(h.generation, h.version) for h in history] == [(2, 2), (1, 1)]
    assert mlflow(desk.record, MLFLOW_ALIASES) == [(MODEL, ALIAS, 2)]


def test_aliases_of_one_model_are_independent(desk: Desk) -> None:
    desk.go_live(1)
    desk.go_live(2, 3, alias="challenger")
    found = desk.record.read(lambda s: aliases.listed(s, MODEL))
    assert [(h.alias, h.version, h.generation) for h in found] == [("challenger", 3, 2), ("champion", 1, 1)]


def test_failing_gates_reject_with_their_reasons_and_keep_the_evidence(desk: Desk) -> None:
    for seen in (None, evidence(0.99), evidence(float("nan"))):
        asked = desk.record.write(lambda tx, e=seen: promotions.request(tx, GatePolicy(), (MODEL, 1, ALIAS), e, ANN))
        assert asked.state is PromotionState.REJECTED
        stored = desk.record.read(lambda s, p=asked: promotions.get(s, p.promotion_id))
        assert repr(stored) == repr(asked)  # by text, as NaN is not equal to itself
        with pytest.raises(Conflict, match="rejected"):
            desk.approve(asked)
    assert head(desk.record) is None
    leak = desk.record.read(lambda s: audit.listed(s, 3))[1]
    assert "suspected leakage" in leak.detail["failed_gates"]["leak ceiling"]


def test_when_the_alias_moves_first_the_others_are_stale(desk: Desk) -> None:
    slow, fast = desk.request(1), desk.request(2)
    desk.approve(fast)
    assert state(desk.record, slow.promotion_id) is PromotionState.STALE
    with pytest.raises(StaleGeneration, match="stale"):
        desk.approve(slow)
    with pytest.raises(StaleGeneration):
        desk.record.write(lambda tx: promotions.reject(tx, slow.promotion_id, BOB, "too late"))
    assert head(desk.record).version == 2  # type: ignore[union-attr]


def test_a_move_from_another_generation_than_the_present_is_refused(desk: Desk) -> None:
    desk.go_live(1)
    now = head(desk.record)
    assert now is not None
    for expected in (0, 2, 7):
        with pytest.raises(StaleGeneration, match=f"is at generation 1, not {expected}"):
            desk.record.write(lambda tx, e=expected: aliases.move(tx, replace(now, version=2), e))
    assert head(desk.record) == now


def test_who_may_not(desk: Desk) -> None:
    asked = desk.request(1)
    approve: Callable[[Any], Any] = lambda who: lambda tx: promotions.approve(tx, asked.promotion_id, who, None)  # noqa: E731
    for operation in (
        lambda tx: versions.register(tx, candidate(9), EVE),
        lambda tx: promotions.request(tx, GatePolicy(), (MODEL, 1, ALIAS), evidence(), EVE),
        lambda tx: promotions.rollback(tx, (MODEL, ALIAS), ANN, "no"),
        lambda tx: promotions.reject(tx, asked.promotion_id, ANN, "no"),
        approve(ANN),
        approve(replace(ROOT, name="ann")),
    ):
        with pytest.raises(Forbidden):
            desk.record.write(operation)
    by_bob = desk.record.write(lambda tx: promotions.request(tx, GatePolicy(), (MODEL, 1, ALIAS), evidence(), BOB))
    for who in (BOB, replace(BOB, name="ann")):  # the requester, and the author of the version
        with pytest.raises(Forbidden):
            desk.record.write(lambda tx, w=who: promotions.approve(tx, by_bob.promotion_id, w, None))
    assert head(desk.record) is None


def test_an_approval_names_what_was_looked_at(desk: Desk) -> None:
    asked, other = desk.request(1), desk.request(2)
    with pytest.raises(Conflict, match="look at it again"):
        desk.record.write(lambda tx: promotions.approve(tx, asked.promotion_id, BOB, other.subject_digest))
    live = desk.record.write(lambda tx: promotions.approve(tx, asked.promotion_id, BOB, asked.subject_digest))
    assert live.state is PromotionState.LIVE


def test_a_promotion_that_was_changed_behind_our_back_is_not_approved(desk: Desk) -> None:
    asked = desk.request(1)
    with sqlite3.connect(str(desk.record._engine.url.database)) as db:
        db.execute("update rp_promotion set digest = ?", (candidate(2).digest,))
    with pytest.raises(Corrupt, match=asked.promotion_id):
        desk.approve(asked)
    assert head(desk.record) is None


def test_bad_requests_for_a_promotion(desk: Desk) -> None:
    desk.go_live(1)
    for wanted, error in (
        ((MODEL, 1, ALIAS), Conflict),
        ((MODEL, 9, ALIAS), NotFound),
        (("absent", 1, ALIAS), NotFound),
        ((MODEL, 2, "v2"), InvalidName),
        ((MODEL, 2, "2"), InvalidName),
        ((MODEL, 2, "latest"), InvalidName),
        ((MODEL, 2, "../x"), InvalidName),
        ((MODEL, 2, "eu.champion"), InvalidName),
    ):
        with pytest.raises(error):
            desk.record.write(lambda tx, w=wanted: promotions.request(tx, GatePolicy(), w, evidence(champion=1), ANN))


def test_a_rejected_promotion_says_why_and_by_whom(desk: Desk) -> None:
    asked = desk.request(1)
    with pytest.raises(InvalidInput, match="say why"):
        desk.record.write(lambda tx: promotions.reject(tx, asked.promotion_id, BOB, "  "))
    closed = desk.record.write(lambda tx: promotions.reject(tx, asked.promotion_id, BOB, "wrong season"))
    assert closed.state is PromotionState.REJECTED
    assert [(a.approver, a.decision, a.reason) for a in closed.approvals] == [("bob", "reject", "wrong season")]
    with pytest.raises(Conflict):
        desk.approve(asked)


# --- rollback ---------------------------------------------------------------------------------------


def roll_back(desk: Desk, key: str | None = None) -> AliasHead:
    return desk.record.write(lambda tx: promotions.rollback(tx, (MODEL, ALIAS), BOB, "late answers"), key)


def test_rollback_restores_the_version_before_at_a_new_generation(desk: Desk) -> None:
    first, second, third = desk.go_live(1, 2, 3)
    waiting = desk.request(1)
    back = roll_back(desk)
    assert (back.version, back.digest, back.generation, back.moved_by) == (2, candidate(2).digest, 4, "bob")
    assert head(desk.record) == back
    assert mlflow(desk.record, MLFLOW_ALIASES) == [(MODEL, ALIAS, 2)]
    assert [state(desk.record, p.promotion_id) for p in (first, second, third, waiting)] == [
        PromotionState.SUPERSEDED,
        PromotionState.LIVE,
        PromotionState.ROLLED_BACK,
        PromotionState.STALE,
    ]
    assert roll_back(desk).version == 1
    with pytest.raises(Conflict, match="no earlier version"):
        roll_back(desk)
    (again,) = desk.go_live(3)
    assert head(desk.record).generation == 6  # type: ignore[union-attr]
    assert again.state is PromotionState.LIVE
    assert len(desk.record.read(lambda s: aliases.history(s, MODEL, ALIAS))) == 6


def test_rollback_works_after_somebody_deleted_the_model_on_mlflows_page(desk: Desk) -> None:
    desk.go_live(1, 2)
    with sqlite3.connect(str(desk.record._engine.url.database)) as db:
        for table in ("registered_model_aliases", "model_version_tags", "model_versions", "registered_models"):
            db.execute(f"delete from {table}")
    assert roll_back(desk).version == 1
    assert mlflow(desk.record, MLFLOW_ALIASES) == [(MODEL, ALIAS, 1)]


# --- one transaction, one writer --------------------------------------------------------------------


def everything(record: Record) -> list[list[tuple[Any, ...]]]:
    tables = ("alias_head", "alias_history", "promotion", "approval", "audit")
    return [mlflow(record, MLFLOW_ALIASES), *(mlflow(record, f"select * from rp_{table}") for table in tables)]


@pytest.mark.parametrize("where", ["set_alias", "append"])
def test_a_crash_before_commit_changes_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    desk.go_live(1)
    asked, before = desk.request(2), everything(desk.record)
    module: Any = {"set_alias": mlflow_rows, "append": audit}[where]
    real = getattr(module, where)

    def dies(*args: Any) -> None:
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, where, dies)
        with pytest.raises(KeyboardInterrupt):
            desk.approve(asked)
    assert everything(desk.record) == before
    assert desk.approve(asked).state is PromotionState.LIVE


def test_of_many_concurrent_approvals_one_wins(desk: Desk) -> None:
    asked = [desk.request(1 + n % 3) for n in range(12)]

    def approve(n: int) -> str:
        try:
            return desk.approve(asked[n]).state
        except StaleGeneration:
            return "stale"

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(approve, range(12)))
    assert sorted(results) == ["live"] + ["stale"] * 11
    assert head(desk.record).generation == 1  # type: ignore[union-attr]


def test_a_second_incarnation_ends_the_first_ones_writes(database_url: str) -> None:
    old = Record(database_url)
    Desk(old).register(1)
    new = Record(database_url)
    assert new.epoch == old.epoch + 1
    with pytest.raises(Unavailable, match=f"another incarnation took over .epoch {new.epoch}"):
        Desk(old).register(2)
    assert (old.is_writer(), new.is_writer()) == (False, True)
    assert Desk(new).register(2).version == 2
    assert len(old.read(lambda s: versions.listed(s, MODEL))) == 2


def test_a_repeated_call_with_the_same_key_takes_effect_once(desk: Desk) -> None:
    asked = desk.request(1, key="k1")
    assert desk.request(1, key="k1") == asked
    live = desk.approve(asked, key="k2")
    assert desk.approve(asked, key="k2") == live
    desk.go_live(2)
    back = roll_back(desk, key="k3")
    assert roll_back(desk, key="k3") == back
    assert head(desk.record) == back
    with pytest.raises(Conflict, match=r"was used for promotion\.approve"):
        roll_back(desk, key="k2")
    assert len(desk.record.read(lambda s: promotions.listed(s, MODEL, None))) == 2


def test_observers_hear_of_moves_after_the_commit_only(database_url: str) -> None:
    heard: list[AliasHead] = []
    record = Record(database_url, on_move=heard.append)
    desk = Desk(record)
    for n in (1, 2):
        desk.register(n)
    desk.go_live(1, 2)
    with pytest.raises(Forbidden):
        desk.approve(desk.request(1), by=ANN)
    roll_back(desk)
    assert [(h.version, h.generation) for h in heard] == [(1, 1), (2, 2), (1, 3)]


def test_a_lock_that_mlflow_holds_is_waited_for_and_then_reported(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    other = sqlite3.connect(str(desk.record._engine.url.database), isolation_level=None, timeout=0)
    with desk.record._engine.connect() as pooled:
        pooled.exec_driver_sql("pragma busy_timeout = 10")
    other.execute("begin immediate")
    monkeypatch.setattr(database.time, "sleep", naps.append)
    with pytest.raises(Unavailable, match="registry's database is not available: database is locked"):
        desk.register(4)
    assert len(naps) == database._ATTEMPTS - 1
    assert len(desk.record.read(lambda s: versions.listed(s, MODEL))) == 3  # readers never wait

    def frees(nap_s: float) -> None:
        if other.in_transaction:
            other.execute("rollback")

    monkeypatch.setattr(database.time, "sleep", frees)
    assert desk.register(4).version == 4
    other.close()


def test_a_database_of_a_later_release_is_refused(database_url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rayplat.db") as db:
        db.execute("update rp_schema set version = 99")
    with pytest.raises(PartFailed, match="schema version 99"):
        Record(database_url)


def test_a_database_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="unable to open database file"):
        Record(f"sqlite:///{tmp_path / 'absent' / 'rayplat.db'}")


# --- audit ------------------------------------------------------------------------------------------


def test_every_change_has_one_entry_newest_first(desk: Desk) -> None:
    desk.go_live(1, 2)
    roll_back(desk)
    found = desk.record.read(lambda s: audit.listed(s, 100))
    assert [e.seq for e in found] == list(range(len(found), 0, -1))
    assert [(e.actor, e.action, e.subject) for e in found[:3]] == [
        ("bob", "alias.rollback", "flight-delay@champion"),
        ("bob", "promotion.approve", "flight-delay@champion"),
        ("ann", "promotion.request", "flight-delay@champion"),
    ]
    assert found[0].detail == {"from": 2, "to": 1, "generation": 3, "reason": "late answers"}
    assert desk.record.read(lambda s: audit.listed(s, 2)) == found[:2]
    for limit in (0, -1, 10**9):
        with pytest.raises(InvalidInput):
            desk.record.read(lambda s, n=limit: audit.listed(s, n))


@pytest.mark.parametrize(
    "tampering",
    [
        "update rp_audit set actor = 'eve' where seq = 4",
        "update rp_audit set at = at + 1 where seq = 4",
        """update rp_audit set detail = '{"x":1}' where seq = 4""",
        "update rp_audit set detail = 'x' where seq = 4",
        "delete from rp_audit where seq = 4",
        "update rp_audit set hash = prev_hash where seq = 4",
        "update rp_audit set seq = 99 where seq = 4",
    ],
)
def test_tampering_with_the_audit_log_is_found(desk: Desk, tampering: str) -> None:
    desk.go_live(1, 2)
    assert desk.record.read(audit.verify) == 7
    with sqlite3.connect(str(desk.record._engine.url.database)) as db:
        assert db.execute(tampering).rowcount == 1
    with pytest.raises(Corrupt, match="audit entry"):
        desk.record.read(audit.verify)
