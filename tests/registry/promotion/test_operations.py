"""Promotions in the record: what each call changes, what it refuses, and that a refusal leaves the record unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
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
    RayplatError,
    StaleGeneration,
)
from rayplat.registry import documents, promotion, sequential
from rayplat.registry.record import (
    aliases,
    audit,
    decisions,
    experiments,
    policies,
    promotion_steps,
    promotions,
    versions,
)
from rayplat.registry.record.database import Defaults, Record
from rayplat.types import (
    AliasPolicy,
    GateResult,
    GateSpec,
    ParityEvidence,
    Principal,
    PrincipalKind,
    Promotion,
    PromotionState,
    Role,
    Verdict,
    VerificationEvidence,
)
from tests.registry.desk import ALIAS, ANN, BOB, EVE, MODEL, ROOT, Desk, candidate, evidence
from tests.registry.gates.cases import DESIGN, DIGEST, WON

S = PromotionState
CARL, DORA = Principal("carl", Role.APPROVER), Principal("dora", Role.ADMIN)
CARL_AS_ANN = replace(CARL, name="ann")
ROBOT = Principal("robot", Role.ADMIN, PrincipalKind.SERVICE)
PLATFORM = Principal("rayplat", Role.ADMIN, PrincipalKind.SERVICE)
START = datetime(2013, 11, 1, tzinfo=UTC)
LONG = AliasPolicy(MODEL, ALIAS, True, (GateSpec("intact"), GateSpec("enough_rows")), 2, cooldown_s=600.0)


class Clock:
    now = START

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def record(either_url: str, clock: Clock) -> Iterator[Record]:
    opened = Record(either_url, clock=clock)
    yield opened
    opened.close()


def dump(desk: Desk) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of the record but the counter of writes, and MLflow's aliases."""

    def rows(connection: sa.Connection) -> dict[str, list[tuple[Any, ...]]]:
        names = sorted(n for n in sa.inspect(connection).get_table_names() if n.startswith("rp_") and n != "rp_lease")
        return {n: [tuple(r) for r in connection.execute(sa.text(f"select * from {n}"))] for n in names}

    return {**desk.read(rows), "mlflow": desk.rows("select name, alias, version from registered_model_aliases")}


def refused(desk: Desk, error: type[RayplatError], said: str, operation: Any, *args: Any, **kwargs: Any) -> None:
    before = dump(desk)
    with pytest.raises(error, match=said):
        desk.write(operation, *args, **kwargs)
    assert dump(desk) == before


def events(desk: Desk) -> list[str]:
    return [row[0] for row in desk.rows("select event from rp_outbox order by seq") if not row[0].startswith("model.")]


def verified(asked: Promotion, **changes: Any) -> VerificationEvidence:
    return replace(VerificationEvidence(asked.digest, True, True, "pt2", False, False), **changes)


def awaiting(desk: Desk, version: int = 1, policy: AliasPolicy = LONG) -> Promotion:
    desk.write(policies.set, policy, by=ROOT)
    return desk.request(version)


def read(desk: Desk, asked: Promotion) -> Promotion:
    return desk.read(promotions.get, asked.promotion_id)


# --- the whole way ------------------------------------------------------------------------------------


def test_a_promotion_with_two_approvals_and_a_cool_down(desk: Desk, clock: Clock) -> None:
    asked = awaiting(desk)
    assert asked.state is S.AWAITING_APPROVAL
    one = desk.write(decisions.approve, asked.promotion_id, asked.subject_digest, by=BOB)
    two = desk.write(decisions.approve, asked.promotion_id, asked.subject_digest, by=CARL)
    assert (one.state, two.state) == (S.AWAITING_APPROVAL, S.APPROVED)
    assert desk.write(promotion_steps.tick) == []
    assert desk.head() is None
    clock.now += timedelta(seconds=600)
    (live,) = desk.write(promotion_steps.tick)
    head = desk.head()
    assert head is not None
    assert (live.state, head.version, head.moved_by, head.promotion_id) == (S.LIVE, 1, "carl", asked.promotion_id)
    assert [a.approver for a in live.approvals] == ["bob", "carl"]
    assert read(desk, asked) == live
    told = [e for e in events(desk) if e.startswith("promotion.")]
    assert told == ["promotion." + e for e in ("requested", "awaiting_approval", "approved", "live")]


