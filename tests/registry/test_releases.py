"""Releases on record: one compare-and-set for each change, what is refused, who may, and what is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound, StaleGeneration
from rayplat.registry.record import aliases, audit, crosscheck, events, experiments, releases, signals, versions
from rayplat.registry.record.database import Record
from rayplat.types import (
    Canary,
    CanaryState,
    ExperimentDesign,
    Principal,
    PrincipalKind,
    Release,
    Role,
    Shadow,
    Share,
    Signal,
    Split,
)
from tests.registry.desk import ANN, BOB, EVE, MODEL, ROOT, Desk

S = CanaryState
CANARY = Canary("nightly", steps=(0.1, 0.5))
SPLIT = Split((Share("champion", 90), Share("nightly", 10)), salt="exp")
ROBOT = Principal("ci", Role.APPROVER, PrincipalKind.SERVICE)
PLATFORM = Principal("rayplat", Role.ADMIN, PrincipalKind.SERVICE)


@pytest.fixture
def live(either: Desk) -> Desk:
    """``champion`` is version 1 and protected, ``nightly`` is version 2 and free."""
    either.move(1)
    either.move(2, "nightly")
    return either


def put(desk: Desk, by: Principal = BOB, key: str | None = None, **said: Any) -> Release:
    release = replace(desk.read(releases.get, MODEL), **said)
    return desk.write(releases.put, release, release.generation, by=by, key=key)


def test_a_model_without_a_release_is_answered_by_its_alias(live: Desk) -> None:
    assert live.read(releases.get, MODEL) == Release(MODEL)
    assert live.read(releases.history, MODEL) == []
    assert live.read(releases.listed) == []


def test_every_change_is_a_generation_with_its_author_and_is_told(live: Desk) -> None:
    first = put(live, by=ANN, shadows=(Shadow("nightly", 0.5),))
    second = put(live, split=SPLIT)
    assert (first.generation, first.changed_by, second.generation, second.changed_by) == (1, "ann", 2, "bob")
    assert second.shadows == first.shadows
    assert live.read(releases.get, MODEL) == second == live.read(releases.listed)[0]
    assert live.read(releases.history, MODEL) == [second, first]
    assert live.read(releases.history, MODEL, 1) == [second]
    assert live.read(releases.at, MODEL, 1) == first
    assert [(e.actor, e.action) for e in live.read(audit.listed, 2)] == [("bob", "release.put"), ("ann", "release.put")]
    told = [e for e in live.read(events.after, 0) if e.event == "release.changed"]
    assert [(e.subject, e.body["generation"]) for e in told] == [(MODEL, 1), (MODEL, 2)]
    assert live.read(crosscheck.check_record) == []


def test_the_same_again_changes_nothing(live: Desk) -> None:
    first = put(live, canary=CANARY)
    assert put(live, canary=replace(CANARY, since=None)) == first
    assert live.read(releases.get, MODEL).generation == 1


def test_a_release_is_compared_and_set(live: Desk) -> None:
    put(live, split=SPLIT)
    with pytest.raises(StaleGeneration, match="at generation 1, not 0: somebody changed it"):
        live.write(releases.put, Release(MODEL, canary=CANARY), 0, by=BOB)
    assert live.read(releases.get, MODEL).split == SPLIT


def test_a_call_that_is_sent_again_has_one_effect(live: Desk) -> None:
    first = live.write(releases.put, Release(MODEL, split=SPLIT), 0, by=BOB, key="k")
    put(live, split=None)
    assert live.write(releases.put, Release(MODEL, split=SPLIT), 0, by=BOB, key="k") == first
    assert live.read(releases.get, MODEL).generation == 2
    with pytest.raises(Conflict, match="idempotency key"):
        live.write(releases.put, Release(MODEL, canary=CANARY), 2, by=BOB, key="k")


def test_whoever_listens_is_told_after_the_commit(live: Desk) -> None:
    heard: list[Any] = []
    record = Record(str(live.record.engine.url.render_as_string(hide_password=False)), on_move=heard.append)
    made = put(Desk(record), split=SPLIT)
    assert heard == [made]
    record.close()


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"split": Split((), "s")}, "split.shares: at least one"),
        ({"split": replace(SPLIT, shares=(Share("champion", 0.0),))}, r"split.shares\[0\].weight: 0 is no weight"),
        ({"split": replace(SPLIT, shares=(Share("champion", float("nan")),))}, r"split.shares\[0\].weight"),
        ({"split": replace(SPLIT, shares=(Share("champion", -1.0),))}, r"split.shares\[0\].weight"),
        ({"split": replace(SPLIT, shares=(Share("v7", 1.0),))}, r"split.shares\[0\].target: 'v7' is neither"),
        ({"split": replace(SPLIT, shares=(Share("1", 1.0), Share("1", 2.0)))}, "a target is named twice"),
        ({"split": replace(SPLIT, salt="")}, "split.salt"),
        ({"split": replace(SPLIT, sticky="cookie")}, "split.sticky: 'cookie' is none of request_id, entity"),
        ({"split": replace(SPLIT, sticky="header:")}, "split.sticky"),
        ({"shadows": (Shadow("nightly", 1.5),)}, r"shadows\[0\].sample: 1.5 is not between 0 and 1"),
        ({"shadows": (Shadow("champion"),)}, r"shadows\[0\].target: 'champion' answers"),
        ({"shadows": (Shadow("nightly", max_pending=0),)}, r"shadows\[0\].max_pending"),
        ({"shadows": (Shadow("nightly"), Shadow("nightly"))}, "shadows: a target is named twice"),
        ({"shadows": tuple(Shadow(str(n)) for n in range(1, 20))}, "it names 19 targets, 16 at most"),
        ({"canary": replace(CANARY, steps=())}, "canary.steps: 1 to 100 steps"),
        ({"canary": replace(CANARY, steps=(0.5, 0.1))}, "canary.steps: 0.5, 0.1 is no ascending row"),
        ({"canary": replace(CANARY, steps=(0.0, 0.1))}, "canary.steps"),
        ({"canary": replace(CANARY, steps=(0.5, 1.1))}, "canary.steps"),
        ({"canary": replace(CANARY, step=2)}, "canary.step: there is no step 2"),
        ({"canary": replace(CANARY, hold_s=-1.0)}, "canary.hold_s"),
        ({"canary": replace(CANARY, max_error_rate=1.5)}, "canary.max_error_rate"),
        ({"canary": replace(CANARY, max_p99_ratio=0.5)}, "canary.max_p99_ratio"),
        ({"canary": replace(CANARY, watch=("Drift!",))}, "watch"),
        ({"canary": replace(CANARY, target="champion")}, "canary.target: 'champion' is what it is a canary of"),
        ({"canary": CANARY, "split": SPLIT}, "canary.target: 'nightly' has a share of the split already"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(desk: Desk, said: dict[str, Any], field: str) -> None:
    before = desk.read(audit.listed)
    with pytest.raises(InvalidInput, match=field):
        desk.write(releases.put, replace(Release(MODEL), **said), 0, by=ROOT)
    assert desk.read(audit.listed) == before


def test_targets_must_exist_when_they_are_named(live: Desk) -> None:
    with pytest.raises(NotFound, match="alias 'flight-delay@absent' does not exist"):
        put(live, canary=replace(CANARY, target="absent"))
    with pytest.raises(NotFound, match="model version 'flight-delay/9'"):
        put(live, shadows=(Shadow("9"),))
    with pytest.raises(NotFound, match="alias 'other@champion'"):
        live.write(releases.put, Release("other", shadows=(Shadow("9"),)), 0, by=BOB)
    live.write(versions.retire, MODEL, 3, "old", by=ANN)
    with pytest.raises(Conflict, match="is retired"):
        put(live, shadows=(Shadow("3"),))


def test_a_rollback_works_when_its_target_is_gone(live: Desk) -> None:
    put(live, canary=CANARY)
    live.write(aliases.remove, MODEL, "nightly", by=ANN)
    back = put(live, by=ANN, canary=replace(CANARY, state=S.ROLLED_BACK, reason="late"))
    assert back.canary is not None
    assert back.canary.state is S.ROLLED_BACK
    told = [e for e in live.read(events.after, 0) if e.event == "canary.rolled_back"]
    assert [(e.body["target"], e.body["reason"]) for e in told] == [("nightly", "late")]


def test_sending_more_of_a_protected_alias_elsewhere_needs_an_approver(live: Desk) -> None:
    for said in ({"split": SPLIT}, {"canary": CANARY}):
        with pytest.raises(Forbidden, match=r"champion is protected: to send more of its requests .* role approver"):
            put(live, by=ANN, **said)
        with pytest.raises(Forbidden, match="needs a person's token"):
            put(live, by=ROBOT, **said)
    with pytest.raises(Forbidden):
        put(live, by=EVE, shadows=(Shadow("nightly"),))
    assert put(live, by=BOB, canary=CANARY).generation == 1


def test_what_reduces_exposure_is_any_developers(live: Desk) -> None:
    put(live, canary=replace(CANARY, step=1))
    for changes in ({"state": S.PAUSED}, {"state": S.RAMPING}, {"step": 0}):
        canary = live.read(releases.get, MODEL).canary
        assert canary is not None
        put(live, by=ANN, canary=replace(canary, **changes))
    for more in ({"step": 1}, {"max_error_rate": 0.5}, {"max_p99_ratio": None}, {"watch": ()}, {"steps": (0.1, 0.9)}):
        canary = live.read(releases.get, MODEL).canary
        assert canary is not None
        with pytest.raises(Forbidden):
            put(live, by=ANN, canary=replace(canary, **more))
    put(live, by=ANN, canary=None)
    with pytest.raises(Forbidden):
        put(live, by=ANN, canary=CANARY)
    put(live, split=SPLIT)
    fewer = replace(SPLIT, shares=(Share("champion", 95), Share("nightly", 5)))
    put(live, by=ANN, split=fewer)
    with pytest.raises(Forbidden):
        put(live, by=ANN, split=SPLIT)
    put(live, by=ANN, split=None, shadows=(Shadow("nightly"),), overrides=False)


def test_the_platform_takes_the_steps_that_somebody_was_allowed_to_set(live: Desk) -> None:
    put(live, canary=CANARY)
    assert put(live, by=PLATFORM, canary=replace(CANARY, step=1)).generation == 2


def test_a_free_default_alias_asks_for_no_approver(live: Desk) -> None:
    live.free("champion")
    assert put(live, by=ANN, split=SPLIT).generation == 1


def test_the_record_says_when_a_step_began(live: Desk) -> None:
    wrong = live.record.now() - timedelta(days=9)
    first = put(live, canary=replace(CANARY, since=wrong))
    assert first.canary is not None
    assert first.canary.since == first.changed_at
    shadowed = put(live, by=ANN, shadows=(Shadow("3"),))
    assert shadowed.canary == first.canary  # another change is no new step
    stepped = put(live, canary=replace(CANARY, step=1))
    assert stepped.canary is not None
    assert stepped.canary.since == stepped.changed_at


def test_a_split_is_the_test_of_a_promotion_with_a_design(live: Desk) -> None:
    asked = live.request(3)
    tested = Split((Share("champion", 1), Share("3", 1)), salt="ab", promotion_id=asked.promotion_id)
    with pytest.raises(Conflict, match="no design of an A/B test is recorded"):
        put(live, split=tested)
    design = ExperimentDesign("late", "proportion", 0.05, 0.02, 0.25, 100_000)
    live.write(experiments.start, asked.promotion_id, design, by=ANN)
    with pytest.raises(InvalidInput, match="none is version 3"):
        put(live, split=replace(tested, shares=(Share("champion", 1), Share("nightly", 1))))
    assert put(live, split=tested).split == tested
    with pytest.raises(NotFound, match="promotion"):
        put(live, split=replace(tested, promotion_id="prm-absent"))


def test_a_version_that_a_release_names_is_held(live: Desk) -> None:
    put(live, by=ANN, shadows=(Shadow("3"),))
    with pytest.raises(Conflict, match="version 3 of flight-delay is in use by the release in force"):
        live.write(versions.retire, MODEL, 3, "old", by=ANN)
    put(live, by=ANN, shadows=())
    live.write(versions.retire, MODEL, 3, "old", by=ANN)


def test_examining_writes_nothing_and_refuses_what_putting_would(live: Desk) -> None:
    assert live.read(releases.examine, Release(MODEL, split=SPLIT), BOB) == Release(MODEL)
    with pytest.raises(Forbidden):
        live.read(releases.examine, Release(MODEL, split=SPLIT), ANN)
    assert live.read(releases.listed) == []


# --- signals ----------------------------------------------------------------------------------------


def test_signals_are_added_and_read_newest_first(live: Desk) -> None:
    one = live.write(signals.put, MODEL, 2, "drift", True, detail="psi 0.4", numbers={"psi": 0.4}, by=ANN)
    other = live.write(signals.put, MODEL, 1, "quality", False, by=ROBOT)
    again = live.write(signals.put, MODEL, 2, "drift", False, by=ANN)
    assert live.read(signals.listed, MODEL) == [again, other, one]
    assert live.read(signals.listed, MODEL, 2) == [again, one]
    assert live.read(signals.listed, MODEL, 2, kind="drift", limit=1) == [again]
    assert one == Signal(MODEL, 2, "drift", True, "psi 0.4", one.at, "ann", {"psi": 0.4})
    assert live.read(crosscheck.check_record) == []


def test_bad_signals_are_refused(desk: Desk) -> None:
    for args, said, error in (
        ((MODEL, 9, "drift", True), {}, NotFound),
        ((MODEL, 1, "Drift!", True), {}, InvalidInput),
        ((MODEL, 1, "drift", 1), {}, InvalidInput),
        ((MODEL, 1, "drift", True), {"numbers": {str(n): 1.0 for n in range(101)}}, InvalidInput),
        ((MODEL, 1, "drift", True), {"detail": 7}, InvalidInput),
    ):
        with pytest.raises(error):
            desk.write(signals.put, *args, **said, by=ANN)
    with pytest.raises(Forbidden):
        desk.write(signals.put, MODEL, 1, "drift", True, by=EVE)
    assert desk.read(signals.listed, MODEL) == []
