"""Operations on promotions: request, approve, reject, roll back. The rules are in `promotion` and `gates`; here they
meet the rows, each call one transaction with its audit entry."""

from __future__ import annotations

import secrets
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Conflict, Corrupt, InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry import gates, promotion
from rayplat.registry.gates import GatePolicy
from rayplat.registry.promotion import Step
from rayplat.registry.record import aliases, audit, rows, versions
from rayplat.registry.record import schema as tables
from rayplat.registry.record.database import Tx
from rayplat.types import (
    AliasHead,
    Approval,
    Evidence,
    Principal,
    Promotion,
    PromotionState,
    Role,
    Verdict,
    check_alias,
)

_REASON_LENGTH = 2000


def get(connection: Connection, promotion_id: str) -> Promotion:
    """One promotion with its approvals. Raises `NotFound`."""
    found = _select(connection, tables.promotion.c.promotion_id == promotion_id)
    if not found:
        raise NotFound("promotion", promotion_id, "'rayplat promotion list' shows the known ones")
    return found[0]


def listed(connection: Connection, model: str | None, state: PromotionState | None) -> list[Promotion]:
    """Promotions of one model or in one state, newest first."""
    wanted: sa.ColumnElement[bool] = sa.true()
    if model is not None:
        wanted &= tables.promotion.c.model == model
    if state is not None:
        wanted &= tables.promotion.c.state == PromotionState(state).value
    return _select(connection, wanted)


def request(tx: Tx, model: str, number: int, alias: str, evidence: Evidence | None, *, by: Principal) -> Promotion:
    """Ask that ``alias`` of ``model`` point at version ``number``. The gates decide at once."""
    require(by, Role.DEVELOPER)
    policy = GatePolicy(max_parity_mismatch=tx.defaults.max_parity_mismatch)
    check_alias(alias)
    if (earlier := audit.replayed(tx, "promotion.request")) is not None:
        return get(tx.connection, earlier.detail["promotion_id"])
    version, head = versions.get(tx.connection, model, number), aliases.find(tx.connection, model, alias)
    if head is not None and head.version == number:
        raise Conflict(f"{model}@{alias} already points at version {number}")
    generation = head.generation if head else 0
    results = gates.decide(policy, evidence, head.version if head else None)
    step = Step.PASS_GATES if gates.passed(results) else Step.FAIL_GATES
    asked = Promotion(
        promotion_id=f"prm-{secrets.token_hex(6)}",
        model=model,
        version=number,
        digest=version.digest,
        alias=alias,
        expected_generation=generation,
        state=promotion.advance(PromotionState.REQUESTED, step),
        requester=by.name,
        created_at=tx.at,
        subject_digest=promotion.subject_digest(version.digest, alias, generation, evidence),
        evidence=evidence,
        gates=results,
    )
    tx.connection.execute(sa.insert(tables.promotion).values(**rows.promotion_columns(asked)))
    failed = {g.gate: g.reason for g in results if g.verdict is not Verdict.PASS}
    _audit(tx, by, "promotion.request", asked, {"state": asked.state.value, "failed_gates": failed})
    return asked


def approve(tx: Tx, promotion_id: str, subject_digest: str | None = None, *, by: Principal) -> Promotion:
    """Approve and move the alias. Raises `Forbidden` (four eyes), `StaleGeneration`, or `Conflict`."""
    if (earlier := audit.replayed(tx, "promotion.approve")) is not None:
        return get(tx.connection, earlier.detail["promotion_id"])
    asked = get(tx.connection, promotion_id)
    author = versions.get(tx.connection, asked.model, asked.version).author
    promotion.check_approver(asked, author, by)
    promotion.check_subject(asked, subject_digest)
    _check_intact(asked)
    promotion.advance(asked.state, Step.APPROVE)
    before = aliases.find(tx.connection, asked.model, asked.alias)
    given = _approval(tx, asked, by, "approve", "")
    head = AliasHead(asked.model, asked.alias, asked.version, asked.digest, 0, tx.at, by.name, promotion_id)
    head = aliases.move(tx, head, asked.expected_generation)
    live = _step(tx, asked, Step.APPROVE)
    if before is not None and before.promotion_id is not None:
        _step(tx, get(tx.connection, before.promotion_id), Step.SUPERSEDE)
    _stale_others(tx, head)
    _audit(tx, by, "promotion.approve", asked, {"generation": head.generation, "from": _version(before)})
    return replace(live, approvals=(*asked.approvals, given))