def test_without_evidence_it_waits_and_may_be_given_it_later(desk: Desk) -> None:
    asked = desk.write(promotions.request, MODEL, 1, ALIAS, by=ANN)
    assert (asked.state, promotion.waits_for(asked)) == (S.REQUESTED, "the platform to verify the bundle")
    refused(desk, Conflict, "is requested", decisions.approve, asked.promotion_id, by=BOB)
    asked = desk.verify(asked)
    assert (asked.state, promotion.waits_for(asked)) == (S.VERIFIED, "evidence")
    given = desk.write(promotions.submit_evidence, asked.promotion_id, evidence(), by=ANN)
    assert given.state is S.AWAITING_APPROVAL
    assert given.subject_digest != asked.subject_digest
    assert desk.approve(given).state is S.LIVE


def test_a_failed_gate_is_told_and_kept(desk: Desk) -> None:
    asked = desk.verify(desk.write(promotions.request, MODEL, 1, ALIAS, evidence(float("nan")), by=ANN))
    assert asked.state is S.REJECTED
    assert documents.text(read(desk, asked)) == documents.text(asked)  # as NaN is not equal to itself
    assert events(desk) == ["promotion.requested", "gate.failed", "promotion.rejected"]
    entry = desk.read(audit.listed, 1)[0]
    assert "auc is nan" in entry.detail["failed_gates"]["metric_floor"]


def test_the_parity_setting_is_part_of_the_built_in_policy(database_url: str) -> None:
    desk = Desk(Record(database_url, defaults=Defaults(max_parity_mismatch=0.01)))
    desk.register(1)
    assert "feature_parity" in {g.gate for g in desk.request(1).gates}
    given = replace(evidence(), parity=ParityEvidence(1000, 1))
    asked = desk.verify(desk.write(promotions.request, MODEL, 1, ALIAS, given, by=ANN))
    assert asked.state is S.AWAITING_APPROVAL
    desk.record.close()


def test_a_free_alias_goes_live_at_once(desk: Desk) -> None:
    desk.write(policies.set, AliasPolicy("*", "nightly", False, (), 0), by=ROOT)
    live = desk.write(promotions.request, MODEL, 2, "nightly", by=ANN)
    assert live.state is S.LIVE
    assert desk.head("nightly").version == 2  # type: ignore[union-attr]


def test_an_experiment_is_designed_before_its_outcomes(desk: Desk) -> None:
    (first,) = desk.go_live(1)
    desk.write(
        policies.set, AliasPolicy(MODEL, ALIAS, True, (GateSpec("experiment", {"metric": "accepted"}),)), by=ROOT
    )
    asked = desk.write(promotions.request, MODEL, 2, ALIAS, by=ANN)
    refused(desk, InvalidInput, "alpha", experiments.start, asked.promotion_id, replace(DESIGN, alpha=1.0), by=ANN)
    found = desk.write(experiments.start, asked.promotion_id, DESIGN, by=ANN)
    assert found.design_digest == sequential.design_digest(DESIGN)
    assert found.power > 0.5
    assert desk.read(experiments.design, asked.promotion_id) == DESIGN
    refused(desk, Conflict, "an experiment already", experiments.start, asked.promotion_id, DESIGN, by=ANN)
    early = replace(WON, first_outcome_at=START - timedelta(days=1))
    late = replace(evidence(champion=1), experiment=replace(WON, first_outcome_at=found.started_at))
    with pytest.raises(NotFound, match="no design"):
        desk.read(experiments.get, first.promotion_id)
    done = desk.write(promotions.submit_evidence, asked.promotion_id, late, by=ANN)
    assert done.state is S.AWAITING_APPROVAL
    other = desk.write(promotions.request, MODEL, 3, ALIAS, by=ANN)
    desk.write(experiments.start, other.promotion_id, DESIGN, by=ANN)
    bad = desk.write(promotions.submit_evidence, other.promotion_id, replace(late, experiment=early), by=ANN)
    assert (bad.state, "older than its design" in bad.reason) == (S.REJECTED, True)


