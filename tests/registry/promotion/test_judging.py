from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rayplat.errors import Conflict, Corrupt, Forbidden, InvalidInput
from rayplat.registry import promotion
from rayplat.registry.promotion import failures, judge, waits_for
from rayplat.types import (
    Approval,
    Evidence,
    GateResult,
    ModelVersion,
    Principal,
    PrincipalKind,
    Promotion,
    PromotionState,
    Role,
    Verdict,
    Waiver,
)
from tests.registry.gates.cases import CASE, DIGEST, GOOD, NOW, VERIFIED
from tests.registry.promotion.asked import COMPARE, CUSTOM, EVALUATE, FULL, SHADOW, VERIFY, asked, policy

S = PromotionState
EVALUATION = replace(GOOD, shadow=None, experiment=None)
WITH_SHADOW = replace(GOOD, experiment=None)


def started(found: Promotion) -> Promotion:
    assert CASE.experiment is not None
    return promotion.with_experiment(found, CASE.experiment)


def awaiting(**changes: Any) -> Promotion:
    found = promotion.with_verification(started(asked(replace(FULL, **changes))), VERIFIED)
    return promotion.with_evidence(found, GOOD)


def test_each_stage_waits_for_its_evidence() -> None:
    found = judge(asked())
    assert (found.state, waits_for(found)) == (S.REQUESTED, "the platform to verify the bundle")
    found = promotion.with_verification(started(found), VERIFIED)
    assert (found.state, waits_for(found)) == (S.VERIFIED, "evidence")
    found = promotion.with_evidence(found, EVALUATION)
    assert (found.state, waits_for(found)) == (S.EVALUATED, "evidence of a shadow")
    found = promotion.with_evidence(found, WITH_SHADOW)
    assert (found.state, waits_for(found)) == (S.SHADOWED, "an A/B test")
    found = promotion.with_evidence(found, GOOD)
    assert (found.state, waits_for(found)) == (S.AWAITING_APPROVAL, "approval")
    assert [r.stage for r in found.gates] == ["verify"] * 4 + ["evaluate"] * 3 + ["shadow", "compare"]


def test_stages_without_a_gate_are_passed_through_and_all_evidence_at_once_is_fine() -> None:
    assert judge(asked(policy(*EVALUATE))).state is S.VERIFIED
    assert promotion.with_evidence(asked(policy(*EVALUATE)), EVALUATION).state is S.AWAITING_APPROVAL
    assert awaiting().state is S.AWAITING_APPROVAL


def test_evidence_that_comes_before_the_verification_is_kept_until_then() -> None:
    early = promotion.with_evidence(started(asked()), GOOD)
    assert early.state is S.REQUESTED
    assert promotion.with_verification(early, VERIFIED).state is S.AWAITING_APPROVAL


def test_on_a_new_alias_there_is_no_traffic_to_compare_on() -> None:
    found = promotion.with_verification(asked(champion=None), VERIFIED)
    first = replace(EVALUATION, baseline_version=None, baseline=None)
    assert promotion.with_evidence(found, first).state is S.AWAITING_APPROVAL


@pytest.mark.parametrize(
    ("evidence", "failed"),
    [
        (replace(EVALUATION, rows=10), ["enough_rows", "champion_interval"]),
        (replace(EVALUATION, comparisons=()), ["champion_interval"]),
        (replace(EVALUATION, errors=("boom",)), ["pinned_dataset", "enough_rows", "champion_interval"]),
        (replace(EVALUATION, baseline_version=7), ["champion_interval"]),
    ],
)
def test_a_failed_gate_rejects_with_all_reasons_of_its_stage(evidence: Evidence, failed: list[str]) -> None:
    found = promotion.with_evidence(promotion.with_verification(asked(), VERIFIED), evidence)
    assert found.state is S.REJECTED
    assert list(failures(found)) == failed
    assert found.reason.startswith(f"gates failed: {failed[0]}: ")
    with pytest.raises(Conflict, match="is rejected"):
        promotion.with_evidence(found, GOOD)


def test_damaged_bytes_are_rejected_before_any_evaluation_counts() -> None:
    found = promotion.with_verification(promotion.with_evidence(asked(), GOOD), replace(VERIFIED, intact=False))
    assert found.state is S.REJECTED
    assert list(failures(found)) == ["intact"]