def reject(tx: Tx, promotion_id: str, reason: str, *, by: Principal) -> Promotion:
    """Close a promotion that awaits approval. The requester may withdraw their own if they are an approver."""
    require(by, Role.APPROVER)
    if (earlier := audit.replayed(tx, "promotion.reject")) is not None:
        return get(tx.connection, earlier.detail["promotion_id"])
    reason, asked = _reason(reason), get(tx.connection, promotion_id)
    closed = _step(tx, asked, Step.REJECT)
    given = _approval(tx, asked, by, "reject", reason)
    _audit(tx, by, "promotion.reject", asked, {"reason": reason})
    return replace(closed, approvals=(*asked.approvals, given))


def rollback(tx: Tx, model: str, alias: str, reason: str, *, by: Principal) -> AliasHead:
    """Point ``alias`` of ``model`` back at what was live before: no gate and no second person, as it is for
    emergencies; audited. Raises `Conflict` when there is nothing to go back to."""
    require(by, Role.APPROVER)
    history = aliases.history(tx.connection, model, alias)
    if (earlier := audit.replayed(tx, "alias.rollback")) is not None:
        return next(h for h in history if h.generation == earlier.detail["generation"])
    reason, now = _reason(reason), history[0]
    target = promotion.rollback_target(reversed(history))
    head = aliases.move(tx, replace(target, moved_by=by.name), now.generation)
    for promotion_id, step in ((now.promotion_id, Step.ROLL_BACK), (target.promotion_id, Step.RESTORE)):
        if promotion_id is not None:
            _step(tx, get(tx.connection, promotion_id), step)
    _stale_others(tx, head)
    detail = {"from": now.version, "to": head.version, "generation": head.generation, "reason": reason}
    audit.append(tx, by.name, "alias.rollback", f"{head.model}@{head.alias}", detail)
    return head


def _select(connection: Connection, wanted: sa.ColumnElement[bool]) -> list[Promotion]:
    newest = sa.select(tables.promotion).where(wanted)
    newest = newest.order_by(tables.promotion.c.created_at.desc(), tables.promotion.c.promotion_id)
    given: dict[str, tuple[Approval, ...]] = {}
    ids = sa.select(tables.promotion.c.promotion_id).where(wanted)
    approvals = sa.select(tables.approval).where(tables.approval.c.promotion_id.in_(ids)).order_by(tables.approval.c.at)
    for row in connection.execute(approvals):
        given[row.promotion_id] = (*given.get(row.promotion_id, ()), rows.approval(row))
    return [rows.promotion(row, given.get(row.promotion_id, ())) for row in connection.execute(newest)]


def _step(tx: Tx, asked: Promotion, step: Step) -> Promotion:
    after = replace(asked, state=promotion.advance(asked.state, step))
    same = tables.promotion.c.promotion_id == asked.promotion_id
    tx.connection.execute(sa.update(tables.promotion).where(same).values(state=after.state.value))
    return after


def _stale_others(tx: Tx, head: AliasHead) -> None:
    """Whoever waits to replace an older generation of this alias has to be judged anew."""
    for other in _select(
        tx.connection,
        (tables.promotion.c.model == head.model)
        & (tables.promotion.c.alias == head.alias)
        & (tables.promotion.c.state == PromotionState.AWAITING_APPROVAL.value),
    ):
        _step(tx, other, Step.GO_STALE)


def _approval(tx: Tx, asked: Promotion, approver: Principal, decision: str, reason: str) -> Approval:
    given = Approval(approver.name, decision, asked.subject_digest, tx.at, reason)
    columns = {**vars(given), "promotion_id": asked.promotion_id, "at": rows.to_us(given.at)}
    tx.connection.execute(sa.insert(tables.approval).values(**columns))
    return given


def _check_intact(asked: Promotion) -> None:
    """The stored promotion still is what its subject digest was taken over."""
    now = promotion.subject_digest(asked.digest, asked.alias, asked.expected_generation, asked.evidence)
    if now != asked.subject_digest:
        raise Corrupt(f"promotion {asked.promotion_id}", asked.subject_digest, now)


def _reason(reason: str) -> str:
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidInput("reason", "say why, in a few words: it is kept in the audit log")
    return reason.strip()[:_REASON_LENGTH]


def _version(head: AliasHead | None) -> int | None:
    return None if head is None else head.version


def _audit(tx: Tx, by: Principal, action: str, asked: Promotion, more: dict[str, object]) -> None:
    detail = {
        "promotion_id": asked.promotion_id,
        "version": asked.version,
        "digest": asked.digest,
        "expected_generation": asked.expected_generation,
        "subject_digest": asked.subject_digest,
        **more,
    }
    audit.append(tx, by.name, action, f"{asked.model}@{asked.alias}", detail)