def test_outcomes_of_a_time_to_come_are_refused(desk: Desk, clock: Clock) -> None:
    asked = desk.request(1)
    ahead = replace(evidence(), experiment=replace(WON, first_outcome_at=clock.now + timedelta(minutes=1)))
    what = "first_outcome_at.* is still to come"
    refused(desk, InvalidInput, what, promotions.submit_evidence, asked.promotion_id, ahead, by=ANN)
    refused(desk, InvalidInput, what, promotions.request, MODEL, 2, ALIAS, ahead, by=ANN)


# --- who may, and what an approval is for -------------------------------------------------------------


def test_who_may_not(desk: Desk) -> None:
    asked = awaiting(desk)
    open_, id_ = promotions.request, asked.promotion_id
    refused(desk, Forbidden, "role developer", open_, MODEL, 2, ALIAS, evidence(), by=EVE)
    refused(desk, Forbidden, "role approver", decisions.approve, id_, by=ANN)
    refused(desk, Forbidden, "own promotion", decisions.approve, id_, by=replace(ROOT, name="ann"))
    refused(desk, Forbidden, "a person's token", decisions.approve, id_, by=ROBOT)
    refused(desk, Forbidden, "by the platform itself", promotions.record_verification, id_, verified(asked), by=ROOT)
    refused(desk, Forbidden, "role admin", promotions.record_verification, id_, verified(asked), by=ANN)
    refused(desk, Forbidden, "by the platform itself", promotions.record_custom_results, id_, (), DIGEST, by=DORA)
    refused(desk, Forbidden, "role approver", decisions.reject, id_, "no", by=ANN)
    refused(desk, Forbidden, "role approver", promotions.cancel, id_, by=EVE)
    refused(desk, Forbidden, "role approver", decisions.rollback, MODEL, ALIAS, "no", by=ANN)
    refused(desk, Forbidden, "role admin", decisions.break_glass, MODEL, 1, ALIAS, "now", by=BOB)
    refused(desk, Forbidden, "role admin", policies.set, LONG, by=BOB)
    refused(desk, Forbidden, "role admin", policies.remove, MODEL, ALIAS, by=BOB)
    refused(desk, Forbidden, "role developer", experiments.start, id_, DESIGN, by=EVE)
    by_bob = desk.write(promotions.request, MODEL, 2, ALIAS, evidence(), by=BOB)
    by_bob = desk.write(promotions.record_verification, by_bob.promotion_id, verified(by_bob), by=PLATFORM)
    refused(desk, Forbidden, "own promotion", decisions.approve, by_bob.promotion_id, by=BOB)
    refused(desk, Forbidden, "author of version 2", decisions.approve, by_bob.promotion_id, by=replace(BOB, name="ann"))


def test_the_runs_author_judges_nothing_of_it(desk: Desk) -> None:
    made = replace(candidate(7), run_author="bob")
    assert desk.write(versions.register, made, by=ANN).run_author == "bob"
    assert desk.read(audit.listed, 1)[0].detail["run_author"] == "bob"
    asked, ours = desk.verify(desk.write(promotions.request, MODEL, 4, ALIAS, by=ANN)), "run's author of version 4"
    refused(desk, Forbidden, ours, decisions.waive, asked.promotion_id, "metric_floor", "a small market", by=BOB)
    desk.write(promotions.submit_evidence, asked.promotion_id, evidence(), by=ANN)
    refused(desk, Forbidden, ours, decisions.approve, asked.promotion_id, by=BOB)
    broken = desk.write(decisions.break_glass, MODEL, 4, "nightly", "the other answers nonsense", by=ROOT)
    refused(desk, Forbidden, ours, decisions.review, broken.promotion_id, "fine", by=BOB)
    refused(desk, Forbidden, "author of version 4", decisions.review, broken.promotion_id, "fine", by=CARL_AS_ANN)
    assert desk.write(decisions.review, broken.promotion_id, "fine", by=CARL).reviewed_by == "carl"
    assert desk.approve(asked, CARL).state is S.LIVE