def test_a_protected_alias_without_a_gate_is_closed_and_a_free_one_is_not() -> None:
    closed = judge(asked(policy()))
    assert closed.state is S.REJECTED
    assert "no gate" in failures(closed)["policy"]
    assert judge(asked(policy(protected=False))).state is S.AWAITING_APPROVAL


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ({"rows": 50_001}, "evaluate"),
        ({"candidate": {"auc": math.nan}}, "evaluate"),
        ({"shadow": None}, "shadow"),
        ({"experiment": None}, "compare"),
    ],
)
def test_evidence_of_a_decided_stage_cannot_be_exchanged(change: dict[str, Any], stage: str) -> None:
    found = promotion.with_evidence(awaiting(), replace(GOOD, **change))
    assert found.state is S.STALE
    assert stage in found.reason
    again = promotion.with_evidence(awaiting(), replace(GOOD))
    assert again.state is S.AWAITING_APPROVAL


def test_another_outcome_of_a_second_verification_makes_it_stale() -> None:
    assert promotion.with_verification(awaiting(), VERIFIED).state is S.AWAITING_APPROVAL
    assert promotion.with_verification(awaiting(), replace(VERIFIED, intact=False)).state is S.STALE


def test_custom_gates_are_waited_for_and_belong_to_the_evidence_they_saw() -> None:
    passed = (GateResult("custom", Verdict.PASS, "fine"),)
    found = promotion.with_evidence(asked(policy(*EVALUATE, *CUSTOM)), EVALUATION)
    assert (found.state, waits_for(found)) == (S.VERIFIED, "its custom gates to run")
    assert promotion.with_custom_results(found, passed).state is S.AWAITING_APPROVAL
    failed = (GateResult("custom", Verdict.FAIL, "it raised ValueError"),)
    assert failures(promotion.with_custom_results(found, failed)) == {"custom": "it raised ValueError"}
    for wrong in ((), (*passed, *passed), (GateResult("enough_rows", Verdict.PASS, ""),)):
        with pytest.raises(InvalidInput, match="exactly the gates"):
            promotion.with_custom_results(found, wrong)
    with pytest.raises(Conflict, match="have been decided"):
        promotion.with_custom_results(promotion.with_custom_results(found, passed), passed)
    early = replace(asked(policy(*VERIFY, *EVALUATE, *CUSTOM)), evidence=EVALUATION)
    early = promotion.with_custom_results(early, passed)
    assert promotion.with_evidence(early, replace(EVALUATION, rows=50_001)).custom_results == ()
    assert promotion.with_evidence(early, WITH_SHADOW).custom_results == passed


def waiver(gate: str) -> Waiver:
    return Waiver(gate, "bob", "a known gap", NOW)


def test_a_waived_gate_that_fails_stands_out() -> None:
    found = promotion.with_waiver(asked(policy(*EVALUATE)), waiver("champion_interval"))
    found = promotion.with_evidence(found, replace(EVALUATION, comparisons=()))
    assert found.state is S.AWAITING_APPROVAL
    assert [r.verdict for r in found.gates] == [Verdict.PASS, Verdict.PASS, Verdict.WAIVED]
    assert found.waivers[0].reason == "a known gap"


def test_a_stage_whose_gates_are_all_waived_waits_for_nothing() -> None:
    found = promotion.with_evidence(asked(policy(*EVALUATE, *SHADOW, *COMPARE)), EVALUATION)
    for gate in ("shadow_agreement", "experiment"):
        found = promotion.with_waiver(found, waiver(gate))
    assert found.state is S.AWAITING_APPROVAL
    assert [r.verdict for r in found.gates[-2:]] == [Verdict.WAIVED, Verdict.WAIVED]


def test_what_cannot_be_waived() -> None:
    with pytest.raises(InvalidInput, match="none of this promotion's"):
        promotion.with_waiver(asked(), waiver("metric_floor"))
    for gate in ("intact", "safe_format"):
        with pytest.raises(InvalidInput, match="cannot be waived"):
            promotion.with_waiver(asked(), waiver(gate))
    with pytest.raises(Conflict, match="has been decided"):
        promotion.with_waiver(awaiting(), waiver("enough_rows"))
    with pytest.raises(Conflict, match="waived already"):
        promotion.with_waiver(promotion.with_waiver(asked(), waiver("signed")), waiver("signed"))


def test_a_design_comes_once_and_before_outcomes() -> None:
    with pytest.raises(Conflict, match="an experiment already"):
        started(started(asked()))
    with pytest.raises(Conflict, match="outcomes already"):
        started(replace(asked(), evidence=GOOD))


# --- approvals ----------------------------------------------------------------------------------------


