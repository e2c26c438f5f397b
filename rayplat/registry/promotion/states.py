"""The states of a promotion and the only steps between them. Pure; drawn in ``docs/promotion.md``.

::

    requested ─► verified ─► evaluated ─► shadowed ─► compared ─► awaiting_approval ─► approved ─► live
        │            │           │            │           │               │               │         │ ▲
        └────────────┴───────────┴─────┬──────┴───────────┴───────────────┴───────────────┘         ▼ │
                     rejected, expired, stale, cancelled                        superseded, rolled_back
"""

from __future__ import annotations

import enum

from rayplat.errors import Conflict, StaleGeneration
from rayplat.types import PromotionState

_S = PromotionState
OPEN = (_S.REQUESTED, _S.VERIFIED, _S.EVALUATED, _S.SHADOWED, _S.COMPARED, _S.AWAITING_APPROVAL, _S.APPROVED)


class Step(enum.StrEnum):
    """What can happen to a promotion."""

    VERIFY = "be verified"
    EVALUATE = "be evaluated"
    SHADOW = "be shadowed"
    COMPARE = "be compared"
    AWAIT = "await approval"
    APPROVE = "be approved"
    GO_LIVE = "go live"
    BREAK_GLASS = "go live past its gates"
    REJECT = "be rejected"
    EXPIRE = "expire"
    GO_STALE = "go stale"
    CANCEL = "be cancelled"
    SUPERSEDE = "be superseded"
    ROLL_BACK = "be rolled back"
    RESTORE = "be restored"


_ENDS = {
    Step.REJECT: _S.REJECTED,
    Step.EXPIRE: _S.EXPIRED,
    Step.GO_STALE: _S.STALE,
    Step.CANCEL: _S.CANCELLED,
}
NEXT: dict[tuple[PromotionState, Step], PromotionState] = {
    (_S.REQUESTED, Step.VERIFY): _S.VERIFIED,
    (_S.VERIFIED, Step.EVALUATE): _S.EVALUATED,
    (_S.EVALUATED, Step.SHADOW): _S.SHADOWED,
    (_S.SHADOWED, Step.COMPARE): _S.COMPARED,
    (_S.COMPARED, Step.AWAIT): _S.AWAITING_APPROVAL,
    (_S.AWAITING_APPROVAL, Step.APPROVE): _S.APPROVED,
    (_S.APPROVED, Step.GO_LIVE): _S.LIVE,
    (_S.REQUESTED, Step.BREAK_GLASS): _S.LIVE,
    (_S.LIVE, Step.SUPERSEDE): _S.SUPERSEDED,
    (_S.LIVE, Step.ROLL_BACK): _S.ROLLED_BACK,
    (_S.SUPERSEDED, Step.RESTORE): _S.LIVE,
    (_S.ROLLED_BACK, Step.RESTORE): _S.LIVE,
    **{(state, step): end for state in OPEN for step, end in _ENDS.items()},
}


def advance(state: PromotionState, step: Step) -> PromotionState:
    """The state after ``step``. Raises `StaleGeneration` for a stale promotion, `Conflict` for any other refusal."""
    after = NEXT.get((state, step))
    if after is None and state is _S.STALE:
        raise StaleGeneration(f"the promotion is stale: what it was asked on has changed, so it cannot {step}")
    if after is None:
        raise Conflict(f"the promotion is {state}, so it cannot {step}")
    return after