def test_named_approvers_and_named_sources_of_evidence(desk: Desk) -> None:
    desk.write(policies.set, replace(LONG, min_approvals=1, approvers=("carl",), evidence_from=("robot",)), by=ROOT)
    refused(desk, Forbidden, "takes evidence from robot", promotions.request, MODEL, 1, ALIAS, evidence(), by=ANN)
    asked = desk.write(promotions.request, MODEL, 1, ALIAS, by=ANN)
    refused(desk, Forbidden, "takes evidence from", promotions.submit_evidence, asked.promotion_id, evidence(), by=ANN)
    desk.write(promotions.submit_evidence, asked.promotion_id, evidence(), by=ROBOT)
    desk.write(promotions.record_verification, asked.promotion_id, verified(asked), by=PLATFORM)
    refused(desk, Forbidden, "names as approvers carl", decisions.approve, asked.promotion_id, by=BOB)
    assert desk.approve(asked, CARL).state is S.APPROVED


def test_a_replayed_approval_is_refused(desk: Desk, clock: Clock) -> None:
    desk.write(policies.set, LONG, by=ROOT)
    first, other = awaiting(desk, 1), awaiting(desk, 2)
    of_other = other.subject_digest
    refused(desk, Conflict, "look at it again", decisions.approve, first.promotion_id, of_other, by=BOB)
    desk.write(decisions.approve, first.promotion_id, first.subject_digest, by=BOB)
    refused(desk, Conflict, "has approved promotion", decisions.approve, first.promotion_id, by=BOB)
    changed = replace(evidence(), rows=60_000)
    stale = desk.write(promotions.submit_evidence, first.promotion_id, changed, by=ANN)
    assert (stale.state, "after it was decided" in stale.reason) == (S.STALE, True)
    refused(desk, StaleGeneration, "is stale", decisions.approve, first.promotion_id, first.subject_digest, by=CARL)
    clock.now += timedelta(days=7)
    refused(desk, Conflict, "expired at", decisions.approve, other.promotion_id, of_other, by=CARL)
    refused(desk, Conflict, "expired at", promotions.submit_evidence, other.promotion_id, evidence(), by=ANN)
    (expired,) = desk.write(promotion_steps.tick)
    assert (expired.promotion_id, expired.state) == (other.promotion_id, S.EXPIRED)
    refused(desk, Conflict, "is expired", decisions.approve, other.promotion_id, of_other, by=CARL)


def test_the_same_key_is_the_same_call(desk: Desk) -> None:
    asked = desk.request(1, key="k1")
    assert desk.request(1, key="k1") == asked
    live = desk.approve(asked, key="k2")
    before = dump(desk)
    assert desk.approve(asked, key="k2") == live
    assert dump(desk) == before
    with pytest.raises(Conflict, match=r"was used for promotion\.request"):
        desk.approve(asked, key="k1")


