"""Operations on promotions that read them and ask for them: each write one transaction with its audit entry and its
events. What is decided on them is in `decisions`, the rules are in `rayplat.registry.promotion` and `gates`.
"""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry import documents, promotion
from rayplat.registry.promotion import Step
from rayplat.registry.record import audit, versions
from rayplat.registry.record import promotion_rows as store
from rayplat.registry.record import promotion_steps as steps
from rayplat.registry.record import schema as tables
from rayplat.registry.record.database import Tx
from rayplat.types import (
    Evidence,
    GateResult,
    Principal,
    Promotion,
    PromotionState,
    Role,
    VerificationEvidence,
    check_alias,
)


def get(connection: Connection, promotion_id: str) -> Promotion:
    """One promotion with its approvals. Raises `NotFound`, or `Corrupt` for a row that cannot be read."""
    found = store.select(connection, tables.promotion.c.promotion_id == promotion_id, strict=True)
    if not found:
        raise NotFound("promotion", promotion_id, "'rayplat promotion list' shows the known ones")
    return found[0]


def listed(connection: Connection, model: str | None = None, state: PromotionState | None = None) -> list[Promotion]:
    """Promotions of one model or in one state, newest first."""
    wanted: sa.ColumnElement[bool] = sa.true()
    if model is not None:
        wanted &= tables.promotion.c.model == model
    if state is not None:
        wanted &= tables.promotion.c.state == PromotionState(state).value
    return store.select(connection, wanted)


def to_review(connection: Connection) -> list[Promotion]:
    """Promotions that broke the glass and that nobody has reviewed, newest first."""
    table = tables.promotion.c
    return store.select(connection, table.break_glass & table.reviewed_by.is_(None))


def request(
    tx: Tx, model: str, number: int, alias: str, evidence: Evidence | None = None, *, by: Principal
) -> Promotion:
    """Ask that ``alias`` of ``model`` point at version ``number``; ``evidence`` may follow (`submit_evidence`).

    Needs a developer. Raises `NotFound`, `InvalidName`, `InvalidInput` for evidence that is no document, `Forbidden`
    where the policy takes evidence from others only, `Conflict` where it points there already or the version is
    retired.
    """
    require(by, Role.DEVELOPER)
    check_alias(alias)
    if (earlier := audit.replayed(tx, "promotion.request", f"{model}@{alias}", version=number)) is not None:
        return get(tx.connection, earlier.detail["promotion_id"])
    asked = steps.drawn_up(tx, versions.usable(tx.connection, model, number), alias, by.name)
    if evidence is not None:
        _check_evidence(tx, asked, evidence, by)
    store.insert(tx, asked)
    store.tell(tx, "promotion.requested", asked, by.name, {})
    judged = promotion.judge(asked) if evidence is None else promotion.with_evidence(asked, evidence)
    return steps.carried(tx, asked, judged, by.name, "promotion.request")


def submit_evidence(tx: Tx, promotion_id: str, evidence: Evidence, *, by: Principal) -> Promotion:
    """Hand in evidence: the whole document, with what was there before and what is new.

    A stage is decided as soon as its part is there. Exchanging the part of a decided stage makes the promotion stale.
    Raises like `request`, and `Conflict` for a closed or expired promotion.
    """
    require(by, Role.DEVELOPER)
    if audit.replayed(tx, "promotion.evidence", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    asked = in_time(tx, promotion_id)
    _check_evidence(tx, asked, evidence, by)
    return steps.carried(tx, asked, promotion.with_evidence(asked, evidence), by.name, "promotion.evidence")


def record_verification(tx: Tx, promotion_id: str, found: VerificationEvidence, *, by: Principal) -> Promotion:
    """What the platform saw of the bundle's bytes, signature, format and schema. For the platform only."""
    _check_platform(by)
    if audit.replayed(tx, "promotion.verification", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    documents.check(found, "verification")
    asked = in_time(tx, promotion_id)
    return steps.carried(tx, asked, promotion.with_verification(asked, found), by.name, "promotion.verification")


def record_custom_results(
    tx: Tx, promotion_id: str, results: tuple[GateResult, ...], evidence_digest: str, *, by: Principal
) -> Promotion:
    """What the custom gates have answered about the evidence with this digest (`documents.digest` of it). For the
    platform only. Raises `Conflict` where the evidence is another by now."""
    _check_platform(by)
    if audit.replayed(tx, "promotion.custom", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    asked = in_time(tx, promotion_id)
    now = documents.digest(asked.evidence)
    if evidence_digest != now:
        raise Conflict(
            f"the results are about evidence {evidence_digest}, the promotion has {now}: run the gates again"
        )
    return steps.carried(tx, asked, promotion.with_custom_results(asked, tuple(results)), by.name, "promotion.custom")


def cancel(tx: Tx, promotion_id: str, reason: str = "", *, by: Principal) -> Promotion:
    """Withdraw an open promotion: its requester, or an approver."""
    if audit.replayed(tx, "promotion.cancel", promotion_id=promotion_id) is not None:
        return get(tx.connection, promotion_id)
    asked = get(tx.connection, promotion_id)
    if by.name != asked.requester:
        require(by, Role.APPROVER)
    reason = reason.strip()[: steps.REASON_LENGTH] or f"cancelled by {by.name}"
    closed = replace(asked, state=promotion.advance(asked.state, Step.CANCEL), reason=reason)
    store.log(tx, by.name, "promotion.cancel", closed, {"reason": reason})
    return store.save(tx, asked, closed, by.name)


def in_time(tx: Tx, promotion_id: str) -> Promotion:
    """The promotion, if it is open and in time."""
    asked = get(tx.connection, promotion_id)
    promotion.advance(asked.state, Step.CANCEL)
    promotion.check_in_time(asked, tx.at)
    return asked


def _check_evidence(tx: Tx, asked: Promotion, evidence: Evidence, by: Principal) -> None:
    documents.check(evidence, "evidence")
    allowed = asked.policy.evidence_from if asked.policy is not None else ()
    if allowed and by.name not in allowed:
        raise Forbidden(by.name, f"the policy of {asked.model}@{asked.alias} takes evidence from {', '.join(allowed)}")
    if evidence.experiment is not None and evidence.experiment.first_outcome_at > tx.at:
        first = evidence.experiment.first_outcome_at.isoformat()
        raise InvalidInput(
            "evidence.experiment.first_outcome_at", f"{first} is still to come: it is {tx.at.isoformat()}"
        )


def _check_platform(by: Principal) -> None:
    require(by, Role.ADMIN)
    if by.name != store.PLATFORM:
        raise Forbidden(by.name, "this is found by the platform itself, and handed in by nobody")
