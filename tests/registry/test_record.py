"""Transactions on the record: whole or not at all, one writer, one error for each way a database can fail."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound, RayplatError, StaleGeneration, Unavailable
from rayplat.registry import calls
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import aliases, audit, database, events, mlflow_rows, opening, schema, versions
from rayplat.registry.record.database import Reader, Record, Tx
from rayplat.registry.writer import Writer
from rayplat.types import AliasHead
from tests.registry.desk import ALIAS, ANN, EVE, FREE, MLFLOW_ALIASES, MODEL, Desk, candidate


def everything(desk: Desk) -> list[list[tuple[Any, ...]]]:
    tables = ("model_version", "alias_head", "alias_history", "edge", "outbox", "audit")
    return [desk.rows(MLFLOW_ALIASES), *(desk.rows(f"select * from rp_{table}") for table in tables)]


@pytest.mark.parametrize("where", ["set_alias", "append", "emit"])
def test_a_crash_before_commit_changes_nothing(either: Desk, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    either.move(1)
    before = everything(either)
    module: Any = {"set_alias": mlflow_rows, "append": audit, "emit": events}[where]
    real = getattr(module, where)

    def dies(*args: Any) -> None:
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, where, dies)
        with pytest.raises(KeyboardInterrupt):
            either.write(aliases.set, MODEL, FREE, 2, by=ANN)
    assert everything(either) == before
    assert either.write(aliases.set, MODEL, FREE, 2, by=ANN).generation == 1


def test_a_second_incarnation_ends_the_first_ones_writes(either_url: str) -> None:
    old = Record(either_url)
    Desk(old).register(1)
    new = Record(either_url)
    assert new.epoch == old.epoch + 1
    with pytest.raises(Unavailable, match=f"another incarnation took over .epoch {new.epoch}"):
        Desk(old).register(2)
    assert (old.is_writer(), new.is_writer()) == (False, True)
    assert Desk(new).register(2).version == 2
    assert [v.version for v in Desk(old).read(versions.listed, MODEL)] == [2, 1]
    old.close()
    new.close()


def test_observers_hear_of_moves_after_the_commit_only(either_url: str) -> None:
    heard: list[tuple[AliasHead, bool]] = []
    record = Record(either_url, on_move=lambda h: heard.append((h, desk.head(h.alias) in (h, None))))
    desk = Desk(record)
    desk.free(FREE)
    for n in (1, 2):
        desk.register(n)
    desk.move(1)
    desk.move(2)
    with pytest.raises(StaleGeneration):
        desk.move(1, expected=7)
    desk.write(aliases.set, MODEL, FREE, 1, by=ANN)
    desk.write(aliases.remove, MODEL, FREE, by=ANN)
    assert [(h.alias, h.generation, h.removed, seen) for h, seen in heard] == [
        (ALIAS, 1, False, True),
        (ALIAS, 2, False, True),
        (FREE, 1, False, True),
        (FREE, 2, True, True),
    ]
    record.close()


# --- several operations in one commit ---------------------------------------------------------------


def test_a_refused_operation_takes_nothing_from_its_neighbours(either: Desk) -> None:
    def breaks_a_rule_of_the_table(tx: Tx) -> None:
        tx.connection.execute(sa.insert(schema.lease).values(id=1, epoch=0, writes=0))

    def half_done(tx: Tx) -> None:
        versions.register(tx, candidate(7), by=ANN)
        raise StaleGeneration("changed its mind")

    results = either.record.write_all(
        [
            (lambda tx: versions.register(tx, candidate(4), by=ANN).version, "k1"),
            (lambda tx: versions.register(tx, candidate(5), by=EVE), "k2"),
            (half_done, "k3"),
            (breaks_a_rule_of_the_table, "k4"),
            (lambda tx: aliases.set(tx, MODEL, FREE, 10**20, by=ANN), "k5"),
            (lambda tx: versions.register(tx, candidate(6), by=ANN).version, "k6"),
        ]
    )
    assert [r if isinstance(r, int) else type(r) for r in results] == [
        4,
        Forbidden,
        StaleGeneration,
        Conflict,
        NotFound,
        5,
    ]
    assert "the database refuses it" in str(results[3])
    assert [v.digest for v in either.read(versions.listed, MODEL)][:2] == [candidate(6).digest, candidate(4).digest]
    assert either.read(audit.verify) == 6


def test_what_a_column_cannot_hold_is_refused_as_a_value(either: Desk) -> None:
    def too_large(tx: Tx) -> None:
        tx.connection.execute(sa.update(schema.lease).values(writes=10**30))

    before = either.rows("select epoch from rp_lease")
    with pytest.raises(InvalidInput, match="value: the database cannot hold it"):
        either.record.write(too_large)
    assert either.rows("select epoch from rp_lease") == before


def test_a_commit_that_fails_fails_all_of_its_group(desk: Desk) -> None:
    def deferred(tx: Tx) -> None:  # noticed at the commit only
        tx.connection.exec_driver_sql("pragma defer_foreign_keys = on")
        tx.connection.execute(sa.text("update rp_alias_head set version = 99"))

    desk.move(1)
    before = everything(desk)
    with pytest.raises(RayplatError, match="the database refuses it"):
        desk.record.write_all([(lambda tx: versions.register(tx, candidate(4), by=ANN), None), (deferred, None)])
    assert everything(desk) == before


# --- the thread that writes -------------------------------------------------------------------------


class Held:
    """A writer whose thread is kept busy, so that what comes next waits and shares one commit."""

    def __init__(self, record: Record) -> None:
        self.writer, self.go, started = Writer(record), threading.Event(), threading.Event()
        self.busy: Future[bool] = self.writer.submit(lambda tx: started.set() or self.go.wait(30), None)
        assert started.wait(30)

    def submit(self, operation: Callable[[Tx], Any], key: str | None = None) -> Future[Any]:
        return self.writer.submit(operation, key)


def test_operations_that_wait_share_a_commit_and_keep_their_order(desk: Desk) -> None:
    desk.free(FREE)
    held = Held(desk.record)
    moves = [held.submit(lambda tx, n=n: aliases.set(tx, MODEL, FREE, 1 + n % 3, by=ANN)) for n in range(40)]
    refused = held.submit(lambda tx: aliases.set(tx, MODEL, "v2", 1, by=ANN))
    last = held.submit(lambda tx: aliases.set(tx, MODEL, FREE, 2, by=ANN))
    before = desk.rows("select writes from rp_lease")[0][0]
    assert not any(f.done() for f in moves)
    held.go.set()
    assert [f.result(30).generation for f in moves] == list(range(1, 41))
    with pytest.raises(InvalidInput, match="shadow a version number"):
        refused.result(30)
    assert last.result(30).generation == 41
    assert desk.rows("select writes from rp_lease")[0][0] - before == 2  # the one that was held, and all the others
    assert desk.read(audit.verify) == 4 + 41


def test_the_same_key_twice_in_one_group_takes_effect_once(desk: Desk) -> None:
    desk.free(FREE)
    held = Held(desk.record)
    both = [held.submit(lambda tx: aliases.set(tx, MODEL, FREE, 1, by=ANN), "k") for _ in range(2)]
    held.go.set()
    assert both[0].result(30) == both[1].result(30)
    assert both[0].result(30).generation == 1


def test_the_writer_outlives_a_failing_database_and_what_is_no_exception(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exits(tx: Tx) -> None:
        raise SystemExit

    writer = Writer(desk.record)
    with pytest.raises(SystemExit):
        writer.submit(exits, None).result(30)
    with monkeypatch.context() as patch:
        patch.setattr(desk.record, "epoch", 0)
        both = [writer.submit(lambda tx: None, None) for _ in range(2)]
        for one in both:
            with pytest.raises(Unavailable, match="another incarnation"):
                one.result(30)
    assert writer.submit(lambda tx: versions.register(tx, candidate(4), by=ANN).version, None).result(30) == 4


def test_a_cancelled_operation_is_left_out(desk: Desk) -> None:
    desk.free(FREE)
    held = Held(desk.record)
    mine = held.submit(lambda tx: aliases.set(tx, MODEL, FREE, 1, by=ANN))
    other = held.submit(lambda tx: aliases.set(tx, MODEL, FREE, 2, by=ANN))
    assert mine.cancel()
    held.go.set()
    assert other.result(30).generation == 1


# --- operations by name -----------------------------------------------------------------------------


RECORD = "rayplat.registry.record."


def test_operations_of_the_record_have_a_name() -> None:
    assert calls.resolve(calls.name_of(versions.get, "read"), "read") is versions.get
    assert calls.resolve(calls.name_of(aliases.set, "write"), "write") is aliases.set


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("refused", [lambda tx: None, versions._enter, time.sleep, Desk.move, versions.require])
def test_other_functions_have_none(kind: Any, refused: Any) -> None:
    with pytest.raises(InvalidInput, match=f"is no operation of the registry's record to {kind}"):
        calls.name_of(refused, kind)


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize(
    "name",
    [
        "",
        "os:system",
        RECORD[:-1],
        f"{RECORD}versions",
        f"{RECORD}versions:_enter",
        f"{RECORD}versions:absent",
        f"{RECORD}versions:require",  # imported there, not written there
        f"{RECORD}versions:mlflow_rows",
        f"{RECORD}versions:get.__class__",
        f"{RECORD}absent:get",
        f"{RECORD}opening:take_epoch",
        f"{RECORD}rows:to_us",
        "rayplat.registry.client:create_token",
        "rayplat.registry.recordings:get",
        "x" * 10_000,
    ],
)
def test_nothing_else_can_be_called_by_name(kind: Any, name: str) -> None:
    with pytest.raises(InvalidInput, match="is no operation of the registry's record") as e:
        calls.resolve(name, kind)
    assert len(str(e.value)) < 400


def test_a_read_does_not_write_and_a_step_of_an_operation_is_none() -> None:
    for name, kind in (
        ("aliases:set", "read"),
        ("versions:get", "write"),
        ("aliases:move", "write"),  # without the approvals that lead to it
        ("audit:append", "write"),
        ("events:emit", "write"),
        ("lineage:link", "write"),
    ):
        with pytest.raises(InvalidInput, match=f"is no operation of the registry's record to {kind}"):
            calls.resolve(RECORD + name, kind)  # type: ignore[arg-type]


def test_the_local_registry_has_the_same_rules(record: Record) -> None:
    registry = LocalRegistry(record)
    assert registry.write(versions.register, candidate(1), by=ANN).version == 1
    assert registry.read(versions.get, MODEL, 1).author == "ann"
    for call in (registry.read, registry.write):
        with pytest.raises(InvalidInput, match="is no operation"):
            call(lambda connection: None)


# --- databases that fail ----------------------------------------------------------------------------


def test_a_lock_that_mlflow_holds_is_waited_for_and_then_reported(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    other = sqlite3.connect(str(desk.record.engine.url.database), isolation_level=None, timeout=0)
    with desk.record.engine.connect() as pooled:
        pooled.exec_driver_sql("pragma busy_timeout = 10")
    other.execute("begin immediate")
    monkeypatch.setattr(database.time, "sleep", naps.append)
    with pytest.raises(Unavailable, match="registry's database is not available: database is locked"):
        desk.register(4)
    assert len(naps) == database._ATTEMPTS - 1
    assert len(desk.read(versions.listed, MODEL)) == 3  # readers never wait

    def frees(nap_s: float) -> None:
        if other.in_transaction:
            other.execute("rollback")

    monkeypatch.setattr(database.time, "sleep", frees)
    assert desk.register(4).version == 4
    other.close()


@pytest.mark.services
def test_a_lock_on_postgresql_is_not_waited_for_without_end(
    postgres_record_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    monkeypatch.setattr(opening, "_LOCK_TIMEOUT_MS", 200)
    desk = Desk(Record(postgres_record_url))
    with psycopg.connect(postgres_record_url) as other:
        other.execute("select * from rp_lease for update")
        with pytest.raises(Unavailable, match="lock timeout"):
            desk.register(1)
        other.rollback()
        assert desk.register(1).version == 1
    desk.record.close()


def test_a_reader_takes_nothing_from_the_writer(either_url: str) -> None:
    record = Record(either_url)
    reader = Reader(either_url)
    assert reader.read(versions.models) == []
    assert Desk(record).register(1).version == 1
    assert record.is_writer()
    assert reader.read(versions.models) == [MODEL]
    reader.close()
    record.close()


def test_concurrent_writers_of_one_record_wait_for_each_other(either: Desk) -> None:
    def register(n: int) -> int:
        return either.register(10 + n).version

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(register, range(12))) == list(range(4, 16))
    assert either.read(audit.verify) == 16


def test_times_are_utc_wherever_the_server_stands(either: Desk) -> None:
    made = either.read(versions.get, MODEL, 1)
    assert made.created_at.utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert abs((either.record.now() - made.created_at).total_seconds()) < 60