def test_a_key_used_again_for_something_else_is_refused(desk: Desk) -> None:
    """Each operation, told by its promotion or by what it was given."""
    desk.go_live(1)
    one, two = awaiting(desk, 2), desk.request(3)
    a, b, again = one.promotion_id, two.promotion_id, lambda n: {"key": f"k{n}"}
    given = evidence(champion=1)
    open_a, open_b = (desk.write(promotions.request, MODEL, n, "other", by=ANN).promotion_id for n in (2, 3))
    calls: list[tuple[Any, tuple[Any, ...], tuple[Any, ...], Principal]] = [
        (promotions.request, (MODEL, 2, "x"), (MODEL, 3, "x"), ANN),
        (promotions.submit_evidence, (open_a, given), (open_b, given), ANN),
        (decisions.approve, (a,), (b,), BOB),
        (decisions.approve, (b, two.subject_digest), (b, one.subject_digest), BOB),
        (decisions.waive, (open_a, "shadow_agreement", "why"), (open_b, "shadow_agreement", "why"), BOB),
        (decisions.reject, (a, "no"), (b, "no"), CARL),
        (promotions.cancel, (open_a, "no"), (open_b, "no"), ANN),
        (experiments.start, (b, DESIGN), (b, replace(DESIGN, alpha=0.01)), ANN),
        (decisions.break_glass, (MODEL, 2, ALIAS, "now"), (MODEL, 3, ALIAS, "now"), ROOT),
        (decisions.rollback, (MODEL, ALIAS, "late"), (MODEL, "other", "late"), BOB),
        (policies.set, (LONG,), (replace(LONG, cooldown_s=1.0),), ROOT),
        (policies.remove, (MODEL, ALIAS), ("*", ALIAS), ROOT),
    ]
    shadow = AliasPolicy(MODEL, "other", True, (GateSpec("shadow_agreement"),))
    for n, (operation, first, second, by) in enumerate(calls):
        if operation is decisions.waive:  # a gate that waits
            desk.write(policies.set, shadow, by=ROOT)
            open_a, open_b = (desk.write(promotions.request, MODEL, v, "other", by=ANN).promotion_id for v in (2, 3))
            first, second = (open_a, *first[1:]), (open_b, *second[1:])
        elif operation is promotions.cancel:
            first, second = (open_a, "no"), (open_b, "no")
        if operation is policies.set:
            first, second = ((replace(p[0], alias="fresh"),) for p in (first, second))
        made = desk.write(operation, *first, by=by, **again(n))
        before = dump(desk)
        with pytest.raises(Conflict, match="was used"):
            desk.write(operation, *second, by=by, **again(n))
        assert dump(desk) == before
        replayed = desk.write(operation, *first, by=by, **again(n))
        assert type(replayed) is type(made)
        assert dump(desk) == before


def test_a_row_that_was_changed_is_not_approved(desk: Desk) -> None:
    asked = desk.request(1)
    desk.change("update rp_promotion set version = 2")
    refused(desk, Corrupt, asked.promotion_id, decisions.approve, asked.promotion_id, by=BOB)


# --- what makes it stale ------------------------------------------------------------------------------


def test_when_the_alias_moves_first_the_others_are_stale(desk: Desk) -> None:
    slow, fast = desk.request(1), desk.request(2)
    desk.approve(fast)
    assert read(desk, slow).state is S.STALE
    refused(desk, StaleGeneration, "is stale", decisions.approve, slow.promotion_id, by=BOB)
    refused(desk, StaleGeneration, "is stale", decisions.reject, slow.promotion_id, "late", by=BOB)


def test_an_alias_moved_past_promotions_is_noticed_before_a_tick_and_by_it(desk: Desk) -> None:
    asked = desk.request(1)
    desk.move(2)
    refused(desk, StaleGeneration, "is stale", decisions.approve, asked.promotion_id, by=BOB)
    (stale,) = desk.write(promotion_steps.tick)
    assert (stale.state, stale.reason) == (S.STALE, "the alias moved from generation 0 to 1")
    (live,) = desk.go_live(3)
    desk.move(1)
    (superseded,) = desk.write(promotion_steps.tick)
    assert (superseded.promotion_id, superseded.state) == (live.promotion_id, S.SUPERSEDED)


def test_a_changed_policy_makes_it_stale_and_another_alias_stays(desk: Desk) -> None:
    asked, other = desk.request(1), desk.request(1, alias="challenger")
    desk.write(policies.set, LONG, by=ROOT)
    assert read(desk, asked).state is S.STALE
    assert read(desk, asked).reason == "the alias's policy was changed"
    assert read(desk, other).state is S.AWAITING_APPROVAL
    assert desk.write(policies.set, LONG, by=ROOT).digest
    again = awaiting(desk)
    desk.write(policies.remove, MODEL, ALIAS, by=ROOT)
    assert read(desk, again).state is S.STALE
    assert events(desk)[-1] == "promotion.stale"


