from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rayplat.errors import Conflict, Forbidden, StaleGeneration
from rayplat.registry import promotion
from rayplat.registry.promotion import Step, advance, rollback_target, subject_digest
from rayplat.types import AliasHead, Evidence, Principal, Promotion, PromotionState, Role

S = PromotionState
PERMITTED = {
    (S.REQUESTED, Step.PASS_GATES): S.AWAITING_APPROVAL,
    (S.REQUESTED, Step.FAIL_GATES): S.REJECTED,
    (S.AWAITING_APPROVAL, Step.APPROVE): S.LIVE,
    (S.AWAITING_APPROVAL, Step.REJECT): S.REJECTED,
    (S.AWAITING_APPROVAL, Step.GO_STALE): S.STALE,
    (S.LIVE, Step.SUPERSEDE): S.SUPERSEDED,
    (S.LIVE, Step.ROLL_BACK): S.ROLLED_BACK,
    (S.SUPERSEDED, Step.RESTORE): S.LIVE,
}
DIGEST = "sha256:" + "a" * 64
SEEN = Evidence(DIGEST, 5000, {"auc": 0.7}, 1, {"auc": 0.6})
NOW = datetime(2013, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(("state", "step"), list(itertools.product(S, Step)))
def test_every_step_is_either_permitted_or_refused(state: PromotionState, step: Step) -> None:
    if (state, step) in PERMITTED:
        assert advance(state, step) is PERMITTED[(state, step)]
    else:
        with pytest.raises(StaleGeneration if state is S.STALE else Conflict, match=f"cannot {step}"):
            advance(state, step)


def test_the_subject_binds_bytes_alias_generation_and_evidence() -> None:
    subject = subject_digest(DIGEST, "champion", 3, SEEN)
    assert subject == subject_digest(DIGEST, "champion", 3, replace(SEEN))
    others = {
        subject_digest(DIGEST.replace("a", "b"), "champion", 3, SEEN),
        subject_digest(DIGEST, "challenger", 3, SEEN),
        subject_digest(DIGEST, "champion", 4, SEEN),
        subject_digest(DIGEST, "champion", 3, replace(SEEN, rows=5001)),
        subject_digest(DIGEST, "champion", 3, replace(SEEN, candidate={"auc": math.nan})),
        subject_digest(DIGEST, "champion", 3, None),
    }
    assert len(others | {subject}) == 7


def asked() -> Promotion:
    return Promotion("prm-1", "m", 2, DIGEST, "champion", 1, S.AWAITING_APPROVAL, "ann", NOW, DIGEST)


def test_four_eyes_role_requester_and_author_are_checked() -> None:
    promotion.check_approver(asked(), "carl", Principal("bob", Role.APPROVER))
    promotion.check_approver(asked(), "carl", Principal("root", Role.ADMIN))
    for who, why in (
        (Principal("bob", Role.DEVELOPER), "needs the role approver"),
        (Principal("ann", Role.ADMIN), "own promotion"),
        (Principal("carl", Role.ADMIN), "author of version 2"),
    ):
        with pytest.raises(Forbidden, match=why):
            promotion.check_approver(asked(), "carl", who)


def test_an_approval_for_something_else_is_refused() -> None:
    promotion.check_subject(asked(), None)
    promotion.check_subject(asked(), DIGEST)
    with pytest.raises(Conflict, match="look at it again"):
        promotion.check_subject(asked(), "sha256:" + "b" * 64)


def heads(*ids: str) -> list[AliasHead]:
    return [AliasHead("m", "champion", n, DIGEST, n, NOW, "bob", i) for n, i in enumerate(ids, 1)]


@pytest.mark.parametrize(
    ("history", "target"),
    [
        ("a b", "a"),
        ("a b c", "b"),
        ("a b c b", "a"),  # rolled back once already: further back, never to what was rolled back
        ("a b a c", "a"),
        ("a b a c d c", "a"),
        ("a b c a d", "a"),
    ],
)
def test_a_rollback_goes_to_what_was_live_before(history: str, target: str) -> None:
    assert rollback_target(heads(*history.split())).promotion_id == target


@pytest.mark.parametrize("history", ["", "a", "a b a"])
def test_with_nothing_before_there_is_no_rollback(history: str) -> None:
    with pytest.raises(Conflict, match="no earlier version"):
        rollback_target(heads(*history.split()))
