"""Decisions on promotions: approving, refusing, waiving, and the ways past the rules and back to what was live.

Each is one transaction with its audit entry and its events. The rules are in `rayplat.registry.promotion`.
"""

from __future__ import annotations

from dataclasses import replace

from rayplat.errors import Conflict, Forbidden, InvalidInput
from rayplat.identity import require
from rayplat.registry import promotion
from rayplat.registry.promotion import Step
from rayplat.registry.record import aliases, audit, events, promotions, versions
from rayplat.registry.record import promotion_rows as store
from rayplat.registry.record import promotion_steps as steps
from rayplat.registry.record.database import Tx
from rayplat.types import (
    AliasHead,
    Approval,
    ModelVersion,
    Principal,
    Promotion,
    PromotionState,
    Role,
    Waiver,
    check_alias,
)

_S = PromotionState


def approve(tx: Tx, promotion_id: str, subject_digest: str | None = None, *, by: Principal) -> Promotion:
    """Approve what was seen: ``subject_digest`` (None: the present subject). With the last approval it is APPROVED
    and, where no cool-down was set, LIVE at once.

    Raises `Forbidden` (four eyes, named approvers, a service), `StaleGeneration`, `Conflict`, `Corrupt`.
    """
    seen = {} if subject_digest is None else {"subject_digest": subject_digest}
    if audit.replayed(tx, "promotion.approve", promotion_id=promotion_id, **seen) is not None:
        return promotions.get(tx.connection, promotion_id)
    asked = promotions.get(tx.connection, promotion_id)
    promotion.check_approver(asked, _version(tx, asked), by)
    given = Approval(by.name, "approve", asked.subject_digest, tx.at)
    if asked.state in promotion.OPEN:
        steps.check_ground(tx, asked)
    approved = promotion.approve(asked, given, subject_digest)
    store.add_approval(tx, asked, given)
    store.save(tx, asked, approved, by.name)
    store.log(tx, by.name, "promotion.approve", approved, {"missing": promotion.missing(approved)})
    return steps.go_live(tx, approved, by.name) if steps.is_due(approved, tx.at) else approved


def reject(tx: Tx, promotion_id: str, reason: str, *, by: Principal) -> Promotion:
    """Close an open promotion as an approver, with a reason."""
    require(by, Role.APPROVER)
    if audit.replayed(tx, "promotion.reject", promotion_id=promotion_id) is not None:
        return promotions.get(tx.connection, promotion_id)
    reason, asked = _reason(reason), promotions.get(tx.connection, promotion_id)
    given = Approval(by.name, "reject", asked.subject_digest, tx.at, reason)
    kept = tuple(a for a in asked.approvals if a.approver != by.name)
    closed = replace(asked, state=promotion.advance(asked.state, Step.REJECT), approvals=(*kept, given), reason=reason)
    store.add_approval(tx, asked, given)
    store.log(tx, by.name, "promotion.reject", closed, {"reason": reason})
    return store.save(tx, asked, closed, by.name)


def waive(tx: Tx, promotion_id: str, gate: str, reason: str, *, by: Principal) -> Promotion:
    """Let one gate that has not been decided yet be, should it fail: as an approver who neither asked for this nor
    made the version, with a reason. The verdict will say WAIVED. Whether bytes are intact and loading runs no code
    cannot be waived."""
    if audit.replayed(tx, "promotion.waive", promotion_id=promotion_id, gate=gate) is not None:
        return promotions.get(tx.connection, promotion_id)
    reason, asked = _reason(reason), promotions.in_time(tx, promotion_id)
    promotion.check_approver(asked, _version(tx, asked), by)
    waived = promotion.with_waiver(asked, Waiver(gate, by.name, reason, tx.at))
    more = {"gate": gate, "reason": reason}
    store.tell(tx, "gate.waived", asked, by.name, more)
    return steps.carried(tx, asked, waived, by.name, "promotion.waive", more)