def test_the_most_telling_policy_holds(desk: Desk) -> None:
    def cooldown(model: str, alias: str) -> float:
        return desk.read(policies.find, model, alias).cooldown_s

    assert cooldown(MODEL, ALIAS) == 0.0
    for n, (model, alias) in enumerate((("*", "*"), ("*", ALIAS), (MODEL, "*"), (MODEL, ALIAS)), 1):
        desk.write(policies.set, replace(LONG, model=model, alias=alias, cooldown_s=float(n)), by=ROOT)
        assert cooldown(MODEL, ALIAS) == n
    assert [cooldown(m, a) for m, a in (("x", "x"), ("x", ALIAS), (MODEL, "x"))] == [1, 2, 3]
    desk.write(policies.remove, MODEL, ALIAS, by=ROOT)
    assert cooldown(MODEL, ALIAS) == 3
    assert len(desk.read(policies.listed)) == 3
    refused(desk, NotFound, "alias policy", policies.remove, MODEL, ALIAS, by=ROOT)
    refused(desk, InvalidInput, "at least one gate", policies.set, replace(LONG, gates=()), by=ROOT)


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ((MODEL, 1, ALIAS), Conflict, "already points at version 1"),
        ((MODEL, 9, ALIAS), NotFound, "newest are 3, 2, 1"),
        ((MODEL, 2**40, ALIAS), NotFound, "model version"),
        (("absent", 1, ALIAS), NotFound, "model 'absent'"),
        (("a/b", 1, ALIAS), NotFound, "model 'a/b'"),
        (("m" * 10_000, 1, ALIAS), NotFound, "does not exist"),
        ((MODEL, 2, "v2"), InvalidName, "shadow a version"),
        ((MODEL, 2, "latest"), InvalidName, "shadow a version"),
        ((MODEL, 2, "../x"), InvalidName, "no valid name"),
        ((MODEL, 2, "chаmpion"), InvalidName, "no valid name"),
    ],
)
def test_bad_requests(desk: Desk, wanted: tuple[str, int, str], error: type[RayplatError], said: str) -> None:
    desk.go_live(1)
    refused(desk, error, said, promotions.request, *wanted, evidence(champion=1), by=ANN)
    refused(desk, error, said, decisions.break_glass, *wanted, "now", by=ROOT)


def test_evidence_that_is_no_document_is_refused_and_one_that_is_wrong_fails(desk: Desk) -> None:
    for change, said in (({"rows": "many"}, "evidence.rows"), ({"custom": {"x": {1, 2}}}, "cannot be encoded")):
        refused(desk, InvalidInput, said, promotions.request, MODEL, 1, ALIAS, replace(evidence(), **change), by=ANN)
    other = GateSpec("pinned_dataset", {"dataset": DIGEST})
    desk.write(policies.set, AliasPolicy(MODEL, ALIAS, True, (other,)), by=ROOT)
    asked = desk.write(promotions.request, MODEL, 1, ALIAS, evidence(), by=ANN)
    assert asked.state is S.REJECTED
    assert f"the policy asks for exactly {DIGEST}" in asked.reason
    for id_ in ("prm-absent", "", "x" * 10_000):
        refused(desk, NotFound, "promotion", decisions.approve, id_, by=BOB)


def test_a_retired_version_is_not_promoted_and_a_promoted_one_not_retired(desk: Desk) -> None:
    desk.write(versions.retire, MODEL, 1, "old", by=BOB)
    refused(desk, Conflict, "retired", promotions.request, MODEL, 1, ALIAS, evidence(), by=ANN)
    desk.request(2)
    refused(desk, Conflict, "in use by promotion", versions.retire, MODEL, 2, "old", by=BOB)


