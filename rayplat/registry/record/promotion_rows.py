"""Promotions as rows: reading them with their approvals, writing what changed, and telling of it.

`promotions` and `policies` both change promotions; what they share is here, below both.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Corrupt, RayplatError
from rayplat.registry import documents, promotion
from rayplat.registry.record import audit, events, rows
from rayplat.registry.record import schema as tables
from rayplat.registry.record.database import Tx
from rayplat.types import (
    AliasPolicy,
    Approval,
    Evidence,
    Experiment,
    GateResult,
    Promotion,
    PromotionState,
    VerificationEvidence,
    Waiver,
)

_logger = logging.getLogger(__name__)
PLATFORM = "rayplat"
_WHERE = "stored promotion"
_EVENTS = {
    PromotionState.AWAITING_APPROVAL: "promotion.awaiting_approval",
    PromotionState.APPROVED: "promotion.approved",
    PromotionState.LIVE: "promotion.live",
    PromotionState.REJECTED: "promotion.rejected",
    PromotionState.STALE: "promotion.stale",
    PromotionState.EXPIRED: "promotion.expired",
    PromotionState.CANCELLED: "promotion.cancelled",
}


def select(connection: Connection, wanted: sa.ColumnElement[bool], strict: bool = False) -> list[Promotion]:
    """Promotions that match, newest first, with their approvals and experiments.

    One whose row was edited into something that cannot be read is logged as an error and left out, so that it holds up
    no other; with ``strict`` it raises `Corrupt`.
    """
    newest = sa.select(tables.promotion).where(wanted)
    newest = newest.order_by(tables.promotion.c.created_at.desc(), tables.promotion.c.promotion_id)
    ids = sa.select(tables.promotion.c.promotion_id).where(wanted)
    given: dict[str, list[rows.Row]] = {}
    approvals = sa.select(tables.approval).where(tables.approval.c.promotion_id.in_(ids)).order_by(tables.approval.c.at)
    for row in connection.execute(approvals):
        given.setdefault(row.promotion_id, []).append(row)
    started = sa.select(tables.experiment).where(tables.experiment.c.promotion_id.in_(ids))
    experiments = {row.promotion_id: row for row in connection.execute(started)}
    found = []
    for row in connection.execute(newest):
        try:
            approved = tuple(map(rows.approval, given.get(row.promotion_id, ())))
            experiment = _experiment(experiments[row.promotion_id]) if row.promotion_id in experiments else None
            found.append(replace(_promotion(row), approvals=approved, experiment=experiment))
        except (RayplatError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as e:
            broken = Corrupt(f"the row of promotion {row.promotion_id}", "a promotion", f"{type(e).__name__}: {e}")
            if strict:
                raise broken from e
            _logger.error("left out: %s", broken)
    return found


def opened(connection: Connection, model: str | None = None, alias: str | None = None) -> list[Promotion]:
    """Open promotions, of one alias or of all."""
    wanted: sa.ColumnElement[bool] = tables.promotion.c.state.in_([state.value for state in promotion.OPEN])
    if model is not None:
        wanted &= (tables.promotion.c.model == model) & (tables.promotion.c.alias == alias)
    return select(connection, wanted)


def insert(tx: Tx, made: Promotion) -> None:
    """A new promotion; its events come with `save`."""
    columns = _columns(made)
    tx.connection.execute(sa.insert(tables.promotion).values(**columns))
    tx.wrote(tables.promotion, columns)


def save(tx: Tx, before: Promotion, after: Promotion, by: str) -> Promotion:
    """Store ``after`` in place of ``before`` and tell the outside what that means."""
    same = tables.promotion.c.promotion_id == after.promotion_id
    columns = _columns(after)
    tx.connection.execute(sa.update(tables.promotion).where(same).values(**columns))
    tx.wrote(tables.promotion, columns)
    if set(promotion.failures(after)) - set(promotion.failures(before)):
        tell(tx, "gate.failed", after, by, {"gates": promotion.failures(after)})
    if before.state is not after.state and after.state in _EVENTS:
        tell(tx, _EVENTS[after.state], after, by, {"reason": after.reason} if after.reason else {})
    return after


def add_approval(tx: Tx, asked: Promotion, given: Approval) -> None:
    """Keep a person's decision; a later one of the same person takes its place (the audit log has both)."""
    key = {"promotion_id": asked.promotion_id, "approver": given.approver}
    same = sa.and_(*(tables.approval.c[name] == value for name, value in key.items()))
    tx.connection.execute(sa.delete(tables.approval).where(same))
    columns = {**vars(given), **key, "at": rows.to_us(given.at)}
    tx.connection.execute(sa.insert(tables.approval).values(**columns))
    tx.wrote(tables.approval, columns)


