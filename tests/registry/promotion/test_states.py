from __future__ import annotations

import itertools

import pytest

from rayplat.errors import Conflict, StaleGeneration
from rayplat.registry.promotion import NEXT, OPEN, Step, advance
from rayplat.types import PromotionState

S = PromotionState
FORWARD = [
    (S.REQUESTED, Step.VERIFY, S.VERIFIED),
    (S.VERIFIED, Step.EVALUATE, S.EVALUATED),
    (S.EVALUATED, Step.SHADOW, S.SHADOWED),
    (S.SHADOWED, Step.COMPARE, S.COMPARED),
    (S.COMPARED, Step.AWAIT, S.AWAITING_APPROVAL),
    (S.AWAITING_APPROVAL, Step.APPROVE, S.APPROVED),
    (S.APPROVED, Step.GO_LIVE, S.LIVE),
    (S.LIVE, Step.SUPERSEDE, S.SUPERSEDED),
    (S.LIVE, Step.ROLL_BACK, S.ROLLED_BACK),
    (S.SUPERSEDED, Step.RESTORE, S.LIVE),
    (S.ROLLED_BACK, Step.RESTORE, S.LIVE),
    (S.REQUESTED, Step.BREAK_GLASS, S.LIVE),
]
ENDS = [(Step.REJECT, S.REJECTED), (Step.EXPIRE, S.EXPIRED), (Step.GO_STALE, S.STALE), (Step.CANCEL, S.CANCELLED)]
PERMITTED = {(a, step): b for a, step, b in FORWARD} | {(a, step): b for a in OPEN for step, b in ENDS}


def test_the_table_is_exactly_this() -> None:
    assert PERMITTED == NEXT


@pytest.mark.parametrize(("state", "step"), list(itertools.product(S, Step)))
def test_every_step_is_either_permitted_or_refused(state: PromotionState, step: Step) -> None:
    if (state, step) in PERMITTED:
        assert advance(state, step) is PERMITTED[(state, step)]
    else:
        with pytest.raises(StaleGeneration if state is S.STALE else Conflict, match=f"cannot {step}"):
            advance(state, step)


def test_only_an_approved_promotion_or_a_broken_glass_goes_live_anew() -> None:
    first_time = {a for (a, _), b in NEXT.items() if b is S.LIVE} - {S.SUPERSEDED, S.ROLLED_BACK}
    assert first_time == {S.APPROVED, S.REQUESTED}
