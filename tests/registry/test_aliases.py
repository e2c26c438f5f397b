from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from rayplat.errors import Conflict, Forbidden, InvalidInput, InvalidName, NotFound, StaleGeneration
from rayplat.registry.record import aliases, audit
from rayplat.registry.record.database import Record
from rayplat.types import AliasHead
from tests.registry.desk import ALIAS, ANN, EVE, FREE, MLFLOW_ALIASES, MODEL, ROOT, Desk, candidate

START = datetime(2026, 3, 1, tzinfo=UTC)


def put(desk: Desk, version: int, expected: int | None = None, key: str | None = None) -> AliasHead:
    return desk.write(aliases.set, MODEL, FREE, version, expected, by=ANN, key=key)


def test_a_move_changes_head_history_mlflow_lineage_event_and_audit_together(either: Desk) -> None:
    put(either, 1)
    head = put(either, 2)
    assert (head.version, head.digest, head.generation, head.moved_by) == (2, candidate(2).digest, 2, "ann")
    assert either.head(FREE) == head
    assert [(h.generation, h.version) for h in either.read(aliases.history, MODEL, FREE)] == [(2, 2), (1, 1)]
    assert either.rows(MLFLOW_ALIASES) == [(MODEL, FREE, 2)]
    newest = either.read(audit.listed, 1)[0]
    assert (newest.actor, newest.action, newest.subject) == ("ann", "alias.set", f"{MODEL}@{FREE}")
    assert newest.detail == {"from": 1, "version": 2, "digest": candidate(2).digest, "generation": 2}
    assert either.rows("select count(*) from rp_outbox where event = 'alias.moved'") == [(2,)]
    edge = f"select source from rp_edge where target = 'alias:{MODEL}@{FREE}#2'"
    assert (f"model:{MODEL}/2",) in either.rows(edge)


def test_aliases_of_one_model_are_independent(either: Desk) -> None:
    for alias, number in (("production-eu", 1), ("production-us", 2), ("challenger", 3), ("production-us", 1)):
        either.move(number, alias)
    found = either.read(aliases.listed, MODEL)
    assert [(h.alias, h.version, h.generation) for h in found] == [
        ("challenger", 3, 1),
        ("production-eu", 1, 1),
        ("production-us", 1, 2),
    ]
    assert either.read(aliases.of_model, MODEL) == found
    with pytest.raises(NotFound, match="model 'absent'"):
        either.read(aliases.of_model, "absent")


def test_a_set_from_another_generation_than_the_present_is_refused(either: Desk) -> None:
    put(either, 1, expected=0)
    before = either.head(FREE)
    for expected in (0, 2, 7, -1):
        with pytest.raises(StaleGeneration, match=f"is at generation 1, not {expected}: somebody moved it"):
            put(either, 2, expected)
    assert either.head(FREE) == before
    assert put(either, 2, expected=1).generation == 2


def test_of_many_concurrent_sets_from_one_generation_one_wins(either: Desk) -> None:
    def contend(n: int) -> int:
        try:
            return put(either, 1 + n % 3, expected=0).generation
        except StaleGeneration:
            return 0

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(contend, range(12))) == [0] * 11 + [1]
    assert len(either.read(aliases.history, MODEL, FREE)) == 1


def test_the_same_key_again_takes_effect_once(either: Desk) -> None:
    first = put(either, 1, key="k1")
    put(either, 2, key="k2")
    assert put(either, 1, key="k1") == first
    assert either.head(FREE).version == 2  # type: ignore[union-attr]
    gone = either.write(aliases.remove, MODEL, FREE, by=ANN, key="k3")
    assert either.write(aliases.remove, MODEL, FREE, by=ANN, key="k3") == gone
    with pytest.raises(Conflict, match=r"was used for alias\.set"):
        either.write(aliases.remove, MODEL, FREE, by=ANN, key="k2")
    with pytest.raises(Conflict, match=f"was used for {MODEL}@{FREE}, not {MODEL}@other"):
        either.write(aliases.set, MODEL, "other", 1, by=ANN, key="k2")


@pytest.mark.parametrize(
    "name", ["latest", "v2", "V2", "2", "007", "../x", "eu.champion", "a/b", "", "Champion", "x" * 10_000, "ch\u0430mp"]
)
def test_an_alias_that_breaks_a_rule_of_names(desk: Desk, name: str) -> None:
    before = desk.rows("select count(*) from rp_audit")
    for refused in (
        lambda: desk.write(aliases.set, MODEL, name, 1, by=ANN),
        lambda: desk.write(aliases.move, AliasHead(MODEL, name, 1, candidate(1).digest, 0, START, "ann"), 0),
    ):
        with pytest.raises(InvalidName, match="alias: ") as e:
            refused()
        assert len(str(e.value)) < 250
    assert desk.rows("select count(*) from rp_audit") == before
    assert desk.read(aliases.listed) == []


