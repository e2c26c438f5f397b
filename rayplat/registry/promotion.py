"""The life of a promotion, as pure functions: which step may follow which, what an approval binds, who may give it.

::

    requested ── gates pass ──► awaiting_approval ── approve ──► live ── another goes live ──► superseded
        └─ gates fail ─► rejected ◄── reject ──┤                  │  ▲                            │
                                               │                  │  └──── roll back to it ───────┤
                             stale ◄─ alias moved                 └─── roll back ─► rolled_back   ┘
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rayplat.artifacts.manifest import canonical, sha256
from rayplat.errors import Conflict, Forbidden, StaleGeneration
from rayplat.identity import require
from rayplat.types import AliasHead, Evidence, Principal, Promotion, PromotionState, Role


class Step(enum.StrEnum):
    """What can happen to a promotion."""

    PASS_GATES = "pass the gates"
    FAIL_GATES = "fail the gates"
    APPROVE = "be approved"
    REJECT = "be rejected"
    GO_STALE = "go stale"
    SUPERSEDE = "be superseded"
    ROLL_BACK = "be rolled back"
    RESTORE = "be restored"


_S = PromotionState
_NEXT: dict[tuple[PromotionState, Step], PromotionState] = {
    (_S.REQUESTED, Step.PASS_GATES): _S.AWAITING_APPROVAL,
    (_S.REQUESTED, Step.FAIL_GATES): _S.REJECTED,
    (_S.AWAITING_APPROVAL, Step.APPROVE): _S.LIVE,
    (_S.AWAITING_APPROVAL, Step.REJECT): _S.REJECTED,
    (_S.AWAITING_APPROVAL, Step.GO_STALE): _S.STALE,
    (_S.LIVE, Step.SUPERSEDE): _S.SUPERSEDED,
    (_S.LIVE, Step.ROLL_BACK): _S.ROLLED_BACK,
    (_S.SUPERSEDED, Step.RESTORE): _S.LIVE,
}


def advance(state: PromotionState, step: Step) -> PromotionState:
    """The state after ``step``. Raises `StaleGeneration` for a stale promotion, `Conflict` for any other refusal."""
    after = _NEXT.get((state, step))
    if after is None and state is PromotionState.STALE:
        raise StaleGeneration(f"the promotion is stale: the alias moved after it was requested, so it cannot {step}")
    if after is None:
        raise Conflict(f"the promotion is {state}, so it cannot {step}")
    return after


def subject_digest(digest: str, alias: str, expected_generation: int, evidence: Evidence | None) -> str:
    """What an approval is given for: these bytes, to this alias, in place of that generation, on that evidence."""
    seen = None if evidence is None else sha256(canonical(finite(asdict(evidence))))
    body = {"digest": digest, "alias": alias, "expected_generation": expected_generation, "evidence": seen}
    return sha256(canonical(body))


def finite(value: Any) -> Any:
    """``value`` with NaN and infinities as the strings ``nan``, ``inf``, ``-inf``: JSON has no numbers for them."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def check_approver(promotion: Promotion, author: str, approver: Principal) -> None:
    """Four eyes: `Forbidden` unless ``approver`` has the role and neither asked for this nor made the version."""
    require(approver, Role.APPROVER)
    if approver.name == promotion.requester:
        raise Forbidden(approver.name, "a requester does not approve their own promotion")
    if approver.name == author:
        raise Forbidden(approver.name, f"the author of version {promotion.version} does not approve its promotion")


def check_subject(promotion: Promotion, approved: str | None) -> None:
    """Raises `Conflict` when the approver names another subject than this promotion's."""
    if approved is not None and approved != promotion.subject_digest:
        raise Conflict(
            f"the approval names {approved}, promotion {promotion.promotion_id} is about {promotion.subject_digest}: "
            "look at it again"
        )


def rollback_target(history: Iterable[AliasHead]) -> AliasHead:
    """The head that was live before the present one. ``history`` is every head of one alias, oldest first.

    A head whose promotion was seen before is an earlier rollback to it, so a second rollback goes further back and
    never to what was rolled back. Raises `Conflict` when there is nothing before.
    """
    live: list[AliasHead] = []
    for head in history:
        restored = next((i for i, h in enumerate(live) if h.promotion_id == head.promotion_id), None)
        live = [*live, head] if restored is None else live[: restored + 1]
    if len(live) < 2:
        raise Conflict("the alias has no earlier version to go back to")
    return live[-2]