def test_custom_gates_answer_about_the_evidence_they_saw(desk: Desk) -> None:
    custom = GateSpec("custom", {"function": "own:gate", "digest": DIGEST})
    desk.write(policies.set, AliasPolicy(MODEL, ALIAS, True, (custom,)), by=ROOT)
    asked = desk.request(1)
    assert asked.state is S.VERIFIED
    passed, id_ = (GateResult("custom", Verdict.PASS, "own:gate says yes"),), asked.promotion_id
    refused(desk, Conflict, "run the gates again", promotions.record_custom_results, id_, passed, DIGEST, by=PLATFORM)
    seen = documents.digest(asked.evidence)
    refused(desk, InvalidInput, "exactly the gates", promotions.record_custom_results, id_, (), seen, by=PLATFORM)
    judged = desk.write(promotions.record_custom_results, id_, passed, seen, by=PLATFORM)
    assert (judged.state, judged.gates) == (S.AWAITING_APPROVAL, passed)
    assert read(desk, judged) == judged


# --- past the rules, and back -------------------------------------------------------------------------


def test_a_waiver_needs_an_approver_of_it_and_stands_out(desk: Desk) -> None:
    asked = desk.verify(desk.write(promotions.request, MODEL, 1, ALIAS, by=ANN))
    gate, id_ = "metric_floor", asked.promotion_id
    refused(desk, Forbidden, "own promotion", decisions.waive, id_, gate, "why", by=replace(ROOT, name="ann"))
    refused(desk, Forbidden, "role approver", decisions.waive, id_, gate, "why", by=EVE)
    refused(desk, InvalidInput, "say why", decisions.waive, id_, gate, " ", by=BOB)
    refused(desk, InvalidInput, "none of this promotion's", decisions.waive, id_, "magic", "why", by=BOB)
    desk.write(decisions.waive, id_, gate, "a small market, agreed with the owners", by=BOB)
    judged = desk.write(promotions.submit_evidence, id_, evidence(0.55), by=ANN)
    assert judged.state is S.AWAITING_APPROVAL
    assert {g.gate for g in judged.gates if g.verdict is Verdict.WAIVED} == {gate}
    assert read(desk, judged).waivers[0].reason == "a small market, agreed with the owners"
    assert "gate.waived" in events(desk)
    assert "promotion.waive" in {e.action for e in desk.read(audit.listed, 10)}


def test_breaking_the_glass_moves_at_once_and_waits_for_a_review(desk: Desk) -> None:
    desk.go_live(1)
    waiting = desk.request(3)
    live = desk.write(decisions.break_glass, MODEL, 2, ALIAS, "the first answers nonsense", by=ROOT)
    assert (live.state, live.break_glass, live.reason) == (S.LIVE, True, "the first answers nonsense")
    assert desk.head().version == 2  # type: ignore[union-attr]
    assert read(desk, waiting).state is S.STALE
    assert desk.read(promotions.to_review) == [live]
    assert "break_glass.used" in events(desk)
    refused(desk, Forbidden, "does not review it", decisions.review, live.promotion_id, "fine", by=ROOT)
    refused(desk, Forbidden, "role approver", decisions.review, live.promotion_id, "fine", by=ANN)
    refused(desk, InvalidInput, "say why", decisions.break_glass, MODEL, 3, ALIAS, "", by=ROOT)
    refused(desk, Forbidden, "a person's token", decisions.break_glass, MODEL, 3, ALIAS, "now", by=ROBOT)
    desk.write(decisions.review, live.promotion_id, "right, and a gate was added", by=BOB)
    assert desk.read(promotions.to_review) == []
    refused(desk, Conflict, "waits for no review", decisions.review, live.promotion_id, "again", by=CARL)
    assert read(desk, live).reviewed_by == "bob"