def test_what_an_alias_cannot_be_pointed_at(either: Desk) -> None:
    with pytest.raises(NotFound, match=f"model version '{MODEL}/9' does not exist; the newest are 3, 2, 1"):
        put(either, 9)
    with pytest.raises(NotFound, match="model 'absent'"):
        either.write(aliases.set, "absent", FREE, 1, by=ANN)
    with pytest.raises(Forbidden, match="needs the role developer"):
        either.write(aliases.set, MODEL, FREE, 1, by=EVE)
    with pytest.raises(NotFound, match="aliases of this model: none yet"):
        either.read(aliases.get, MODEL, FREE)
    with pytest.raises(NotFound, match="alias 'flight-delay@nightly' does not exist"):
        either.read(aliases.history, MODEL, FREE)


# --- removal, and the past --------------------------------------------------------------------------


def test_history_and_generations_go_on_over_a_removal(either: Desk) -> None:
    put(either, 1)
    with pytest.raises(StaleGeneration):
        either.write(aliases.remove, MODEL, FREE, 7, by=ANN)
    gone = either.write(aliases.remove, MODEL, FREE, 1, "no longer asked for", by=ANN)
    assert (gone.generation, gone.version, gone.removed, gone.moved_by) == (2, 1, True, "ann")
    assert either.head(FREE) is None
    assert either.rows(MLFLOW_ALIASES) == []
    assert either.read(aliases.generation, MODEL, FREE) == 2
    with pytest.raises(NotFound):
        either.write(aliases.remove, MODEL, FREE, by=ANN)
    with pytest.raises(StaleGeneration, match="is at generation 2, not 0"):
        put(either, 1, expected=0)
    assert put(either, 3, expected=2).generation == 3
    found = [(h.generation, h.version, h.removed) for h in either.read(aliases.history, MODEL, FREE)]
    assert found == [(3, 3, False), (2, 1, True), (1, 1, False)]
    removal = next(e for e in either.read(audit.listed) if e.action == "alias.remove")
    assert removal.detail["reason"] == "no longer asked for"
    assert either.rows("select count(*) from rp_outbox where event = 'alias.removed'") == [(1,)]


def test_what_an_alias_was_at_a_moment(either_url: str) -> None:
    now = [START]
    record = Record(either_url, clock=lambda: now[0])
    desk = Desk(record)
    desk.free(FREE)
    for n in (1, 2):
        desk.register(n)

    def then(minutes: float) -> AliasHead | None:
        return desk.read(aliases.at, MODEL, FREE, START + timedelta(minutes=minutes))

    for minutes, version in ((10, 1), (20, 2), (30, None), (40, 1)):
        now[0] = START + timedelta(minutes=minutes)
        if version is None:
            desk.write(aliases.remove, MODEL, FREE, by=ANN)
        else:
            put(desk, version)
    seen = [then(m) for m in (0, 9.999, 10, 19.999, 20, 29.999, 30, 39.999, 40, 10**6)]
    assert [h and h.version for h in seen] == [None, None, 1, 1, 2, 2, None, None, 1, 1]
    assert desk.read(aliases.at, MODEL, "never", START) is None
    other_zone = datetime.fromisoformat("2026-03-01T02:20:00+02:00")
    assert desk.read(aliases.at, MODEL, FREE, other_zone) == then(20)
    with pytest.raises(InvalidInput, match="has no time zone"):
        desk.read(aliases.at, MODEL, FREE, datetime(2026, 3, 1))
    record.close()


def test_a_removed_alias_can_come_back_by_promotion(desk: Desk) -> None:
    desk.move(1)
    desk.write(aliases.remove, MODEL, ALIAS, reason="rebuilt from nothing", by=ROOT)
    assert desk.move(2).generation == 3


def test_a_protected_alias_is_neither_set_nor_removed_by_hand(either: Desk) -> None:
    either.move(1)
    before = either.read(aliases.listed), either.read(audit.listed)
    for operation, arguments, who in (
        (aliases.set, (MODEL, ALIAS, 2), ANN),
        (aliases.set, (MODEL, ALIAS, 2), ROOT),
        (aliases.remove, (MODEL, ALIAS, None, "in the way"), ANN),
        (aliases.remove, (MODEL, ALIAS), ROOT),
    ):
        with pytest.raises(Forbidden, match="flight-delay@champion is protected: "):
            either.write(operation, *arguments, by=who)
    assert (either.read(aliases.listed), either.read(audit.listed)) == before
    assert either.write(aliases.remove, MODEL, ALIAS, None, "the model is given up", by=ROOT).removed