def approval(found: Promotion, by: str = "bob", hours: float = 1.0) -> Approval:
    return Approval(by, "approve", found.subject_digest, NOW + timedelta(hours=hours))


def test_the_subject_binds_all_that_was_seen() -> None:
    found = awaiting()
    changes: list[dict[str, Any]] = [
        {"model": "n"},
        {"version": 3},
        {"digest": GOOD.dataset},
        {"alias": "challenger"},
        {"expected_generation": 2},
        {"policy": policy(*EVALUATE)},
        {"evidence": replace(GOOD, rows=50_001)},
        {"verification": replace(VERIFIED, signed=False)},
        {"gates": found.gates[:-1]},
        {"waivers": (waiver("signed"),)},
    ]
    subjects = {promotion.subject_digest(replace(found, **change)) for change in changes}
    assert len(subjects | {found.subject_digest}) == len(changes) + 1
    assert promotion.subject_digest(replace(found, approvals=(approval(found),), requester="x")) == found.subject_digest


def test_n_of_m_with_a_cool_down() -> None:
    found = awaiting(min_approvals=2, cooldown_s=3600.0)
    one = promotion.approve(found, approval(found), found.subject_digest)
    assert (one.state, promotion.missing(one)) == (S.AWAITING_APPROVAL, 1)
    with pytest.raises(Conflict, match="bob has approved promotion prm-1 already"):
        promotion.approve(one, approval(found, hours=2), None)
    two = promotion.approve(one, approval(found, "carl", 2), None)
    assert (two.state, two.live_after) == (S.APPROVED, NOW + timedelta(hours=3))
    with pytest.raises(Conflict, match="is approved"):
        promotion.approve(two, approval(found, "dora", 3), None)


def test_an_approval_of_something_else_is_refused() -> None:
    found = awaiting()
    with pytest.raises(Conflict, match="look at it again"):
        promotion.approve(found, approval(found), "sha256:" + "b" * 64)
    with pytest.raises(Conflict, match="expired at"):
        promotion.approve(found, approval(found, hours=7 * 24), None)
    with pytest.raises(Corrupt):
        promotion.approve(replace(found, version=3), approval(found), None)
    old = replace(found, approvals=(replace(approval(found), subject_digest=GOOD.dataset),))
    assert promotion.missing(old) == 1


def test_who_may_approve() -> None:
    found = awaiting(approvers=("bob", "root", "ann"))
    by_carl = ModelVersion("m", 2, DIGEST, "r", "carl", NOW, DIGEST, (), {}, run_author="eric")
    for who in (Principal("bob", Role.APPROVER), Principal("root", Role.ADMIN)):
        promotion.check_approver(found, by_carl, who)
    for who, why in (
        (Principal("bob", Role.DEVELOPER), "needs the role approver"),
        (Principal("ann", Role.ADMIN), "own promotion"),
        (Principal("carl", Role.ADMIN), "the author of version 2"),
        (Principal("eric", Role.ADMIN), "the run's author of version 2"),
        (Principal("dora", Role.ADMIN), "names as approvers bob, root, ann"),
        (Principal("bob", Role.ADMIN, PrincipalKind.SERVICE), "takes a person's token"),
    ):
        with pytest.raises(Forbidden, match=why):
            promotion.check_approver(found, by_carl, who)


def test_a_bundle_found_damaged_is_rejected_under_any_policy() -> None:
    for change in ({"intact": False}, {"runs_code": True}):
        found = promotion.with_evidence(asked(policy(*EVALUATE)), EVALUATION)
        assert promotion.with_verification(found, VERIFIED).state is S.AWAITING_APPROVAL
        assert promotion.with_verification(found, replace(VERIFIED, **change)).state is S.REJECTED
    unsigned = promotion.with_verification(found, replace(VERIFIED, signed=False))
    assert unsigned.state is S.AWAITING_APPROVAL


def test_what_is_found_after_an_approval_makes_it_stale() -> None:
    found = promotion.with_evidence(asked(policy(*EVALUATE, min_approvals=1, cooldown_s=60.0)), EVALUATION)
    with pytest.raises(Conflict, match="has not verified"):
        promotion.approve(found, approval(found), found.subject_digest)
    found = promotion.with_verification(found, VERIFIED)
    approved = promotion.approve(found, approval(found), found.subject_digest)
    assert approved.state is S.APPROVED
    assert promotion.with_verification(approved, replace(VERIFIED, signed=False)).state is S.STALE
    assert promotion.with_evidence(approved, EVALUATION).state is S.APPROVED