def go_stale(tx: Tx, asked: Promotion, reason: str) -> Promotion:
    """An open promotion whose ground has moved."""
    after = save(tx, asked, promotion.stale(asked, reason), PLATFORM)
    log_also(tx, PLATFORM, "promotion.stale", after, {"reason": reason})
    return after


def log(tx: Tx, by: str, action: str, asked: Promotion, more: Mapping[str, Any]) -> None:
    """The audit entry of the call itself, which carries its idempotency key."""
    audit.append(tx, by, action, f"{asked.model}@{asked.alias}", {**_detail(asked), **more})


def log_also(tx: Tx, by: str, action: str, asked: Promotion, more: Mapping[str, Any]) -> None:
    """The audit entry of what follows from a call: a key belongs to one entry."""
    log(replace(tx, key=None), by, action, asked, more)


def tell(tx: Tx, event: str, asked: Promotion, by: str, more: Mapping[str, Any]) -> None:
    """An event about a promotion, for those outside."""
    events.emit(tx, event, f"{asked.model}@{asked.alias}", {**_detail(asked), "by": by, **more})


def _detail(asked: Promotion) -> dict[str, Any]:
    return {
        "promotion_id": asked.promotion_id,
        "model": asked.model,
        "alias": asked.alias,
        "version": asked.version,
        "digest": asked.digest,
        "expected_generation": asked.expected_generation,
        "subject_digest": asked.subject_digest,
        "state": asked.state.value,
    }


def _promotion(row: Any) -> Promotion:
    return Promotion(
        promotion_id=row.promotion_id,
        model=row.model,
        version=row.version,
        digest=row.digest,
        alias=row.alias,
        expected_generation=row.expected_generation,
        state=PromotionState(row.state),
        requester=row.requester,
        created_at=rows.from_us(row.created_at),
        subject_digest=row.subject_digest,
        evidence=_optional(Evidence, row.evidence),
        gates=_several(GateResult, row.gates),
        policy=_optional(AliasPolicy, row.policy),
        verification=_optional(VerificationEvidence, row.verification),
        waivers=_several(Waiver, row.waivers),
        custom_results=_several(GateResult, row.custom_results),
        baseline_version=row.baseline_version,
        expires_at=None if row.expires_at is None else rows.from_us(row.expires_at),
        live_after=None if row.live_after is None else rows.from_us(row.live_after),
        reason=row.reason,
        break_glass=bool(row.break_glass),
        reviewed_by=row.reviewed_by,
    )


def _columns(found: Promotion) -> dict[str, Any]:
    columns = {name: value for name, value in vars(found).items() if name not in ("approvals", "experiment")}
    for name in ("evidence", "policy", "verification"):
        columns[name] = None if columns[name] is None else documents.text(columns[name])
    for name in ("gates", "waivers", "custom_results"):
        columns[name] = documents.text(columns[name])
    for name in ("created_at", "expires_at", "live_after"):
        columns[name] = None if columns[name] is None else rows.to_us(columns[name])
    return {**columns, "state": found.state.value}


def _experiment(row: Any) -> Experiment:
    return Experiment(row.promotion_id, row.design_digest, rows.from_us(row.started_at), row.started_by, row.power)


def _optional(kind: type[Any], text: str | None) -> Any:
    return None if text is None else documents.parse(kind, text, _WHERE)


def _several(kind: type[Any], text: str) -> tuple[Any, ...]:
    found: Sequence[Any] = json.loads(text)
    return tuple(documents.build(kind, one, _WHERE) for one in found)