def break_glass(tx: Tx, model: str, number: int, alias: str, reason: str, *, by: Principal) -> Promotion:
    """Point the alias at a version now, past gates and approvals, in an emergency: an admin, with a reason.

    It stands out in the promotion, the audit log and the events, and stays in `to_review` until another person has
    reviewed it.
    """
    promotion.check_person(by, Role.ADMIN)
    check_alias(alias)
    if (earlier := audit.replayed(tx, "promotion.break_glass", f"{model}@{alias}", version=number)) is not None:
        return promotions.get(tx.connection, earlier.detail["promotion_id"])
    reason = _reason(reason)
    version = versions.usable(tx.connection, model, number)
    asked = replace(steps.drawn_up(tx, version, alias, by.name), break_glass=True, reason=reason)
    asked = promotion.with_subject(asked)
    store.insert(tx, asked)
    store.log(tx, by.name, "promotion.break_glass", asked, {"reason": reason})
    store.tell(tx, "break_glass.used", asked, by.name, {"reason": reason})
    return steps.go_live(tx, asked, by.name, Step.BREAK_GLASS)


def review(tx: Tx, promotion_id: str, reason: str, *, by: Principal) -> Promotion:
    """Say of a broken glass that it was looked at, and what came of it: an approver who neither broke it nor
    made the version or its run."""
    promotion.check_person(by)
    if audit.replayed(tx, "promotion.review", promotion_id=promotion_id) is not None:
        return promotions.get(tx.connection, promotion_id)
    reason, asked = _reason(reason), promotions.get(tx.connection, promotion_id)
    if not asked.break_glass or asked.reviewed_by is not None:
        raise Conflict(f"promotion {promotion_id} waits for no review")
    if by.name == asked.requester:
        raise Forbidden(by.name, "who broke the glass does not review it")
    promotion.check_not_author(_version(tx, asked), by)
    given = Approval(by.name, "review", asked.subject_digest, tx.at, reason)
    store.add_approval(tx, asked, given)
    store.log(tx, by.name, "promotion.review", asked, {"reason": reason})
    return store.save(tx, asked, replace(asked, reviewed_by=by.name, approvals=(*asked.approvals, given)), by.name)


def rollback(
    tx: Tx,
    model: str,
    alias: str,
    reason: str,
    *,
    version: int | None = None,
    generation: int | None = None,
    by: Principal,
) -> AliasHead:
    """Point ``alias`` back at what was live before, or at the named version or generation that was: no gate and no
    second person, as it is for emergencies; audited. Raises `Conflict` when there is nothing to go back to."""
    require(by, Role.APPROVER)
    named = {} if version is None else {"to": version}
    earlier = audit.replayed(tx, "alias.rollback", f"{model}@{alias}", **named)
    history = aliases.history(tx.connection, model, alias)
    if earlier is not None:
        return next(h for h in history if h.generation == earlier.detail["generation"])
    reason, now = _reason(reason), history[0]
    if version is None and generation is None:
        target = promotion.rollback_target(reversed(history))
    else:
        target = promotion.named_target(history, version, generation)
    head = aliases.move(tx, replace(target, moved_by=by.name, removed=False), now.generation)
    detail = {"from": now.version, "to": head.version, "generation": head.generation, "reason": reason}
    audit.append(tx, by.name, "alias.rollback", f"{model}@{alias}", detail)
    events.emit(tx, "alias.rolled_back", f"{model}@{alias}", {"by": by.name, **detail})
    for live in steps.live_ones(tx, model, alias):
        if live.promotion_id != target.promotion_id:
            store.save(tx, live, steps.stepped(live, Step.ROLL_BACK), by.name)
    if target.promotion_id is not None:
        restored = promotions.get(tx.connection, target.promotion_id)
        if restored.state is not _S.LIVE:
            store.save(tx, restored, steps.stepped(restored, Step.RESTORE), by.name)
    steps.stale_others(tx, model, alias)
    return head


def _version(tx: Tx, asked: Promotion) -> ModelVersion:
    return versions.get(tx.connection, asked.model, asked.version)


def _reason(reason: str) -> str:
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidInput("reason", "say why, in a few words: it is kept in the audit log")
    return reason.strip()[: steps.REASON_LENGTH]