def test_rejecting_and_cancelling(desk: Desk) -> None:
    asked, other = desk.request(1), desk.request(2)
    refused(desk, InvalidInput, "say why", decisions.reject, asked.promotion_id, "  ", by=BOB)
    closed = desk.write(decisions.reject, asked.promotion_id, "wrong season", by=BOB)
    assert (closed.state, closed.reason) == (S.REJECTED, "wrong season")
    assert [(a.approver, a.decision) for a in read(desk, closed).approvals] == [("bob", "reject")]
    assert desk.write(promotions.cancel, other.promotion_id, by=ANN).state is S.CANCELLED
    for one in (asked, other):
        refused(desk, Conflict, "cannot be approved", decisions.approve, one.promotion_id, by=BOB)
        refused(desk, Conflict, "cannot be cancelled", promotions.cancel, one.promotion_id, by=BOB)


def test_who_approved_may_still_reject_during_the_cool_down(desk: Desk) -> None:
    asked = awaiting(desk, policy=replace(LONG, min_approvals=1))
    assert desk.approve(asked).state is S.APPROVED
    closed = desk.write(decisions.reject, asked.promotion_id, "seen too late", by=BOB)
    assert [(a.approver, a.decision) for a in closed.approvals] == [("bob", "reject")]
    assert read(desk, asked) == closed


def test_rollback_to_the_previous_to_a_named_version_and_to_a_generation(desk: Desk) -> None:
    first, second, third = desk.go_live(1, 2, 3)
    waiting = desk.request(1)
    back = desk.roll_back()
    assert (back.version, back.generation, back.moved_by) == (2, 4, "bob")
    states = [read(desk, p).state for p in (first, second, third, waiting)]
    assert states == [S.SUPERSEDED, S.LIVE, S.ROLLED_BACK, S.STALE]
    named = desk.write(decisions.rollback, MODEL, ALIAS, "and on", version=3, by=BOB)
    assert (named.version, named.generation, read(desk, third).state) == (3, 5, S.LIVE)
    named = desk.write(decisions.rollback, MODEL, ALIAS, "no", generation=1, by=BOB)
    assert (named.version, read(desk, third).state, read(desk, first).state) == (1, S.ROLLED_BACK, S.LIVE)
    assert events(desk).count("alias.rolled_back") == 3
    refused(desk, Conflict, "already points", decisions.rollback, MODEL, ALIAS, "x", version=1, by=BOB)
    refused(desk, NotFound, "never live", decisions.rollback, MODEL, ALIAS, "x", generation=77, by=BOB)
    refused(desk, Conflict, "no earlier version", decisions.rollback, MODEL, ALIAS, "x", by=BOB)
    refused(desk, InvalidInput, "say why", decisions.rollback, MODEL, ALIAS, "", by=BOB)


def test_a_removed_alias_comes_back_by_a_rollback(desk: Desk) -> None:
    (live,) = desk.go_live(1)
    desk.write(aliases.remove, MODEL, ALIAS, reason="a mistake", by=ROOT)
    assert desk.head() is None
    back = desk.roll_back()
    assert (back.version, back.generation, back.removed) == (1, 3, False)
    assert read(desk, live).state is S.LIVE


def test_who_removes_an_alias_makes_no_first_version(desk: Desk) -> None:
    desk.go_live(1)
    desk.write(aliases.remove, MODEL, ALIAS, reason="a mistake", by=ROOT)
    assert desk.head() is None
    assert desk.read(aliases.last_live, MODEL, ALIAS).version == 1  # type: ignore[union-attr]
    unmeasured = desk.verify(desk.write(promotions.request, MODEL, 2, ALIAS, evidence(), by=ANN))
    assert unmeasured.baseline_version == 1
    assert (unmeasured.state, "better_than_champion" in unmeasured.reason) == (S.REJECTED, True)
    worse = evidence(0.61, champion=1, baseline=0.65)
    asked = desk.verify(desk.write(promotions.request, MODEL, 2, ALIAS, worse, by=ANN))
    assert asked.state is S.REJECTED
    asked = desk.verify(desk.write(promotions.request, MODEL, 2, ALIAS, evidence(champion=1), by=ANN))
    assert desk.approve(asked).state is S.LIVE
    assert desk.read(aliases.last_live, MODEL, "never") is None
